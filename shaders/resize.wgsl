// Bilinear and bicubic resizing; see src/ops/resize.rs.
// Maps are bordered quads (see src/ops/core/shape.rs). One invocation computes one output texel.
//
// Positions are computed with integers: as floats, (p + 0.5) * in / out - 0.5 would lose digits that the weights need
// on wide pictures. The host guarantees that 2 * (in + 3) * out fits an i32.

const TAPS: u32 = 2u; // input pixels per output pixel along each axis: 2 bilinear, 4 bicubic

struct Params {
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    quads: u32, // in both maps
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// Texel of pixel (y, x) of a quad in a map of this size.
fn texel(quad: u32, y: u32, x: u32, height: u32, width: u32) -> u32 {
    return (quad * (height + 1u) + y + 1u) * (width + 1u) + x + 1u;
}

struct Place {
    quad: u32,
    y: u32,
    x: u32,
    inside: bool, // true for pixels, false for the border
    valid: bool,  // true within the run of texels
}

fn place(i: u32, height: u32, width: u32, quads: u32) -> Place {
    let pitch = width + 1u;
    let plane = (height + 1u) * pitch;
    let quad = i / plane;
    let n = i - quad * plane;
    let row = n / pitch;
    let column = n - row * pitch;
    return Place(quad, row - 1u, column - 1u, quad < quads && row > 0u && column > 0u, i < quads * plane + pitch + 1u);
}

// Cubic convolution kernel (Keys) with A = -0.75. Weights of the pixel at distance d and of the next one, at distance 1
// + d, for d in 0 .. 1. The second is A x^3 - 5A x^2 + 8A x - 4A at x = 1 + d, written as a product: the terms of the
// expanded form are a hundred times larger than their sum.
fn near(d: f32) -> f32 {
    return (1.25 * d - 2.25) * d * d + 1.0;
}

fn far(d: f32) -> f32 {
    return -0.75 * d * (1.0 - d) * (1.0 - d);
}

// Interpolation of pixel p of a line of `out_size`: the weights of the pixels first, first + 1, ... of the line of
// `in_size`. Indices beyond the line's ends are clamped to its end pixels.
struct Taps {
    first: i32,
    weights: vec4<f32>, // the first TAPS are used
}

fn taps(p: u32, out_size: u32, in_size: u32) -> Taps {
    // Source position: (p + 0.5) * in / out - 0.5 = ((2p + 1) * in - out) / (2 * out). It is above -1; adding one keeps
    // the arithmetic unsigned.
    let whole = 2u * out_size;
    let shifted = (2u * p + 1u) * in_size + out_size;
    let at = shifted / whole; // floor(position) + 1
    let t = f32(shifted - at * whole) / f32(whole);
    let first = i32(at) - i32(TAPS / 2u);
    if (TAPS == 2u) {
        return Taps(first, vec4<f32>(1.0 - t, t, 0.0, 0.0));
    }
    return Taps(first, vec4<f32>(far(t), near(t), near(1.0 - t), far(1.0 - t)));
}

fn inside_line(i: i32, size: u32) -> u32 {
    return u32(clamp(i, 0, i32(size) - 1));
}

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.out_height, params.out_width, params.quads);
    if (!at.valid) {
        return;
    }
    if (!at.inside) {
        output[i] = vec4<f32>(0.0);
        return;
    }
    let rows = taps(at.y, params.out_height, params.in_height);
    let columns = taps(at.x, params.out_width, params.in_width);
    var sum = vec4<f32>(0.0);
    // unroll
    for (var ky = 0u; ky < TAPS; ky++) {
        let y = inside_line(rows.first + i32(ky), params.in_height);
        var line = vec4<f32>(0.0);
        // unroll
        for (var kx = 0u; kx < TAPS; kx++) {
            let x = inside_line(columns.first + i32(kx), params.in_width);
            line += columns.weights[kx] * input[texel(at.quad, y, x, params.in_height, params.in_width)];
        }
        sum += rows.weights[ky] * line;
    }
    output[i] = sum;
}
