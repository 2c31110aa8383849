// Transform of the products of a Winograd convolution into the output (see winograd_filter.wgsl for the method and its
// points, winograd_input.wgsl for the order of tiles and for rotated ones).
//
// `transform` stores the output's pixels. `transform_pooled`, for a convolution with ReLU and fused pool, stores the
// maximum of each 2x2 window instead, and the pool indices of the maxima (see src/ops/conv/pool_indices.rs).
// border.wgsl writes the border.
//
// Maps are bordered quads (see src/ops/core/shape.rs). Products: texel position * stride + out_quad * chunk + tile;
// those of coop_products.wgsl are columns of matrices, to be multiplied by `scales[1]` (see half_scale.wgsl): texel
// position * stride + (out_quad / ROW_QUADS * chunk + tile) * ROW_QUADS + out_quad % ROW_QUADS. Rectification and the
// rotation of tiles are parameters: separate variants would each take another long compilation.

const TEXTURES: u32 = 0u;  // memory of the products: 1 for a texture of 8192 columns, 0 for a buffer
const ROWS: u32 = 0u;      // 1: products are rows of matrices, in a buffer
const ROW_QUADS: u32 = 4u; // quads per row
const TILE: u32 = 4u;      // 4 or 2
const SIDE: u32 = 6u;      // TILE + 2
const HALF: u32 = 2u;      // pooled: windows per tile along each axis; TILE is then 4
const MASK: u32 = 0u;      // zero the result where `activation` is not positive
const ADD: u32 = 0u;       // add the output's previous values, before the mask
const STRIDE: u32 = 6u;    // of the array of a tile
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

struct Params {
    height: u32, // of the output, before a pool
    width: u32,
    quads: u32,  // of the bound window
    first_quad: u32, // first quad of that window
    tiles: u32,  // of the whole map
    tiles_across: u32,
    first_tile: u32, // of this chunk
    chunk: u32,      // tiles per chunk
    stride: u32,     // texels from one position to the next
    turned: u32,     // 1: rotate by 180 degrees, for the adjoint
    relu: u32,       // 1: rectify the result
}

@group(0) @binding(0) var products_texture: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var<storage, read> products_buffer: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> activation: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> indices: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> scales: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

alias Line = array<vec4<f32>, 6>;

var<private> tile: array<vec4<f32>, 36>;

fn load_product(n: u32) -> vec4<f32> {
    // static if
    if (TEXTURES == 1u) {
        return textureLoad(products_texture, vec2<u32>(n & 8191u, n >> 13u));
    } else {
        // static if
        if (ROWS == 1u) {
            return products_buffer[n] * scales[1];
        } else {
            return products_buffer[n];
        }
    }
}

// Index of the first product of a tile.
fn first_product(t: u32, quad: u32) -> u32 {
    if (ROWS == 1u) {
        return (quad / ROW_QUADS * params.chunk + t) * ROW_QUADS + quad % ROW_QUADS;
    }
    return (params.first_quad + quad) * params.chunk + t;
}

// Tile of the chunk and quad that an invocation transforms. Neighbours load adjacent memory.
fn place(i: u32) -> vec2<u32> {
    if (ROWS == 1u) {
        let column = i / ROW_QUADS;
        return vec2<u32>(column % params.chunk, column / params.chunk * ROW_QUADS + i % ROW_QUADS);
    }
    return vec2<u32>(i % params.chunk, i / params.chunk);
}

// A^T of F(TILE, 3); only the first TILE values are used.
fn output_line(m: Line) -> Line {
    if (TILE == 2u) {
        return Line(m[0] + m[1] + m[2], m[1] - m[2] + m[3], m[0], m[0], m[0], m[0]);
    }
    let even_a = m[1] + m[2];
    let odd_a = m[1] - m[2];
    let even_b = m[3] + m[4];
    let odd_b = m[3] - m[4];
    return Line(
        m[0] + even_a + even_b,
        A * odd_a + B * odd_b,
        A2 * even_a + B2 * even_b,
        (A2 * A) * odd_a + (B2 * B) * odd_b + m[5],
        m[0], m[0]);
}

// Row r of `tile`. With TILE 2 the last two values are not used.
fn row_of_tile(r: u32) -> Line {
    let start = r * STRIDE;
    return Line(
        tile[start], tile[start + 1u], tile[start + 2u], tile[start + 3u], tile[start + 4u], tile[start + 5u]);
}

// First half of the transform: the columns of a tile's products, into `tile`.
fn load_tile(start: u32) {
    let step = params.stride;
    // unroll
    for (var c = 0u; c < SIDE; c++) {
        var column: Line;
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            column[r] = load_product(start + (r * SIDE + c) * step);
        }
        let line = output_line(column);
        // unroll
        for (var r = 0u; r < TILE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
}

@compute @workgroup_size(64)
fn transform(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let mine = place((group.y * groups.x + group.x) * 64u + local);
    let t = mine.x;
    let quad = mine.y;
    let at = params.first_tile + t;
    if (quad >= params.quads || at >= params.tiles) {
        return;
    }
    load_tile(first_product(t, quad));
    let pitch = params.width + 1u;
    let row = at / params.tiles_across * TILE;
    let column = at % params.tiles_across * TILE;
    let first = (quad * (params.height + 1u) + row + 1u) * pitch + column + 1u;
    let turned = params.turned == 1u;
    // unroll
    for (var r = 0u; r < TILE; r++) {
        let down = select(r, TILE - 1u - r, turned);
        let line = output_line(row_of_tile(r));
        // unroll
        for (var c = 0u; c < TILE; c++) {
            let across = select(c, TILE - 1u - c, turned);
            let n = first + down * pitch + across;
            if (row + down < params.height && column + across < params.width) {
                var value = line[c] + bias[params.first_quad + quad];
                let negative = value < vec4<f32>(0.0); // false for NaN, which is kept
                value = select(value, vec4<f32>(0.0), negative & vec4<bool>(params.relu == 1u));
                if (ADD == 1u) {
                    value += output[n];
                }
                // static if
                if (MASK == 1u) {
                    value = select(vec4<f32>(0.0), value, activation[n] > vec4<f32>(0.0));
                }
                output[n] = value;
            }
        }
    }
}

// ReLU that keeps NaN.
fn rectified(value: vec4<f32>) -> vec4<f32> {
    return select(value, vec4<f32>(0.0), value < vec4<f32>(0.0));
}

// The larger of two values of each channel; NaN if either is NaN, which the built-in max() may drop.
fn larger(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return select(select(a + b, a, a >= b), b, b >= a);
}

// Four bits per channel, with the bit of the window's first maximum in row-major order set, or none if the maximum is
// not positive. The result is an integer, which f32 represents exactly.
fn pool_index(v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>) -> f32 {
    let none = vec4<i32>(0);
    // Larger than all earlier values, not smaller than any later one.
    let bits = select(none, vec4<i32>(1), (v0 >= v1) & (v0 >= v2) & (v0 >= v3))
        | select(none, vec4<i32>(2), (v1 > v0) & (v1 >= v2) & (v1 >= v3))
        | select(none, vec4<i32>(4), (v2 > v0) & (v2 > v1) & (v2 >= v3))
        | select(none, vec4<i32>(8), (v3 > v0) & (v3 > v1) & (v3 > v2));
    let positive = max(max(v0, v1), max(v2, v3)) > vec4<f32>(0.0);
    let kept = select(none, bits, positive);
    return f32(kept.x | (kept.y << 4u) | (kept.z << 8u) | (kept.w << 12u));
}

@compute @workgroup_size(64)
fn transform_pooled(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let mine = place((group.y * groups.x + group.x) * 64u + local);
    let t = mine.x;
    let quad = mine.y;
    let at = params.first_tile + t;
    if (quad >= params.quads || at >= params.tiles) {
        return;
    }
    load_tile(first_product(t, quad));
    let height = params.height / 2u;
    let width = params.width / 2u;
    let pitch = width + 1u;
    let row = at / params.tiles_across * HALF;
    let column = at % params.tiles_across * HALF;
    let first = (quad * (height + 1u) + row + 1u) * pitch + column + 1u;
    let offset = bias[params.first_quad + quad];
    var found = vec4<f32>(0.0);
    // unroll
    for (var r = 0u; r < HALF; r++) {
        let upper = output_line(row_of_tile(2u * r));
        let lower = output_line(row_of_tile(2u * r + 1u));
        // unroll
        for (var c = 0u; c < HALF; c++) {
            // An odd last row or column is in no window.
            if (row + r < height && column + c < width) {
                let v0 = rectified(upper[2u * c] + offset);
                let v1 = rectified(upper[2u * c + 1u] + offset);
                let v2 = rectified(lower[2u * c] + offset);
                let v3 = rectified(lower[2u * c + 1u] + offset);
                output[first + r * pitch + c] = larger(larger(v0, v1), larger(v2, v3));
                found[r * 2u + c] = pool_index(v0, v1, v2, v3);
            }
        }
    }
    // The last tile may have only a single odd row or column.
    if (row >= height || column >= width) {
        return;
    }
    let index_height = (height + 1u) / 2u;
    let index_pitch = (width + 1u) / 2u + 1u;
    indices[(quad * (index_height + 1u) + row / 2u + 1u) * index_pitch + column / 2u + 1u] = found;
}
