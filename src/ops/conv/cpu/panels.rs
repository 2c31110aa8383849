//! Repacks panels of forward weights for the adjoint.

use super::layout::BLOCK;
use multiversion::multiversion;
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, cast, x86::V4};

/// Weights of 16 channels by 16.
type Square = [[f32; BLOCK]; BLOCK];

/// Fills the panel of a block of input channels, `[output][input % 16]`, from one position's weights in forward order,
/// `[output / 16][input][output % 16]`, with `blocks` blocks of inputs.
pub(super) fn transpose_panel(weights: &[f32], block: usize, blocks: usize, panel: &mut [f32]) {
    let squares = weights.as_chunks::<BLOCK>().0.as_chunks::<BLOCK>().0;
    let panel = panel.as_chunks_mut::<BLOCK>().0.as_chunks_mut::<BLOCK>().0;
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = V4::try_new() {
        return simd.vectorize(Wide { simd, squares, block, blocks, panel });
    }
    narrow(squares, block, blocks, panel);
}

/// Transposes four weights at a time.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn narrow(squares: &[Square], block: usize, blocks: usize, panel: &mut [Square]) {
    for (square, to) in panel.iter_mut().enumerate() {
        let from = &squares[block + square * blocks];
        for (quad, rows) in from.as_chunks::<4>().0.iter().enumerate() {
            for column in 0..BLOCK / 4 {
                for output in 0..4 {
                    let values = rows.map(|row| row[column * 4 + output]);
                    to[column * 4 + output][quad * 4..quad * 4 + 4].copy_from_slice(&values);
                }
            }
        }
    }
}

/// AVX-512 version: 16 vectors in 64 steps, which LLVM does not generate.
#[cfg(target_arch = "x86_64")]
struct Wide<'a> {
    simd: V4,
    squares: &'a [Square],
    block: usize,
    blocks: usize,
    panel: &'a mut [Square],
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Wide<'_> {
    type Output = ();

    // No closures: they would not be compiled for AVX-512.
    #[inline(always)]
    fn call(self) {
        let avx = self.simd.avx512f;
        for (square, to) in self.panel.iter_mut().enumerate() {
            let from = &self.squares[self.block + square * self.blocks];
            // For each four rows, one column of each quarter of the vectors.
            let mut fours = [[avx._mm512_setzero_ps(); 4]; 4];
            for (four, rows) in from.as_chunks::<4>().0.iter().enumerate() {
                let [a, b, c, d] = [cast(rows[0]), cast(rows[1]), cast(rows[2]), cast(rows[3])];
                let low = [cast(avx._mm512_unpacklo_ps(a, b)), cast(avx._mm512_unpacklo_ps(c, d))];
                let high = [cast(avx._mm512_unpackhi_ps(a, b)), cast(avx._mm512_unpackhi_ps(c, d))];
                fours[four] = [
                    cast(avx._mm512_unpacklo_pd(low[0], low[1])),
                    cast(avx._mm512_unpackhi_pd(low[0], low[1])),
                    cast(avx._mm512_unpacklo_pd(high[0], high[1])),
                    cast(avx._mm512_unpackhi_pd(high[0], high[1])),
                ];
            }
            for column in 0..4 {
                let [a, b] = [fours[0][column], fours[1][column]];
                let [c, d] = [fours[2][column], fours[3][column]];
                // Quarters 0 and 2 of both, then 1 and 3.
                let even = [avx._mm512_shuffle_f32x4::<0x88>(a, b), avx._mm512_shuffle_f32x4::<0x88>(c, d)];
                let odd = [avx._mm512_shuffle_f32x4::<0xdd>(a, b), avx._mm512_shuffle_f32x4::<0xdd>(c, d)];
                to[column] = cast(avx._mm512_shuffle_f32x4::<0x88>(even[0], even[1]));
                to[4 + column] = cast(avx._mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]));
                to[8 + column] = cast(avx._mm512_shuffle_f32x4::<0xdd>(even[0], even[1]));
                to[12 + column] = cast(avx._mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_transposed() {
        let (blocks, outputs) = (3, 2);
        let weights: Vec<f32> = (0..outputs * blocks * BLOCK * BLOCK).map(|value| value as f32).collect();
        for block in 0..blocks {
            let mut found = vec![f32::NAN; outputs * BLOCK * BLOCK];
            transpose_panel(&weights, block, blocks, &mut found);
            let mut plain = vec![[[f32::NAN; BLOCK]; BLOCK]; outputs];
            narrow(weights.as_chunks::<BLOCK>().0.as_chunks::<BLOCK>().0, block, blocks, &mut plain);
            for output in 0..outputs * BLOCK {
                for input in 0..BLOCK {
                    let at =
                        (output / BLOCK * blocks * BLOCK + block * BLOCK + input) * BLOCK + output % BLOCK;
                    assert_eq!(found[output * BLOCK + input], weights[at], "{block} {output} {input}");
                    assert_eq!(
                        plain[output / BLOCK][output % BLOCK][input],
                        weights[at],
                        "{block} {output} {input}"
                    );
                }
            }
        }
    }
}
