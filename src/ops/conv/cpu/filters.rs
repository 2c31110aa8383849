//! Filters that are transformed while they are used. Transformed filters are four times as large as their taps: where
//! there are many, reading them from memory would take longer than transforming the taps each time.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators that are not inlined are compiled without the vector instructions"
)]

use super::products::add_product;
use super::transforms::{FILTER, SIDE};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// Pairs of rows of the transform that are computed together: those of opposite points share their terms, and those of 0
/// and infinity have one term each.
pub(super) const PAIRS: [[usize; 2]; SIDE / 2] = [[0, 5], [1, 2], [3, 4]];

/// Transforms the rows of 3x3 taps to two columns, [`PAIRS`]`[pair]`: `lines[k] = sum over c of FILTER[column][c] *
/// taps[k][c]`. `taps` has nine panels and `lines` three; a panel is `[sum][result % 16]`.
pub(super) fn transform_rows(taps: &[f32], pair: usize, [first, second]: [&mut [f32]; 2]) {
    let panel = first.len() / 3;
    let lines = first.chunks_exact_mut(panel).zip(second.chunks_exact_mut(panel));
    for (taps, (first, second)) in taps.chunks_exact(panel * 3).zip(lines) {
        transform_column(taps, pair, [first, second]);
    }
}

/// Transforms the lines of a column to two of its rows, [`PAIRS`]`[pair]`.
pub(super) fn transform_column(lines: &[f32], pair: usize, [first, second]: [&mut [f32]; 2]) {
    let factors = FILTER[PAIRS[pair][0]].map(|factor| factor as f32);
    if pair == 0 {
        // The points 0 and infinity: the first line, scaled, and the last.
        let panel = first.len();
        scale(&lines[..panel], factors[0], first);
        second.copy_from_slice(&lines[panel * 2..]);
    } else {
        combine(lines, factors, first, second);
    }
}

/// `to = factor * from`
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn scale(from: &[f32], factor: f32, to: &mut [f32]) {
    let from = &from[..to.len()];
    for index in 0..to.len() {
        to[index] = factor * from[index];
    }
}

/// `to = factors[0] * from[0] + factors[1] * from[1] + factors[2] * from[2]`, and the same with `-factors[1]` in
/// `opposite`; `from` has three panels.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn combine(from: &[f32], factors: [f32; 3], to: &mut [f32], opposite: &mut [f32]) {
    if target_cfg_f!(any(target_feature = "fma", target_feature = "neon")) {
        combine_panels::<true>(from, factors, to, opposite);
    } else {
        combine_panels::<false>(from, factors, to, opposite);
    }
}

#[inline(always)]
fn combine_panels<const FUSED: bool>(from: &[f32], factors: [f32; 3], to: &mut [f32], opposite: &mut [f32]) {
    let [a, b, c] = panels(from, to.len());
    let opposite = &mut opposite[..to.len()];
    for index in 0..to.len() {
        let even = add_product::<FUSED>(factors[0] * a[index], factors[2], c[index]);
        to[index] = add_product::<FUSED>(even, factors[1], b[index]);
        opposite[index] = add_product::<FUSED>(even, -factors[1], b[index]);
    }
}

#[inline(always)]
fn panels(from: &[f32], length: usize) -> [&[f32]; 3] {
    [&from[..length], &from[length..][..length], &from[length * 2..][..length]]
}

#[cfg(test)]
mod tests {
    use super::super::layout::BLOCK;
    use super::super::transforms::{POSITIONS, TAPS, transform_filters};
    use super::*;

    #[test]
    fn panels_match_filters_transformed_in_double_precision() {
        let sums = 5;
        let panel = sums * BLOCK;
        let taps: Vec<f32> =
            (0..TAPS * panel).map(|n| ((n * 7919 + 13) % 1009) as f32 / 1009.0 - 0.4).collect();
        let mut expected = vec![[[f32::NAN; BLOCK]; POSITIONS]; sums];
        for (sum, transformed) in expected.iter_mut().enumerate() {
            let mut rows = [[0.0; BLOCK]; TAPS];
            for (tap, row) in rows.iter_mut().enumerate() {
                row.copy_from_slice(&taps[tap * panel + sum * BLOCK..][..BLOCK]);
            }
            transform_filters(&rows, transformed);
        }
        let pair = |length: usize| [0, 1].map(|_| vec![f32::NAN; length]);
        let mut checked = 0;
        for (columns_pair, columns) in PAIRS.iter().enumerate() {
            let [mut first, mut second] = pair(3 * panel);
            transform_rows(&taps, columns_pair, [&mut first, &mut second]);
            for (column, lines) in columns.iter().zip([first, second]) {
                for (rows_pair, rows) in PAIRS.iter().enumerate() {
                    let [mut first, mut second] = pair(panel);
                    transform_column(&lines, rows_pair, [&mut first, &mut second]);
                    for (row, found) in rows.iter().zip([first, second]) {
                        for (sum, found) in found.as_chunks::<BLOCK>().0.iter().enumerate() {
                            let expected = &expected[sum][row * SIDE + column];
                            for (found, expected) in found.iter().zip(expected) {
                                // Six terms in two steps of at most 0.8 * 0.6, each rounded to 6e-8.
                                let close = (found - expected).abs() <= 2e-7;
                                assert!(close, "row {row}, column {column}: {found} against {expected}");
                                checked += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(checked, POSITIONS * panel);
    }
}
