// Partial Gram matrices, read from storage textures: the texture family's kernel for software drivers (see
// conv_tiles.wgsl). The lanes of a subgroup are consecutive texels of a plane's linear run, including borders, which
// are zero. Each invocation holds SIDE x SIDE sums for one pair of channel blocks; only pairs with row block <= column
// block are computed. A workgroup is one subgroup; it sums one chunk of the run, adds up its lanes at the end, and
// writes a partial matrix for gram_sum.wgsl.

const LANES: u32 = 8u;   // the device's subgroup size, 4 to 32
const STORES: u32 = 2u;  // runs of LANES sums per row of a block: SIDE / LANES, at least 1
const VECTORS: u32 = 1u; // runs of LANES texels per step
const QUADS: u32 = 4u;   // quads per channel block
const SIDE: u32 = 16u;   // channels per channel block
const SUMS: u32 = SIDE * SIDE;
const VECTOR_SUMS: u32 = SIDE * QUADS; // four sums each
const PIXELS: u32 = VECTORS * QUADS;

struct Params {
    quads: u32,  // of the map
    plane: u32,  // texels per quad
    blocks: u32, // channel blocks
    pairs: u32,  // blocks * (blocks + 1) / 2
    splits: u32, // number of chunks of the run
    chunk: u32,  // texels per chunk, a multiple of LANES * VECTORS
}

@group(0) @binding(0) var input: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    // Pairs vary fastest: all pairs of a chunk find it in the cache.
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
    let last = params.quads - 1u;
    var sums: array<vec4<f32>, VECTOR_SUMS>;
    for (var at = start; at < end; at += LANES * VECTORS) {
        var left: array<vec4<f32>, PIXELS>;
        var right: array<vec4<f32>, PIXELS>;
        // unroll
        for (var v = 0u; v < VECTORS; v++) {
            // After the end of the chunk, read the plane's first texel, a zero of the border.
            let k = at + v * LANES + lane;
            let inside = select(0u, k, k < end);
            // unroll
            for (var q = 0u; q < QUADS; q++) {
                // After the last quad, read the last one again; those sums are not used.
                let n = min(row * QUADS + q, last) * params.plane + inside;
                left[v * QUADS + q] = textureLoad(input, vec2<u32>(n & 8191u, n >> 13u));
                let m = min(column * QUADS + q, last) * params.plane + inside;
                right[v * QUADS + q] = textureLoad(input, vec2<u32>(m & 8191u, m >> 13u));
            }
        }
        // unroll
        for (var i = 0u; i < SIDE; i++) {
            // unroll
            for (var q = 0u; q < QUADS; q++) {
                // unroll
                for (var v = 0u; v < VECTORS; v++) {
                    sums[i * QUADS + q] += left[v * QUADS + i / 4u][i % 4u] * right[v * QUADS + q];
                }
            }
        }
    }

    // Adds up the lanes and distributes the columns to them at the same time: each step halves the number of values per
    // lane. After steps 1, 2, 4, ... value q of lane l is column q * LANES + l.
    let odd = (lane & 1u) != 0u;
    let odd2 = (lane & 2u) != 0u;
    let odd4 = (lane & 4u) != 0u;
    let odd8 = (lane & 8u) != 0u;
    let base = unit * SUMS + lane;
    // unroll
    for (var i = 0u; i < SIDE; i++) {
        // unroll
        for (var q = 0u; q < 8u; q++) {
            let a = sums[i * QUADS + q / 2u][2u * q % 4u];
            let b = sums[i * QUADS + q / 2u][2u * q % 4u + 1u];
            sums[i * QUADS + q / 4u][q % 4u] = select(a, b, odd) + subgroupShuffleXor(select(b, a, odd), 1u);
        }
        // unroll
        for (var q = 0u; q < 4u; q++) {
            let a = sums[i * QUADS + q / 2u][2u * q % 4u];
            let b = sums[i * QUADS + q / 2u][2u * q % 4u + 1u];
            sums[i * QUADS + q / 4u][q % 4u] = select(a, b, odd2) + subgroupShuffleXor(select(b, a, odd2), 2u);
        }
        if (LANES >= 8u) {
            // unroll
            for (var q = 0u; q < 2u; q++) {
                let a = sums[i * QUADS + q / 2u][2u * q % 4u];
                let b = sums[i * QUADS + q / 2u][2u * q % 4u + 1u];
                sums[i * QUADS + q / 4u][q % 4u] = select(a, b, odd4) + subgroupShuffleXor(select(b, a, odd4), 4u);
            }
        }
        if (LANES >= 16u) {
            let a = sums[i * QUADS][0];
            let b = sums[i * QUADS][1];
            sums[i * QUADS][0] = select(a, b, odd8) + subgroupShuffleXor(select(b, a, odd8), 8u);
        }
        if (LANES == 32u) {
            // More lanes than columns: the upper half has the same columns as the lower.
            sums[i * QUADS][0] += subgroupShuffleXor(sums[i * QUADS][0], 16u);
        }
        if (lane < SIDE) {
            // unroll
            for (var q = 0u; q < STORES; q++) {
                partials[base + i * SIDE + q * LANES] = sums[i * QUADS + q / 4u][q % 4u];
            }
        }
    }
}
