// Total variation of a map by one of three definitions, and its gradient. Maps are bordered quads (see
// src/ops/core/shape.rs); their zero borders are not pixels and are excluded.
//
// 0 squared:  half the squared differences to the right and below, at all pixels except in the last row and column.
// 1 absolute: the absolute differences to the right and below.
// 2 diagonal: squared differences to the right and below, and along both diagonals of all 2x2 cells, including those
//             around the picture, where the edge is repeated.

const TERMS: u32 = 8u; // texels that an invocation of `forward` sums
const KIND: u32 = 0u;

struct Params {
    height: u32,
    width: u32,
    quads: u32,
    texels: u32,   // of the whole map, closing border included
    partials: u32, // forward: numbers written, a multiple of the workgroup size
    straight: f32, // diagonal: weight of a squared difference to the right or below
    slanted: f32,  // diagonal: weight of a squared difference along a diagonal
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // one number
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

struct Place {
    start: u32,  // first texel of the plane
    row: u32,    // 1 to height, 0 on the border
    column: u32, // 1 to width, 0 on the border
}

// Texels of the closing border get column 0 or row 0 too: they continue the pattern of planes.
fn place(i: u32) -> Place {
    let pitch = params.width + 1u;
    let plane = (params.height + 1u) * pitch;
    let n = i % plane;
    let row = n / pitch;
    return Place(i - n, row, n - row * pitch);
}

// A pixel of the plane that starts at `start`, clamped to the map's edge.
fn pixel(start: u32, row: u32, column: u32) -> vec4<f32> {
    let y = clamp(row, 1u, params.height);
    return input[start + y * (params.width + 1u) + clamp(column, 1u, params.width)];
}

// Terms of one texel: its differences to the right and below, and the diagonals of the cell whose upper left corner it
// is. (Texels of the border are corners too.)
fn term(n: u32, at: Place) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    if (KIND == 2u) {
        let down = pixel(at.start, at.row + 1u, at.column + 1u) - pixel(at.start, at.row, at.column);
        let up = pixel(at.start, at.row, at.column + 1u) - pixel(at.start, at.row + 1u, at.column);
        sum = params.slanted * (down * down + up * up);
    }
    if (at.row == 0u || at.column == 0u) {
        return sum;
    }
    let inside = at.row < params.height && at.column < params.width;
    let here = input[n];
    var dx = vec4<f32>(0.0);
    var dy = vec4<f32>(0.0);
    if (at.column < params.width && (inside || KIND != 0u)) {
        dx = input[n + 1u] - here;
    }
    if (at.row < params.height && (inside || KIND != 0u)) {
        dy = input[n + params.width + 1u] - here;
    }
    if (KIND == 1u) {
        return abs(dx) + abs(dy);
    }
    return sum + select(params.straight, 1.0, KIND == 0u) * (dx * dx + dy * dy);
}

// Each invocation writes one partial sum; sum.wgsl adds them up.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.partials) {
        return;
    }
    let plane = (params.height + 1u) * (params.width + 1u);
    var sum = vec4<f32>(0.0);
    // A workgroup reads a contiguous range, neighbouring invocations neighbouring texels.
    let start = (i - local) * TERMS + local;
    for (var k = 0u; k < TERMS; k++) {
        let n = start + k * 64u;
        if (n < params.quads * plane) {
            sum += term(n, place(n));
        }
    }
    sums[i] = (sum.x + sum.y) + (sum.z + sum.w);
}

// Derivative of a difference's term with respect to its first pixel, for kinds with equal weights for all pixels.
fn slope(difference: vec4<f32>) -> vec4<f32> {
    if (KIND == 1u) {
        return sign(difference);
    }
    return difference * select(2.0 * params.straight, 1.0, KIND == 0u);
}

// Gradient of the diagonals that end at this pixel or at its copies beyond the edge.
fn slanted(at: Place) -> vec4<f32> {
    let here = pixel(at.start, at.row, at.column);
    var sum = vec4<f32>(0.0);
    for (var i = at.row - 1u; i <= at.row + 1u; i++) {
        for (var j = at.column - 1u; j <= at.column + 1u; j++) {
            if (clamp(i, 1u, params.height) == at.row && clamp(j, 1u, params.width) == at.column) {
                if (i > 0u && j > 0u) {
                    sum += here - pixel(at.start, i - 1u, j - 1u);
                }
                if (i > 0u && j <= params.width) {
                    sum += here - pixel(at.start, i - 1u, j + 1u);
                }
                if (i <= params.height && j > 0u) {
                    sum += here - pixel(at.start, i + 1u, j - 1u);
                }
                if (i <= params.height && j <= params.width) {
                    sum += here - pixel(at.start, i + 1u, j + 1u);
                }
            }
        }
    }
    return sum * (2.0 * params.slanted);
}

// One invocation computes one texel: the derivatives of its own term, its left neighbour's and that of the pixel above.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let n = (group.y * groups.x + group.x) * 64u + local;
    if (n >= params.texels) {
        return;
    }
    let at = place(n);
    var sum = vec4<f32>(0.0);
    if (at.row > 0u && at.column > 0u) {
        let pitch = params.width + 1u;
        let here = input[n];
        // The squared kind omits the differences of the last row and column.
        let row = at.row < params.height || KIND != 0u;
        let column = at.column < params.width || KIND != 0u;
        if (row && at.column < params.width) {
            sum += slope(here - input[n + 1u]);
        }
        if (column && at.row < params.height) {
            sum += slope(here - input[n + pitch]);
        }
        if (row && at.column > 1u) {
            sum += slope(here - input[n - 1u]);
        }
        if (column && at.row > 1u) {
            sum += slope(here - input[n - pitch]);
        }
        if (KIND == 2u) {
            sum += slanted(at);
        }
    }
    output[n] = sum * upstream[0].x;
}
