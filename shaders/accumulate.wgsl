// Adds to a tensor in place, or replaces it: `add` works elementwise on all stored values, `add_at` adds a map to a
// part of another map. Maps are bordered quads (see src/ops/core/shape.rs). The part's first row and column are in
// `places`; a part that would extend beyond the map is moved back inside.

const REPLACE: u32 = 0u; // 1: replace the old values

struct Params {
    count: u32,  // vec4 values, of `add`
    height: u32, // of the whole map; this and all below: `add_at`
    width: u32,
    part_height: u32,
    part_width: u32,
    quads: u32, // in both maps
    at: u32,    // index of the part's row in `places`; its column follows
    factor: f32,
}

@group(0) @binding(0) var<storage, read_write> sum: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> places: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

fn put(to: u32, value: vec4<f32>) {
    if (REPLACE == 1u) {
        sum[to] = params.factor * value;
    } else {
        sum[to] += params.factor * value;
    }
}

@compute @workgroup_size(64)
fn add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    put(i, x[i]);
    if (i == 0u) {
        output[0] = vec4<f32>(0.0);
    }
}

@compute @workgroup_size(64)
fn add_at(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i == 0u) {
        output[0] = vec4<f32>(0.0);
    }
    let pitch = params.part_width + 1u;
    let plane = (params.part_height + 1u) * pitch;
    let quad = i / plane;
    let n = i - quad * plane;
    let row = n / pitch;
    let column = n - row * pitch;
    // The first row and column are border, and so is everything after the last quad.
    if (quad >= params.quads || row == 0u || column == 0u) {
        return;
    }
    let room = vec2<u32>(params.height - params.part_height, params.width - params.part_width);
    let first = min(vec2<u32>(u32(places[params.at]), u32(places[params.at + 1u])), room);
    let to = (quad * (params.height + 1u) + first.x + row) * (params.width + 1u) + first.y + column;
    put(to, x[i]);
}
