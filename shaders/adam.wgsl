// One step of Adam, in place, elementwise over all stored values of a tensor of any shape. PyTorch's form, with epsilon
// added after the bias correction.
//
// state = [t, s1, s2, 0]: the number of steps so far, and s = 1 - beta^t of both betas. They are updated as s' = s + (1
// - beta) (1 - s), which keeps f32 precision where 1 - beta^t would cancel.
//
// Padding stays zero: its g, m and v are 0, and 0 / (0 + epsilon) is 0.

const CLAMP: u32 = 0u; // 1: clamp x to [0, 1]

struct Params {
    count: u32, // vec4 values
    beta2: f32,
    rate1: f32, // 1 - beta1, rounded once: 1.0 - f32(beta1) would lose half of its digits
    rate2: f32, // 1 - beta2
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> control: array<vec4<f32>>; // the learning rate is the first value
@group(0) @binding(6) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

// A separate dispatch, because every invocation of `step` reads the values written here.
@compute @workgroup_size(1)
fn advance() {
    let old = state[0];
    let t = old.x + 1.0;
    let rates = vec2<f32>(params.rate1, params.rate2);
    state[0] = vec4<f32>(t, old.yz + rates * (1.0 - old.yz), 0.0);
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
    let corrections = state[0].yz;
    let g = gradient[i];
    let mean = m[i] + params.rate1 * (g - m[i]);
    let square = params.beta2 * v[i] + params.rate2 * g * g;
    let scale = sqrt(square) / sqrt(corrections.y) + params.epsilon;
    var moved = x[i] - control[0].x / corrections.x * (mean / scale);
    if (CLAMP == 1u) {
        // clamp() may turn NaN into a bound and so hide it; test the bits instead.
        let is_nan = (bitcast<vec4<u32>>(moved) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
        moved = select(clamp(moved, vec4<f32>(0.0), vec4<f32>(1.0)), moved, is_nan);
    }
    x[i] = moved;
    m[i] = mean;
    v[i] = square;
}
