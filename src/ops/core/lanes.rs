//! Loops of kernels for the CPU that take all stored values alike: elementwise functions and sums. They work on a fixed
//! number of lanes at a time, which compilers turn into vector instructions.

use super::native::{PART, for_each_part, sums_in_order};
use std::array::from_fn;

/// Values that loops take side by side.
const LANES: usize = 16;
/// Values that are added up in single precision: 64 in each lane. Their sums are added up in double precision.
const BLOCK: usize = 64 * LANES;

/// `output[i] = function(the i-th value of each input)`, on all threads. Inputs are as long as the output.
pub(in crate::ops) fn elementwise<const INPUTS: usize>(
    output: &mut [f32],
    inputs: [&[f32]; INPUTS],
    function: impl Fn([f32; INPUTS]) -> f32 + Sync,
) {
    for_each_part(output, |range, part| {
        let inputs = inputs.map(|input| &input[range.clone()]);
        update(part, inputs, |_, values| function(values));
    });
}

/// `output[i] = function(output[i], the i-th value of each input)`, on this thread.
pub(in crate::ops) fn update<const INPUTS: usize>(
    output: &mut [f32],
    inputs: [&[f32]; INPUTS],
    function: impl Fn(f32, [f32; INPUTS]) -> f32,
) {
    let done = output.len() / LANES * LANES;
    let (chunks, rest) = output.as_chunks_mut::<LANES>();
    let whole = inputs.map(|input| input.as_chunks::<LANES>().0);
    for (index, chunk) in chunks.iter_mut().enumerate() {
        let values = whole.map(|input| &input[index]);
        for (lane, output) in chunk.iter_mut().enumerate() {
            *output = function(*output, from_fn(|input| values[input][lane]));
        }
    }
    for (index, output) in rest.iter_mut().enumerate() {
        *output = function(*output, from_fn(|input| inputs[input][done + index]));
    }
}

/// The sums of all that `terms` gives for the values at one place of each input, computed on all threads. Inputs are of
/// one length.
pub(in crate::ops) fn sums<const INPUTS: usize, const SUMS: usize>(
    inputs: [&[f32]; INPUTS],
    terms: impl Fn([f32; INPUTS]) -> [f32; SUMS] + Sync,
) -> [f64; SUMS] {
    let count = shortest(inputs);
    sums_in_order(count.div_ceil(PART), |index| {
        let range = index * PART..((index + 1) * PART).min(count);
        part_sums(inputs.map(|input| &input[range.clone()]), &terms)
    })
}

/// The same on this thread.
pub(in crate::ops) fn part_sums<const INPUTS: usize, const SUMS: usize>(
    inputs: [&[f32]; INPUTS],
    terms: impl Fn([f32; INPUTS]) -> [f32; SUMS],
) -> [f64; SUMS] {
    let count = shortest(inputs);
    let mut total = [0.0; SUMS];
    for start in (0..count).step_by(BLOCK) {
        let block = inputs.map(|input| &input[start..(start + BLOCK).min(count)]);
        let sums = block_sums(block, &terms);
        for (total, lanes) in total.iter_mut().zip(sums) {
            *total += lanes.into_iter().map(f64::from).sum::<f64>();
        }
    }
    total
}

fn block_sums<const INPUTS: usize, const SUMS: usize>(
    inputs: [&[f32]; INPUTS],
    terms: impl Fn([f32; INPUTS]) -> [f32; SUMS],
) -> [[f32; LANES]; SUMS] {
    let count = shortest(inputs);
    let mut sums = [[0.0; LANES]; SUMS];
    let mut add = |lane: usize, values: [f32; INPUTS]| {
        sums.iter_mut().zip(terms(values)).for_each(|(sum, term)| sum[lane] += term);
    };
    let whole = inputs.map(|input| input.as_chunks::<LANES>().0);
    for index in 0..count / LANES {
        let values = whole.map(|input| &input[index]);
        for lane in 0..LANES {
            add(lane, from_fn(|input| values[input][lane]));
        }
    }
    let done = count / LANES * LANES;
    for index in done..count {
        add(index - done, from_fn(|input| inputs[input][index]));
    }
    sums
}

fn shortest<const INPUTS: usize>(inputs: [&[f32]; INPUTS]) -> usize {
    inputs.iter().map(|input| input.len()).min().unwrap_or(0)
}
