// Product of two matrices, D = A B, each of which may come transposed, by tiles in workgroup memory: the buffer family's
// kernel for GPUs. 256 invocations compute 64 x 64 values, each a block of 4 x 4. See matmul.wgsl for the layout.

const TRANSPOSE_A: u32 = 0u; // 1: the first matrix lies transposed
const TRANSPOSE_B: u32 = 0u;
const DEPTH: u32 = 4u;   // quads of depth per step
const SIDE: u32 = 16u;   // quads of rows and columns of a tile
const STRIDE: u32 = 17u; // of stored tiles: one more than SIDE, so that columns meet all banks

struct Params {
    rows: u32,    // of D
    depth: u32,   // columns of A, rows of B
    a_rows: u32,  // as A lies in memory
    a_quads: u32, // of a row of A, as it lies
    b_rows: u32,
    b_quads: u32,
    quads: u32,   // of a row of D
    strips: u32,  // tiles across
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

// One tile of each, as rows of blocks: row r of block (depth, side) is at (depth * 4 + r) * STRIDE + side. A block lies
// as in memory, transposed or not.
var<workgroup> tile_a: array<vec4<f32>, 272>; // 4 * DEPTH * STRIDE
var<workgroup> tile_b: array<vec4<f32>, 272>;

fn row_of_a(row: u32, quad: u32) -> vec4<f32> {
    if (row < params.a_rows && quad < params.a_quads) {
        return a[row * params.a_quads + quad];
    }
    return vec4<f32>(0.0);
}

fn row_of_b(row: u32, quad: u32) -> vec4<f32> {
    if (row < params.b_rows && quad < params.b_quads) {
        return b[row * params.b_quads + quad];
    }
    return vec4<f32>(0.0);
}

@compute @workgroup_size(256)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = group.y * groups.x + group.x;
    let down = unit / params.strips;
    let first_row = down * SIDE;
    let first_column = (unit - down * params.strips) * SIDE;
    // The block that this invocation computes.
    let i = local / SIDE;
    let j = local % SIDE;
    // A surplus workgroup has nothing to sum, but may not leave: barriers follow.
    let depth = select(0u, params.depth, first_row * 4u < params.rows);
    var sum = mat4x4<f32>();
    for (var start = 0u; start * 4u < depth; start += DEPTH) {
        // Neighbouring invocations load neighbouring quads where the matrix lies so.
        if (TRANSPOSE_A == 1u) {
            tile_a[i * STRIDE + j] = row_of_a(start * 4u + i, first_row + j);
        } else {
            let row = local / DEPTH;
            let quad = local % DEPTH;
            tile_a[(quad * 4u + row % 4u) * STRIDE + row / 4u] = row_of_a(first_row * 4u + row, start + quad);
        }
        if (TRANSPOSE_B == 1u) {
            let row = local / DEPTH;
            let quad = local % DEPTH;
            tile_b[(quad * 4u + row % 4u) * STRIDE + row / 4u] = row_of_b(first_column * 4u + row, start + quad);
        } else {
            tile_b[i * STRIDE + j] = row_of_b(start * 4u + i, first_column + j);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let at = k * 4u * STRIDE;
            var left = mat4x4<f32>(
                tile_a[at + i],
                tile_a[at + STRIDE + i],
                tile_a[at + 2u * STRIDE + i],
                tile_a[at + 3u * STRIDE + i],
            );
            var right = mat4x4<f32>(
                tile_b[at + j],
                tile_b[at + STRIDE + j],
                tile_b[at + 2u * STRIDE + j],
                tile_b[at + 3u * STRIDE + j],
            );
            if (TRANSPOSE_A == 1u) {
                left = transpose(left);
            }
            if (TRANSPOSE_B == 1u) {
                right = transpose(right);
            }
            sum += right * left;
        }
        workgroupBarrier();
    }
    let quad = first_column + j;
    // unroll
    for (var r = 0u; r < 4u; r++) {
        let row = (first_row + i) * 4u + r;
        if (row < params.rows && quad < params.quads) {
            output[row * params.quads + quad] = sum[r];
        }
    }
}
