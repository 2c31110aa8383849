//! The products of blocks of channels: a matrix product whose factors already lie as the innermost loop reads them.

use super::layout::BLOCK;
use super::transforms::{PACK, PACKED};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, cast, x86::V4};

/// `to[t][o] = sum over c of from[c / 16][t][c % 16] * panel[c][o]` at one position of packed tiles, for 16 outputs. Both
/// slices start at that position; `stride` is the distance from one block's tiles to the next one's, in floats. The order
/// of the sum depends on nothing else.
pub(super) fn products(from: &[f32], stride: usize, panel: &[f32], to: &mut [f32], packs: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = V4::try_new() {
        return simd.vectorize(Wide { simd, from, stride, panel, to, packs });
    }
    narrow(from, stride, panel, to, packs);
}

/// With AVX-512. Of the loops below LLVM would make gathers and scatters there, so its vectors are named.
#[cfg(target_arch = "x86_64")]
struct Wide<'a> {
    simd: V4,
    from: &'a [f32],
    stride: usize,
    panel: &'a [f32],
    to: &'a mut [f32],
    packs: usize,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Wide<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, from, stride, panel, to, packs } = self;
        for first in (0..packs).map(|pack| pack * PACK) {
            let mut sums = [simd.splat_f32x16(0.0); PACKED];
            for (block, panel) in panel.as_chunks::<{ BLOCK * BLOCK }>().0.iter().enumerate() {
                let from = &from[block * stride + first..][..PACKED * BLOCK];
                for (c, weights) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let weights = cast(*weights);
                    for r in 0..PACKED {
                        let factor = simd.splat_f32x16(from[r * BLOCK + c]);
                        sums[r] = simd.mul_add_f32x16(factor, weights, sums[r]);
                    }
                }
            }
            let to = to[first..][..PACKED * BLOCK].as_chunks_mut::<BLOCK>().0;
            for r in 0..PACKED {
                to[r] = cast(sums[r]);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn narrow(from: &[f32], stride: usize, panel: &[f32], to: &mut [f32], packs: usize) {
    // Rows such that the sums fill the vector registers, but for those of the factors.
    if target_cfg_f!(any(target_feature = "fma", target_feature = "neon")) {
        rows::<true, 6>(from, stride, panel, to, packs);
    } else {
        rows::<false, 2>(from, stride, panel, to, packs);
    }
}

#[inline(always)]
fn rows<const FUSED: bool, const ROWS: usize>(
    from: &[f32],
    stride: usize,
    panel: &[f32],
    to: &mut [f32],
    packs: usize,
) {
    for first in
        (0..packs).flat_map(|pack| (0..PACKED).step_by(ROWS).map(move |tile| pack * PACK + tile * BLOCK))
    {
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

/// `sums += factor * values`, rounded once where the machine can.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(sums: &mut [f32; BLOCK], factor: f32, values: &[f32; BLOCK]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = if FUSED { factor.mul_add(*value, *sum) } else { factor * value + *sum };
    }
}
