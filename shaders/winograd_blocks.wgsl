// Products of a Winograd convolution, in shared-memory blocks: for each position p of the transformed tile, out[p] =
// weights[p] * input[p]. The buffer family's kernel for discrete and integrated GPUs. See winograd_filter.wgsl and
// winograd_input.wgsl for the layouts; here a run is the whole chunk.
//
// A workgroup computes TILES tiles x CHANNELS output channels of one position, in steps of STEP input quads. An
// invocation accumulates a register block of EACH tiles x QUADS quads of channels, and meanwhile loads its part of the
// next step into registers. With two BUFFERS a step fills one half of the shared memory while the other is still read.
// Nothing depends on the subgroup size. The sizes fit WebGPU's default limits.

const TILES: u32 = 128u;
const CHANNELS: u32 = 64u;
const EACH: u32 = 8u;      // tiles per invocation
const QUADS: u32 = 2u;     // quads of output channels per invocation
const STEP: u32 = 2u;      // input quads per step
const BUFFERS: u32 = 2u;
const ADJOINT: u32 = 0u;   // 1: swap the weights' inputs and outputs
const HALF: u32 = 0u;      // 1: weights are f16
const BLOCK: u32 = 32u;    // output channels per block of the transformed weights

const SUMS: u32 = EACH * QUADS;
const LANES: u32 = TILES / EACH;             // invocations along the tiles
const TEAMS: u32 = CHANNELS / 4u / QUADS;    // invocations along the channels
const THREADS: u32 = LANES * TEAMS;
const VALUES: u32 = STEP * TILES;
const WEIGHTS: u32 = STEP * CHANNELS;
const VALUE_LOADS: u32 = 2u;  // per invocation and step: VALUES / THREADS, rounded up
const WEIGHT_LOADS: u32 = 1u; // WEIGHTS / THREADS, which leaves no remainder

struct Params {
    in_quads: u32,
    out_quads: u32,
    chunk: u32,         // tiles
    input_stride: u32,  // texels from one position to the next
    output_stride: u32,
    weight_blocks: u32, // blocks of BLOCK output channels of the filter
    weight_quads: u32,  // quads of input channels of the filter
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
// A word holds one texel in f32, or two in f16 (two values per u32, the lower half first); arithmetic is f32
// in both.
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> values: array<vec4<f32>, BUFFERS * VALUES>;
var<workgroup> filters: array<vec4<f32>, BUFFERS * WEIGHTS>;

fn weight(n: u32) -> vec4<f32> {
    if (HALF == 1u) {
        let word = weights[n / 2u];
        let pairs = select(word.xy, word.zw, n % 2u == 1u);
        return vec4<f32>(unpack2x16float(pairs.x), unpack2x16float(pairs.y));
    }
    return bitcast<vec4<f32>>(weights[n]);
}

// The i-th value of a step; zero beyond the quads, channels and tiles.
fn load_value(i: u32, step: u32, position: u32, first: u32) -> vec4<f32> {
    let quad = step * STEP + i / TILES;
    let t = first + i % TILES;
    if (quad < params.in_quads && t < params.chunk) {
        return input[position * params.input_stride + quad * params.chunk + t];
    }
    return vec4<f32>(0.0);
}

fn load_weight(i: u32, step: u32, position: u32, block: u32) -> vec4<f32> {
    let slice = step * STEP + i / CHANNELS;
    let channel = i % CHANNELS;
    // Forward: four inputs of an output channel. Adjoint: four of its outputs, which are the filter's inputs, for each
    // of its four inputs.
    let o = select(block * CHANNELS + channel, slice * 4u + channel % 4u, ADJOINT == 1u);
    let quad = select(slice, block * (CHANNELS / 4u) + channel / 4u, ADJOINT == 1u);
    if (o < params.weight_blocks * BLOCK && quad < params.weight_quads) {
        let row = position * params.weight_blocks + o / BLOCK;
        return weight((row * params.weight_quads + quad) * BLOCK + o % BLOCK);
    }
    return vec4<f32>(0.0);
}

@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let position = group.z;
    let first = group.x * TILES;
    let block = group.y;
    // Neighbours in a subgroup take neighbouring tiles, so that loads and stores coalesce; they share their weights,
    // which shared memory broadcasts.
    let lane = local % LANES;
    let team = local / LANES;

    var next_values: array<vec4<f32>, VALUE_LOADS>;
    var next_weights: array<vec4<f32>, WEIGHT_LOADS>;
    // unroll
    for (var l = 0u; l < VALUE_LOADS; l++) {
        next_values[l] = load_value(local + l * THREADS, 0u, position, first);
    }
    // unroll
    for (var l = 0u; l < WEIGHT_LOADS; l++) {
        next_weights[l] = load_weight(local + l * THREADS, 0u, position, block);
    }
    var sums: array<vec4<f32>, SUMS>;
    for (var step = 0u; step * STEP < params.in_quads; step++) {
        let half = step % BUFFERS;
        // unroll
        for (var l = 0u; l < VALUE_LOADS; l++) {
            if (local + l * THREADS < VALUES) {
                values[half * VALUES + local + l * THREADS] = next_values[l];
            }
        }
        // unroll
        for (var l = 0u; l < WEIGHT_LOADS; l++) {
            filters[half * WEIGHTS + local + l * THREADS] = next_weights[l];
        }
        workgroupBarrier();
        // After the last step these are zeros.
        // unroll
        for (var l = 0u; l < VALUE_LOADS; l++) {
            next_values[l] = load_value(local + l * THREADS, step + 1u, position, first);
        }
        // unroll
        for (var l = 0u; l < WEIGHT_LOADS; l++) {
            next_weights[l] = load_weight(local + l * THREADS, step + 1u, position, block);
        }
        // unroll
        for (var slice = 0u; slice < STEP; slice++) {
            let start = half * VALUES + slice * TILES + lane;
            var tiles: array<vec4<f32>, EACH>;
            // unroll
            for (var t = 0u; t < EACH; t++) {
                tiles[t] = values[start + t * LANES];
            }
            let row = half * WEIGHTS + slice * CHANNELS + team * 4u;
            // unroll
            for (var q = 0u; q < QUADS; q++) {
                // Quads are assigned to the teams round-robin: their weights are adjacent.
                let at = row + q * (TEAMS * 4u);
                // Column k: the weights of input k for the four outputs.
                var w = mat4x4<f32>(filters[at], filters[at + 1u], filters[at + 2u], filters[at + 3u]);
                if (ADJOINT == 0u) {
                    w = transpose(w);
                }
                // unroll
                for (var t = 0u; t < EACH; t++) {
                    let x = tiles[t];
                    // Explicit, so that drivers use multiply-adds.
                    let sum = fma(w[0], vec4<f32>(x.x), sums[q * EACH + t]);
                    sums[q * EACH + t] = fma(w[3], vec4<f32>(x.w), fma(w[2], vec4<f32>(x.z), fma(w[1], vec4<f32>(x.y), sum)));
                }
            }
        }
        // With two buffers the next step fills the half that all invocations finished reading before the last barrier.
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
    }

    // unroll
    for (var t = 0u; t < EACH; t++) {
        let n = first + lane + t * LANES;
        // unroll
        for (var q = 0u; q < QUADS; q++) {
            let quad = block * (CHANNELS / 4u) + q * TEAMS + team;
            if (quad < params.out_quads && n < params.chunk) {
                output[position * params.output_stride + quad * params.chunk + n] = sums[q * EACH + t];
            }
        }
    }
}
