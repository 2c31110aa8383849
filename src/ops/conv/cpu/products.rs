//! Products of blocks of channels: a matrix product whose factors are already in the order of the innermost loop.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators that are not inlined are compiled without the vector instructions"
)]

use super::layout::BLOCK;
use super::transforms::{PACK, PACKED};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, cast, x86::V4};

/// Computes `to[t][o] = sum over c of from[c / 16][t][c % 16] * panel[c][o]` at one position of `tiles` packed tiles, for
/// each of one or two panels of 16 outputs. `from` and `to` start at that position; `stride` is the distance in floats
/// from one block's tiles to the next block's. The order of summation is fixed. Unused tiles of the last pack are not
/// read and may be overwritten.
pub(super) fn products<const PANELS: usize>(
    from: &[f32],
    stride: usize,
    panels: [&[f32]; PANELS],
    to: [&mut [f32]; PANELS],
    tiles: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = V4::try_new() {
        return simd.vectorize(Wide { simd, from, stride, panels, to, tiles });
    }
    for (panel, to) in panels.into_iter().zip(to) {
        narrow(from, stride, panel, to, tiles);
    }
}

/// AVX-512 version with explicit intrinsics: LLVM would compile the loops below to gathers and scatters. With two panels
/// each broadcast value is used twice, so that loads don't limit the speed.
#[cfg(target_arch = "x86_64")]
struct Wide<'a, const PANELS: usize> {
    simd: V4,
    from: &'a [f32],
    stride: usize,
    panels: [&'a [f32]; PANELS],
    to: [&'a mut [f32]; PANELS],
    tiles: usize,
}

#[cfg(target_arch = "x86_64")]
impl<const PANELS: usize> NullaryFnOnce for Wide<'_, PANELS> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let packs = self.tiles / PACKED;
        for pack in 0..packs {
            self.rows::<PACKED>(pack * PACK);
        }
        // A small map has few tiles, so a partial pack is a large part of the work.
        match self.tiles % PACKED {
            0 => {}
            1..=4 => self.rows::<4>(packs * PACK),
            5..=8 => self.rows::<8>(packs * PACK),
            _ => self.rows::<PACKED>(packs * PACK),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl<const PANELS: usize> Wide<'_, PANELS> {
    /// Computes the products of the first `ROWS` tiles of the pack that starts at `first`.
    #[inline(always)]
    fn rows<const ROWS: usize>(&mut self, first: usize) {
        let simd = self.simd;
        let mut sums = [[simd.splat_f32x16(0.0); ROWS]; PANELS];
        for block in 0..self.panels[0].len() / (BLOCK * BLOCK) {
            let from = &self.from[block * self.stride + first..][..ROWS * BLOCK];
            let mut rows: [&[[f32; BLOCK]]; PANELS] = [&[]; PANELS];
            for p in 0..PANELS {
                rows[p] = self.panels[p][block * BLOCK * BLOCK..][..BLOCK * BLOCK].as_chunks().0;
            }
            for c in 0..BLOCK {
                let mut weights = [simd.splat_f32x16(0.0); PANELS];
                for p in 0..PANELS {
                    weights[p] = cast(rows[p][c]);
                }
                for r in 0..ROWS {
                    let factor = simd.splat_f32x16(from[r * BLOCK + c]);
                    for p in 0..PANELS {
                        sums[p][r] = simd.mul_add_f32x16(factor, weights[p], sums[p][r]);
                    }
                }
            }
        }
        for p in 0..PANELS {
            let to = self.to[p][first..][..ROWS * BLOCK].as_chunks_mut::<BLOCK>().0;
            for r in 0..ROWS {
                to[r] = cast(sums[p][r]);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn narrow(from: &[f32], stride: usize, panel: &[f32], to: &mut [f32], tiles: usize) {
    // As many rows as fill the vector registers with sums, leaving some for the factors.
    if target_cfg_f!(any(target_feature = "fma", target_feature = "neon")) {
        rows::<true, 6>(from, stride, panel, to, tiles);
    } else {
        rows::<false, 2>(from, stride, panel, to, tiles);
    }
}

#[inline(always)]
fn rows<const FUSED: bool, const ROWS: usize>(
    from: &[f32],
    stride: usize,
    panel: &[f32],
    to: &mut [f32],
    tiles: usize,
) {
    for first in (0..tiles).step_by(ROWS).map(|tile| tile / PACKED * PACK + tile % PACKED * BLOCK) {
        let mut sums = [[0.0; BLOCK]; ROWS];
        for (block, panel) in panel.as_chunks::<{ BLOCK * BLOCK }>().0.iter().enumerate() {
            let from = &from[block * stride + first..][..ROWS * BLOCK];
            for (c, weights) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
                for r in 0..ROWS {
                    multiply_add::<FUSED>(&mut sums[r], from[r * BLOCK + c], weights);
                }
            }
        }
        to[first..][..ROWS * BLOCK].copy_from_slice(sums.as_flattened());
    }
}

/// `sums += factor * values`, with a fused multiply-add if `FUSED`.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(sums: &mut [f32; BLOCK], factor: f32, values: &[f32; BLOCK]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = add_product::<FUSED>(*sum, factor, *value);
    }
}

/// `sum + factor * value`, with a fused multiply-add if `FUSED`.
#[inline(always)]
pub(super) fn add_product<const FUSED: bool>(sum: f32, factor: f32, value: f32) -> f32 {
    if FUSED { factor.mul_add(value, sum) } else { factor * value + sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers whole and partial packs, one and two panels, and both versions; NaN in unused tiles must not affect the result.
    #[test]
    fn products_match_for_any_tile_count() {
        let blocks = 3;
        let value = |n: usize| ((n * 7919 + 13) % 1009) as f32 / 1009.0 - 0.4;
        let panels = [5, 11]
            .map(|first| -> Vec<f32> { (0..blocks * BLOCK * BLOCK).map(|n| value(n + first)).collect() });
        for tiles in [1_usize, 3, 4, 5, 8, 9, 11, 12, 13, 16, 20, 23, 24, 25] {
            let stride = tiles.div_ceil(PACKED) * PACK;
            let at = |tile: usize| tile / PACKED * PACK + tile % PACKED * BLOCK;
            let mut from = vec![f32::NAN; blocks * stride];
            for (block, tile) in (0..blocks).flat_map(|block| (0..tiles).map(move |tile| (block, tile))) {
                for c in 0..BLOCK {
                    from[block * stride + at(tile) + c] = value((block * 31 + tile) * BLOCK + c);
                }
            }
            let mut results = [0; 4].map(|_| vec![f32::NAN; stride]);
            let [one, first, second, plain] = &mut results;
            products(&from, stride, [&panels[0]], [one], tiles);
            products(&from, stride, [&panels[0], &panels[1]], [first, second], tiles);
            narrow(&from, stride, &panels[1], plain, tiles);
            for (tile, o) in (0..tiles).flat_map(|tile| (0..BLOCK).map(move |o| (tile, o))) {
                for (to, panel) in results.iter().zip([0, 0, 1, 1].map(|panel: usize| &panels[panel])) {
                    let term = |c: usize| {
                        let factor = from[c / BLOCK * stride + at(tile) + c % BLOCK];
                        f64::from(factor) * f64::from(panel[c * BLOCK + o])
                    };
                    let expected: f64 = (0..blocks * BLOCK).map(term).sum();
                    let found = f64::from(to[at(tile) + o]);
                    // 48 products of at most 0.36, each rounded to 6e-8 of a sum of at most 17.
                    let close = (found - expected).abs() <= 5e-5;
                    assert!(close, "{tiles} tiles, tile {tile}, output {o}: {found} against {expected}");
                }
            }
        }
    }
}
