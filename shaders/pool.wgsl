// Max and average pooling over any windows, and their adjoints, with PyTorch's rules; see src/ops/pool.rs. Maps are
// bordered quads (see src/ops/core/shape.rs). The `halve` entry points handle the one case in VGG, adjacent 2x2
// windows, without loops; the others handle every case.
//
// The host guarantees that every window holds at least one pixel (padding <= kernel / 2).
//
// Mesa's software driver silently ends all loops of an invocation after 65535 iterations in total: the pixels of a
// window, backward times the windows that share a pixel, must stay below that (15x15 windows at every pixel make 54240
// with the loops over rows).

const RECTIFIED: u32 = 0u; // backward: zero the gradient where x is not positive

struct Params {
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    quads: u32, // in both maps
    kernel_height: u32,
    kernel_width: u32,
    stride_y: u32,
    stride_x: u32,
    pad_y: u32,
    pad_x: u32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // x
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // dy
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

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

// One axis of a window: its pixels are start .. end - 1. `count` is an average's divisor: it includes the padding, but
// not the part of a last window (ceil mode) that extends beyond the padding.
struct Window {
    start: u32,
    end: u32,
    count: u32,
}

fn window(o: u32, stride: u32, kernel: u32, pad: u32, size: u32) -> Window {
    let padded = o * stride; // first position, counted from the padding's edge
    return Window(
        max(padded, pad) - pad,
        min(padded + kernel - pad, size),
        min(padded + kernel, size + 2u * pad) - padded);
}

fn row_window(y: u32) -> Window {
    return window(y, params.stride_y, params.kernel_height, params.pad_y, params.in_height);
}

fn column_window(x: u32) -> Window {
    return window(x, params.stride_x, params.kernel_width, params.pad_x, params.in_width);
}

// The windows that contain pixel p are .x .. .y - 1 (none if .x >= .y): o * stride <= p + pad < o * stride + kernel.
fn windows_with(p: u32, stride: u32, kernel: u32, pad: u32, count: u32) -> vec2<u32> {
    let padded = p + pad;
    var first = 0u;
    if (padded >= kernel) {
        first = (padded - kernel) / stride + 1u;
    }
    return vec2<u32>(first, min(padded / stride + 1u, count));
}

fn rows_with(y: u32) -> vec2<u32> {
    return windows_with(y, params.stride_y, params.kernel_height, params.pad_y, params.out_height);
}

fn columns_with(x: u32) -> vec2<u32> {
    return windows_with(x, params.stride_x, params.kernel_width, params.pad_x, params.out_width);
}

// The larger of two values of each channel; NaN if either is NaN, which the built-in max() may drop.
fn larger(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return select(select(a + b, a, a >= b), b, b >= a);
}

@compute @workgroup_size(64)
fn max_forward(
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
    let rows = row_window(at.y);
    let columns = column_window(at.x);
    // Start from the first pixel: WGSL has no -infinity.
    var best = input[texel(at.quad, rows.start, columns.start, params.in_height, params.in_width)];
    for (var y = rows.start; y < rows.end; y++) {
        for (var x = columns.start; x < columns.end; x++) {
            best = larger(best, input[texel(at.quad, y, x, params.in_height, params.in_width)]);
        }
    }
    output[i] = best;
}

@compute @workgroup_size(64)
fn average_forward(
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
    let rows = row_window(at.y);
    let columns = column_window(at.x);
    var sum = vec4<f32>(0.0);
    for (var y = rows.start; y < rows.end; y++) {
        for (var x = columns.start; x < columns.end; x++) {
            sum += input[texel(at.quad, y, x, params.in_height, params.in_width)];
        }
    }
    output[i] = sum / f32(rows.count * columns.count);
}

// For each channel, whether pixel (py, px) is the first maximum of a window in row-major order: larger than all earlier
// pixels and not smaller than any later one.
fn is_first_maximum(quad: u32, py: u32, px: u32, rows: Window, columns: Window) -> vec4<bool> {
    let value = input[texel(quad, py, px, params.in_height, params.in_width)];
    var wins = vec4<bool>(true);
    for (var y = rows.start; y < rows.end; y++) {
        for (var x = columns.start; x < columns.end; x++) {
            let other = input[texel(quad, y, x, params.in_height, params.in_width)];
            if (y < py || (y == py && x < px)) {
                wins = wins & (value > other);
            } else {
                wins = wins & (value >= other);
            }
        }
        if (!any(wins)) {
            break;
        }
    }
    return wins;
}

// Gathers per input pixel: each window that contains it is searched again, so that no atomics are needed.
@compute @workgroup_size(64)
fn max_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.in_height, params.in_width, params.quads);
    if (!at.valid) {
        return;
    }
    var sum = vec4<f32>(0.0);
    if (at.inside) {
        let rows = rows_with(at.y);
        let columns = columns_with(at.x);
        for (var y = rows.x; y < rows.y; y++) {
            for (var x = columns.x; x < columns.y; x++) {
                let wins = is_first_maximum(at.quad, at.y, at.x, row_window(y), column_window(x));
                let d = upstream[texel(at.quad, y, x, params.out_height, params.out_width)];
                sum += select(vec4<f32>(0.0), d, wins);
            }
        }
        if (RECTIFIED == 1u) {
            sum = select(vec4<f32>(0.0), sum, input[i] > vec4<f32>(0.0));
        }
    }
    output[i] = sum;
}

// Zeroes an average's gradient at this texel where x is not positive.
fn rectify(d: vec4<f32>, n: u32) -> vec4<f32> {
    // static if
    if (RECTIFIED == 1u) {
        return select(vec4<f32>(0.0), d, input[n] > vec4<f32>(0.0));
    } else {
        return d;
    }
}

@compute @workgroup_size(64)
fn average_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.in_height, params.in_width, params.quads);
    if (!at.valid) {
        return;
    }
    var sum = vec4<f32>(0.0);
    if (at.inside) {
        let rows = rows_with(at.y);
        let columns = columns_with(at.x);
        for (var y = rows.x; y < rows.y; y++) {
            for (var x = columns.x; x < columns.y; x++) {
                let d = upstream[texel(at.quad, y, x, params.out_height, params.out_width)];
                sum += d / f32(row_window(y).count * column_window(x).count);
            }
        }
        sum = rectify(sum, i);
    }
    output[i] = sum;
}

@compute @workgroup_size(64)
fn halve_max_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.out_height, params.out_width, params.quads);
    if (!at.valid) {
        return;
    }
    var best = vec4<f32>(0.0);
    if (at.inside) {
        let n = texel(at.quad, 2u * at.y, 2u * at.x, params.in_height, params.in_width);
        let below = n + params.in_width + 1u;
        best = larger(larger(input[n], input[n + 1u]), larger(input[below], input[below + 1u]));
    }
    output[i] = best;
}

@compute @workgroup_size(64)
fn halve_average_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.out_height, params.out_width, params.quads);
    if (!at.valid) {
        return;
    }
    var mean = vec4<f32>(0.0);
    if (at.inside) {
        let n = texel(at.quad, 2u * at.y, 2u * at.x, params.in_height, params.in_width);
        let below = n + params.in_width + 1u;
        mean = 0.25 * ((input[n] + input[n + 1u]) + (input[below] + input[below + 1u]));
    }
    output[i] = mean;
}

// In the backward `halve` entry points one invocation writes a block of 2x2 texels, so that each window is read once.
// Block (by, bx) of a plane holds its rows 2 * by - 1 and 2 * by, and the same columns. Row and column 0 are border, so
// block (by, bx) is the window of output pixel (by - 1, bx - 1).
struct Block {
    quad: u32,
    row: u32,    // upper row of the plane; wraps around to a huge number in the first block
    column: u32,
    window: bool, // true for a window, false for border or pixels outside every window
}

fn block(i: u32) -> Block {
    let across = (params.in_width + 3u) / 2u;
    let plane = (params.in_height + 3u) / 2u * across;
    let quad = i / plane;
    let n = i - quad * plane;
    let by = n / across;
    let bx = n - by * across;
    return Block(
        quad, 2u * by - 1u, 2u * bx - 1u,
        quad < params.quads && by > 0u && bx > 0u && by <= params.out_height && bx <= params.out_width);
}

// Texel of the window's upper left pixel.
fn block_texel(b: Block) -> u32 {
    return (b.quad * (params.in_height + 1u) + b.row) * (params.in_width + 1u) + b.column;
}

fn block_upstream(b: Block) -> vec4<f32> {
    return upstream[texel(b.quad, b.row / 2u, b.column / 2u, params.out_height, params.out_width)];
}

fn put(quad: u32, row: u32, column: u32, value: vec4<f32>) {
    let pitch = params.in_width + 1u;
    let plane = (params.in_height + 1u) * pitch;
    let n = quad * plane + row * pitch + column;
    if (row <= params.in_height && column <= params.in_width && n < params.quads * plane + pitch + 1u) {
        output[n] = value;
    }
}

@compute @workgroup_size(64)
fn halve_max_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let b = block((group.y * groups.x + group.x) * 64u + local);
    let none = vec4<bool>(false);
    var wins = array<vec4<bool>, 4>(none, none, none, none);
    var d = vec4<f32>(0.0);
    if (b.window) {
        let n = block_texel(b);
        let below = n + params.in_width + 1u;
        let v0 = input[n];
        let v1 = input[n + 1u];
        let v2 = input[below];
        let v3 = input[below + 1u];
        d = block_upstream(b);
        if (RECTIFIED == 1u) {
            d = select(vec4<f32>(0.0), d, max(max(v0, v1), max(v2, v3)) > vec4<f32>(0.0));
        }
        // Larger than all earlier values, not smaller than any later one.
        wins[0] = (v0 >= v1) & (v0 >= v2) & (v0 >= v3);
        wins[1] = (v1 > v0) & (v1 >= v2) & (v1 >= v3);
        wins[2] = (v2 > v0) & (v2 > v1) & (v2 >= v3);
        wins[3] = (v3 > v0) & (v3 > v1) & (v3 > v2);
    }
    let zero = vec4<f32>(0.0);
    put(b.quad, b.row, b.column, select(zero, d, wins[0]));
    put(b.quad, b.row, b.column + 1u, select(zero, d, wins[1]));
    put(b.quad, b.row + 1u, b.column, select(zero, d, wins[2]));
    put(b.quad, b.row + 1u, b.column + 1u, select(zero, d, wins[3]));
}

@compute @workgroup_size(64)
fn halve_average_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let b = block((group.y * groups.x + group.x) * 64u + local);
    let zero = vec4<f32>(0.0);
    var shares = array<vec4<f32>, 4>(zero, zero, zero, zero);
    if (b.window) {
        let share = 0.25 * block_upstream(b);
        let n = block_texel(b);
        let below = n + params.in_width + 1u;
        shares[0] = rectify(share, n);
        shares[1] = rectify(share, n + 1u);
        shares[2] = rectify(share, below);
        shares[3] = rectify(share, below + 1u);
    }
    put(b.quad, b.row, b.column, shares[0]);
    put(b.quad, b.row, b.column + 1u, shares[1]);
    put(b.quad, b.row + 1u, b.column, shares[2]);
    put(b.quad, b.row + 1u, b.column + 1u, shares[3]);
}
