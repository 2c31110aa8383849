// Converts a picture to a list r g b r g b ..., for image files; see src/ops/interleave.rs.
// The map is bordered quads (see src/ops/core/shape.rs) of three channels, so one quad whose fourth lane is zero.

const CLAMP: u32 = 0u; // 1: clamp values to 0 .. 1

struct Params {
    height: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>; // r g b r g b ..., 4 at a time
@group(0) @binding(2) var<uniform> params: Params;

// One invocation writes four values of the list, which is padded with zeros to a multiple of four.
@compute @workgroup_size(64)
fn interleave(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let length = 3u * params.height * params.width;
    if (4u * i >= length) {
        return;
    }
    var values = vec4<f32>(0.0);
    // unroll
    for (var k = 0u; k < 4u; k++) {
        let n = 4u * i + k;
        if (n < length) {
            let pixel = n / 3u;
            let y = pixel / params.width;
            let x = pixel - y * params.width;
            values[k] = input[(y + 1u) * (params.width + 1u) + x + 1u][n - 3u * pixel];
        }
    }
    if (CLAMP == 1u) {
        values = clamp(values, vec4<f32>(0.0), vec4<f32>(1.0));
    }
    output[i] = values;
}
