// Transform of the filter of a Winograd convolution: U = G g G^T for each pair of channels, once per filter.
//
// The method has three transforms, here, in winograd_input.wgsl and in winograd_output.wgsl (Lavin and Gray 2015): an
// output tile of TILE x TILE pixels is computed from SIDE x SIDE inputs (SIDE = TILE + 2) with SIDE * SIDE products
// instead of 9 * TILE * TILE. Between the transforms of input and output there is a matrix product for each of the SIDE
// * SIDE positions (winograd_tiles.wgsl, winograd_blocks.wgsl, coop_products.wgsl).
//
// Interpolation points are 0, infinity, +-A and +-B. 3/4 and 3/2 instead of the usual 1 and 2 halve the rounding error
// (measured: docs/accuracy.md), and all their products are exact in f32.
//
// Transformed weights: texel ((position * blocks of 32 out channels + out / 32) * in_quads + in_quad) * 32 + out % 32,
// each a vec4 over four input channels.

const TILE: u32 = 4u;      // 4 or 2
const SIDE: u32 = 6u;      // TILE + 2
const STRIDE: u32 = 6u;    // of the array below
const BLOCK: u32 = 32u;
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

struct Params {
    out_channels: u32,
    in_channels: u32,
    in_quads: u32,
}

@group(0) @binding(0) var<storage, read> filters: array<f32>; // [out, in, 3, 3]
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

alias Line = array<vec4<f32>, 6>;

var<private> tile: array<vec4<f32>, 36>;

// G of F(TILE, 3): the filter's polynomial at each point, divided by the product of the differences of the points.
fn filter_line(g0: vec4<f32>, g1: vec4<f32>, g2: vec4<f32>) -> Line {
    if (TILE == 2u) {
        let even = 0.5 * (g0 + g2);
        let odd = 0.5 * g1;
        return Line(g0, even + odd, even - odd, g2, g0, g0);
    }
    let scale_a = 1.0 / (2.0 * A2 * (A2 - B2));
    let scale_b = 1.0 / (2.0 * B2 * (B2 - A2));
    let even_a = scale_a * (g0 + A2 * g2);
    let odd_a = (scale_a * A) * g1;
    let even_b = scale_b * (g0 + B2 * g2);
    let odd_b = (scale_b * B) * g1;
    return Line((1.0 / (A2 * B2)) * g0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2);
}

// Weights of output channel o, four input channels, one tap; zero beyond the channels.
fn tap(o: u32, quad: u32, at: u32) -> vec4<f32> {
    var values = vec4<f32>(0.0);
    for (var k = 0u; k < 4u; k++) {
        let i = quad * 4u + k;
        if (o < params.out_channels && i < params.in_channels) {
            values[k] = filters[(o * params.in_channels + i) * 9u + at];
        }
    }
    return values;
}

@compute @workgroup_size(64)
fn transform(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let in_quads = params.in_quads;
    let channels = (params.out_channels + BLOCK - 1u) / BLOCK * BLOCK;
    let o = i % channels;
    let quad = i / channels;
    if (quad >= in_quads) {
        return;
    }
    // unroll
    for (var c = 0u; c < 3u; c++) {
        let line = filter_line(tap(o, quad, c), tap(o, quad, 3u + c), tap(o, quad, 6u + c));
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        let line = filter_line(tile[r * STRIDE], tile[r * STRIDE + 1u], tile[r * STRIDE + 2u]);
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            let position = r * SIDE + c;
            output[((position * (channels / BLOCK) + o / BLOCK) * in_quads + quad) * BLOCK + o % BLOCK] = line[c];
        }
    }
}
