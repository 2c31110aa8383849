// Records the first step after which tensors contain NaN or infinite values. `search` writes each workgroup's count for
// one tensor; `note` adds them up in a fixed order and updates the record: [steps so far, number of the first bad step
// or 0, 0, 0], [non-finite values in each tensor after that step].
//
// All stored values are read: padding is zero, which is finite.

const GROUP: u32 = 64u; // invocations per workgroup, a power of 2
const TENSORS: u32 = 1u; // number of tensors, at most 4

struct Params {
    count: u32,  // `search`: vec4 values of the tensor; `note`: workgroups of `search` for each tensor
    stride: u32, // invocations of `search`
    first: u32,  // `search`: start of the tensor's counts
}

// As bits: compilers may assume that no value is NaN, so a comparison may miss one.
@group(0) @binding(0) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> found: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> partials: array<vec4<f32>>; // counts of `search`
@group(0) @binding(3) var<storage, read_write> record: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

var<workgroup> shares: array<vec4<f32>, GROUP>;

// The sum over the workgroup, valid for every invocation.
fn total(mine: vec4<f32>, local: u32) -> vec4<f32> {
    shares[local] = mine;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            shares[local] += shares[local + half];
        }
    }
    workgroupBarrier();
    return shares[0];
}

@compute @workgroup_size(GROUP)
fn search(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var mine = vec4<f32>(0.0);
    let exponent = vec4<u32>(0x7f800000u);
    for (var i = group.x * GROUP + local; i < params.count; i += params.stride) {
        mine += select(vec4<f32>(0.0), vec4<f32>(1.0), (input[i] & exponent) == exponent);
    }
    let all = total(mine, local);
    if (local == 0u) {
        found[params.first + group.x] = vec4<f32>(dot(all, vec4<f32>(1.0)), 0.0, 0.0, 0.0);
    }
}

@compute @workgroup_size(GROUP)
fn note(@builtin(local_invocation_index) local: u32) {
    var mine = vec4<f32>(0.0);
    for (var i = local; i < params.count; i += GROUP) {
        mine.x += partials[i].x;
        if (TENSORS > 1u) {
            mine.y += partials[params.count + i].x;
        }
        if (TENSORS > 2u) {
            mine.z += partials[2u * params.count + i].x;
        }
        if (TENSORS > 3u) {
            mine.w += partials[3u * params.count + i].x;
        }
    }
    let all = total(mine, local);
    if (local != 0u) {
        return;
    }
    let steps = record[0].x + 1.0;
    var bad = record[0].y;
    if (bad == 0.0 && dot(all, vec4<f32>(1.0)) > 0.0) {
        bad = steps;
        record[1] = all;
    }
    record[0] = vec4<f32>(steps, bad, 0.0, 0.0);
    output[0] = vec4<f32>(bad, 0.0, 0.0, 0.0);
}
