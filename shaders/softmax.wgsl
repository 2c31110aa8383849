// Softmax of a vector, y = exp(x - max x) / sum exp(x - max x), and its adjoint dx = y (dy - sum y dy).
// A single workgroup: class vectors are short. Vectors are padded with zeros to whole quads.

const GROUP: u32 = 256u; // invocations of the workgroup, a power of 2

struct Params {
    length: u32,
    stored: u32, // with padding
}

@group(0) @binding(0) var<storage, read> input: array<f32>;    // forward: x; backward: y
@group(0) @binding(1) var<storage, read> upstream: array<f32>; // dy
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> partial: array<f32, GROUP>;

// Sum of one value per invocation, returned to all. The order is fixed, so that runs repeat bit for bit.
fn total(value: f32, local: u32) -> f32 {
    workgroupBarrier(); // reads of the previous call are done
    partial[local] = value;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            partial[local] += partial[local + stride];
        }
    }
    workgroupBarrier();
    return partial[0];
}

// Maximum of one value per invocation, returned to all.
fn largest(value: f32, local: u32) -> f32 {
    partial[local] = value;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            partial[local] = max(partial[local], partial[local + stride]);
        }
    }
    workgroupBarrier();
    return partial[0];
}

@compute @workgroup_size(GROUP)
fn forward(@builtin(local_invocation_index) local: u32) {
    var high = -3.4028234e38; // the lowest f32
    for (var i = local; i < params.length; i += GROUP) {
        high = max(high, input[i]);
    }
    high = largest(high, local);
    // Exponents are at most 0, so nothing overflows, and the largest term is 1, so the sum is at least 1.
    var sum = 0.0;
    for (var i = local; i < params.length; i += GROUP) {
        sum += exp(input[i] - high);
    }
    sum = total(sum, local);
    for (var i = local; i < params.stored; i += GROUP) {
        var y = 0.0;
        if (i < params.length) {
            y = exp(input[i] - high) / sum;
        }
        output[i] = y;
    }
}

@compute @workgroup_size(GROUP)
fn backward(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var i = local; i < params.length; i += GROUP) {
        sum += input[i] * upstream[i];
    }
    sum = total(sum, local);
    for (var i = local; i < params.stored; i += GROUP) {
        var dx = 0.0;
        if (i < params.length) {
            dx = input[i] * (upstream[i] - sum);
        }
        output[i] = dx;
    }
}
