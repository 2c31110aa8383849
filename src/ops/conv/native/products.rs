//! The products of blocks of channels: a matrix product whose factors already lie as the innermost loop reads them.

use super::layout::BLOCK;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// Numbers of tiles are multiples of this, which all widths of the innermost loop divide.
pub(super) const TILES: usize = 12;

/// `to[t][o] = sum over c of from[c / 16][t][c % 16] * panel[c][o]` for `tiles` tiles and 16 outputs. The order of the sum
/// depends on nothing else.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn products(from: &[f32], panel: &[f32], to: &mut [f32], tiles: usize) {
    // Rows such that the sums fill the vector registers, but for those of the factors.
    let wide = target_cfg_f!(target_feature = "avx512f");
    let fused = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
    if wide {
        rows::<true, 12>(from, panel, to, tiles);
    } else if fused {
        rows::<true, 6>(from, panel, to, tiles);
    } else {
        rows::<false, 2>(from, panel, to, tiles);
    }
}

#[inline(always)]
fn rows<const FUSED: bool, const ROWS: usize>(from: &[f32], panel: &[f32], to: &mut [f32], tiles: usize) {
    for first in (0..tiles).step_by(ROWS) {
        let mut sums = [[0.0; BLOCK]; ROWS];
        for (from, panel) in from.chunks_exact(tiles * BLOCK).zip(panel.chunks_exact(BLOCK * BLOCK)) {
            let from = &from[first * BLOCK..][..ROWS * BLOCK];
            for (c, weights) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
                for r in 0..ROWS {
                    multiply_add::<FUSED>(&mut sums[r], from[r * BLOCK + c], weights);
                }
            }
        }
        for (to, sums) in to[first * BLOCK..][..ROWS * BLOCK].as_chunks_mut::<BLOCK>().0.iter_mut().zip(sums)
        {
            *to = sums;
        }
    }
}

/// `sums += factor * values`, rounded once where the machine can.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(sums: &mut [f32; BLOCK], factor: f32, values: &[f32; BLOCK]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = if FUSED { factor.mul_add(*value, *sum) } else { factor * value + *sum };
    }
}
