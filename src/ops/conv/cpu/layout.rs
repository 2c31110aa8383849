//! Blocks of 16 channels, and the position of a convolution's output relative to its input.

use crate::ops::MapLayout;

/// Channels per block.
pub(super) const BLOCK: usize = 16;
/// Quads per block.
pub(super) const QUADS: usize = BLOCK / 4;

/// Number of blocks for this many channels.
pub(super) fn blocks(channels: usize) -> usize {
    channels.div_ceil(BLOCK)
}

/// A convolution with 3x3 taps (or one): output pixel (y, x) sums the input's pixels starting at (y + origin, x +
/// origin), with zeros beyond the edge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placement {
    pub input: MapLayout,
    pub output: MapLayout,
    pub origin: isize,
}

/// Splits a map into bands of `height` rows of pixels, each row with the border texel before it: a band lists the rows
/// of quad 0, then those of quad 1, and so on. Zeroes all borders.
pub(super) fn bands(layout: MapLayout, map: &mut [f32], height: usize) -> Vec<Vec<&mut [f32]>> {
    let mut bands: Vec<Vec<&mut [f32]>> = Vec::new();
    bands.resize_with(layout.height.div_ceil(height), Vec::new);
    let (planes, end) = map.split_at_mut(layout.quads() * layout.plane() * 4);
    end.fill(0.0);
    for plane in planes.chunks_exact_mut(layout.plane() * 4) {
        let (top, rows) = plane.split_at_mut(layout.pitch() * 4);
        top.fill(0.0);
        for (y, row) in rows.chunks_exact_mut(layout.pitch() * 4).enumerate() {
            row[..4].fill(0.0);
            bands[y / height].push(row);
        }
    }
    bands
}
