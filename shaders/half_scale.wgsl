// Scale of a map for rounding to f16: the power of two that brings its largest magnitude between 1/2 and 1, so that
// nothing overflows and only values below 2^-24 of it are lost. Two stages: `partial` writes the largest magnitude that
// each workgroup reads, `finish` the factor and its inverse.

const GROUP: u32 = 64u; // invocations per workgroup, a power of 2

struct Params {
    count: u32,  // vec4 values of the map; `finish`: workgroups of the first stage
    stride: u32, // invocations of the first stage
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> largest: array<f32>;
@group(0) @binding(2) var<storage, read_write> scales: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> shares: array<f32, GROUP>;

// Writes the workgroup's maximum of `mine` to `shares[0]`.
fn gather(mine: f32, local: u32) {
    shares[local] = mine;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            shares[local] = max(shares[local], shares[local + stride]);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(GROUP)
fn partial(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var mine = vec4<f32>(0.0);
    for (var i = group.x * GROUP + local; i < params.count; i += params.stride) {
        mine = max(mine, abs(input[i]));
    }
    gather(max(max(mine.x, mine.y), max(mine.z, mine.w)), local);
    if (local == 0u) {
        largest[group.x] = shares[0];
    }
}

@compute @workgroup_size(GROUP)
fn finish(@builtin(local_invocation_index) local: u32) {
    var mine = 0.0;
    for (var i = local; i < params.count; i += GROUP) {
        mine = max(mine, largest[i]);
    }
    gather(mine, local);
    if (local == 0u) {
        // Biased exponent of the next power of two; maps of zeros or infinities are not scaled.
        let stored = (bitcast<u32>(shares[0]) >> 23u) + 1u;
        let exponent = select(127u, stored, stored > 1u && stored < 254u);
        scales[0] = bitcast<f32>((254u - exponent) << 23u);
        scales[1] = bitcast<f32>(exponent << 23u);
    }
}
