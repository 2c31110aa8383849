// Converts a map to a vector in channel, row, column order, and back. The two are each other's adjoint. Maps are
// bordered quads (see src/ops/core/shape.rs): four channels per texel, planes of height + 1 rows of width + 1 texels
// whose first row and column are zero, and one more row and texel at the end.

struct Params {
    channels: u32,
    height: u32,
    width: u32,
    count: u32, // vec4 values that the entry point writes
}

@group(0) @binding(0) var<storage, read> input: array<f32>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// Map to vector. One invocation gathers four consecutive elements, or zeros after the last.
@compute @workgroup_size(64)
fn flatten(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let pixels = params.height * params.width;
    var values = vec4<f32>(0.0);
    for (var k = 0u; k < 4u; k++) {
        let element = i * 4u + k;
        let channel = element / pixels;
        if (channel < params.channels) {
            let pixel = element - channel * pixels;
            let y = pixel / params.width;
            let x = pixel - y * params.width;
            let texel = (channel / 4u * (params.height + 1u) + y + 1u) * (params.width + 1u) + x + 1u;
            values[k] = input[texel * 4u + channel % 4u];
        }
    }
    output[i] = values;
}

// Vector to map. One invocation writes one texel, border included.
@compute @workgroup_size(64)
fn unflatten(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let pitch = params.width + 1u;
    let plane = (params.height + 1u) * pitch;
    let quad = i / plane;
    let n = i - quad * plane;
    let row = n / pitch;
    let column = n - row * pitch;
    var values = vec4<f32>(0.0);
    if (row > 0u && column > 0u) {
        for (var k = 0u; k < 4u; k++) {
            // Also false in the closing border, whose quad index is one too large.
            let channel = quad * 4u + k;
            if (channel < params.channels) {
                values[k] = input[(channel * params.height + row - 1u) * params.width + column - 1u];
            }
        }
    }
    output[i] = values;
}
