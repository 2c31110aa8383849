// Crops a map (`forward`), and the adjoint (`backward`): a map that is zero outside the part. Maps are bordered quads
// (see src/ops/core/shape.rs). The part's first row and column are in `places`; a part that would extend beyond the map
// is moved back inside.

struct Params {
    height: u32, // of the whole map
    width: u32,
    part_height: u32,
    part_width: u32,
    quads: u32, // in both maps
    at: u32,    // index of the part's row in `places`; its column follows
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // the whole map
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>; // the gradient of the part
@group(0) @binding(2) var<storage, read> places: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
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

// Row and column at which the part starts.
fn start() -> vec2<u32> {
    let room = vec2<u32>(params.height - params.part_height, params.width - params.part_width);
    return min(vec2<u32>(u32(places[params.at]), u32(places[params.at + 1u])), room);
}

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.part_height, params.part_width, params.quads);
    if (!at.valid) {
        return;
    }
    var value = vec4<f32>(0.0);
    if (at.inside) {
        let first = start();
        value = input[texel(at.quad, first.x + at.y, first.y + at.x, params.height, params.width)];
    }
    output[i] = value;
}

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let at = place(i, params.height, params.width, params.quads);
    if (!at.valid) {
        return;
    }
    var value = vec4<f32>(0.0);
    if (at.inside) {
        let first = start();
        // Before the part these wrap around to huge values.
        let y = at.y - first.x;
        let x = at.x - first.y;
        if (y < params.part_height && x < params.part_width) {
            value = upstream[texel(at.quad, y, x, params.part_height, params.part_width)];
        }
    }
    output[i] = value;
}
