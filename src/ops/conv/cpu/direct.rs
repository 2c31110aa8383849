//! Direct sum over taps and channels, for few input channels and where Winograd's rounding error is not acceptable.

use super::epilogue::Epilogue;
use super::layout::{BLOCK, Placement, QUADS, bands};
use super::products::multiply_add;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

/// Pixels of a row that are computed together.
const PIXELS: usize = 6;

/// Convolution with a kernel of 3x3 or 1x1 pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct {
    place: Placement,
    taps: usize,
}

/// Sums of one run of pixels, by pixel and channel.
type Sums = [[f32; BLOCK]; PIXELS];

impl Direct {
    /// True if every pixel read lies inside the input and its border, and rows are long enough.
    pub fn takes(place: Placement) -> bool {
        place.output.width >= PIXELS && place.origin >= -1
    }

    pub fn new(place: Placement, taps: u32) -> Self {
        Self { place, taps: taps as usize }
    }

    /// Computes `output` from `input` with the weights of [`super::weights::direct`].
    pub fn run(&self, input: &[f32], weights: &[f32], epilogue: &Epilogue<'_>, output: &mut [f32]) {
        let to = self.place.output;
        let panel = self.taps * self.place.input.quads() * 4 * BLOCK;
        bands(to, output, 1).into_par_iter().enumerate().for_each(|(y, mut rows)| {
            for (block, (rows, panel)) in rows.chunks_mut(QUADS).zip(weights.chunks_exact(panel)).enumerate()
            {
                for start in (0..to.width).step_by(PIXELS) {
                    // The last run overlaps the one before.
                    let first = start.min(to.width - PIXELS);
                    let mut sums = [[0.0; BLOCK]; PIXELS];
                    self.sum(input, panel, y, first, &mut sums);
                    for (quad, row) in rows.iter_mut().enumerate() {
                        let mut values = [[0.0; 4]; PIXELS];
                        for (to, sums) in values.iter_mut().zip(&sums) {
                            to.copy_from_slice(&sums[quad * 4..quad * 4 + 4]);
                        }
                        let pixels = &mut row.as_chunks_mut::<4>().0[1..];
                        let quad = block * QUADS + quad;
                        let texel = to.texel(quad, y, first);
                        match pixels[start..].first_chunk_mut::<PIXELS>() {
                            Some(to) => epilogue.write(quad, texel, values, to),
                            None => {
                                for x in start..to.width {
                                    let target = std::array::from_mut(&mut pixels[x]);
                                    epilogue.write(quad, texel + x - first, [values[x - first]], target);
                                }
                            }
                        }
                    }
                }
            }
        });
    }

    /// Adds the sums of the pixels starting at (y, x).
    fn sum(&self, input: &[f32], panel: &[f32], y: usize, x: usize, sums: &mut Sums) {
        let from = self.place.input;
        let side = if self.taps == 9 { 3 } else { 1 };
        let rows = from.quads() * 4 * BLOCK;
        for (tap, panel) in panel.chunks_exact(rows).enumerate() {
            // The map's first texel is the border texel above and left of its first pixel.
            let above = (y + tap / side + 1).wrapping_add_signed(self.place.origin);
            let left = (x + tap % side + 1).wrapping_add_signed(self.place.origin);
            let start = above * from.pitch() + left;
            add_tap(&input[start * 4..], from.plane() * 4, panel, sums);
        }
    }
}

/// Adds one tap for all quads.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn add_tap(input: &[f32], plane: usize, panel: &[f32], sums: &mut Sums) {
    if target_cfg_f!(any(target_feature = "fma", target_feature = "neon")) {
        add_quads::<true>(input, plane, panel, sums);
    } else {
        add_quads::<false>(input, plane, panel, sums);
    }
}

#[inline(always)]
fn add_quads<const FUSED: bool>(input: &[f32], plane: usize, panel: &[f32], sums: &mut Sums) {
    let mut kept = *sums;
    for (quad, panel) in panel.chunks_exact(4 * BLOCK).enumerate() {
        let pixels = &input[quad * plane..][..PIXELS * 4];
        for (channel, weights) in panel.as_chunks::<BLOCK>().0.iter().enumerate() {
            for (pixel, sums) in kept.iter_mut().enumerate() {
                multiply_add::<FUSED>(sums, pixels[pixel * 4 + channel], weights);
            }
        }
    }
    *sums = kept;
}
