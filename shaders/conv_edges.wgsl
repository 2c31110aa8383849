// Replicate padding of a 3x3 convolution with stride 1, for kernels that support only zero padding: these passes
// correct the edge pixels, the only ones that differ. Their cost is proportional to the number of edge pixels,
// whichever kernel computes the rest.
//
// Maps are bordered quads (see src/ops/core/shape.rs). Edge pixels are numbered: the first row, the last row, the rest
// of the first column, the rest of the last column. Weights as in conv.wgsl: texel ((out_quad * in_quads + in_quad) * 9
// + tap) * 4 + (out channel % 4), each a vec4 over four input channels.

const PIXELS: u32 = 4u; // forward: edge pixels per invocation, which share each loaded weight
const RELU: u32 = 0u;   // forward: rectify the result; backward: zero the upstream gradient where `activation` <= 0

struct Params {
    height: u32, // of input and output
    width: u32,
    in_quads: u32,   // of the filter
    first_quad: u32, // first quad of the bound window of the output, or of the upstream gradient
    quads: u32,      // quads of this window
    dx_first_quad: u32, // backward: first quad of the bound window of the gradient to correct
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

// Row and column of the i-th edge pixel.
fn edge_pixel(i: u32) -> vec2<u32> {
    let rows = min(params.height, 2u);
    if (i < rows * params.width) {
        return vec2<u32>(i / params.width * (params.height - 1u), i % params.width);
    }
    let inner = params.height - rows;
    let rest = i - rows * params.width;
    return vec2<u32>(1u + rest % inner, rest / inner * (params.width - 1u));
}

// Recomputes edge pixels of a quad of outputs from clamped positions.
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
        // Indices beyond the last edge pixel repeat it.
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

// Range of positions that read pixel p of a row or column: p itself, and at an edge the position beyond it.
fn readers(p: u32, size: u32) -> vec2<i32> {
    return vec2<i32>(i32(p) - select(0, 1, p == 0u), i32(p) + select(0, 1, p + 1u == size));
}

// Adds the gradients of the positions beyond the edge to those of the edge pixels that they repeat.
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
                // The output that reads (sy, sx) with this tap.
                let y = sy + 1 - i32(tap / 3u);
                let x = sx + 1 - i32(tap % 3u);
                let inside = y >= 0 && y < i32(params.height) && x >= 0 && x < i32(params.width);
                // The pixel's own gradient is already included.
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
