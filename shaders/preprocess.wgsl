// Preprocessing of the picture for the network, and the adjoint; see src/ops/preprocess.rs.
// Maps are bordered quads (see src/ops/core/shape.rs) of three channels, so one quad whose fourth lane is zero.

struct Params {
    height: u32,
    width: u32,
    // Channel k of the network's input is channel order_k of the picture, times scale_k, plus bias_k.
    order_0: u32,
    order_1: u32,
    order_2: u32,
    scale_0: f32,
    scale_1: f32,
    scale_2: f32,
    bias_0: f32,
    bias_1: f32,
    bias_2: f32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // picture
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // gradient of the network's input
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

// Texel i of the run.
struct Place {
    inside: bool, // true for pixels, false for the border
    valid: bool,  // true within the run of texels
}

fn place(i: u32) -> Place {
    let pitch = params.width + 1u;
    let row = i / pitch;
    let column = i - row * pitch;
    return Place(row > 0u && row <= params.height && column > 0u, i < (params.height + 2u) * pitch + 1u);
}

@compute @workgroup_size(64)
fn preprocess(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i);
    if (!at.valid) {
        return;
    }
    // The bias would make borders and the fourth lane nonzero.
    var result = vec4<f32>(0.0);
    if (at.inside) {
        let rgb = input[i];
        let ordered = vec3<f32>(rgb[params.order_0], rgb[params.order_1], rgb[params.order_2]);
        let scale = vec3<f32>(params.scale_0, params.scale_1, params.scale_2);
        let bias = vec3<f32>(params.bias_0, params.bias_1, params.bias_2);
        result = vec4<f32>(ordered * scale + bias, 0.0);
    }
    output[i] = result;
}

@compute @workgroup_size(64)
fn preprocess_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i);
    if (!at.valid) {
        return;
    }
    var result = vec4<f32>(0.0);
    if (at.inside) {
        let d = upstream[i].xyz * vec3<f32>(params.scale_0, params.scale_1, params.scale_2);
        // Channel c of the picture gets the sum over all network channels computed from it.
        let lanes = vec4<u32>(0u, 1u, 2u, 3u);
        result = select(vec4<f32>(0.0), vec4<f32>(d.x), lanes == vec4<u32>(params.order_0))
            + select(vec4<f32>(0.0), vec4<f32>(d.y), lanes == vec4<u32>(params.order_1))
            + select(vec4<f32>(0.0), vec4<f32>(d.z), lanes == vec4<u32>(params.order_2));
    }
    output[i] = result;
}
