// Zeroes the border of a map in bordered quads (see src/ops/core/shape.rs), for kernels that write only the pixels: the
// first row and column of each plane, and the closing border.

struct Params {
    height: u32,
    width: u32,
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(64)
fn clear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let pitch = params.width + 1u;
    let plane = (params.height + 1u) * pitch;
    let each = pitch + params.height;
    let quad = i / each;
    let at = i % each;
    let n = select((at - pitch + 1u) * pitch, at, at < pitch);
    // The last plane is followed by one more row and texel.
    if (quad < params.quads || (quad == params.quads && at <= pitch)) {
        output[quad * plane + n] = vec4<f32>(0.0);
    }
}
