// Naive product of two matrices, D = A B, each optionally transposed. Rows are padded with zeros to whole quads (see
// src/ops/core/shape.rs).
//
// Everything is done in blocks of 4 x 4. A mat4x4 holds a block's rows as its columns, so products of blocks are
// written in reverse order.

const TRANSPOSE_A: u32 = 0u; // 1: the first matrix is stored transposed
const TRANSPOSE_B: u32 = 0u;
const FINISH: u32 = 0u; // 1: D = scale * A B + plus * I; 2: plus * another matrix instead of I

struct Params {
    rows: u32,    // of D
    depth: u32,   // columns of A, rows of B
    a_rows: u32,  // as A is stored
    a_quads: u32, // per row of A, as stored
    b_rows: u32,
    b_quads: u32,
    quads: u32,   // per row of D
    scale: f32,
    plus: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> other: array<vec4<f32>>; // with the layout of D

fn row_of_a(row: u32, quad: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), a[min(row, params.a_rows - 1u) * params.a_quads + quad], row < params.a_rows);
}

fn row_of_b(row: u32, quad: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), b[min(row, params.b_rows - 1u) * params.b_quads + quad], row < params.b_rows);
}

fn block_of_a(row: u32, column: u32) -> mat4x4<f32> {
    if (TRANSPOSE_A == 1u) {
        let r = column * 4u;
        return transpose(mat4x4<f32>(row_of_a(r, row), row_of_a(r + 1u, row), row_of_a(r + 2u, row), row_of_a(r + 3u, row)));
    }
    let r = row * 4u;
    return mat4x4<f32>(row_of_a(r, column), row_of_a(r + 1u, column), row_of_a(r + 2u, column), row_of_a(r + 3u, column));
}

fn block_of_b(row: u32, column: u32) -> mat4x4<f32> {
    if (TRANSPOSE_B == 1u) {
        let r = column * 4u;
        return transpose(mat4x4<f32>(row_of_b(r, row), row_of_b(r + 1u, row), row_of_b(r + 2u, row), row_of_b(r + 3u, row)));
    }
    let r = row * 4u;
    return mat4x4<f32>(row_of_b(r, column), row_of_b(r + 1u, column), row_of_b(r + 2u, column), row_of_b(r + 3u, column));
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

// One invocation computes one block.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let row = i / params.quads;
    let column = i - row * params.quads;
    if (row * 4u >= params.rows) {
        return;
    }
    var sum = mat4x4<f32>();
    for (var k = 0u; k * 4u < params.depth; k++) {
        sum += block_of_b(k, column) * block_of_a(row, k);
    }
    // unroll
    for (var r = 0u; r < 4u; r++) {
        if (row * 4u + r < params.rows) {
            let at = row * 4u + r;
            output[at * params.quads + column] = finished(sum[r], at, column);
        }
    }
}
