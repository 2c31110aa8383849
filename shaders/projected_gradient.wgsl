// Projected gradient: zeroes the components along which a step would leave [0, 1], elementwise over all stored values.

struct Params {
    count: u32, // vec4 values
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let at = x[i];
    let g = gradient[i];
    let low = (at <= vec4<f32>(0.0)) & (g > vec4<f32>(0.0));
    let high = (at >= vec4<f32>(1.0)) & (g < vec4<f32>(0.0));
    output[i] = select(g, vec4<f32>(0.0), low | high);
}
