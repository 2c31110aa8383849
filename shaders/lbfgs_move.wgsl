// Last part of a step of L-BFGS: computes the direction, if there is a new one, and moves the picture along it from the
// accepted picture. All elementwise over stored values.

const FIRST_WINDOW: u32 = 1u; // 1: the first window of the rings
const LAST_WINDOW: u32 = 1u;  // 1: the last one
const CLAMP: u32 = 0u;        // 1: clamp the picture to [0, 1]
const LINE_SEARCH: u32 = 0u;  // 1: elements that would not be finite keep their accepted value

// Phases, see src/ops/lbfgs/mod.rs.
const SHORTER: f32 = 3.0;
const BACK: f32 = 5.0;

struct Params {
    count: u32,  // vec4 values of a picture
    stride: u32, // per row of the rings
    first: u32,  // first row of this window
    window: u32, // number of rows of this window
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> accepted: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> accepted_gradient: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> direction: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> steps: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> changes: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> scalars: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn move_along(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let phase = scalars[0].x;
    if (i == 0u) {
        output[0] = vec4<f32>(phase, 0.0, 0.0, 0.0);
    }
    let start = accepted[i];
    if (phase == BACK) {
        x[i] = start;
        return;
    }
    let g = accepted_gradient[i];
    var d = direction[i];
    if (phase != SHORTER) {
        if (FIRST_WINDOW == 1u) {
            d = scalars[4].x * g;
        }
        for (var r = 0u; r < params.window; r++) {
            let factors = scalars[5u + params.first + r].xy;
            // Rows without a pair may hold any values.
            if (factors.x != 0.0 || factors.y != 0.0) {
                d += factors.x * steps[r * params.stride + i] + factors.y * changes[r * params.stride + i];
            }
        }
    }
    if (LAST_WINDOW == 1u) {
        if (CLAMP == 1u) {
            // Elements whose gradient points out of [0, 1] don't move, as in `projected_gradient.wgsl`.
            let low = (start <= vec4<f32>(0.0)) & (g > vec4<f32>(0.0));
            let high = (start >= vec4<f32>(1.0)) & (g < vec4<f32>(0.0));
            d = select(d, vec4<f32>(0.0), low | high);
        }
        var moved = start + scalars[0].w * d;
        let bits = bitcast<vec4<u32>>(moved) & vec4<u32>(0x7fffffffu);
        if (LINE_SEARCH == 1u) {
            moved = select(moved, start, bits >= vec4<u32>(0x7f800000u));
        }
        if (CLAMP == 1u) {
            // clamp() may turn NaN into a bound and so hide it; test the bits instead.
            let is_nan = vec4<bool>(LINE_SEARCH == 0u) & (bits > vec4<u32>(0x7f800000u));
            moved = select(clamp(moved, vec4<f32>(0.0), vec4<f32>(1.0)), moved, is_nan);
        }
        x[i] = moved;
    }
    direction[i] = d;
}
