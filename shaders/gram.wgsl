// Naive Gram matrix of a map, G = F F^T * scale, and its adjoint. F has one row per channel and one column per pixel;
// scale is 1 / (channels * pixels). Maps are bordered quads and matrix rows are padded to whole quads (see
// src/ops/core/shape.rs), so a row of G has `quads` vec4 values.

const HALF_MAP: u32 = 0u; // backward, 1: F is in half precision, four f16 in two words

struct Params {
    channels: u32,
    quads: u32,  // of the map, and per row of the matrix
    plane: u32,  // texels per quad of the map
    texels: u32, // of the whole map, closing border included
    blocks: u32, // forward: quads
    pairs: u32,  // forward: quads * (quads + 1) / 2
    splits: u32, // forward: number of chunks of the run
    chunk: u32,  // forward: texels per chunk
    block: u32,  // symmetrise: rows per block of the packing
    scale: f32,  // backward
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // F
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // dG
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>; // forward: partials
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> half_input: array<vec2<u32>>; // backward: F

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

// One invocation sums one chunk of the run of texels for one pair of quads of channels, row quad <= column quad, and
// writes a partial matrix for gram_sum.wgsl. Chunks preserve precision, which a single sum over millions of pixels
// would lose, and stay below the 65535 loop iterations after which Mesa's software driver silently ends an invocation's
// loops.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = index(group, groups, local);
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
    // Borders are zero and add nothing.
    var sums: array<vec4<f32>, 4>;
    let end = min((split + 1u) * params.chunk, params.plane);
    for (var n = split * params.chunk; n < end; n++) {
        let left = input[row * params.plane + n];
        let right = input[column * params.plane + n];
        // unroll
        for (var c = 0u; c < 4u; c++) {
            sums[c] += left[c] * right;
        }
    }
    // unroll
    for (var c = 0u; c < 4u; c++) {
        output[unit * 4u + c] = sums[c];
    }
}

// S = (dG + dG^T) * scale in row `row`, columns 4 * quad to 4 * quad + 3. Padding columns are zero.
fn symmetric(row: u32, quad: u32) -> vec4<f32> {
    var mirrored = vec4<f32>(0.0);
    // unroll
    for (var k = 0u; k < 4u; k++) {
        let other = quad * 4u + k;
        if (other < params.channels) {
            mirrored[k] = upstream[other * params.quads + row / 4u][row % 4u];
        }
    }
    return (upstream[row * params.quads + quad] + mirrored) * params.scale;
}

// dF = S F. One invocation computes one texel.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i >= params.texels) {
        return;
    }
    // The closing border is counted with the last quad.
    let out_quad = min(i / params.plane, params.quads - 1u);
    let n = i - out_quad * params.plane;
    // F is zero on borders in all channels, so borders become zero without a special case.
    var sum = vec4<f32>(0.0);
    for (var quad = 0u; quad < params.quads; quad++) {
        var pixel: vec4<f32>;
        // static if
        if (HALF_MAP == 1u) {
            let words = half_input[quad * params.plane + n];
            pixel = vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
        } else {
            pixel = input[quad * params.plane + n];
        }
        // unroll
        for (var k = 0u; k < 4u; k++) {
            let channel = out_quad * 4u + k;
            if (channel < params.channels) {
                sum[k] += dot(symmetric(channel, quad), pixel);
            }
        }
    }
    output[i] = sum;
}

// S for the products of other kernels, in the packing of conv_tiles.wgsl with one tap: texel (row / block * quads +
// quad) * block + row % block. With blocks of 1 it is row-major. One invocation writes 4 x 4 elements: it reads the
// mirrored elements by rows too, and transposes them.
@compute @workgroup_size(64)
fn symmetrise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let quads = params.quads;
    let row_quad = i / quads;
    let quad = i - row_quad * quads;
    let rows = (params.channels + params.block - 1u) / params.block * params.block;
    var mirrored: array<vec4<f32>, 4>;
    // unroll
    for (var k = 0u; k < 4u; k++) {
        let other = quad * 4u + k;
        if (other < params.channels && row_quad < quads) {
            mirrored[k] = upstream[other * quads + row_quad];
        }
    }
    // unroll
    for (var k = 0u; k < 4u; k++) {
        let row = row_quad * 4u + k;
        if (row < rows) {
            // Rows that pad the last block are zero.
            var value = vec4<f32>(0.0);
            if (row < params.channels) {
                value = upstream[row * quads + quad];
                value += vec4<f32>(mirrored[0][k], mirrored[1][k], mirrored[2][k], mirrored[3][k]);
            }
            output[(row / params.block * quads + quad) * params.block + row % params.block] = value * params.scale;
        }
    }
}
