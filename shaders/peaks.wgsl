// Peak benchmarks of a device: chains of multiply-adds in registers, and streaming through memory. The reference for
// the throughput of other kernels.

const VECTORS: u32 = 1u;  // chains that an invocation computes in parallel, each of four values
const CHAINS: u32 = 12u;  // total number of chains, a multiple of VECTORS
const REPEAT: u32 = 16u;  // multiply-adds per chain and step
const FACTOR: f32 = 0.9921875;
const SUMMAND: f32 = 0.0625;

struct Params {
    count: u32,  // texels
    length: u32, // number of values; the rest of the last texel is padding
    steps: u32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn multiply_add(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i >= params.count) {
        return;
    }
    let x = input[i];
    var total = vec4<f32>(0.0);
    for (var first = 0u; first < CHAINS; first += VECTORS) {
        var values: array<vec4<f32>, VECTORS>;
        // unroll
        for (var v = 0u; v < VECTORS; v++) {
            values[v] = x + vec4<f32>(f32(first + v) * 0.25);
        }
        for (var step = 0u; step < params.steps; step++) {
            // unroll
            for (var r = 0u; r < REPEAT; r++) {
                // unroll
                for (var v = 0u; v < VECTORS; v++) {
                    values[v] = fma(values[v], vec4<f32>(FACTOR), vec4<f32>(SUMMAND));
                }
            }
        }
        // unroll
        for (var v = 0u; v < VECTORS; v++) {
            total += values[v];
        }
    }
    let at = vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    output[i] = select(vec4<f32>(0.0), total, at < vec4<u32>(params.length));
}

@compute @workgroup_size(64)
fn triad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * 64u + local;
    if (i < params.count) {
        output[i] = input[i] + FACTOR * addend[i];
    }
}
