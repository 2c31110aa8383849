// Products on cooperative matrices, factors in f16 and sums in f32: for each position p (of a transformed tile, or the only
// one) output[p] = input[p] * weights[p], rows of channels. With nine taps a row of the output sums over nine rows of the
// input, which makes it a 3x3 convolution on the run of texels (see half_rows.wgsl). The buffer family's kernel for GPUs that
// have such matrices.
//
// A workgroup is one subgroup and computes a block of ROWS x COLUMNS matrices. All sizes are multiples of SIDE, and rows of
// the whole block, so nothing is loaded or stored outside. Factors come straight from their buffers: naga marks no access to
// workgroup memory as shared between invocations, which Vulkan's memory model, that cooperative matrices need, asks for.

enable f16;
enable wgpu_cooperative_matrix;

const SIDE: u32 = 16u;    // rows and columns of a matrix: 16, or 8, which changes the types below too
const ROWS: u32 = 4u;     // matrices of a block along the rows of the output
const COLUMNS: u32 = 4u;  // and along its columns
const LANES: u32 = 32u;   // invocations of a workgroup
const TAPS: u32 = 1u;     // 1 or 9
const ADJOINT: u32 = 0u;  // 1: the weights' inputs and outputs change places
const HALF: u32 = 1u;     // factors are f16
const SUMS: u32 = ROWS * COLUMNS;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

struct Params {
    inner: u32,         // channels of the input
    columns: u32,       // channels of the output
    pitch: u32,         // nine taps: rows of the input from one line of the map to the next
    input_stride: u32,  // values from one position to the next
    weight_stride: u32, // from one position or tap to the next
    output_stride: u32,
}

@group(0) @binding(0) var<storage, read> input: array<f16>;
// Output channels by input channels.
@group(0) @binding(1) var<storage, read> weights: array<f16>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn multiply(@builtin(workgroup_id) group: vec3<u32>) {
    let first = group.x * (ROWS * SIDE);
    let column = group.y * (COLUMNS * SIDE);
    let inner = params.inner;
    let columns = params.columns;
    var sums: array<Sum, SUMS>;
    for (var tap = 0u; tap < TAPS; tap++) {
        // The first tap is a line and a texel before, where the rows of zeros in front begin.
        let row = first + tap / 3u * params.pitch + tap % 3u;
        let input_start = group.z * params.input_stride + row * inner;
        let filter_start = (group.z + tap) * params.weight_stride;
        for (var k = 0u; k < inner; k += SIDE) {
            var left: array<Left, ROWS>;
            // unroll
            for (var r = 0u; r < ROWS; r++) {
                left[r] = coopLoadT<Left>(&input[input_start + r * SIDE * inner + k], inner);
            }
            // unroll
            for (var c = 0u; c < COLUMNS; c++) {
                var right: Right;
                if (ADJOINT == 1u) {
                    right = coopLoadT<Right>(&weights[filter_start + k * columns + column + c * SIDE], columns);
                } else {
                    right = coopLoad<Right>(&weights[filter_start + (column + c * SIDE) * inner + k], inner);
                }
                // unroll
                for (var r = 0u; r < ROWS; r++) {
                    sums[r * COLUMNS + c] = coopMultiplyAdd(left[r], right, sums[r * COLUMNS + c]);
                }
            }
        }
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
            let to = group.z * params.output_stride + (first + r * SIDE) * columns + column + c * SIDE;
            coopStoreT(sums[r * COLUMNS + c], &output[to], columns);
        }
    }
}
