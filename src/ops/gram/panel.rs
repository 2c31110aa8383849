//! Panels of a map: texels as rows, for the matrix products of the CPU device.

use crate::ops::MapLayout;
use crate::ops::cpu::Scratch;
use crate::ops::half_precision::to_single;
use crate::ops::product::{MatrixRef, product};
use rayon::prelude::*;
use std::ops::Range;

/// Texels of a map as rows of channels, the layout of a matrix product (quads have the channels split). A panel has few
/// enough texels for a core's cache. Borders are zero and add nothing.
pub(super) struct Panel {
    pub values: Scratch,
    /// Floats from one texel to the next; not a power of two, so that the rows don't map to the same cache sets.
    pub stride: usize,
}

impl Panel {
    /// Floats of a panel, and the fewest and most texels.
    const FLOATS: usize = 128 * 1024;
    const TEXELS: [usize; 2] = [128, 1024];

    /// Texels per panel of such a map.
    pub fn texels(map: MapLayout) -> usize {
        (Self::FLOATS / (map.quads() * 4)).clamp(Self::TEXELS[0], Self::TEXELS[1])
    }

    pub fn new(map: MapLayout, texels: usize) -> Self {
        let stride = map.quads() * 4 + 16;
        Self { values: Scratch::new(texels * stride), stride }
    }

    /// Copies these texels from all planes.
    pub fn load(&mut self, map: MapLayout, stored: &[f32], texels: Range<usize>) {
        let planes = stored.chunks_exact(map.plane() * 4).take(map.quads());
        for (quad, plane) in planes.enumerate() {
            self.place(quad, &plane[texels.start * 4..texels.end * 4]);
        }
    }

    /// Same as [`Panel::load`], for the bits of a map in half precision.
    pub fn load_half(&mut self, map: MapLayout, bits: &[u16], texels: Range<usize>) {
        let mut single = vec![0.0; texels.len() * 4];
        let planes = bits.chunks_exact(map.plane() * 4).take(map.quads());
        for (quad, plane) in planes.enumerate() {
            to_single(&plane[texels.start * 4..texels.end * 4], &mut single);
            self.place(quad, &single);
        }
    }

    /// Copies one quad's texels into all rows.
    fn place(&mut self, quad: usize, texels: &[f32]) {
        for (row, texel) in self.values.chunks_exact_mut(self.stride).zip(texels.as_chunks::<4>().0) {
            row[quad * 4..quad * 4 + 4].copy_from_slice(texel);
        }
    }

    /// The first `texels` texels as a matrix, one row each with `channels` columns.
    pub fn matrix(&self, texels: usize, channels: usize) -> MatrixRef<'_> {
        MatrixRef::new(&self.values, texels, channels, self.stride)
    }
}

/// Floats of all partial matrices of a Gram matrix together, and the fewest and most of these matrices.
pub(super) const PARTIALS: usize = 4 << 20;
pub(super) const PARTIAL_COUNT: [usize; 2] = [8, 64];

/// With fewer parts of a map than this, the product of a part is itself split by channels.
pub(super) const FEW_PARTS: usize = 8;
/// Fewest channels of such a split.
pub(super) const FEWEST_CHANNELS: usize = 64;

/// Partial Gram matrix of some texels, row-major without padding. Only blocks on and left of the diagonal are valid;
/// the rest is unspecified. With `few` partial matrices the blocks are smaller, so that all threads have work.
pub(super) fn partial_gram(map: MapLayout, stored: &[f32], texels: Range<usize>, few: bool) -> Vec<f32> {
    let channels = map.channels;
    // Not scratch memory: many of these are alive at once and would take the large buffers kept for other kernels.
    let mut sums = vec![0.0; channels * channels];
    // Panels of equal size except the last.
    let panels = texels.len().div_ceil(Panel::texels(map)).max(1);
    let step = texels.len().div_ceil(panels).max(1);
    let mut panel = Panel::new(map, step);
    // Each block of rows ends at its own last column, which saves over a third of the work with many channels.
    let block =
        if few { FEWEST_CHANNELS } else { channels.div_ceil(4).next_multiple_of(32).max(FEWEST_CHANNELS) };
    for first in texels.clone().step_by(step) {
        let count = step.min(texels.end - first);
        panel.load(map, stored, first..first + count);
        let features = panel.matrix(count, channels);
        // The longest blocks first.
        sums.par_chunks_mut(block * channels).enumerate().rev().for_each(|(index, rows)| {
            let height = rows.len() / channels;
            let left = features.transposed().some_rows(index * block, height);
            let right = features.first_columns(index * block + height);
            product(left, right, rows, channels, 1.0, first > texels.start);
        });
    }
    sums
}
