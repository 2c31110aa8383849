// 3x3 convolution whose border repeats the edge pixels (replicate padding, step 1), for kernels that know only zeros
// beyond the edge: only pixels on the edge differ, and these passes correct them. That is as much work as the map has
// edge pixels, whatever kernel computes the rest.
//
// Maps are bordered quads (see src/ops/core/shape.rs), pixels on the edge are numbered: the first row, the last one,
// what is left of the first column, and of the last one. Weights as in conv.wgsl: texel
// ((out_quad * in_quads + in_quad) * 9 + tap) * 4 + (out channel % 4), each a vec4 over four input channels.

const PIXELS: u32 = 4u; // edge pixels of an invocation, forward: each weight that is loaded serves all of them
const RELU: u32 = 0u;   // forward: rectify the result; backward: mask the upstream gradient by `activation`

struct Params {
    height: u32, // of input and output alike
    width: u32,
    in_quads: u32,   // of the filter
    first_quad: u32, // of the window of the output, or of the upstream gradient, that is bound
    quads: u32,      // of this window
    dx_first_quad: u32, // backward: the same of the gradient that is corrected
    dx_quads: u32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // x
@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> activation: array<vec4<f32>>; // y
@group(0) @binding(4) var<storage, read> upstream: array<vec4<f32>>;   // dy
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

fn texel(quad: u32, y: u32, x: u32) -> u32 {
    return (quad * (params.height + 1u) + y + 1u) * (params.width + 1u) + x + 1u;
}

// Number of pixels on the edge.
fn edge_pixels() -> u32 {
    let rows = min(params.height, 2u);
    let columns = min(params.width, 2u);
    return rows * params.width + columns * (params.height - rows);
}

// The i-th of them, as row and column.
fn edge_pixel(i: u32) -> vec2<u32> {
    let rows = min(params.height, 2u);
    if (i < rows * params.width) {
        return vec2<u32>(i / params.width * (params.height - 1u), i % params.width);
    }
    let inner = params.height - rows;
    let rest = i - rows * params.width;
    return vec2<u32>(1u + rest % inner, rest / inner * (params.width - 1u));
}

// Computes edge pixels of a quad of outputs anew, from clamped positions.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let count = edge_pixels();
    let runs = (count + PIXELS - 1u) / PIXELS;
    let quad = i / runs;
    if (quad >= params.quads) {
        return;
    }
    let first = i % runs * PIXELS;
    let filter_quad = params.first_quad + quad;
    var places: array<vec2<i32>, PIXELS>;
    var sums: array<vec4<f32>, PIXELS>;
    // unroll
    for (var p = 0u; p < PIXELS; p++) {
        // Those beyond the last repeat it.
        places[p] = vec2<i32>(edge_pixel(min(first + p, count - 1u)));
        sums[p] = bias[filter_quad];
    }
    let last = vec2<i32>(i32(params.height) - 1, i32(params.width) - 1);
    for (var c = 0u; c < params.in_quads; c++) {
        for (var tap = 0u; tap < 9u; tap++) {
            let w = ((filter_quad * params.in_quads + c) * 9u + tap) * 4u;
            let w0 = weights[w];
            let w1 = weights[w + 1u];
            let w2 = weights[w + 2u];
            let w3 = weights[w + 3u];
            let offset = vec2<i32>(i32(tap / 3u) - 1, i32(tap % 3u) - 1);
            // unroll
            for (var p = 0u; p < PIXELS; p++) {
                let source = vec2<u32>(clamp(places[p] + offset, vec2<i32>(0), last));
                let v = input[texel(c, source.x, source.y)];
                sums[p] += vec4<f32>(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
            }
        }
    }
    // unroll
    for (var p = 0u; p < PIXELS; p++) {
        if (first + p < count) {
            let n = texel(quad, u32(places[p].x), u32(places[p].y));
            let negative = sums[p] < vec4<f32>(0.0); // false for NaN, which is kept
            output[n] = select(sums[p], vec4<f32>(0.0), negative & vec4<bool>(RELU == 1u));
        }
    }
}

// First and last position beyond the edge, or p itself, that reads pixel p of a row or column.
fn readers(p: u32, size: u32) -> vec2<i32> {
    return vec2<i32>(i32(p) - select(0, 1, p == 0u), i32(p) + select(0, 1, p + 1u == size));
}

// Adds to the gradient of each edge pixel that of the positions beyond the edge which repeat it.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let count = edge_pixels();
    let quad = i / count;
    if (quad >= params.dx_quads) {
        return;
    }
    let at = edge_pixel(i % count);
    let place = vec2<i32>(at);
    let rows = readers(at.x, params.height);
    let columns = readers(at.y, params.width);
    var sum = vec4<f32>(0.0);
    for (var sy = rows.x; sy <= rows.y; sy++) {
        for (var sx = columns.x; sx <= columns.y; sx++) {
            for (var tap = 0u; tap < 9u; tap++) {
                // The output to which this tap takes what lies at (sy, sx).
                let y = sy + 1 - i32(tap / 3u);
                let x = sx + 1 - i32(tap % 3u);
                let inside = y >= 0 && y < i32(params.height) && x >= 0 && x < i32(params.width);
                // The pixel itself counts already.
                if (!inside || (sy == place.x && sx == place.y)) {
                    continue;
                }
                for (var o = 0u; o < params.quads; o++) {
                    let n = texel(o, u32(y), u32(x));
                    var d = upstream[n];
                    // static if
                    if (RELU == 1u) {
                        d = select(vec4<f32>(0.0), d, activation[n] > vec4<f32>(0.0));
                    }
                    let filter_quad = (params.first_quad + o) * params.in_quads + params.dx_first_quad + quad;
                    let w = (filter_quad * 9u + tap) * 4u;
                    sum += d.x * weights[w] + d.y * weights[w + 1u] + d.z * weights[w + 2u] + d.w * weights[w + 3u];
                }
            }
        }
    }
    output[texel(quad, at.x, at.y)] += sum;
}
