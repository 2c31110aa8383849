// Third part of a step of L-BFGS: dot products of every row of both rings with the projected gradient p and with the
// newest change y of the gradient, in a fixed order. For row r: (s_r . p, s_r . y, y_r . p, y_r . y). Rows without a
// pair give 0, and so do all rows if there is no new pair.

const GROUP: u32 = 64u; // invocations per workgroup, a power of 2

// Phases, see src/ops/lbfgs/mod.rs.
const PAIR: f32 = 2.0;

struct Params {
    count: u32,  // vec4 values of a picture
    stride: u32, // per row of the rings
    rows: u32,   // rows of the rings
    first: u32,  // first row of this window
    chunks: u32, // workgroups per row, at most 64
}

@group(0) @binding(0) var<storage, read> steps: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> changes: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> free: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> change: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> scalars: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

var<workgroup> shares: array<vec4<f32>, GROUP>;

fn total(mine: vec4<f32>, local: u32) -> vec4<f32> {
    shares[local] = mine;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            shares[local] += shares[local + half];
        }
    }
    return shares[0];
}

// A workgroup computes a part of one row's sums.
@compute @workgroup_size(GROUP)
fn partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = params.first + group.y;
    let head = u32(scalars[1].x);
    // A pair's age is its row's distance from the newest one; the vacant row counts as the oldest.
    let age = (head + params.rows - row) % params.rows;
    let holds = age < u32(scalars[1].y) || age == params.rows - 1u;
    let end = select(0u, params.count, holds && scalars[0].x == PAIR);
    let start = group.y * params.stride;
    var mine = vec4<f32>(0.0);
    for (var i = group.x * GROUP + local; i < end; i += params.chunks * GROUP) {
        let s = steps[start + i];
        let y = changes[start + i];
        let p = free[i];
        let newest = change[i];
        mine += vec4<f32>(dot(s, p), dot(s, newest), dot(y, p), dot(y, newest));
    }
    let all = total(mine, local);
    if (local == 0u) {
        sums[row * params.chunks + group.x] = all;
    }
}

// A workgroup adds up the parts of one row.
@compute @workgroup_size(GROUP)
fn finish(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var mine = vec4<f32>(0.0);
    if (local < params.chunks) {
        mine = partials[group.x * params.chunks + local];
    }
    let all = total(mine, local);
    if (local == 0u) {
        output[group.x] = all;
    }
}
