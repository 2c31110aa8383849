// Transform of the input of a Winograd convolution (see winograd_filter.wgsl for the method and its points).
//
// `transform` reads a map. `transform_routed`, in the backward pass of a convolution with a fused pool, reads the
// gradient of the pooled map and the pool indices instead of the gradient of the full map (see
// src/ops/conv/pool_indices.rs).
//
// The adjoint is the convolution with the filter rotated by 180 degrees. Rotating the input tile and the output tile
// instead of the filter is equivalent, so one set of transformed weights serves both. The rotation is a parameter: a
// separate variant would take another long compilation.
//
// Maps are bordered quads (see src/ops/core/shape.rs). Work is split into chunks of `chunk` tiles. Transformed values:
// texel position * stride + (tile / run * in_quads + in_quad) * run + tile % run, where a run is the number of tiles
// per invocation of winograd_tiles.wgsl, or for winograd_blocks.wgsl the whole chunk. For coop_products.wgsl they are
// columns of f16 matrices, multiplied by `scales[0]` (see half_scale.wgsl): quad position * stride + (in_quad /
// ROW_QUADS * chunk + tile) * ROW_QUADS + in_quad % ROW_QUADS; all quads are then bound at once.

const TEXTURES: u32 = 0u;  // memory of all maps and transformed values: 1 for textures of 8192 columns, 0 for buffers
const ROWS: u32 = 0u;      // 1: transformed values are rows of f16 matrices, in buffers
const ROW_QUADS: u32 = 4u; // quads per row
const TILE: u32 = 4u;      // 4 or 2
const SIDE: u32 = 6u;      // TILE + 2
const HALF: u32 = 2u;      // pooled: windows per tile along each axis; TILE is then 4
const SPAN: u32 = 4u;      // HALF + 2: side of the pooled gradient under an input tile
const COVER: u32 = 3u;     // side of the pool indices under it
const STRIDE: u32 = 6u;    // of the array of a tile
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

struct Params {
    height: u32, // of the transformed map, before a pool
    width: u32,
    quads: u32,  // of the bound window
    first_quad: u32, // first quad of that window
    tiles: u32,  // of the whole map
    tiles_across: u32,
    first_tile: u32, // of this chunk
    chunk: u32,      // tiles per chunk, whole runs
    run: u32,
    stride: u32,     // texels from one position to the next
    texels: u32,     // of the window
    turned: u32,     // 1: rotate by 180 degrees, for the adjoint
}

@group(0) @binding(0) var map_texture: texture_storage_2d<rgba32float, read>; // the map, or the pooled gradient
@group(0) @binding(1) var<storage, read> map_buffer: array<vec4<f32>>;
@group(0) @binding(2) var indices_texture: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var<storage, read> indices_buffer: array<vec4<f32>>;
@group(0) @binding(4) var transformed_texture: texture_storage_2d<rgba32float, write>;
@group(0) @binding(5) var<storage, read_write> transformed_buffer: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> transformed_rows: array<vec2<u32>>; // a quad in f16
@group(0) @binding(7) var<storage, read> scales: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

alias Line = array<vec4<f32>, 6>;

var<private> tile: array<vec4<f32>, 36>;
var<private> pooled: array<vec4<f32>, 16>; // SPAN x SPAN values of the pooled gradient
var<private> routes: array<vec4<f32>, 9>;  // COVER x COVER texels of pool indices

fn load_map(n: u32) -> vec4<f32> {
    // static if
    if (TEXTURES == 1u) {
        return textureLoad(map_texture, vec2<u32>(n & 8191u, n >> 13u));
    } else {
        return map_buffer[n];
    }
}

fn load_indices(n: u32) -> vec4<f32> {
    // static if
    if (TEXTURES == 1u) {
        return textureLoad(indices_texture, vec2<u32>(n & 8191u, n >> 13u));
    } else {
        return indices_buffer[n];
    }
}

fn store_transformed(n: u32, value: vec4<f32>) {
    // static if
    if (TEXTURES == 1u) {
        textureStore(transformed_texture, vec2<u32>(n & 8191u, n >> 13u), value);
    } else {
        // static if
        if (ROWS == 1u) {
            let scaled = value * scales[0];
            transformed_rows[n] = vec2<u32>(pack2x16float(scaled.xy), pack2x16float(scaled.zw));
        } else {
            transformed_buffer[n] = value;
        }
    }
}

// Tile of the chunk and quad that an invocation transforms. Neighbours store to adjacent memory.
fn place(i: u32) -> vec2<u32> {
    if (ROWS == 1u) {
        let column = i / ROW_QUADS;
        return vec2<u32>(column % params.chunk, column / params.chunk * ROW_QUADS + i % ROW_QUADS);
    }
    return vec2<u32>(i % params.chunk, i / params.chunk);
}

// B^T of F(TILE, 3).
fn input_line(d: Line) -> Line {
    if (TILE == 2u) {
        return Line(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1], d[0], d[0]);
    }
    let even_a = d[4] - B2 * d[2];
    let odd_a = A * (d[3] - B2 * d[1]);
    let even_b = d[4] - A2 * d[2];
    let odd_b = B * (d[3] - A2 * d[1]);
    return Line(
        (A2 * B2) * d[0] - (A2 + B2) * d[2] + d[4],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        (A2 * B2) * d[1] - (A2 + B2) * d[3] + d[5]);
}

// Six values of `tile`, `step` apart. With TILE 2 the last two are not used.
fn line_of_tile(start: u32, step: u32) -> Line {
    return Line(
        tile[start], tile[start + step], tile[start + 2u * step],
        tile[start + 3u * step], tile[start + 4u * step], tile[start + 5u * step]);
}

// Transforms `tile`, columns and then rows, and stores it as tile t of the chunk.
fn store_tile(t: u32, quad: u32) {
    // unroll
    for (var c = 0u; c < SIDE; c++) {
        let line = input_line(line_of_tile(c, STRIDE));
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
    // A window of the quads has only one run.
    let run = params.run;
    var start = (t / run * params.quads + params.first_quad + quad) * run + t % run;
    if (ROWS == 1u) {
        start = (quad / ROW_QUADS * params.chunk + t) * ROW_QUADS + quad % ROW_QUADS;
    }
    let step = params.stride;
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        let line = input_line(line_of_tile(r * STRIDE, 1u));
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            store_transformed(start + (r * SIDE + c) * step, line[c]);
        }
    }
}

// Addressing of a tile's input: first texel, distance to the next row, distance to the next column. The input starts
// one row above and one column left of the tile's output, so that of the first tile starts at the map's first texel. If
// rotated, it is read backwards from its last pixel. Tiles at the far edges reach into the next row or plane; those
// values contribute only to outputs that are not stored.
fn walk(t: u32, quad: u32) -> vec3<u32> {
    // Tiles beyond the last repeat it; their results are not used.
    let at = min(params.first_tile + t, params.tiles - 1u);
    let row = at / params.tiles_across * TILE;
    let column = at % params.tiles_across * TILE;
    let pitch = params.width + 1u;
    let first = quad * (params.height + 1u) * pitch + row * pitch + column;
    if (params.turned == 1u) {
        return vec3<u32>(first + (SIDE - 1u) * (pitch + 1u), 0u - pitch, 0xffffffffu);
    }
    return vec3<u32>(first, pitch, 1u);
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
    if (quad >= params.quads) {
        return;
    }
    let way = walk(t, quad);
    let last = params.texels - 1u; // a border texel, so zero
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            tile[r * STRIDE + c] = load_map(min(way.x + r * way.y + c * way.z, last));
        }
    }
    store_tile(t, quad);
}

// Start of the pooled gradient and of the pool indices under an input tile, in their own maps.
struct PooledCorner {
    texel: u32,
    pitch: u32,
    index: u32,
    index_pitch: u32,
    last_index: u32, // a border texel, so zero
}

// In both maps the border stands for the part of the tile above and left of the first pixel. Beyond the far edges it
// works as for `walk`.
fn pooled_corner(t: u32, quad: u32) -> PooledCorner {
    let at = min(params.first_tile + t, params.tiles - 1u);
    let row = at / params.tiles_across;
    let column = at % params.tiles_across;
    let height = params.height / 2u;
    let width = params.width / 2u;
    let pitch = width + 1u;
    // A texel of pool indices covers 2x2 pooled pixels.
    let index_height = (height + 1u) / 2u;
    let index_pitch = (width + 1u) / 2u + 1u;
    return PooledCorner(
        (quad * (height + 1u) + row * HALF) * pitch + column * HALF,
        pitch,
        (quad * (index_height + 1u) + row) * index_pitch + column,
        index_pitch,
        (params.quads * (index_height + 1u) + 1u) * index_pitch);
}

// Routes the pooled gradient into `tile`, rotated: each value goes to the pixel of its window that its index selects.
fn route() {
    // unroll
    for (var j = 0u; j < SPAN; j++) {
        // unroll
        for (var i = 0u; i < SPAN; i++) {
            let d = pooled[j * SPAN + i];
            // The first pooled pixel is the last one of its texel of pool indices.
            let bits = vec4<i32>(i32(
                routes[(j + 1u) / 2u * COVER + (i + 1u) / 2u][(j + 1u) % 2u * 2u + (i + 1u) % 2u]));
            // unroll
            for (var y = 0u; y < 2u; y++) {
                // unroll
                for (var x = 0u; x < 2u; x++) {
                    // The tile starts at the second row and column of its first window.
                    let r = 2u * j + y;
                    let c = 2u * i + x;
                    if (r >= 1u && r <= SIDE && c >= 1u && c <= SIDE) {
                        let wins = (bits & (vec4<i32>(1, 16, 256, 4096) << vec4<u32>(2u * y + x))) != vec4<i32>(0);
                        tile[(SIDE - max(r, 1u)) * STRIDE + SIDE - max(c, 1u)] = select(vec4<f32>(0.0), d, wins);
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(64)
fn transform_routed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let mine = place((group.y * groups.x + group.x) * 64u + local);
    let t = mine.x;
    let quad = mine.y;
    if (quad >= params.quads) {
        return;
    }
    let first = pooled_corner(t, quad);
    // unroll
    for (var j = 0u; j < SPAN; j++) {
        // unroll
        for (var i = 0u; i < SPAN; i++) {
            pooled[j * SPAN + i] = load_map(min(first.texel + j * first.pitch + i, params.texels - 1u));
        }
    }
    // unroll
    for (var j = 0u; j < COVER; j++) {
        // unroll
        for (var i = 0u; i < COVER; i++) {
            routes[j * COVER + i] = load_indices(min(first.index + j * first.index_pitch + i, first.last_index));
        }
    }
    route();
    store_tile(t, quad);
}
