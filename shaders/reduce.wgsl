// A tensor to one number: sum, norms, extrema, the count of values that are not finite, a dot product.
// In two stages: `partial` (or `partial_dot`) leaves one number per workgroup, `finish` combines those.
// The order is fixed, so that runs repeat bit for bit. Results are the first component of a quad.
//
// All stored values are visited. Padding is zero, which no sum minds; extrema skip it by its position.

const KIND: u32 = 0u; // 0 sum, 1 sum of |x|, 2 root of the sum of squares, 3 min, 4 max, 5 count of NaN and Inf
const MAP: u32 = 0u;  // layout: 1 for bordered quads, 0 for rows padded to whole quads (see src/ops/core/shape.rs)
const GROUP: u32 = 64u; // invocations per workgroup, a power of 2

struct Params {
    count: u32,   // vec4 values to reduce; `finish`: workgroups of the first stage
    stride: u32,  // invocations of the first stage
    pitch: u32,   // texels per row of a map; quads per row of a matrix
    plane: u32,   // texels per quad of channels of a map
    limit: u32,   // channels of a map; columns of a matrix
}

// As bits, since only bits tell NaN reliably: compilers may assume that there is none.
@group(0) @binding(0) var<storage, read> input: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> other: array<vec4<u32>>; // second factor of the dot product
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> shares: array<f32, GROUP>;

// What a kind starts from: the value that changes no result.
fn neutral() -> f32 {
    if (KIND == 3u) {
        return 3.4028234e38; // the largest f32
    }
    if (KIND == 4u) {
        return -3.4028234e38;
    }
    return 0.0;
}

fn combine(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    if (KIND == 3u) {
        return min(a, b);
    }
    if (KIND == 4u) {
        return max(a, b);
    }
    return a + b;
}

// Which components of texel i are elements, not padding.
fn elements(i: u32) -> vec4<bool> {
    var first = i % params.pitch * 4u;
    if (MAP == 1u) {
        let quad = i / params.plane;
        let n = i - quad * params.plane;
        first = quad * 4u;
        if (n < params.pitch || n % params.pitch == 0u) {
            return vec4<bool>(false);
        }
    }
    return vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.limit);
}

// What the components of texel i add.
fn term(i: u32) -> vec4<f32> {
    let bits = input[i];
    let value = bitcast<vec4<f32>>(bits);
    if (KIND == 1u) {
        return abs(value);
    }
    if (KIND == 2u) {
        return value * value;
    }
    if (KIND == 3u || KIND == 4u) {
        return select(vec4<f32>(neutral()), value, elements(i));
    }
    if (KIND == 5u) {
        let exponent = vec4<u32>(0x7f800000u);
        return select(vec4<f32>(0.0), vec4<f32>(1.0), (bits & exponent) == exponent);
    }
    return value;
}

// Combines one quad per invocation and writes the result of the workgroup.
fn write(mine: vec4<f32>, group: u32, local: u32, last: bool) {
    let pairs = combine(mine.xyxy, mine.zwzw);
    shares[local] = combine(pairs.xxxx, pairs.yyyy).x;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            shares[local] = combine(vec4<f32>(shares[local]), vec4<f32>(shares[local + stride])).x;
        }
    }
    if (local == 0u) {
        var result = shares[0];
        if (KIND == 2u && last) {
            result = sqrt(result);
        }
        output[group] = vec4<f32>(result, 0.0, 0.0, 0.0);
    }
}

@compute @workgroup_size(GROUP)
fn partial(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var mine = vec4<f32>(neutral());
    for (var i = group.x * GROUP + local; i < params.count; i += params.stride) {
        mine = combine(mine, term(i));
    }
    // A single workgroup is first and last stage in one.
    write(mine, group.x, local, groups.x == 1u);
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
    write(mine, group.x, local, false);
}

@compute @workgroup_size(GROUP)
fn finish(@builtin(local_invocation_index) local: u32) {
    var mine = vec4<f32>(neutral());
    for (var i = local; i < params.count; i += GROUP) {
        mine.x = combine(mine, bitcast<vec4<f32>>(input[i])).x;
    }
    write(mine, 0u, local, true);
}
