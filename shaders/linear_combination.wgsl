// Linear combination of up to three tensors of the same shape, over all stored values.

const COUNT: u32 = 3u; // number of summands; the others are not read

struct Params {
    count: u32, // vec4 values
    factor_a: f32,
    factor_b: f32,
    factor_c: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> c: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

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
    var sum = params.factor_a * a[i];
    if (COUNT > 1u) {
        sum += params.factor_b * b[i];
    }
    if (COUNT > 2u) {
        sum += params.factor_c * c[i];
    }
    output[i] = sum;
}
