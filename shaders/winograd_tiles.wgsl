// Products of a Winograd convolution, read from storage textures: for each position p of the transformed tile, out[p] =
// weights[p] * input[p]. The texture family's kernel for software drivers; the inner loop is that of conv_tiles.wgsl.
// See winograd_filter.wgsl and winograd_input.wgsl for the layouts.

const LANES: u32 = 8u;          // the device's subgroup size
const VECTORS: u32 = 8u;        // runs of LANES tiles per invocation
const CHANNELS: u32 = 32u;      // output channels per invocation, 4 to 32
const WEIGHT_QUADS: u32 = 1u;   // quads of output channels per lane for loading weights: QUADS / LANES, at least 1
const QUADS: u32 = CHANNELS / 4u;
const SUMS: u32 = VECTORS * CHANNELS;
const BLOCK_QUADS: u32 = 8u;    // quads of output channels in a block of weights

struct Params {
    in_quads: u32,
    out_quads: u32,
    chunk: u32,         // tiles
    input_stride: u32,  // texels from one position to the next
    output_stride: u32,
    weight_blocks: u32, // blocks of BLOCK output channels of the filter
    weight_quads: u32,  // quads of input channels of the filter
    adjoint: u32,       // 1: swap the weights' inputs and outputs
}

@group(0) @binding(0) var input: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var weights: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var output: texture_storage_2d<rgba32float, write>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let position = group.z;
    let first_quad = group.y * QUADS; // of the output
    let run = group.x;
    let input_start = position * params.input_stride + run * params.in_quads * (VECTORS * LANES) + lane;
    let plane = position * params.weight_blocks;
    let adjoint = params.adjoint == 1u;

    var sums: array<f32, SUMS>;
    for (var step = 0u; step < params.in_quads; step++) {
        let start = input_start + step * (VECTORS * LANES);
        var tiles: array<vec4<f32>, VECTORS>;
        // unroll
        for (var v = 0u; v < VECTORS; v++) {
            let n = start + v * LANES;
            tiles[v] = textureLoad(input, vec2<u32>(n & 8191u, n >> 13u));
        }
        // Each lane loads the 4 x 4 weights of this quad of inputs and a quad of outputs: one texel per output of the
        // filter. These are this product's outputs, or in the adjoint its inputs; then the block is transposed.
        var lane_weights: array<vec4<f32>, WEIGHT_QUADS * 4u>;
        // unroll
        for (var g = 0u; g < WEIGHT_QUADS; g++) {
            let quad = first_quad + (g * LANES + lane) % QUADS;
            let filter_out = select(quad, step, adjoint);
            let filter_in = select(step, quad, adjoint);
            let block = plane + filter_out / BLOCK_QUADS;
            let start = ((block * params.weight_quads + filter_in) * BLOCK_QUADS + filter_out % BLOCK_QUADS) * 4u;
            var texels: array<vec4<f32>, 4>;
            // unroll
            for (var k = 0u; k < 4u; k++) {
                let n = start + k;
                texels[k] = textureLoad(weights, vec2<u32>(n & 8191u, n >> 13u));
            }
            // unroll
            for (var k = 0u; k < 4u; k++) {
                let turned = vec4<f32>(texels[0][k], texels[1][k], texels[2][k], texels[3][k]);
                lane_weights[g * 4u + k] = select(texels[k], turned, adjoint);
            }
        }
        // unroll
        for (var o = 0u; o < CHANNELS; o++) {
            let quad = o / 4u;
            let w = subgroupShuffle(lane_weights[quad / LANES * 4u + o % 4u], quad % LANES);
            // unroll
            for (var v = 0u; v < VECTORS; v++) {
                sums[o * VECTORS + v] += dot(tiles[v], w);
            }
        }
    }

    // unroll
    for (var v = 0u; v < VECTORS; v++) {
        let n = (run * VECTORS + v) * LANES + lane;
        // unroll
        for (var q = 0u; q < QUADS; q++) {
            let quad = first_quad + q;
            if (quad < params.out_quads) {
                let to = position * params.output_stride + quad * params.chunk + n;
                textureStore(output, vec2<u32>(to & 8191u, to >> 13u), vec4<f32>(
                    sums[(q * 4u) * VECTORS + v],
                    sums[(q * 4u + 1u) * VECTORS + v],
                    sums[(q * 4u + 2u) * VECTORS + v],
                    sums[(q * 4u + 3u) * VECTORS + v]));
            }
        }
    }
}
