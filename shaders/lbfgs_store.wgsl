// Second part of a step of L-BFGS: if the picture is accepted, stores its difference from the previous one and that of
// their gradients in a row of the rings, and then the picture and its gradient. All elementwise over stored values.

const LAST: u32 = 1u; // 1: the last window of the rings

// Phases, see src/ops/lbfgs/mod.rs.
const FIRST: f32 = 1.0;
const PAIR: f32 = 2.0;

struct Params {
    count: u32,  // vec4 values of a picture
    stride: u32, // per row of the rings
    rows: u32,   // rows of the rings
    first: u32,  // first row of this window
    window: u32, // number of rows of this window
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> accepted: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> accepted_gradient: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> steps: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> changes: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> scalars: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn store(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let phase = scalars[0].x;
    let at = x[i];
    let g = gradient[i];
    // The row after the newest pair's; wraps to a large number below `first`.
    let row = (u32(scalars[1].x) + 1u) % params.rows - params.first;
    if (phase == PAIR && row < params.window) {
        steps[row * params.stride + i] = at - accepted[i];
        changes[row * params.stride + i] = g - accepted_gradient[i];
    }
    if (LAST == 1u && (phase == FIRST || phase == PAIR)) {
        accepted[i] = at;
        accepted_gradient[i] = g;
    }
    if (i == 0u) {
        output[0] = vec4<f32>(phase, 0.0, 0.0, 0.0);
    }
}
