// Winograd convolution, the parts around the products: 3x3 kernels, border 1, step 1 (Lavin and Gray 2015).
//
// An output tile of TILE x TILE pixels follows from SIDE x SIDE inputs (SIDE = TILE + 2) by SIDE * SIDE
// products in place of 9 * TILE * TILE. `weights` transforms the filter, once; `input_tiles` the input; a
// matrix product for each of the SIDE * SIDE positions follows (winograd_tiles.wgsl); `output_tiles`
// transforms back. `border` writes the zeros around.
//
// `pooled_tiles` transforms back, rectifies and stores the largest value of each 2x2 window in place of the map,
// with the codes that say which it was (see src/ops/conv/pool_indices.rs). In the adjoint of such a convolution
// `routed_tiles` reads the gradient of the pooled map and the codes in place of the gradient of the map.
//
// Interpolation points are 0, infinity, +-A and +-B. 3/4 and 3/2 in place of the usual 1 and 2 halve the
// rounding error (measured: docs/accuracy.md), and all their products are exact in f32.
//
// The adjoint is the convolution with the filter turned by 180 degrees. Turning the input tile and the
// output tile in place of the filter gives the same, so one set of transformed weights serves both. Whether they are
// turned is a parameter, as is rectification: a variant of its own would be one more long compilation.
//
// Maps are bordered quads (see src/ops/core/shape.rs). Work goes in chunks of `chunk` tiles. Transformed values lie
// in textures of 8192 columns (entry points without ending) or in buffers (those that end in `_buffer`):
// - weights: texel ((position * blocks of 32 out channels + out / 32) * in_quads + in_quad) * 32 + out % 32,
//   each a vec4 over four input channels;
// - input: texel position * stride + (tile / run * in_quads + in_quad) * run + tile % run, where a run is as
//   many tiles as an invocation of winograd_tiles.wgsl takes, or for winograd_blocks.wgsl all of the chunk;
// - products: texel position * stride + out_quad * chunk + tile.

const TILE: u32 = 4u;      // 4 or 2
const SIDE: u32 = 6u;      // TILE + 2
const HALF: u32 = 2u;      // windows of a tile along each axis where it is pooled: TILE is 4 then
const SPAN: u32 = 4u;      // HALF + 2: side of the pooled gradient under an input tile
const COVER: u32 = 3u;     // side of the codes under it
const MASK: u32 = 0u;      // zero the result where `activation` is not positive
const ADD: u32 = 0u;       // add the result to what `output` holds, before the mask
const STRIDE: u32 = 6u;    // of the arrays below
const BLOCK: u32 = 32u;
const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

struct Params {
    height: u32, // of input and output alike
    width: u32,
    quads: u32,  // of the input, or of the output's window
    first_quad: u32, // of that window
    tiles: u32,  // of the whole map
    tiles_across: u32,
    first_tile: u32, // of this chunk
    chunk: u32,      // tiles of this chunk, whole runs
    run: u32,
    stride: u32,     // texels from one position to the next
    texels: u32,     // of the whole input
    turned: u32,     // 1: the adjoint
    relu: u32,       // 1: rectify the result
}

@group(0) @binding(0) var input_map: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var products: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> activation: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> filters: array<f32>; // [out, in, 3, 3]
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;
@group(0) @binding(7) var transformed: texture_storage_2d<rgba32float, write>;
// The same three in buffers.
@group(0) @binding(8) var<storage, read> input_values: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> transformed_values: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> product_values: array<vec4<f32>>;
// Codes of the 2x2 windows, made and read.
@group(0) @binding(11) var<storage, read_write> codes: array<vec4<f32>>;
@group(0) @binding(12) var codes_map: texture_storage_2d<rgba32float, read>;
@group(0) @binding(13) var<storage, read> code_values: array<vec4<f32>>;

alias Line = array<vec4<f32>, 6>;

var<private> tile: array<vec4<f32>, 36>;
var<private> pooled: array<vec4<f32>, 16>; // SPAN x SPAN values of the pooled gradient
var<private> routes: array<vec4<f32>, 9>;  // COVER x COVER texels of codes

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

// G of F(TILE, 3): the filter's polynomial at each point, over the product of the differences of the points.
fn filter_line(g0: vec4<f32>, g1: vec4<f32>, g2: vec4<f32>) -> Line {
    if (TILE == 2u) {
        let even = 0.5 * (g0 + g2);
        let odd = 0.5 * g1;
        return Line(g0, even + odd, even - odd, g2, g0, g0);
    }
    let scale_a = 1.0 / (2.0 * A2 * (A2 - B2));
    let scale_b = 1.0 / (2.0 * B2 * (B2 - A2));
    let even_a = scale_a * (g0 + A2 * g2);
    let odd_a = (scale_a * A) * g1;
    let even_b = scale_b * (g0 + B2 * g2);
    let odd_b = (scale_b * B) * g1;
    return Line((1.0 / (A2 * B2)) * g0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2);
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

// A^T of F(TILE, 3); the first TILE values count.
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

// Weights of output channel o, four input channels, one tap; zero beyond the channels.
fn tap(o: u32, quad: u32, at: u32) -> vec4<f32> {
    var values = vec4<f32>(0.0);
    for (var k = 0u; k < 4u; k++) {
        let i = quad * 4u + k;
        // In this entry point height is the number of output channels, width that of input channels.
        if (o < params.height && i < params.width) {
            values[k] = filters[(o * params.width + i) * 9u + at];
        }
    }
    return values;
}

@compute @workgroup_size(64)
fn weights(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let in_quads = params.quads;
    let channels = (params.height + BLOCK - 1u) / BLOCK * BLOCK;
    let o = i % channels;
    let quad = i / channels;
    if (quad >= in_quads) {
        return;
    }
    // unroll
    for (var c = 0u; c < 3u; c++) {
        let line = filter_line(tap(o, quad, c), tap(o, quad, 3u + c), tap(o, quad, 6u + c));
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        let line = filter_line(tile[r * STRIDE], tile[r * STRIDE + 1u], tile[r * STRIDE + 2u]);
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            let position = r * SIDE + c;
            output[((position * (channels / BLOCK) + o / BLOCK) * in_quads + quad) * BLOCK + o % BLOCK] = line[c];
        }
    }
}

// Six values of `tile`, `step` apart. With TILE 2 the last two are not used.
fn line_of_tile(start: u32, step: u32) -> Line {
    return Line(
        tile[start], tile[start + step], tile[start + 2u * step],
        tile[start + 3u * step], tile[start + 4u * step], tile[start + 5u * step]);
}

// First half of the input's transform: the columns of `tile`, in place.
fn transform_columns() {
    // unroll
    for (var c = 0u; c < SIDE; c++) {
        let line = input_line(line_of_tile(c, STRIDE));
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
}

// Where a transformed tile's first value goes. (A window of the input's quads has but one run.)
fn first_transformed(t: u32, quad: u32) -> u32 {
    let run = params.run;
    return (t / run * params.quads + params.first_quad + quad) * run + t % run;
}

// First texel of a tile's input: one row above and one column left of its output, so that of the first tile
// is the map's first texel. Tiles at the far edges reach into the next row or plane: what they read there
// enters only into outputs that are not stored.
fn corner(t: u32, quad: u32) -> u32 {
    // Tiles beyond the last repeat it; nobody reads what comes of them.
    let at = min(params.first_tile + t, params.tiles - 1u);
    let row = at / params.tiles_across * TILE;
    let column = at % params.tiles_across * TILE;
    let pitch = params.width + 1u;
    return quad * (params.height + 1u) * pitch + row * pitch + column;
}

// How a tile's input is read: from which texel, how far to the next row, how far to the next column. Turned, from its
// last pixel backwards.
fn walk(t: u32, quad: u32) -> vec3<u32> {
    let first = corner(t, quad);
    let pitch = params.width + 1u;
    if (params.turned == 1u) {
        return vec3<u32>(first + (SIDE - 1u) * (pitch + 1u), 0u - pitch, 0xffffffffu);
    }
    return vec3<u32>(first, pitch, 1u);
}

// Second half of the input's transform: the rows of `tile`, stored.
fn put_transformed(start: u32) {
    let step = params.stride;
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        let line = input_line(line_of_tile(r * STRIDE, 1u));
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            let n = start + (r * SIDE + c) * step;
            textureStore(transformed, vec2<u32>(n & 8191u, n >> 13u), line[c]);
        }
    }
}

fn put_transformed_values(start: u32) {
    let step = params.stride;
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        let line = input_line(line_of_tile(r * STRIDE, 1u));
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            transformed_values[start + (r * SIDE + c) * step] = line[c];
        }
    }
}

@compute @workgroup_size(64)
fn input_tiles(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    if (quad >= params.quads) {
        return;
    }
    let way = walk(t, quad);
    let last = params.texels - 1u; // border, so zero
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            let n = min(way.x + r * way.y + c * way.z, last);
            tile[r * STRIDE + c] = textureLoad(input_map, vec2<u32>(n & 8191u, n >> 13u));
        }
    }
    transform_columns();
    put_transformed(first_transformed(t, quad));
}

@compute @workgroup_size(64)
fn input_tiles_buffer(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    if (quad >= params.quads) {
        return;
    }
    let way = walk(t, quad);
    let last = params.texels - 1u; // border, so zero
    // unroll
    for (var r = 0u; r < SIDE; r++) {
        // unroll
        for (var c = 0u; c < SIDE; c++) {
            tile[r * STRIDE + c] = input_values[min(way.x + r * way.y + c * way.z, last)];
        }
    }
    transform_columns();
    put_transformed_values(first_transformed(t, quad));
}

// Where the pooled gradient and the codes under an input tile start, in their own maps.
struct PooledCorner {
    texel: u32,
    pitch: u32,
    code: u32,
    code_pitch: u32,
    last_code: u32, // border, so zero
}

// In both maps the border stands for what the tile has above and left of the first pixel. Beyond the far edges
// it is as with `corner`.
fn pooled_corner(t: u32, quad: u32) -> PooledCorner {
    let at = min(params.first_tile + t, params.tiles - 1u);
    let row = at / params.tiles_across;
    let column = at % params.tiles_across;
    let height = params.height / 2u;
    let width = params.width / 2u;
    let pitch = width + 1u;
    // A texel of codes is for 2x2 pooled pixels.
    let code_height = (height + 1u) / 2u;
    let code_pitch = (width + 1u) / 2u + 1u;
    return PooledCorner(
        (quad * (height + 1u) + row * HALF) * pitch + column * HALF,
        pitch,
        (quad * (code_height + 1u) + row) * code_pitch + column,
        code_pitch,
        (params.quads * (code_height + 1u) + 1u) * code_pitch);
}

// Spreads the pooled gradient over `tile`, turned: each value goes to the pixel of its window that its code names.
fn route() {
    // unroll
    for (var j = 0u; j < SPAN; j++) {
        // unroll
        for (var i = 0u; i < SPAN; i++) {
            let d = pooled[j * SPAN + i];
            // The first pooled pixel is the last of its texel of codes.
            let bits = vec4<i32>(i32(
                routes[(j + 1u) / 2u * COVER + (i + 1u) / 2u][(j + 1u) % 2u * 2u + (i + 1u) % 2u]));
            // unroll
            for (var y = 0u; y < 2u; y++) {
                // unroll
                for (var x = 0u; x < 2u; x++) {
                    // The tile begins with the second row and column of its first window.
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
fn routed_tiles(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    if (quad >= params.quads) {
        return;
    }
    let first = pooled_corner(t, quad);
    // unroll
    for (var j = 0u; j < SPAN; j++) {
        // unroll
        for (var i = 0u; i < SPAN; i++) {
            let n = min(first.texel + j * first.pitch + i, params.texels - 1u);
            pooled[j * SPAN + i] = textureLoad(input_map, vec2<u32>(n & 8191u, n >> 13u));
        }
    }
    // unroll
    for (var j = 0u; j < COVER; j++) {
        // unroll
        for (var i = 0u; i < COVER; i++) {
            let n = min(first.code + j * first.code_pitch + i, first.last_code);
            routes[j * COVER + i] = textureLoad(codes_map, vec2<u32>(n & 8191u, n >> 13u));
        }
    }
    route();
    transform_columns();
    put_transformed(first_transformed(t, quad));
}

@compute @workgroup_size(64)
fn routed_tiles_buffer(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    if (quad >= params.quads) {
        return;
    }
    let first = pooled_corner(t, quad);
    // unroll
    for (var j = 0u; j < SPAN; j++) {
        // unroll
        for (var i = 0u; i < SPAN; i++) {
            let n = min(first.texel + j * first.pitch + i, params.texels - 1u);
            pooled[j * SPAN + i] = input_values[n];
        }
    }
    // unroll
    for (var j = 0u; j < COVER; j++) {
        // unroll
        for (var i = 0u; i < COVER; i++) {
            let n = min(first.code + j * first.code_pitch + i, first.last_code);
            routes[j * COVER + i] = code_values[n];
        }
    }
    route();
    transform_columns();
    put_transformed_values(first_transformed(t, quad));
}

// Transforms the rows of `tile`, whose columns are transformed, and stores the output's pixels.
fn put_output(at: u32, quad: u32) {
    let pitch = params.width + 1u;
    let row = at / params.tiles_across * TILE;
    let column = at % params.tiles_across * TILE;
    let first = (quad * (params.height + 1u) + row + 1u) * pitch + column + 1u;
    let turned = params.turned == 1u;
    // unroll
    for (var r = 0u; r < TILE; r++) {
        let down = select(r, TILE - 1u - r, turned);
        let line = output_line(line_of_tile(r * STRIDE, 1u));
        // unroll
        for (var c = 0u; c < TILE; c++) {
            let across = select(c, TILE - 1u - c, turned);
            let n = first + down * pitch + across;
            if (row + down < params.height && column + across < params.width) {
                var value = line[c] + bias[params.first_quad + quad];
                value = select(value, max(value, vec4<f32>(0.0)), params.relu == 1u);
                if (ADD == 1u) {
                    value += output[n];
                }
                if (MASK == 1u) {
                    value = select(vec4<f32>(0.0), value, activation[n] > vec4<f32>(0.0));
                }
                output[n] = value;
            }
        }
    }
}

// First half of the way back: the columns of a tile's products, into `tile`.
fn read_products(start: u32) {
    let step = params.stride;
    // unroll
    for (var c = 0u; c < SIDE; c++) {
        var column: Line;
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            let n = start + (r * SIDE + c) * step;
            column[r] = textureLoad(products, vec2<u32>(n & 8191u, n >> 13u));
        }
        let line = output_line(column);
        // unroll
        for (var r = 0u; r < TILE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
}

fn read_product_values(start: u32) {
    let step = params.stride;
    // unroll
    for (var c = 0u; c < SIDE; c++) {
        var column: Line;
        // unroll
        for (var r = 0u; r < SIDE; r++) {
            let n = start + (r * SIDE + c) * step;
            column[r] = product_values[n];
        }
        let line = output_line(column);
        // unroll
        for (var r = 0u; r < TILE; r++) {
            tile[r * STRIDE + c] = line[r];
        }
    }
}

// Four bits a channel, of which the one of the window's first maximum in row-major order is set; none if the
// maximum is not positive. As a whole number, which f32 holds exactly.
fn code(v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>) -> f32 {
    let none = vec4<i32>(0);
    // Larger than all before, not smaller than any behind.
    let bits = select(none, vec4<i32>(1), (v0 >= v1) & (v0 >= v2) & (v0 >= v3))
        | select(none, vec4<i32>(2), (v1 > v0) & (v1 >= v2) & (v1 >= v3))
        | select(none, vec4<i32>(4), (v2 > v0) & (v2 > v1) & (v2 >= v3))
        | select(none, vec4<i32>(8), (v3 > v0) & (v3 > v1) & (v3 > v2));
    let positive = max(max(v0, v1), max(v2, v3)) > vec4<f32>(0.0);
    let kept = select(none, bits, positive);
    return f32(kept.x | (kept.y << 4u) | (kept.z << 8u) | (kept.w << 12u));
}

// As `put_output` for a convolution that is rectified and pooled: stores maxima of 2x2 windows and their codes.
fn put_pooled(at: u32, quad: u32) {
    let height = params.height / 2u;
    let width = params.width / 2u;
    let pitch = width + 1u;
    let row = at / params.tiles_across * HALF;
    let column = at % params.tiles_across * HALF;
    let first = (quad * (height + 1u) + row + 1u) * pitch + column + 1u;
    let offset = bias[params.first_quad + quad];
    let zero = vec4<f32>(0.0);
    var found = zero;
    // unroll
    for (var r = 0u; r < HALF; r++) {
        let upper = output_line(line_of_tile(2u * r * STRIDE, 1u));
        let lower = output_line(line_of_tile((2u * r + 1u) * STRIDE, 1u));
        // unroll
        for (var c = 0u; c < HALF; c++) {
            // An odd last row or column is in no window.
            if (row + r < height && column + c < width) {
                let v0 = max(upper[2u * c] + offset, zero);
                let v1 = max(upper[2u * c + 1u] + offset, zero);
                let v2 = max(lower[2u * c] + offset, zero);
                let v3 = max(lower[2u * c + 1u] + offset, zero);
                output[first + r * pitch + c] = max(max(v0, v1), max(v2, v3));
                found[r * 2u + c] = code(v0, v1, v2, v3);
            }
        }
    }
    // The last tile may have an odd row or column alone.
    if (row >= height || column >= width) {
        return;
    }
    let code_height = (height + 1u) / 2u;
    let code_pitch = (width + 1u) / 2u + 1u;
    codes[(quad * (code_height + 1u) + row / 2u + 1u) * code_pitch + column / 2u + 1u] = found;
}

@compute @workgroup_size(64)
fn output_tiles(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    let at = params.first_tile + t;
    if (quad >= params.quads || at >= params.tiles) {
        return;
    }
    read_products((params.first_quad + quad) * params.chunk + t);
    put_output(at, quad);
}

@compute @workgroup_size(64)
fn output_tiles_buffer(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    let at = params.first_tile + t;
    if (quad >= params.quads || at >= params.tiles) {
        return;
    }
    read_product_values((params.first_quad + quad) * params.chunk + t);
    put_output(at, quad);
}

@compute @workgroup_size(64)
fn pooled_tiles(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    let at = params.first_tile + t;
    if (quad >= params.quads || at >= params.tiles) {
        return;
    }
    read_products((params.first_quad + quad) * params.chunk + t);
    put_pooled(at, quad);
}

@compute @workgroup_size(64)
fn pooled_tiles_buffer(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let t = i % params.chunk;
    let quad = i / params.chunk;
    let at = params.first_tile + t;
    if (quad >= params.quads || at >= params.tiles) {
        return;
    }
    read_product_values((params.first_quad + quad) * params.chunk + t);
    put_pooled(at, quad);
}

// The zeros around each plane: its first row and its first column, and the closing border.
@compute @workgroup_size(64)
fn border(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let pitch = params.width + 1u;
    let plane = (params.height + 1u) * pitch;
    let each = pitch + params.height;
    let quad = i / each;
    let at = i % each;
    let n = select((at - pitch + 1u) * pitch, at, at < pitch);
    // Behind the last plane comes a row and one texel more.
    if (quad < params.quads || (quad == params.quads && at <= pitch)) {
        output[quad * plane + n] = vec4<f32>(0.0);
    }
}
