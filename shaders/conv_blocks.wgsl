// Matrix product over channels and taps by blocks in shared memory: a 3x3 convolution (nine taps), or with one tap the
// product of a matrix and a map. The buffer family's kernel for discrete and integrated GPUs: implicit GEMM on the
// linear run of bordered quads (see src/ops/core/shape.rs), where a tap is a constant distance.
//
// A workgroup computes POSITIONS x CHANNELS outputs. Each step over the input loads the texels around its positions and
// the weights of its channels into shared memory; each invocation then accumulates a register tile of PIXELS x OUTS.
// Nothing depends on the subgroup size. The sizes fit WebGPU's default limits.
//
// Weights: texel ((block * in_quads + in_quad) * taps + tap) * CHANNELS + channel of the block, each four values over
// four input channels; a block is CHANNELS output channels. A word holds one texel in f32, or two in f16 (two values
// per u32, the lower half first); arithmetic is f32 in both.

const POSITIONS: u32 = 128u; // positions per workgroup
const CHANNELS: u32 = 64u;   // output channels per workgroup
const PIXELS: u32 = 8u;      // positions per invocation
const OUTS: u32 = 8u;        // output channels per invocation, a multiple of 4
const ROWS: u32 = 3u;        // runs of texels per step: three rows of one quad, or with one tap ROWS quads
const COLUMNS: u32 = 3u;     // horizontal taps: 3, or 1 with one tap
const BUFFERS: u32 = 1u;     // 2: double buffering, a step fills one buffer while the other is still read
const RELU: u32 = 0u;        // rectify the result
const MASK: u32 = 0u;        // read the input as zero where `activation` is not positive
const HALF: u32 = 0u;        // 1: weights are f16

const QUADS: u32 = OUTS / 4u;
const SUMS: u32 = PIXELS * OUTS;
const LANES: u32 = POSITIONS / PIXELS; // invocations along the positions
const TEAMS: u32 = CHANNELS / OUTS;    // invocations along the channels
const THREADS: u32 = LANES * TEAMS;
const SEGMENT: u32 = POSITIONS + COLUMNS - 1u; // texels of one run, with the neighbours at its ends
const SLICES: u32 = ROWS * COLUMNS;            // taps per step, or quads with one tap
const TILE: u32 = ROWS * SEGMENT;
const WEIGHTS: u32 = SLICES * CHANNELS;

struct Params {
    in_quads: u32,
    in_texels: u32, // texels of the whole input
    out_quads: u32,
    pitch: u32, // texels per row
    plane: u32, // texels per quad
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> activation: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

var<workgroup> tile: array<vec4<f32>, BUFFERS * TILE>;
var<workgroup> filters: array<vec4<f32>, BUFFERS * WEIGHTS>;

// Texel n of the input. Positions in the outer border have neighbours beyond both ends of the run (a negative n wraps
// to a huge one): those read as zero and contribute only to sums that are not stored.
fn load(n: u32) -> vec4<f32> {
    var value = vec4<f32>(0.0);
    if (n < params.in_texels) {
        value = input[n];
        // static if
        if (MASK == 1u) {
            value = select(vec4<f32>(0.0), value, activation[n] > vec4<f32>(0.0));
        }
    }
    return value;
}

fn weight(n: u32) -> vec4<f32> {
    if (HALF == 1u) {
        let word = weights[n / 2u];
        let pairs = select(word.xy, word.zw, n % 2u == 1u);
        return vec4<f32>(unpack2x16float(pairs.x), unpack2x16float(pairs.y));
    }
    return bitcast<vec4<f32>>(weights[n]);
}

// Fills one buffer. Every element is written: workgroup memory starts with arbitrary contents.
fn fill(step: u32, first: u32, block: u32, local: u32) {
    let half = step % BUFFERS;
    for (var i = local; i < TILE; i += THREADS) {
        let row = i / SEGMENT;
        var n = first + i % SEGMENT;
        if (COLUMNS == 3u) {
            n += step * params.plane + row * params.pitch - params.pitch - 1u;
        } else {
            // The last step may have fewer than ROWS quads.
            let quad = step * ROWS + row;
            n = select(params.in_texels, n + quad * params.plane, quad < params.in_quads);
        }
        tile[half * TILE + i] = load(n);
    }
    // A step's weights have the same order in memory and here.
    let slices = params.in_quads * select(1u, SLICES, COLUMNS == 3u);
    for (var i = local; i < WEIGHTS; i += THREADS) {
        let slice = step * SLICES + i / CHANNELS;
        var value = vec4<f32>(0.0);
        if (slice < slices) {
            value = weight((block * slices + step * SLICES) * CHANNELS + i);
        }
        filters[half * WEIGHTS + i] = value;
    }
}

@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group.y * groups.x + group.x) * POSITIONS;
    let block = group.z;
    // Neighbours in a subgroup take neighbouring positions, so that loads and stores coalesce; they share their
    // weights, which shared memory broadcasts.
    let lane = local % LANES;
    let team = local / LANES;
    let steps = select((params.in_quads + ROWS - 1u) / ROWS, params.in_quads, COLUMNS == 3u);

    var sums: array<f32, SUMS>;
    for (var step = 0u; step < steps; step++) {
        fill(step, first, block, local);
        workgroupBarrier();
        let half = step % BUFFERS;
        for (var slice = 0u; slice < SLICES; slice++) {
            let start = half * TILE + slice / COLUMNS * SEGMENT + slice % COLUMNS + lane;
            var pixels: array<vec4<f32>, PIXELS>;
            // unroll
            for (var p = 0u; p < PIXELS; p++) {
                pixels[p] = tile[start + p * LANES];
            }
            let row = half * WEIGHTS + slice * CHANNELS + team * 4u;
            // unroll
            for (var o = 0u; o < OUTS; o++) {
                // Quads are assigned to the teams round-robin: their weights are adjacent.
                let w = filters[row + o / 4u * (TEAMS * 4u) + o % 4u];
                // unroll
                for (var p = 0u; p < PIXELS; p++) {
                    // Explicit: a dot product would cost one more addition.
                    let sum = fma(pixels[p].x, w.x, sums[o * PIXELS + p]);
                    sums[o * PIXELS + p] = fma(pixels[p].w, w.w, fma(pixels[p].z, w.z, fma(pixels[p].y, w.y, sum)));
                }
            }
        }
        // With two buffers the next step fills the buffer that all invocations finished reading before the last
        // barrier.
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
    }

    let pitch = params.pitch;
    let plane = params.plane;
    // unroll
    for (var p = 0u; p < PIXELS; p++) {
        let n = first + lane + p * LANES;
        let inside = n < plane && n >= pitch && n % pitch != 0u;
        // unroll
        for (var q = 0u; q < QUADS; q++) {
            let quad = block * (CHANNELS / 4u) + q * TEAMS + team;
            // The closing border follows the last quad's plane.
            let end = select(plane, plane + pitch + 1u, quad + 1u == params.out_quads);
            if (quad < params.out_quads && n < end) {
                var sum = bias[quad] + vec4<f32>(
                    sums[(q * 4u) * PIXELS + p],
                    sums[(q * 4u + 1u) * PIXELS + p],
                    sums[(q * 4u + 2u) * PIXELS + p],
                    sums[(q * 4u + 3u) * PIXELS + p]);
                if (RELU == 1u) {
                    sum = select(sum, vec4<f32>(0.0), sum < vec4<f32>(0.0)); // keeps NaN
                }
                output[quad * plane + n] = select(vec4<f32>(0.0), sum, inside);
            }
        }
    }
}
