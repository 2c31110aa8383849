// Product of a tensor and a number on the device, over all stored values; and the reciprocal of a number.

struct Params {
    count: u32,   // vec4 values
    scale: f32,   // reciprocal
    smallest: f32, // reciprocal
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> number: array<vec4<f32>>; // only the first value is used
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i < params.count) {
        output[i] = input[i] * number[0].x;
    }
}

@compute @workgroup_size(1)
fn reciprocal() {
    output[0] = vec4<f32>(1.0 / (params.scale * number[0].x + params.smallest), 0.0, 0.0, 0.0);
}
