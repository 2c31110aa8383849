// Partial Gram matrices on cooperative matrices, with factors in f16 and sums in f32, from a map as columns of matrices
// (see half_rows.wgsl). The buffer family's kernel for GPUs with such matrices; gram_sum.wgsl adds up the partial
// matrices.
//
// A workgroup is one subgroup and sums one chunk of the rows for one pair of channel blocks, row block <= column block:
// a block of ROWS x ROWS matrices. Channels are whole blocks and chunks whole matrices, so no load is out of bounds.

enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 16u;   // rows and columns of a matrix: 16, or 8, which also changes the types below
const ROWS: u32 = 4u;    // matrices per channel block
const LANES: u32 = 32u;  // invocations per workgroup
const HALF: u32 = 1u;    // factors are f16
const BLOCK: u32 = ROWS * SIDE;
const SUMS: u32 = ROWS * ROWS;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

struct Params {
    rows: u32,   // of the map as columns of matrices
    blocks: u32, // channel blocks
    pairs: u32,  // blocks * (blocks + 1) / 2
    splits: u32, // chunks of the rows
    chunk: u32,  // rows of a chunk, a multiple of SIDE
}

@group(0) @binding(0) var<storage, read> rows: array<f16>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
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
    var sums: array<Sum, SUMS>;
    for (var k = start; k < start + params.chunk; k += SIDE) {
        var left: array<Left, ROWS>;
        // unroll
        for (var r = 0u; r < ROWS; r++) {
            left[r] = coopLoad<Left>(&rows[((row * ROWS + r) * params.rows + k) * SIDE], SIDE);
        }
        // unroll
        for (var c = 0u; c < ROWS; c++) {
            let right = coopLoadT<Right>(&rows[((column * ROWS + c) * params.rows + k) * SIDE], SIDE);
            // unroll
            for (var r = 0u; r < ROWS; r++) {
                sums[r * ROWS + c] = coopMultiplyAdd(left[r], right, sums[r * ROWS + c]);
            }
        }
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
        // unroll
        for (var c = 0u; c < ROWS; c++) {
            coopStoreT(sums[r * ROWS + c], &partials[(unit * BLOCK + r * SIDE) * BLOCK + c * SIDE], BLOCK);
        }
    }
}
