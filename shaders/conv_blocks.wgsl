// Matrix product over channels and taps by blocks in shared memory: 3x3 convolution (nine taps), and with one
// tap the product of a matrix with a map. The buffer family's kernel for discrete and integrated GPUs:
// implicit GEMM on the linear run of bordered quads (see src/ops/core/shape.rs), where a tap is a constant
// distance.
//
// A workgroup computes POSITIONS x CHANNELS outputs. Each step over the input brings into shared memory
// the texels around its positions and the weights of its channels; each invocation then adds up a register
// tile of PIXELS x OUTS. Nothing depends on the size of a subgroup. The sizes fit WebGPU's default limits.
//
// Weights: texel ((block * in_quads + in_quad) * taps + tap) * CHANNELS + channel of the block, each four
// values over four input channels; a block is CHANNELS output channels. A word holds one texel in f32, or two
// in f16 (two values per u32, the lower half first); arithmetic is f32 in both.

const POSITIONS: u32 = 128u; // positions of a workgroup
const CHANNELS: u32 = 64u;   // its output channels
const PIXELS: u32 = 8u;      // positions of an invocation
const OUTS: u32 = 8u;        // its output channels, a multiple of 4
const ROWS: u32 = 3u;        // runs of texels in a step: three rows of one quad, or with one tap ROWS quads
const COLUMNS: u32 = 3u;     // horizontal taps: 3, or 1 with one tap
const BUFFERS: u32 = 1u;     // 2: a step fills one half of the shared memory while the other is still read
const RELU: u32 = 0u;        // rectify the result
const MASK: u32 = 0u;        // read the input as zero where `activation` is not positive
const HALF: u32 = 0u;        // 1: weights are f16

const QUADS: u32 = OUTS / 4u;
const SUMS: u32 = PIXELS * OUTS;
const LANES: u32 = POSITIONS / PIXELS; // invocations side by side along the positions
const TEAMS: u32 = CHANNELS / OUTS;    // and along the channels
const THREADS: u32 = LANES * TEAMS;
const SEGMENT: u32 = POSITIONS + COLUMNS - 1u; // texels of one run, with the neighbours at its ends
const SLICES: u32 = ROWS * COLUMNS;            // taps, or quads with one tap, of a step
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

// Texel n of the input. Positions in the outer border have neighbours beyond both ends of the run (a
// negative n wraps to a huge one): those are zero, and only enter sums that the store drops.
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
    // The weights of a step lie in memory as they do here.
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
    // Neighbours in a subgroup take neighbouring positions, so that loads and stores coalesce; they share
    // their weights, which shared memory hands to all of them at once.
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
                // Quads are dealt to the teams in turn: their weights lie next to each other.
                let w = filters[row + o / 4u * (TEAMS * 4u) + o % 4u];
                // unroll
                for (var p = 0u; p < PIXELS; p++) {
                    // Written out: a dot product would cost an addition more.
                    let sum = fma(pixels[p].x, w.x, sums[o * PIXELS + p]);
                    sums[o * PIXELS + p] = fma(pixels[p].w, w.w, fma(pixels[p].z, w.z, fma(pixels[p].y, w.y, sum)));
                }
            }
        }
        // With two buffers the next step fills the half that all have left since the last barrier.
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
