// Mean squared difference of two tensors, and its gradient, over all stored values: padding is zero in both and adds
// nothing.

const TERMS: u32 = 16u; // vec4 values that an invocation of `forward` sums

struct Params {
    count: u32,    // vec4 values of a tensor
    partials: u32, // forward: numbers written, a multiple of the workgroup size
    scale: f32,    // backward: 2 / elements
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;    // F
@group(0) @binding(1) var<storage, read> wanted: array<vec4<f32>>; // T
@group(0) @binding(2) var<storage, read> upstream: array<vec4<f32>>; // one number
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

// Each invocation writes one partial sum; sum.wgsl adds them up.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i >= params.partials) {
        return;
    }
    var sum = vec4<f32>(0.0);
    // A workgroup reads a contiguous range, neighbouring invocations neighbouring values. After the end, the last value
    // is read and not counted: straight-line code is faster than a loop on software drivers.
    let start = (i - local) * TERMS + local;
    // unroll
    for (var k = 0u; k < TERMS; k++) {
        let n = start + k * 64u;
        let at = min(n, params.count - 1u);
        let difference = input[at] - wanted[at];
        sum += select(vec4<f32>(0.0), difference * difference, n < params.count);
    }
    sums[i] = (sum.x + sum.y) + (sum.z + sum.w);
}

@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.count) {
        output[i] = (input[i] - wanted[i]) * (params.scale * upstream[0].x);
    }
}
