// Sum of a list of numbers in a fixed order, in levels: the last step of every op whose output is one number. The
// length of a list is a multiple of four.

const TERMS: u32 = 16u; // vec4 values that an invocation of `fold` sums

struct Params {
    count: u32,   // vec4 values in the list
    outputs: u32, // fold: numbers to write, a multiple of the workgroup size
    scale: f32,   // finish: factor of the sum
}

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

// Shortens a long list by a factor of about 64.
@compute @workgroup_size(64)
fn fold(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.outputs) {
        return;
    }
    var sum = vec4<f32>(0.0);
    // A workgroup reads a contiguous range, neighbouring invocations neighbouring values.
    let start = (i - local) * TERMS + local;
    // unroll
    for (var k = 0u; k < TERMS; k++) {
        let n = start + k * 64u;
        sum += select(vec4<f32>(0.0), partials[min(n, params.count - 1u)], n < params.count);
    }
    sums[i] = (sum.x + sum.y) + (sum.z + sum.w);
}

var<workgroup> shared_sums: array<vec4<f32>, 256>;

// One workgroup sums the remaining numbers and writes a vector of length 1, with its padding.
@compute @workgroup_size(256)
fn finish(@builtin(local_invocation_index) local: u32) {
    var sum = vec4<f32>(0.0);
    for (var n = local; n < params.count; n += 256u) {
        sum += partials[n];
    }
    shared_sums[local] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_sums[local] += shared_sums[local + half];
        }
        workgroupBarrier();
    }
    if (local == 0u) {
        let all = shared_sums[0];
        output[0] = vec4<f32>(((all.x + all.y) + (all.z + all.w)) * params.scale, 0.0, 0.0, 0.0);
    }
}
