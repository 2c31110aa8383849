// Matrix product over channels and taps, read from storage textures: a 3x3 convolution (nine taps), or with one tap the
// product of a matrix and a map. The texture family's kernel for software drivers: storage textures are the only memory
// that they load for all lanes at once inside a loop.
//
// Maps are bordered quads (see src/ops/core/shape.rs), so a tap is a constant distance in a linear run. Each invocation
// holds VECTORS x CHANNELS sums: the lanes of a subgroup are consecutive positions; weights are loaded one channel per
// lane and broadcast by shuffles from a constant lane.
//
// Taps and rectification are parameters: separate variants would each take another long compilation.
//
// Weights: texel ((block * in_quads + in_quad) * taps + tap) * CHANNELS + channel of the block, each a vec4 over four
// input channels; a block is CHANNELS output channels.

const LANES: u32 = 8u;          // the device's subgroup size
const VECTORS: u32 = 8u;        // runs of LANES positions per invocation
const CHANNELS: u32 = 16u;      // output channels per invocation
const WEIGHT_VECTORS: u32 = 2u; // loads of LANES weights per block: CHANNELS / LANES, at least 1
const QUADS: u32 = CHANNELS / 4u;
const SUMS: u32 = VECTORS * CHANNELS;
const GROUP: u32 = 32u;         // invocations per workgroup, a multiple of LANES

struct Params {
    in_quads: u32,
    out_quads: u32,
    pitch: u32, // texels per row
    plane: u32, // texels per quad
    first_block: u32, // block of weights and biases of the output's first quad
    taps: u32, // 9 or 1
    relu: u32, // 1: rectify the result
}

@group(0) @binding(0) var input: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var weights: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(GROUP)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let run = ((group.y * groups.x + group.x) * GROUP + local) / LANES;
    let first = run * (VECTORS * LANES) + lane;
    let block = group.z; // of the output
    let weight_block = params.first_block + block;
    let pitch = params.pitch;
    let plane = params.plane;

    // From a position to its first tap. Before the first texel this wraps to a row beyond the texture, which reads as
    // zero; that affects only border positions, whose sums are not stored.
    let back = select(0u, pitch + 1u, params.taps == 9u);
    let weight_first = weight_block * params.in_quads * params.taps * CHANNELS + lane;

    var sums: array<f32, SUMS>;
    var tap = 0u;
    var quad_start = first - back;
    // One loop over channels and taps: a software driver copies all sums at the head of each loop, so an inner loop of
    // few iterations costs as much as its products.
    for (var step = 0u; step < params.in_quads * params.taps; step++) {
        let start = quad_start + (tap / 3u) * pitch + tap % 3u;
        var pixels: array<vec4<f32>, VECTORS>;
        // unroll
        for (var v = 0u; v < VECTORS; v++) {
            let n = start + v * LANES;
            pixels[v] = textureLoad(input, vec2<u32>(n & 8191u, n >> 13u));
        }
        let weight_start = weight_first + step * CHANNELS;
        var lane_weights: array<vec4<f32>, WEIGHT_VECTORS>;
        // unroll
        for (var g = 0u; g < WEIGHT_VECTORS; g++) {
            let n = weight_start + g * LANES;
            lane_weights[g] = textureLoad(weights, vec2<u32>(n & 8191u, n >> 13u));
        }
        // unroll
        for (var o = 0u; o < CHANNELS; o++) {
            let w = subgroupShuffle(lane_weights[o / LANES], o % LANES);
            // unroll
            for (var v = 0u; v < VECTORS; v++) {
                sums[o * VECTORS + v] += dot(pixels[v], w);
            }
        }
        // A counter, because division by a parameter would cost as much as many products.
        let next = tap + 1u == params.taps;
        tap = select(tap + 1u, 0u, next);
        quad_start += select(0u, plane, next);
    }

    // unroll
    for (var v = 0u; v < VECTORS; v++) {
        let n = first + v * LANES;
        let inside = n < plane && n >= pitch && n % pitch != 0u;
        // unroll
        for (var q = 0u; q < QUADS; q++) {
            let quad = block * QUADS + q;
            // The closing border follows the last quad's plane.
            let end = select(plane, plane + pitch + 1u, quad + 1u == params.out_quads);
            if (quad < params.out_quads && n < end) {
                var sum = bias[params.first_block * QUADS + quad] + vec4<f32>(
                    sums[(q * 4u) * VECTORS + v],
                    sums[(q * 4u + 1u) * VECTORS + v],
                    sums[(q * 4u + 2u) * VECTORS + v],
                    sums[(q * 4u + 3u) * VECTORS + v]);
                let negative = sum < vec4<f32>(0.0); // false for NaN, which is kept
                sum = select(sum, vec4<f32>(0.0), negative & vec4<bool>(params.relu == 1u));
                output[quad * plane + n] = select(vec4<f32>(0.0), sum, inside);
            }
        }
    }
}
