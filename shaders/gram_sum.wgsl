// Adds up the partial Gram matrices of gram_tiles.wgsl, gram_blocks.wgsl and coop_gram.wgsl in a fixed order.
//
// A partial matrix has `count` vec4 values: for each pair of channel blocks in the upper triangle, row
// after row, a block of QUADS * 4 rows of QUADS quads.

const QUADS: u32 = 4u; // quads per channel block
const FOLD: u32 = 32u; // partial matrices that `fold` sums to one
const SCALED: u32 = 0u; // 1: both factors were multiplied by `scales[0]`, and `scales[1]` is its inverse

struct Params {
    channels: u32,
    quads: u32,  // of the map, and per row of the matrix
    blocks: u32, // channel blocks
    splits: u32, // number of partial matrices
    count: u32,  // vec4 values of a partial matrix
    scale: f32,
}

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// Sums every FOLD partial matrices to one: with many of them, `finish` alone would have long sums and few invocations.
@compute @workgroup_size(64)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let fold = i / params.count;
    let n = i - fold * params.count;
    let end = min(fold * FOLD + FOLD, params.splits);
    if (fold * FOLD >= end) {
        return;
    }
    var sum = vec4<f32>(0.0);
    for (var split = fold * FOLD; split < end; split++) {
        sum += partials[split * params.count + n];
    }
    output[i] = sum;
}

// Sums all partial matrices, scales, and mirrors into the lower triangle. One invocation writes 4 x 4 elements and
// their mirror image.
@compute @workgroup_size(64)
fn finish(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let quads = params.quads;
    let row = i / quads;
    let column = i - row * quads;
    if (row > column || row >= quads) {
        return;
    }
    let row_block = row / QUADS;
    let pair = row_block * params.blocks - row_block * (row_block - 1u) / 2u + column / QUADS - row_block;
    let start = (pair * QUADS + row % QUADS) * 4u * QUADS + column % QUADS;
    var sums: array<vec4<f32>, 4>;
    for (var split = 0u; split < params.splits; split++) {
        // unroll
        for (var k = 0u; k < 4u; k++) {
            sums[k] += partials[split * params.count + start + k * QUADS];
        }
    }
    var scale = params.scale;
    // static if
    if (SCALED == 1u) {
        scale *= scales[1] * scales[1];
    }
    // unroll
    for (var k = 0u; k < 4u; k++) {
        sums[k] *= scale;
    }
    // Channels that pad the last quad are zero in the map, so padding columns are zero here.
    // unroll
    for (var k = 0u; k < 4u; k++) {
        if (row * 4u + k < params.channels) {
            output[(row * 4u + k) * quads + column] = sums[k];
        }
        if (row < column && column * 4u + k < params.channels) {
            output[(column * 4u + k) * quads + row] = vec4<f32>(sums[0][k], sums[1][k], sums[2][k], sums[3][k]);
        }
    }
}
