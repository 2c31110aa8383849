// Products on cooperative matrices, with factors in f16 and sums in f32: for each position p (of a transformed tile, or
// the only one) output[p] = input[p] * weights[p]. With nine taps a row of the output sums over nine rows of the input,
// which makes it a 3x3 convolution on the run of texels (see half_rows.wgsl). The buffer family's kernel for GPUs with
// such matrices.
//
// A workgroup is one subgroup and computes a block of ROWS x COLUMNS matrices. All sizes are multiples of SIDE, and the
// rows multiples of the block, so no load or store is out of bounds. Factors are loaded directly from their buffers:
// Vulkan's memory model, which cooperative matrices require, wants accesses to workgroup memory to be marked as shared
// between invocations, and naga does not mark them.
//
// Inputs and outputs are columns of matrices: first all rows of channels 0 to SIDE - 1, then those of the next SIDE,
// and so on. So a matrix is contiguous in memory wherever its first row is, and each index is a multiple of SIDE, which
// lets a compiler use wide loads. The weights are such columns too, of the filter's inputs, with a row for each of its
// outputs.

enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 16u;    // rows and columns of a matrix: 16, or 8, which also changes the types below
const ROWS: u32 = 4u;     // matrices per block along the rows of the output
const COLUMNS: u32 = 4u;  // matrices per block along its columns
const LANES: u32 = 32u;   // invocations per workgroup
const TAPS: u32 = 1u;     // 1 or 9
const ADJOINT: u32 = 0u;  // 1: swap the weights' inputs and outputs
const HALF: u32 = 1u;     // factors are f16
const SUMS: u32 = ROWS * COLUMNS;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

struct Params {
    inner: u32,         // matrices along the channels of the input
    input_rows: u32,    // rows of the input
    rows: u32,          // of the output
    filters: u32,       // outputs of the filter: channels of the output, or with ADJOINT of the input
    pitch: u32,         // nine taps: rows of the input per row of the map
    input_stride: u32,  // from one position to the next, in rows of a matrix
    weight_stride: u32, // from one position or tap to the next
    output_stride: u32,
}

@group(0) @binding(0) var<storage, read> input: array<f16>;
@group(0) @binding(1) var<storage, read> weights: array<f16>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// Start of the block's input rows in a step, in rows of a matrix. Steps iterate over the taps of one matrix of channels
// before the next: the rows of the taps overlap and are still in the cache.
fn input_at(step: u32, group: vec3<u32>) -> u32 {
    // The first tap is one row and one texel before, where the leading rows of zeros start.
    let tap = step % TAPS;
    let row = group.x * (ROWS * SIDE) + tap / 3u * params.pitch + tap % 3u;
    return group.z * params.input_stride + step / TAPS * params.input_rows + row;
}

// Start of the weights of column c of the block's matrices in a step, in rows of a matrix.
fn weights_at(step: u32, group: vec3<u32>, c: u32) -> u32 {
    let k = step / TAPS;
    let column = group.y * COLUMNS + c;
    let start = (group.z + step % TAPS) * params.weight_stride;
    if (ADJOINT == 1u) {
        return start + column * params.filters + k * SIDE;
    }
    return start + k * params.filters + column * SIDE;
}

@compute @workgroup_size(LANES)
fn multiply(@builtin(workgroup_id) group: vec3<u32>) {
    var next_left: array<Left, ROWS>;
    var next_right: array<Right, COLUMNS>;
    // unroll
    for (var r = 0u; r < ROWS; r++) {
        next_left[r] = coopLoadT<Left>(&input[(input_at(0u, group) + r * SIDE) * SIDE], SIDE);
    }
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
        if (ADJOINT == 1u) {
            next_right[c] = coopLoadT<Right>(&weights[weights_at(0u, group, c) * SIDE], SIDE);
        } else {
            next_right[c] = coopLoad<Right>(&weights[weights_at(0u, group, c) * SIDE], SIDE);
        }
    }
    let steps = params.inner * TAPS;
    var sums: array<Sum, SUMS>;
    for (var step = 0u; step < steps; step++) {
        var left: array<Left, ROWS>;
        var right: array<Right, COLUMNS>;
        // unroll
        for (var r = 0u; r < ROWS; r++) {
            left[r] = next_left[r];
        }
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
            right[c] = next_right[c];
        }
        // Prefetch the next step. The last step is loaded twice, because naga allows no conditional loads.
        let next = min(step + 1u, steps - 1u);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
            next_left[r] = coopLoadT<Left>(&input[(input_at(next, group) + r * SIDE) * SIDE], SIDE);
        }
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
            if (ADJOINT == 1u) {
                next_right[c] = coopLoadT<Right>(&weights[weights_at(next, group, c) * SIDE], SIDE);
            } else {
                next_right[c] = coopLoad<Right>(&weights[weights_at(next, group, c) * SIDE], SIDE);
            }
        }
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
            // unroll
            for (var r = 0u; r < ROWS; r++) {
                sums[r * COLUMNS + c] = coopMultiplyAdd(left[r], right[c], sums[r * COLUMNS + c]);
            }
        }
    }
    let first = group.x * (ROWS * SIDE);
    let column = group.y * COLUMNS;
    // unroll
    for (var r = 0u; r < ROWS; r++) {
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
            let to = group.z * params.output_stride + (column + c) * params.rows + first + r * SIDE;
            coopStoreT(sums[r * COLUMNS + c], &output[to * SIDE], SIDE);
        }
    }
}
