// Standard deviation from second moments and means, and its gradients with respect to both. Vectors are padded with
// zeros to whole vec4.

const BY_MEAN: u32 = 0u; // backward, 1: gradient with respect to the means; 0: to the second moments

struct Params {
    length: u32,
    smallest: f32, // the smallest variance
}

@group(0) @binding(0) var<storage, read> square: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> deviation: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

// True for the values of the i-th vec4 that are not padding.
fn inside(i: u32) -> vec4<bool> {
    return vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.length);
}

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i * 4u >= params.length) {
        return;
    }
    let variance = square[i] - mean[i] * mean[i];
    let least = vec4<f32>(params.smallest);
    let bounded = select(variance, least, variance < least); // unlike max(), this keeps NaN
    output[i] = select(vec4<f32>(0.0), sqrt(bounded), inside(i));
}

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i * 4u >= params.length) {
        return;
    }
    let valid = inside(i);
    var factor = vec4<f32>(0.5);
    if (BY_MEAN == 1u) {
        factor = -mean[i];
    }
    let rate = factor * upstream[i] / select(vec4<f32>(1.0), deviation[i], valid);
    output[i] = select(vec4<f32>(0.0), rate, valid);
}
