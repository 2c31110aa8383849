// Product of two matrices, D = A B, each optionally transposed, read from storage textures: the texture family's kernel
// for software drivers, which load storage textures for all lanes at once and buffers lane by lane. See matmul.wgsl for
// the layout and the blocks of 4 x 4.
//
// A workgroup is one subgroup; its lanes are neighbouring columns of blocks, with TALL x WIDE blocks of D each.

const TRANSPOSE_A: u32 = 0u; // 1: the first matrix is stored transposed
const TRANSPOSE_B: u32 = 0u;
const FINISH: u32 = 0u; // 1: D = scale * A B + plus * I; 2: plus * another matrix instead of I
const LANES: u32 = 8u; // the device's subgroup size
const TALL: u32 = 2u;  // blocks per invocation, down
const WIDE: u32 = 2u;  // blocks per invocation, across, LANES apart
const BLOCKS: u32 = TALL * WIDE;

struct Params {
    rows: u32,    // of D
    depth: u32,   // columns of A, rows of B
    a_rows: u32,  // as A is stored
    a_quads: u32, // per row of A, as stored
    b_rows: u32,
    b_quads: u32,
    quads: u32,   // per row of D
    strips: u32,  // workgroups across
    scale: f32,
    plus: f32,
}

@group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var b: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> other: array<vec4<f32>>; // with the layout of D

fn row_of_a(row: u32, quad: u32) -> vec4<f32> {
    let n = min(row, params.a_rows - 1u) * params.a_quads + min(quad, params.a_quads - 1u);
    return select(vec4<f32>(0.0), textureLoad(a, vec2<u32>(n & 8191u, n >> 13u)), row < params.a_rows);
}

fn row_of_b(row: u32, quad: u32) -> vec4<f32> {
    let n = min(row, params.b_rows - 1u) * params.b_quads + min(quad, params.b_quads - 1u);
    return select(vec4<f32>(0.0), textureLoad(b, vec2<u32>(n & 8191u, n >> 13u)), row < params.b_rows);
}

// Blocks beyond the last row or column hold arbitrary values; their products are not stored.
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

@compute @workgroup_size(LANES)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let unit = group.y * groups.x + group.x;
    let down = unit / params.strips;
    let row = down * TALL;
    let column = (unit - down * params.strips) * LANES * WIDE + lane;
    if (row * 4u >= params.rows) {
        return;
    }
    var sums: array<mat4x4<f32>, BLOCKS>;
    for (var k = 0u; k * 4u < params.depth; k++) {
        var left: array<mat4x4<f32>, TALL>;
        // unroll
        for (var t = 0u; t < TALL; t++) {
            left[t] = block_of_a(row + t, k);
        }
        // unroll
        for (var w = 0u; w < WIDE; w++) {
            let right = block_of_b(k, column + w * LANES);
            // unroll
            for (var t = 0u; t < TALL; t++) {
                sums[t * WIDE + w] += right * left[t];
            }
        }
    }
    // unroll
    for (var t = 0u; t < TALL; t++) {
        // unroll
        for (var w = 0u; w < WIDE; w++) {
            let quad = column + w * LANES;
            // unroll
            for (var r = 0u; r < 4u; r++) {
                let at = (row + t) * 4u + r;
                if (at < params.rows && quad < params.quads) {
                    output[at * params.quads + quad] = finished(sums[t * WIDE + w][r], at, quad);
                }
            }
        }
    }
}
