// Naive convolution: any kernel size, stride and padding, zero or replicate borders. The reference for the tuned
// kernels, and the fallback where they don't apply. Mesa's software driver silently ends all loops of an invocation
// after 65535 iterations in total: quads of channels times taps must stay below that (512 channels and 11x11 taps make
// 15488).
// Maps are bordered quads (see src/ops/core/shape.rs). One invocation computes one output texel.
//
// Weights: texel ((out_quad * in_quads + in_quad) * taps + tap) * 4 + (out channel % 4), each a vec4
// over four input channels.

const RELU: u32 = 0u;      // forward: rectify the result; backward: zero the upstream gradient where y <= 0
const REPLICATE: u32 = 0u; // 1: the border repeats the edge pixel; 0: it is zero

struct Params {
    in_height: u32,
    in_width: u32,
    in_quads: u32,
    out_height: u32,
    out_width: u32,
    out_quads: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_y: u32,
    stride_x: u32,
    pad_y: u32,
    pad_x: u32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // x
@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> activation: array<vec4<f32>>; // y
@group(0) @binding(4) var<storage, read> upstream: array<vec4<f32>>;   // dy
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

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

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.out_height, params.out_width, params.out_quads);
    if (!at.valid) {
        return;
    }
    if (!at.inside) {
        output[i] = vec4<f32>(0.0);
        return;
    }
    var sum = bias[at.quad];
    let taps = params.kernel_height * params.kernel_width;
    for (var ky = 0u; ky < params.kernel_height; ky++) {
        var y = i32(at.y * params.stride_y + ky) - i32(params.pad_y);
        if (REPLICATE == 1u) {
            y = clamp(y, 0, i32(params.in_height) - 1);
        }
        if (y < 0 || y >= i32(params.in_height)) {
            continue;
        }
        for (var kx = 0u; kx < params.kernel_width; kx++) {
            var x = i32(at.x * params.stride_x + kx) - i32(params.pad_x);
            if (REPLICATE == 1u) {
                x = clamp(x, 0, i32(params.in_width) - 1);
            }
            if (x < 0 || x >= i32(params.in_width)) {
                continue;
            }
            for (var c = 0u; c < params.in_quads; c++) {
                let v = input[texel(c, u32(y), u32(x), params.in_height, params.in_width)];
                let w = ((at.quad * params.in_quads + c) * taps + ky * params.kernel_width + kx) * 4u;
                sum += vec4<f32>(
                    dot(v, weights[w]), dot(v, weights[w + 1u]), dot(v, weights[w + 2u]), dot(v, weights[w + 3u]));
            }
        }
    }
    if (RELU == 1u) {
        sum = select(sum, vec4<f32>(0.0), sum < vec4<f32>(0.0)); // keeps NaN
    }
    output[i] = sum;
}

// First and last source row (or column) that a padded kernel maps to pixel p: p itself, and for an edge pixel with
// replicate borders also the rows beyond the edge.
fn sources(p: u32, size: u32, pad: u32) -> vec2<i32> {
    var range = vec2<i32>(i32(p), i32(p));
    if (REPLICATE == 1u && p == 0u) {
        range.x = -i32(pad);
    }
    if (REPLICATE == 1u && p == size - 1u) {
        range.y = i32(size - 1u + pad);
    }
    return range;
}

// Adjoint with respect to the input: sums over the output pixels that read this input pixel.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.in_height, params.in_width, params.in_quads);
    if (!at.valid) {
        return;
    }
    if (!at.inside) {
        output[i] = vec4<f32>(0.0);
        return;
    }
    var sum = vec4<f32>(0.0);
    let taps = params.kernel_height * params.kernel_width;
    let rows = sources(at.y, params.in_height, params.pad_y);
    let columns = sources(at.x, params.in_width, params.pad_x);
    for (var sy = rows.x; sy <= rows.y; sy++) {
        for (var ky = 0u; ky < params.kernel_height; ky++) {
            // sy = y * stride - pad + ky
            let ny = sy + i32(params.pad_y) - i32(ky);
            let y = ny / i32(params.stride_y);
            if (ny < 0 || y * i32(params.stride_y) != ny || y >= i32(params.out_height)) {
                continue;
            }
            for (var sx = columns.x; sx <= columns.y; sx++) {
                for (var kx = 0u; kx < params.kernel_width; kx++) {
                    let nx = sx + i32(params.pad_x) - i32(kx);
                    let x = nx / i32(params.stride_x);
                    if (nx < 0 || x * i32(params.stride_x) != nx || x >= i32(params.out_width)) {
                        continue;
                    }
                    for (var o = 0u; o < params.out_quads; o++) {
                        let n = texel(o, u32(y), u32(x), params.out_height, params.out_width);
                        var d = upstream[n];
                        if (RELU == 1u) {
                            d = select(vec4<f32>(0.0), d, activation[n] > vec4<f32>(0.0));
                        }
                        let w = ((o * params.in_quads + at.quad) * taps + ky * params.kernel_width + kx) * 4u;
                        sum += d.x * weights[w] + d.y * weights[w + 1u] + d.z * weights[w + 2u] + d.w * weights[w + 3u];
                    }
                }
            }
        }
    }
    output[i] = sum;
}
