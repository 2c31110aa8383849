// One summand of a weighted sum of tensors, over all stored values: output = output + weights[index] * a, and for the
// first summand output = weights[0] * a, ignoring the old values.

struct Params {
    count: u32, // vec4 values
    index: u32, // index of the summand
}

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    var sum = weights[params.index] * a[i];
    if (params.index > 0u) {
        sum += output[i];
    }
    output[i] = sum;
}
