// ReLU, elementwise over all stored values including padding. Keeps NaN, so that a run detects it.

struct Params {
    count: u32, // vec4 values
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>; // forward: x; backward: y
@group(0) @binding(1) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.count) {
        let x = input[i];
        output[i] = select(x, vec4<f32>(0.0), x < vec4<f32>(0.0));
    }
}

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.count) {
        output[i] = select(vec4<f32>(0.0), upstream[i], input[i] > vec4<f32>(0.0));
    }
}
