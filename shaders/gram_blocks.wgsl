// Partial Gram matrices, and the product of a symmetric matrix and a map, by tiles in workgroup memory: the buffer
// family's kernels for GPUs. 256 invocations compute 64 x 64 values, 4 x 4 each. Maps are bordered quads (see
// src/ops/core/shape.rs); borders are zero and add nothing.

const DEPTH: u32 = 16u;  // texels (forward) or channels (backward) per step
const QUADS: u32 = 16u;  // quads per channel block
const SIDE: u32 = 64u;   // channels per block; backward: also texels per block
const STRIDE: u32 = 17u; // forward: one more than QUADS, to avoid bank conflicts when storing a column
const HALF_MAP: u32 = 0u; // 1: the map is in half precision, four f16 in two words

struct Params {
    channels: u32,
    quads: u32,  // of the map
    plane: u32,  // texels per quad
    extent: u32, // backward: texels of the last quad, closing border included
    blocks: u32, // channel blocks
    pairs: u32,  // blocks * (blocks + 1) / 2
    splits: u32, // forward: number of chunks of the run
    chunk: u32,  // forward: texels per chunk, a multiple of DEPTH
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>; // backward: row k, quad o at k * quads + o
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>; // forward: partials
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> half_input: array<vec2<u32>>;

// One tile for each factor.
var<workgroup> tiles: array<vec4<f32>, 544>; // 2 * DEPTH * STRIDE

// A texel of the map, zero outside the chunk and the map.
fn load(quad: u32, n: u32, end: u32) -> vec4<f32> {
    if (quad < params.quads && n < end) {
        // static if
        if (HALF_MAP == 1u) {
            let words = half_input[quad * params.plane + n];
            return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
        } else {
            return input[quad * params.plane + n];
        }
    }
    return vec4<f32>(0.0);
}

// A workgroup sums one chunk of the run for one pair of channel blocks, row block <= column block.
@compute @workgroup_size(256)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = group.y * groups.x + group.x;
    let split = unit / params.pairs;
    if (split >= params.splits) {
        return;
    }
    // Pairs are numbered along the rows of the upper triangle.
    var row = 0u;
    var column = unit - split * params.pairs;
    while (column >= params.blocks - row) {
        column -= params.blocks - row;
        row++;
    }
    column += row;

    let start = split * params.chunk;
    let end = min(start + params.chunk, params.plane);
    // A block on the diagonal loads its channels only once.
    let other = select(DEPTH * STRIDE, 0u, row == column);
    let quad = local / DEPTH;
    let depth = local % DEPTH;
    let i = local / QUADS;
    let j = local % QUADS;
    var sums: array<vec4<f32>, 4>;
    for (var at = start; at < end; at += DEPTH) {
        tiles[depth * STRIDE + quad] = load(row * QUADS + quad, at + depth, end);
        if (row != column) {
            tiles[(DEPTH + depth) * STRIDE + quad] = load(column * QUADS + quad, at + depth, end);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let a = tiles[k * STRIDE + i];
            let b = tiles[other + k * STRIDE + j];
            // unroll
            for (var c = 0u; c < 4u; c++) {
                sums[c] += a[c] * b;
            }
        }
        workgroupBarrier();
    }
    // unroll
    for (var c = 0u; c < 4u; c++) {
        output[(unit * SIDE + i * 4u + c) * QUADS + j] = sums[c];
    }
}

// output = weights * input, weights symmetric. A workgroup computes 64 channels of 64 texels.
@compute @workgroup_size(256)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = (group.y * groups.x + group.x) * SIDE;
    let block = group.z;
    let i = local / 16u;
    let j = local % 16u;
    let weight_quad = block * QUADS + j;
    let out_quad = block * QUADS + i;
    var sums: array<vec4<f32>, 4>; // of one quad, at four texels
    for (var start = 0u; start < params.channels; start += DEPTH) {
        // Weights: 16 channels by 16 quads. Texels: 4 quads by 64.
        var weight = vec4<f32>(0.0);
        if (start + i < params.channels && weight_quad < params.quads) {
            weight = weights[(start + i) * params.quads + weight_quad];
        }
        tiles[i * QUADS + j] = weight;
        tiles[256u + local] = load(start / 4u + local / SIDE, first + local % SIDE, params.extent);
        workgroupBarrier();
        for (var q = 0u; q < 4u; q++) {
            var pixels: array<vec4<f32>, 4>;
            // unroll
            for (var t = 0u; t < 4u; t++) {
                pixels[t] = tiles[256u + q * SIDE + t * 16u + j];
            }
            // unroll
            for (var c = 0u; c < 4u; c++) {
                let w = tiles[(q * 4u + c) * QUADS + i];
                // unroll
                for (var t = 0u; t < 4u; t++) {
                    sums[t] += w * pixels[t][c];
                }
            }
        }
        workgroupBarrier();
    }
    // The closing border follows the last quad's plane.
    let end = select(params.plane, params.extent, out_quad + 1u == params.quads);
    // unroll
    for (var t = 0u; t < 4u; t++) {
        let n = first + t * 16u + j;
        if (out_quad < params.quads && n < end) {
            output[out_quad * params.plane + n] = sums[t];
        }
    }
}
