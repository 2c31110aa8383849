// Reduces a tensor to one number: sum, sum of absolute values, count of non-finite values, dot product. Two stages:
// `partial` (or `partial_dot`) writes one number per workgroup, `finish` adds them up. The order is fixed, so that runs
// repeat bit for bit. Results are the first component of a quad.
//
// All stored values are read: padding is zero, which adds nothing.

const KIND: u32 = 0u; // 0 sum, 1 sum of |x|, 2 count of NaN and Inf
const GROUP: u32 = 64u; // invocations per workgroup, a power of 2

struct Params {
    count: u32,   // vec4 values to reduce; `finish`: workgroups of the first stage
    stride: u32,  // invocations of the first stage
}

// As bits: compilers may assume that no value is NaN, so a comparison may miss one.
@group(0) @binding(0) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> other: array<vec4<u32>>; // second factor of the dot product
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> shares: array<f32, GROUP>;

// Terms of the components of texel i.
fn term(i: u32) -> vec4<f32> {
    let bits = input[i];
    let value = bitcast<vec4<f32>>(bits);
    if (KIND == 1u) {
        return abs(value);
    }
    if (KIND == 2u) {
        let exponent = vec4<u32>(0x7f800000u);
        return select(vec4<f32>(0.0), vec4<f32>(1.0), (bits & exponent) == exponent);
    }
    return value;
}

// Adds up one quad per invocation and writes the workgroup's sum.
fn write(mine: vec4<f32>, group: u32, local: u32) {
    let pairs = mine.xy + mine.zw;
    shares[local] = pairs.x + pairs.y;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            shares[local] += shares[local + stride];
        }
    }
    if (local == 0u) {
        output[group] = vec4<f32>(shares[0], 0.0, 0.0, 0.0);
    }
}

@compute @workgroup_size(GROUP)
fn partial(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var mine = vec4<f32>(0.0);
    for (var i = group.x * GROUP + local; i < params.count; i += params.stride) {
        mine += term(i);
    }
    write(mine, group.x, local);
}

@compute @workgroup_size(GROUP)
fn partial_dot(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var mine = vec4<f32>(0.0);
    for (var i = group.x * GROUP + local; i < params.count; i += params.stride) {
        mine += bitcast<vec4<f32>>(input[i]) * bitcast<vec4<f32>>(other[i]);
    }
    write(mine, group.x, local);
}

@compute @workgroup_size(GROUP)
fn finish(@builtin(local_invocation_index) local: u32) {
    var mine = vec4<f32>(0.0);
    for (var i = local; i < params.count; i += GROUP) {
        mine.x += bitcast<vec4<f32>>(input[i]).x;
    }
    write(mine, 0u, local);
}
