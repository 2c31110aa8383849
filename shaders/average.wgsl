// Running mean of a tensor, in place, elementwise over all stored values: the bias-corrected exponential moving average
// a = a + (1 - d) / (1 - d^t) (x - a).
//
// state = [t, s, w, 0]: the number of x so far, s = 1 - d^t, and the weight w of the last x. s is updated as s' = s +
// (1 - d) (1 - s), which keeps f32 precision where 1 - d^t would cancel.

struct Params {
    count: u32, // vec4 values
    rate: f32,  // 1 - d
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> average: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

// A separate dispatch, because every invocation of `step` reads the values written here.
@compute @workgroup_size(1)
fn advance() {
    let old = state[0];
    let t = old.x + 1.0;
    let s = old.y + params.rate * (1.0 - old.y);
    // The first weight must be exactly 1, which the division does not guarantee.
    let weight = select(params.rate / s, 1.0, t == 1.0 || params.rate == 1.0);
    state[0] = vec4<f32>(t, s, weight, 0.0);
    output[0] = vec4<f32>(t, 0.0, 0.0, 0.0);
}

@compute @workgroup_size(64)
fn step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let weight = state[0].z;
    // With weight 1 the old values are ignored: they may be NaN.
    average[i] = select(average[i] + weight * (x[i] - average[i]), x[i], weight == 1.0);
}
