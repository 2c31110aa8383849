// Steps around the matrix products of the Newton-Schulz iteration for a square root (src/ops/matrix_root.rs). All
// matrices are square, their rows padded with zeros to whole quads (see src/ops/core/shape.rs).

const GROUP: u32 = 256u; // invocations of the workgroup that sums, a power of 2

struct Params {
    side: u32,
    quads: u32, // per row
    scale: f32, // combine: factors of the matrix and of the identity
    identity: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> c: array<vec4<f32>>;
// The norm of A, its square root, and the reciprocals of both.
@group(0) @binding(3) var<storage, read> numbers: array<vec4<f32>>;
// The matrix to judge, as bits: compilers may assume that no value is NaN.
@group(0) @binding(7) var<storage, read> bits: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

var<workgroup> shares: array<f32, GROUP>;

fn total(value: f32, local: u32) -> f32 {
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

fn diagonal(i: u32) -> vec4<f32> {
    let row = i / params.quads;
    let columns = vec4<u32>((i - row * params.quads) * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), vec4<f32>(1.0), columns == vec4<u32>(row));
}

// The Frobenius norm of A, with values derived from it.
@compute @workgroup_size(GROUP)
fn norm(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var i = local; i < params.side * params.quads; i += GROUP) {
        sum += dot(a[i], a[i]);
    }
    sum = total(sum, local);
    if (local == 0u) {
        // A matrix of zeros has a root of zeros.
        let size = max(sqrt(sum), 1e-30);
        output[0] = vec4<f32>(size, sqrt(size), 1.0 / size, inverseSqrt(size));
    }
}

// Copies the numbers of A, or writes zeros if A is not positive: if Y is not finite, or larger than possible for a
// positive matrix.
@compute @workgroup_size(GROUP)
fn judge(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var i = local; i < params.side * params.quads; i += GROUP) {
        // Limited to 1e4, which is large enough to reject: the square of a larger value may be infinite.
        let is_large = (bits[i] & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x461c4000u);
        let value = select(bitcast<vec4<f32>>(bits[i]), vec4<f32>(1e4), is_large);
        sum += dot(value, value);
    }
    sum = total(sum, local);
    if (local == 0u) {
        output[0] = select(vec4<f32>(0.0), numbers[0], sum <= 2.0 * sqrt(f32(params.side)));
    }
}

fn index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * 64u + local;
}

// A divided by its norm.
@compute @workgroup_size(64)
fn normalise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.side * params.quads) {
        output[i] = a[i] * numbers[0].z;
    }
}

// scale * a + identity * I
@compute @workgroup_size(64)
fn combine(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.side * params.quads) {
        output[i] = params.scale * a[i] + params.identity * diagonal(i);
    }
}

// The root: the iteration's result with the norm restored.
@compute @workgroup_size(64)
fn root(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.side * params.quads) {
        output[i] = select(vec4<f32>(0.0), a[i] * numbers[0].y, numbers[0].y > 0.0);
    }
}

// The trace of the root.
@compute @workgroup_size(GROUP)
fn trace(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var row = local; row < params.side; row += GROUP) {
        sum += a[row * params.quads + row / 4u][row % 4u];
    }
    sum = total(sum, local);
    if (local == 0u) {
        output[0] = vec4<f32>(select(0.0, sum * numbers[0].y, numbers[0].y > 0.0), 0.0, 0.0, 0.0);
    }
}

// The trace of X P: both are symmetric up to rounding.
@compute @workgroup_size(GROUP)
fn residue(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var i = local; i < params.side * params.quads; i += GROUP) {
        sum += dot(a[i], b[i]);
    }
    sum = total(sum, local);
    if (local == 0u) {
        output[0] = vec4<f32>(sum, 0.0, 0.0, 0.0);
    }
}

// Gradient of the trace: (Z + P) / 2 over the square root of the norm, plus the derivative of the norm. a = Z, b = P, c
// = X, which is A divided by its norm; upstream = the trace of X P.
@group(0) @binding(6) var<storage, read> upstream: array<vec4<f32>>;

@compute @workgroup_size(64)
fn gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = index(group, groups, local);
    if (i < params.side * params.quads) {
        let slope = (a[i] + b[i] - upstream[0].x * c[i]) * (0.5 * numbers[0].w);
        output[i] = select(vec4<f32>(0.0), slope, numbers[0].w > 0.0);
    }
}
