// Mean and standard deviation of each channel of a map, and their gradients. Maps are bordered quads (see
// src/ops/core/shape.rs): the zero borders don't affect sums, but must be skipped for deviations.

const GROUP: u32 = 64u;      // invocations per workgroup, a power of 2
const TERMS: u32 = 16u;      // texels that an invocation of `partial` sums
const ADD: u32 = 0u;         // 1: `backward` adds to the output's values
const DEVIATION: u32 = 0u;   // 0: sum the values; 1: sum their squared distances from the mean

struct Params {
    channels: u32, // of the whole map
    first: u32,    // first quad of this window in the whole map
    quads: u32,    // of this window
    height: u32,
    width: u32,
    splits: u32,   // chunks of a plane
    scale: f32,    // 1 / pixels
    smallest: f32, // deviation: added to the variance
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> deviation: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> upstream: array<vec4<f32>>; // one value per channel
@group(0) @binding(4) var<storage, read_write> partials: array<vec4<f32>>; // quad * splits + split
@group(0) @binding(5) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

var<workgroup> shares: array<vec4<f32>, GROUP>;

// Sum of one value per invocation, in a fixed order.
fn total(value: vec4<f32>, local: u32) -> vec4<f32> {
    shares[local] = value;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            shares[local] += shares[local + stride];
        }
    }
    workgroupBarrier();
    return shares[0];
}

fn is_pixel(n: u32) -> bool {
    let pitch = params.width + 1u;
    return n >= pitch && n % pitch != 0u;
}

// A workgroup sums one chunk of one quad's plane.
@compute @workgroup_size(GROUP)
fn partial(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let unit = group.y * groups.x + group.x;
    let quad = unit / params.splits;
    let split = unit - quad * params.splits;
    let plane = (params.height + 1u) * (params.width + 1u);
    var sum = vec4<f32>(0.0);
    if (quad < params.quads) {
        var center = vec4<f32>(0.0);
        if (DEVIATION == 1u) {
            center = mean[params.first + quad];
        }
        let start = split * GROUP * TERMS + local;
        // unroll
        for (var k = 0u; k < TERMS; k++) {
            let n = start + k * GROUP;
            let value = input[quad * plane + min(n, plane - 1u)];
            if (DEVIATION == 1u) {
                let distance = value - center;
                sum += select(vec4<f32>(0.0), distance * distance, n < plane && is_pixel(n));
            } else {
                sum += select(vec4<f32>(0.0), value, n < plane);
            }
        }
    }
    sum = total(sum, local);
    if (local == 0u && quad < params.quads) {
        partials[(params.first + quad) * params.splits + split] = sum;
    }
}

// A workgroup adds up the chunks of one quad.
@compute @workgroup_size(GROUP)
fn finish(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quad = group.y * groups.x + group.x;
    var sum = vec4<f32>(0.0);
    if (quad < params.quads) {
        for (var split = local; split < params.splits; split += GROUP) {
            sum += partials[quad * params.splits + split];
        }
    }
    sum = total(sum, local) * params.scale;
    if (local == 0u && quad < params.quads) {
        if (DEVIATION == 1u) {
            sum = sqrt(sum + params.smallest);
        }
        let channels = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        output[quad] = select(vec4<f32>(0.0), sum, channels < vec4<u32>(params.channels));
    }
}

// Gradient of the mean or of the deviation. One invocation writes one texel.
@compute @workgroup_size(64)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let pitch = params.width + 1u;
    let plane = (params.height + 1u) * pitch;
    if (i >= params.quads * plane + pitch + 1u) {
        return;
    }
    let quad = i / plane;
    var gradient = vec4<f32>(0.0);
    if (quad < params.quads && is_pixel(i - quad * plane)) {
        gradient = upstream[params.first + quad] * params.scale;
    }
    if (ADD == 1u) {
        output[i] += gradient;
    } else {
        output[i] = gradient;
    }
}

@compute @workgroup_size(64)
fn deviation_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    let pitch = params.width + 1u;
    let plane = (params.height + 1u) * pitch;
    if (i >= params.quads * plane + pitch + 1u) {
        return;
    }
    let quad = i / plane;
    var gradient = vec4<f32>(0.0);
    if (quad < params.quads && is_pixel(i - quad * plane)) {
        let channel = params.first + quad;
        let rates = upstream[channel] * params.scale * (input[i] - mean[channel]);
        // The padding channels of the last quad have no deviation.
        let channels = vec4<u32>(channel * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
        let inside = channels < vec4<u32>(params.channels);
        gradient = select(vec4<f32>(0.0), rates / select(vec4<f32>(1.0), deviation[channel], inside), inside);
    }
    output[i] = gradient;
}
