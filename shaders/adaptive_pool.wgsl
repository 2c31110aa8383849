// Adaptive max and average pooling and their adjoints; see src/ops/adaptive_pool.rs.
// Maps are bordered quads (see src/ops/core/shape.rs). One invocation computes one output texel.
//
// Mesa's software driver silently ends all loops of an invocation after 65535 iterations in total: a window must have
// fewer pixels than that, or a quarter of that where windows overlap and `max_backward` searches four. (With 7x7
// windows of the last map of a network that halves five times, that limit is reached at pictures of 28000 pixels a
// side.)

struct Params {
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    quads: u32, // in both maps
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

// Cell i of `cells` that divide a line of `size` positions covers the positions .x .. .y - 1, from floor(i * size /
// cells) to ceil((i + 1) * size / cells). The inverse has the same form: cell i covers position p if and only if
// floor(i * size / cells) <= p and ceil((i + 1) * size / cells) > p, which is i * size < (p + 1) * cells and (i + 1) *
// size > p * cells, so the cells that cover p are span(p, size, cells).
fn span(i: u32, cells: u32, size: u32) -> vec2<u32> {
    return vec2<u32>(i * size / cells, ((i + 1u) * size + cells - 1u) / cells);
}

fn row_window(y: u32) -> vec2<u32> {
    return span(y, params.out_height, params.in_height);
}

fn column_window(x: u32) -> vec2<u32> {
    return span(x, params.out_width, params.in_width);
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
    var best = input[texel(at.quad, rows.x, columns.x, params.in_height, params.in_width)];
    for (var y = rows.x; y < rows.y; y++) {
        for (var x = columns.x; x < columns.y; x++) {
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
    for (var y = rows.x; y < rows.y; y++) {
        // Row by row, so that a mean over a whole map doesn't add small values to one huge sum.
        var line = vec4<f32>(0.0);
        for (var x = columns.x; x < columns.y; x++) {
            line += input[texel(at.quad, y, x, params.in_height, params.in_width)];
        }
        sum += line;
    }
    output[i] = sum / f32((rows.y - rows.x) * (columns.y - columns.x));
}

// For each channel, whether pixel (py, px) is the first maximum of a window in row-major order: larger than all earlier
// pixels and not smaller than any later one. Most pixels fail early, which ends the search and keeps windows as large
// as the map affordable.
fn is_first_maximum(quad: u32, py: u32, px: u32, rows: vec2<u32>, columns: vec2<u32>) -> vec4<bool> {
    let value = input[texel(quad, py, px, params.in_height, params.in_width)];
    var wins = vec4<bool>(true);
    for (var y = rows.x; y < rows.y; y++) {
        for (var x = columns.x; x < columns.y; x++) {
            let other = input[texel(quad, y, x, params.in_height, params.in_width)];
            if (y < py || (y == py && x < px)) {
                wins = wins & (value > other);
            } else {
                wins = wins & (value >= other);
            }
            if (!any(wins)) {
                return wins;
            }
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
        let rows = span(at.y, params.in_height, params.out_height);
        let columns = span(at.x, params.in_width, params.out_width);
        for (var y = rows.x; y < rows.y; y++) {
            for (var x = columns.x; x < columns.y; x++) {
                let wins = is_first_maximum(at.quad, at.y, at.x, row_window(y), column_window(x));
                let d = upstream[texel(at.quad, y, x, params.out_height, params.out_width)];
                sum += select(vec4<f32>(0.0), d, wins);
            }
        }
    }
    output[i] = sum;
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
        let rows = span(at.y, params.in_height, params.out_height);
        let columns = span(at.x, params.in_width, params.out_width);
        for (var y = rows.x; y < rows.y; y++) {
            let height = row_window(y);
            for (var x = columns.x; x < columns.y; x++) {
                let width = column_window(x);
                let d = upstream[texel(at.quad, y, x, params.out_height, params.out_width)];
                sum += d / f32((height.y - height.x) * (width.y - width.x));
            }
        }
    }
    output[i] = sum;
}
