// First part of a step of L-BFGS: decides whether the trial picture is accepted, and selects the phase. `partial`
// writes the sums of each workgroup; `judge` (with a line search) or `advance` (without) adds them up in a fixed order,
// decides, and updates the scalars. Their layout is in src/ops/lbfgs/mod.rs.

const GROUP: u32 = 64u; // invocations per workgroup, a power of 2

// Phases.
const FIRST: f32 = 1.0;
const PAIR: f32 = 2.0;
const SHORTER: f32 = 3.0;
const RESTART: f32 = 4.0;
const BACK: f32 = 5.0;

const HALVINGS: f32 = 6.0;    // at most, along one direction
const DECREASE: f32 = 0.0001; // sufficient fraction of the predicted decrease (Armijo)

struct Params {
    count: u32,  // `partial`: vec4 values; the others: workgroups of `partial`
    stride: u32, // invocations of `partial`
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<u32>>; // as bits, the only reliable test for NaN
@group(0) @binding(2) var<storage, read> free: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> accepted: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> accepted_gradient: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> loss: array<f32>;
@group(0) @binding(8) var<storage, read_write> scalars: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(10) var<uniform> params: Params;

var<workgroup> shares: array<vec4<f32>, GROUP>;

// Sum over the workgroup, valid for every invocation.
fn total(mine: vec4<f32>, local: u32) -> vec4<f32> {
    shares[local] = mine;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            shares[local] += shares[local + half];
        }
    }
    workgroupBarrier();
    return shares[0];
}

// Sums |p|, p^2 (p: the projected gradient), the accepted gradient times the step, and the number of non-finite
// components of the gradient.
@compute @workgroup_size(GROUP)
fn partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var mine = vec4<f32>(0.0);
    for (var i = group.x * GROUP + local; i < params.count; i += params.stride) {
        let p = free[i];
        let exponent = vec4<u32>(0x7f800000u);
        let spoilt = select(vec4<f32>(0.0), vec4<f32>(1.0), (gradient[i] & exponent) == exponent);
        let one = vec4<f32>(1.0);
        mine += vec4<f32>(
            dot(abs(p), one), dot(p, p), dot(accepted_gradient[i], x[i] - accepted[i]), dot(spoilt, one));
    }
    let all = total(mine, local);
    if (local == 0u) {
        sums[group.x] = all;
    }
}

fn all_partials(local: u32) -> vec4<f32> {
    var mine = vec4<f32>(0.0);
    for (var i = local; i < params.count; i += GROUP) {
        mine += partials[i];
    }
    return total(mine, local);
}

fn accept(value: f32, all: vec4<f32>) {
    let running = scalars[0].y > 0.0;
    let first = vec4<f32>(0.0, 0.0, 1.0, 0.0); // no pairs yet, and an initial curvature of 1
    let ring = select(first, scalars[1], running) + vec4<f32>(0.0, 0.0, 0.0, 1.0);
    scalars[0] = vec4<f32>(select(FIRST, PAIR, running), 1.0, 0.0, scalars[0].w);
    scalars[1] = ring;
    scalars[2] = vec4<f32>(value, all.x, all.y, scalars[2].w);
    scalars[3].x += 1.0;
}

@compute @workgroup_size(GROUP)
fn judge(@builtin(local_invocation_index) local: u32) {
    let all = all_partials(local);
    if (local != 0u) {
        return;
    }
    let value = loss[0];
    let finite = (bitcast<u32>(value) & 0x7f800000u) != 0x7f800000u && all.w == 0.0;
    let state = scalars[0];
    let running = state.y > 0.0;
    let bound = scalars[2].x + DECREASE * min(all.z, 0.0);
    if (finite && (!running || value <= bound)) {
        accept(value, all);
    } else if (!running) {
        scalars[0].x = BACK;
    } else if (state.z < HALVINGS || scalars[1].y == 0.0) {
        scalars[0] = vec4<f32>(SHORTER, 1.0, state.z + 1.0, 0.5 * state.w);
        scalars[3].y += 1.0;
    } else {
        scalars[0] = vec4<f32>(RESTART, 1.0, 0.0, state.w);
        scalars[1] = vec4<f32>(scalars[1].x, 0.0, 1.0, scalars[1].w);
        scalars[3] += vec4<f32>(0.0, 1.0, 1.0, 0.0);
    }
    output[0] = vec4<f32>(scalars[0].x, 0.0, 0.0, 0.0);
}

@compute @workgroup_size(GROUP)
fn advance(@builtin(local_invocation_index) local: u32) {
    let all = all_partials(local);
    if (local == 0u) {
        accept(0.0, all);
        output[0] = vec4<f32>(scalars[0].x, 0.0, 0.0, 0.0);
    }
}
