// Covariance matrix from a second-moment matrix and the means, C = scale * M - mu mu^T + ridge * I, its adjoint with
// respect to the means, and traces. Matrix rows are padded to whole quads (see src/ops/core/shape.rs).

const GROUP: u32 = 64u; // invocations per workgroup, a power of 2

struct Params {
    channels: u32,
    quads: u32, // per row
    scale: f32,
    ridge: f32,
}

@group(0) @binding(0) var<storage, read> input: array<vec4<f32>>; // M; trace: the matrix
@group(0) @binding(1) var<storage, read> mean: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> upstream: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

// 1 where column 4 * quad + k of this row is on the diagonal.
fn diagonal(row: u32, quad: u32) -> vec4<f32> {
    let columns = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), vec4<f32>(1.0), columns == vec4<u32>(row));
}

// One invocation writes one quad. Padding is zero in M and mu.
@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let row = i / params.quads;
    if (row >= params.channels) {
        return;
    }
    let quad = i - row * params.quads;
    output[i] = params.scale * input[i] - mean[row / 4u][row % 4u] * mean[quad] + params.ridge * diagonal(row, quad);
}

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

// dmu = -(dC + dC^T) mu. A workgroup writes one quad: its invocations split the rows and columns of dC.
@compute @workgroup_size(GROUP)
fn mean_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let quad = group.y * groups.x + group.x;
    var sum = vec4<f32>(0.0);
    if (quad < params.quads) {
        for (var row = local; row < params.channels; row += GROUP) {
            sum += upstream[row * params.quads + quad] * mean[row / 4u][row % 4u];
        }
        for (var other = local; other < params.quads; other += GROUP) {
            // unroll
            for (var k = 0u; k < 4u; k++) {
                let row = min(quad * 4u + k, params.channels - 1u);
                let product = dot(upstream[row * params.quads + other], mean[other]);
                sum[k] += select(0.0, product, quad * 4u + k < params.channels);
            }
        }
    }
    sum = total(sum, local);
    if (local == 0u && quad < params.quads) {
        output[quad] = -sum;
    }
}

// Sum of the diagonal, by one workgroup.
@compute @workgroup_size(GROUP)
fn trace(@builtin(local_invocation_index) local: u32) {
    var sum = vec4<f32>(0.0);
    for (var row = local; row < params.channels; row += GROUP) {
        sum += input[row * params.quads + row / 4u] * diagonal(row, row / 4u);
    }
    sum = total(sum, local);
    if (local == 0u) {
        output[0] = vec4<f32>((sum.x + sum.y) + (sum.z + sum.w), 0.0, 0.0, 0.0);
    }
}

@compute @workgroup_size(64)
fn trace_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    let row = i / params.quads;
    if (row < params.channels) {
        output[i] = upstream[0].x * diagonal(row, i - row * params.quads);
    }
}
