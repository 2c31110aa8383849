// Epilogue of a gradient, for kernels without one of their own: adds the gradient to another one and masks the sum. In
// place, elementwise over all stored values (padding stays zero).

const ADD: u32 = 0u;  // add `addend`
const MASK: u32 = 0u; // zero where `activation` is not positive

struct Params {
    count: u32, // vec4 values
}

@group(0) @binding(0) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> activation: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn epilogue(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    var value = output[i];
    // static if
    if (ADD == 1u) {
        value += addend[i];
    }
    // static if
    if (MASK == 1u) {
        value = select(vec4<f32>(0.0), value, activation[i] > vec4<f32>(0.0));
    }
    output[i] = value;
}
