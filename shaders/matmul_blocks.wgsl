// Product of two matrices, D = A B, each optionally transposed, by tiles in workgroup memory: the buffer family's
// kernel for GPUs. Each invocation computes a block of 4 x 4 values, and loads its part of the next tiles while it
// multiplies. See matmul.wgsl for the layout.

const TRANSPOSE_A: u32 = 0u; // 1: the first matrix is stored transposed
const TRANSPOSE_B: u32 = 0u;
const FINISH: u32 = 0u; // 1: D = scale * A B + plus * I; 2: plus * another matrix instead of I
const SIDE: u32 = 16u;       // quads of rows and of columns per tile
const DEPTH: u32 = 4u;       // quads of depth per step
const STRIDE: u32 = SIDE + 1u; // of stored tiles, to avoid bank conflicts between columns
const THREADS: u32 = SIDE * SIDE;
const LOADS: u32 = 4u * DEPTH / SIDE; // quads of each tile that an invocation loads
const TILE: u32 = 4u * DEPTH * STRIDE;

struct Params {
    rows: u32,    // of D
    depth: u32,   // columns of A, rows of B
    a_rows: u32,  // as A is stored
    a_quads: u32, // per row of A, as stored
    b_rows: u32,
    b_quads: u32,
    quads: u32,   // per row of D
    strips: u32,  // tiles across
    scale: f32,
    plus: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> other: array<vec4<f32>>; // with the layout of D

// One tile of each matrix, as rows of blocks: row r of block (depth, side) is at (depth * 4 + r) * STRIDE + side. A
// block keeps its layout in memory, transposed or not.
var<workgroup> tile_a: array<vec4<f32>, TILE>;
var<workgroup> tile_b: array<vec4<f32>, TILE>;

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

// The n-th quad of a tile of A, starting at `start` quads of depth. Neighbouring invocations load neighbouring quads.
fn load_a(n: u32, first_row: u32, start: u32) -> vec4<f32> {
    if (TRANSPOSE_A == 1u) {
        return row_of_a(start * 4u + n / SIDE, first_row + n % SIDE);
    }
    return row_of_a(first_row * 4u + n / DEPTH, start + n % DEPTH);
}

fn load_b(n: u32, first_column: u32, start: u32) -> vec4<f32> {
    if (TRANSPOSE_B == 1u) {
        return row_of_b(first_column * 4u + n / DEPTH, start + n % DEPTH);
    }
    return row_of_b(start * 4u + n / SIDE, first_column + n % SIDE);
}

// Index of the n-th quad in the stored tile. `by_depth`: the tile's rows in memory run along the depth.
fn place(n: u32, by_depth: bool) -> u32 {
    let row = n / DEPTH;
    return select(((n % DEPTH) * 4u + row % 4u) * STRIDE + row / 4u, n / SIDE * STRIDE + n % SIDE, by_depth);
}

// Applies the epilogue to the product.
fn finished(value: vec4<f32>, row: u32, quad: u32) -> vec4<f32> {
    var result = value;
    // static if
    if (FINISH == 1u) {
        let columns = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        result = params.scale * value + select(vec4<f32>(0.0), vec4<f32>(params.plus), columns == vec4<u32>(row));
    }
    // static if
    if (FINISH == 2u) {
        result = params.scale * value + params.plus * other[row * params.quads + quad];
    }
    return result;
}

@compute @workgroup_size(THREADS)
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
    // Surplus workgroups have nothing to sum, but must reach the barriers.
    let depth = select(0u, params.depth, first_row * 4u < params.rows);
    var next_a: array<vec4<f32>, LOADS>;
    var next_b: array<vec4<f32>, LOADS>;
    // unroll
    for (var l = 0u; l < LOADS; l++) {
        next_a[l] = load_a(local + l * THREADS, first_row, 0u);
        next_b[l] = load_b(local + l * THREADS, first_column, 0u);
    }
    var sum = mat4x4<f32>();
    for (var start = 0u; start * 4u < depth; start += DEPTH) {
        // unroll
        for (var l = 0u; l < LOADS; l++) {
            tile_a[place(local + l * THREADS, TRANSPOSE_A == 1u)] = next_a[l];
            tile_b[place(local + l * THREADS, TRANSPOSE_B == 0u)] = next_b[l];
        }
        workgroupBarrier();
        // After the last step these are zeros, which are not used.
        // unroll
        for (var l = 0u; l < LOADS; l++) {
            next_a[l] = load_a(local + l * THREADS, first_row, start + DEPTH);
            next_b[l] = load_b(local + l * THREADS, first_column, start + DEPTH);
        }
        // unroll
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
            output[row * params.quads + quad] = finished(sum[r], row, quad);
        }
    }
}
