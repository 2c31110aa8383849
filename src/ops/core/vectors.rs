//! Dot products and weighted sums of vectors, compiled for several instruction sets and dispatched at run time.

use super::cpu::for_each_part;
use super::lanes::update;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;
use std::ops::Range;

/// Independent sums of a dot product: enough to start a multiply-add in every cycle.
const LANES: usize = 64;

/// Most blocks of rows that [`sum_of_rows`] adds up in parallel, and fewest rows per block.
const BLOCKS: usize = 32;
const BLOCK_ROWS: usize = 8;

/// Dot product of two vectors of the same length.
#[multiversion(targets = "simd")]
pub(in crate::ops) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            // Without the instruction, `mul_add` would be a function call.
            *sum = if target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) {
                a.mul_add(*b, *sum)
            } else {
                a * b + *sum
            };
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Adds four vectors to `sums`, each multiplied by a factor. All have the same length.
#[multiversion(targets = "simd")]
pub(in crate::ops) fn add_scaled(sums: &mut [f32], vectors: [&[f32]; 4], factors: [f32; 4]) {
    let [a, b, c, d] = vectors;
    for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        let mut total = *sum;
        for (value, factor) in [a, b, c, d].into_iter().zip(factors) {
            total = if target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64")) {
                value.mul_add(factor, total)
            } else {
                value * factor + total
            };
        }
        *sum = total;
    }
}

/// Floats of heap memory that [`sum_of_rows`] uses.
pub(in crate::ops) fn heap_of_sum(count: usize, length: usize) -> usize {
    count.div_ceil(rows_of_block(count)) * length
}

/// Rows that are summed sequentially.
fn rows_of_block(count: usize) -> usize {
    count.div_ceil(BLOCKS).next_multiple_of(BLOCK_ROWS)
}

/// Sums the rows `0..count` of vectors as long as `sum`. `add` adds a range of rows to its second argument; blocks of
/// rows are summed in parallel and then added in order. The blocks depend only on `count`.
pub(in crate::ops) fn sum_of_rows(
    count: usize,
    sum: &mut [f32],
    add: impl Fn(Range<usize>, &mut [f32]) + Sync,
) {
    let block = rows_of_block(count);
    let blocks = (0..count.div_ceil(block)).into_par_iter();
    let partial = |index: usize| {
        let mut partial = vec![0.0; sum.len()];
        add(index * block..((index + 1) * block).min(count), &mut partial);
        partial
    };
    let partials: Vec<Vec<f32>> = blocks.map(partial).collect();
    for_each_part(sum, |range, sum| {
        sum.fill(0.0);
        for partial in &partials {
            update(sum, [&partial[range.clone()]], |sum, [value]| sum + value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * step % 17) as f32 - 8.0) / 4.0).collect()
    }

    /// The values are small quarters, so f32 results are exact in any order of additions.
    #[test]
    fn sums_of_any_length_are_exact() {
        for length in [0, 1, 3, 63, 64, 65, 200, 1000] {
            let (a, b) = (values(length, 5), values(length, 3));
            let expected: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert_eq!(dot(&a, &b), expected, "{length}");
            let mut sums = values(length, 7);
            add_scaled(&mut sums, [&a, &b, &b, &a], [0.5, 2.0, -1.0, 0.25]);
            for (index, sum) in sums.iter().enumerate() {
                assert_eq!(*sum, values(length, 7)[index] + 0.75 * a[index] + b[index], "{length}");
            }
        }
        for count in [1, 8, 9, 255, 257, 600] {
            let mut sum = [f32::NAN; 5];
            sum_of_rows(count, &mut sum, |rows, sum| {
                for row in rows {
                    sum.iter_mut().zip(0..).for_each(|(sum, column)| *sum += (row + column) as f32);
                }
            });
            let first = (count * (count - 1) / 2) as f32;
            assert_eq!(sum, [0, 1, 2, 3, 4].map(|column| first + (column * count) as f32), "{count}");
        }
    }
}
