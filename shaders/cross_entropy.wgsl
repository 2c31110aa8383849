// Kullback-Leibler divergence sum p (ln p - ln q) of the softmax q of a vector of logits z from a distribution p, and
// its gradient q sum p - p. A single workgroup: class vectors are short. They are padded with zeros to whole quads.

const GROUP: u32 = 256u; // invocations of the workgroup, a power of 2

struct Params {
    length: u32,
    stored: u32, // with padding
}

@group(0) @binding(0) var<storage, read> input: array<f32>;    // z
@group(0) @binding(1) var<storage, read> wanted: array<f32>;   // p
@group(0) @binding(2) var<storage, read> upstream: array<f32>; // one number
@group(0) @binding(3) var<storage, read_write> output: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

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

// Largest logit, returned to all invocations.
fn largest(local: u32) -> f32 {
    var high = -3.4028234e38; // the lowest f32
    for (var i = local; i < params.length; i += GROUP) {
        high = max(high, input[i]);
    }
    partial[local] = high;
    for (var stride = GROUP / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if (local < stride) {
            partial[local] = max(partial[local], partial[local + stride]);
        }
    }
    workgroupBarrier();
    return partial[0];
}

// Exponents are at most 0, so nothing overflows, and the largest term is 1, so the sum is at least 1.
fn sum_of_powers(high: f32, local: u32) -> f32 {
    var sum = 0.0;
    for (var i = local; i < params.length; i += GROUP) {
        sum += exp(input[i] - high);
    }
    return total(sum, local);
}

@compute @workgroup_size(GROUP)
fn forward(@builtin(local_invocation_index) local: u32) {
    let high = largest(local);
    let normaliser = log(sum_of_powers(high, local));
    var sum = 0.0;
    for (var i = local; i < params.length; i += GROUP) {
        let p = wanted[i];
        // p ln p is 0 at p = 0.
        if (p > 0.0) {
            sum += p * (log(p) - (input[i] - high - normaliser));
        }
    }
    sum = total(sum, local);
    if (local < 4u) {
        output[local] = select(0.0, sum, local == 0u);
    }
}

@compute @workgroup_size(GROUP)
fn backward(@builtin(local_invocation_index) local: u32) {
    let high = largest(local);
    let powers = sum_of_powers(high, local);
    var mass = 0.0;
    for (var i = local; i < params.length; i += GROUP) {
        mass += max(wanted[i], 0.0);
    }
    mass = total(mass, local);
    for (var i = local; i < params.stored; i += GROUP) {
        var gradient = 0.0;
        if (i < params.length) {
            let q = exp(input[i] - high) / powers;
            gradient = (q * mass - max(wanted[i], 0.0)) * upstream[0];
        }
        output[i] = gradient;
    }
}
