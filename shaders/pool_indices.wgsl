// Pool indices of a rectified map's 2x2 windows, for kernels that don't compute them: a separate pass after the
// convolution (`find`) and before its adjoint (`route`). See src/ops/conv/pool_indices.rs.
//
// Maps are bordered quads (see src/ops/core/shape.rs). A pool index has four bits per channel, with the bit of the
// window's first maximum in row-major order set, or none if the maximum is not positive. A texel of indices covers 2x2
// windows, which is 4x4 pixels.

struct Params {
    height: u32, // of the map before the pool
    width: u32,
    quads: u32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // the map
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // the gradient of the pooled map
@group(0) @binding(2) var<storage, read> indices: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>; // indices, or the gradient of the map
@group(0) @binding(4) var<uniform> params: Params;

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

// Rows and columns of the map of pool indices.
fn index_size() -> vec2<u32> {
    return (vec2<u32>(params.height, params.width) / 2u + 1u) / 2u;
}

// The index of window (y, x).
fn pool_index(quad: u32, y: u32, x: u32) -> f32 {
    if (y >= params.height / 2u || x >= params.width / 2u) {
        return 0.0;
    }
    let n = texel(quad, 2u * y, 2u * x, params.height, params.width);
    let below = n + params.width + 1u;
    let v0 = input[n];
    let v1 = input[n + 1u];
    let v2 = input[below];
    let v3 = input[below + 1u];
    let none = vec4<i32>(0);
    // Larger than all earlier values, not smaller than any later one.
    let bits = select(none, vec4<i32>(1), (v0 >= v1) & (v0 >= v2) & (v0 >= v3))
        | select(none, vec4<i32>(2), (v1 > v0) & (v1 >= v2) & (v1 >= v3))
        | select(none, vec4<i32>(4), (v2 > v0) & (v2 > v1) & (v2 >= v3))
        | select(none, vec4<i32>(8), (v3 > v0) & (v3 > v1) & (v3 > v2));
    let kept = select(none, bits, max(max(v0, v1), max(v2, v3)) > vec4<f32>(0.0));
    return f32(kept.x | (kept.y << 4u) | (kept.z << 8u) | (kept.w << 12u));
}

// One invocation per texel of indices.
@compute @workgroup_size(64)
fn find(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let size = index_size();
    let at = place(i, size.x, size.y, params.quads);
    if (!at.valid) {
        return;
    }
    var found = vec4<f32>(0.0);
    if (at.inside) {
        let y = 2u * at.y;
        let x = 2u * at.x;
        found = vec4<f32>(
            pool_index(at.quad, y, x), pool_index(at.quad, y, x + 1u), pool_index(at.quad, y + 1u, x), pool_index(at.quad, y + 1u, x + 1u));
    }
    output[i] = found;
}

// One invocation per texel of the map.
@compute @workgroup_size(64)
fn route(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.height, params.width, params.quads);
    if (!at.valid) {
        return;
    }
    let y = at.y / 2u;
    let x = at.x / 2u;
    let height = params.height / 2u;
    let width = params.width / 2u;
    var d = vec4<f32>(0.0);
    if (at.inside && y < height && x < width) {
        let size = index_size();
        let found = indices[texel(at.quad, y / 2u, x / 2u, size.x, size.y)];
        let bits = vec4<i32>(i32(found[y % 2u * 2u + x % 2u]));
        let wins = (bits & (vec4<i32>(1, 16, 256, 4096) << vec4<u32>(at.y % 2u * 2u + at.x % 2u))) != vec4<i32>(0);
        d = select(d, upstream[texel(at.quad, y, x, height, width)], wins);
    }
    output[i] = d;
}
