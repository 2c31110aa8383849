//! Loops of CPU kernels over all stored values: elementwise functions and sums. They process a fixed number of lanes at
//! a time, which compilers turn into vector instructions.

use super::cpu::{PART, for_each_part, sums_in_order};
use std::array::from_fn;

/// Values that a loop processes together.
const LANES: usize = 16;
/// Values that are summed in single precision, 64 per lane. Sums of blocks are added in double precision.
const BLOCK: usize = 64 * LANES;

/// `output[i] = function(i-th value of each input)`, on all threads. Inputs have the output's length.
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

/// `output[i] = function(output[i], i-th value of each input)`, on this thread.
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

/// Sums of `terms(i-th value of each input)` over all i, computed on all threads. All inputs have the same length.
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

/// Same as [`sums`], on this thread.
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

/// All bits set, or none. For conditions that no processor can predict: with `if`, compilers may branch.
#[inline(always)]
pub(in crate::ops) fn mask(set: bool) -> u32 {
    0_u32.wrapping_sub(u32::from(set))
}

/// `value` where `set`, else 0.
#[inline(always)]
pub(in crate::ops) fn keep(value: f32, set: bool) -> f32 {
    f32::from_bits(value.to_bits() & mask(set))
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
        (0..LANES).for_each(|lane| add(lane, from_fn(|input| values[input][lane])));
    }
    let done = count / LANES * LANES;
    (done..count).for_each(|index| add(index - done, from_fn(|input| inputs[input][index])));
    sums
}

fn shortest<const INPUTS: usize>(inputs: [&[f32]; INPUTS]) -> usize {
    inputs.iter().map(|input| input.len()).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, whose sums f32 represents exactly.
    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|index| (index * step % 7) as f32 - 3.0).collect()
    }

    #[test]
    fn sums_match_for_any_length() {
        for count in [0, 1, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 17, PART, 2 * PART + 5] {
            let (a, b) = (values(count, 5), values(count, 3));
            let expected = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let found = sums([&a, &b], |[a, b]| [a * b, a, 1.0]);
            let sum = a.iter().copied().map(f64::from).sum::<f64>();
            assert_eq!(found, [expected, sum, count as f64], "{count}");
            let mut output = vec![f32::NAN; count];
            elementwise(&mut output, [&a, &b], |[a, b]| a - 2.0 * b);
            update(&mut output, [&a], |output, [a]| output * 4.0 + a);
            for (output, (a, b)) in output.iter().zip(a.iter().zip(&b)) {
                assert_eq!(*output, 5.0 * a - 8.0 * b, "{count}");
            }
        }
    }

    #[test]
    fn sums_do_not_depend_on_thread_count() {
        let values: Vec<f32> =
            (0..5 * PART + 3).map(|index| 1.0 / (index * 7919 % 4999 + 1) as f32).collect();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sums([&values], |[value]| [value])[0])
        };
        assert!(with(1) > 1.0);
        assert!([2, 3, 5].iter().all(|threads| with(*threads).to_bits() == with(1).to_bits()));
    }
}
