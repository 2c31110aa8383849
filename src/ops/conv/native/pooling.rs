//! The 2x2 max pool after a convolution, and the routing of its gradient.

use crate::ops::MapLayout;
use crate::ops::conv::pool_indices::PoolIndices;
use crate::ops::native::{fill_map, row};
use rayon::prelude::*;

/// Pools a rectified map and keeps the indices.
pub(super) fn pool(of: PoolIndices, map: &[f32], pooled: &mut [f32], indices: &mut [f32]) {
    let [half, layout] = [of.pooled(), of.layout()];
    let planes = planes(half, pooled).zip(planes(layout, indices)).enumerate();
    planes.for_each(|(quad, (pooled, indices))| {
        let [pitch, index_pitch] = [half.pitch(), layout.pitch()].map(|texels| texels * 4);
        // A row of indices belongs to two rows of the pooled map.
        let rows =
            pooled[pitch..].par_chunks_mut(2 * pitch).zip(indices[index_pitch..].par_chunks_mut(index_pitch));
        rows.enumerate().for_each(|(pair, (rows, indices))| {
            indices.fill(0.0);
            for (line, pooled) in rows.chunks_exact_mut(pitch).enumerate() {
                let y = 2 * pair + line;
                let (border, pooled) = pooled.split_at_mut(4);
                border.fill(0.0);
                let [above, below] = [0, 1].map(|line| row(map, of.map, quad, 2 * y + line));
                pool_row([above, below], line, pooled, &mut indices[4..]);
            }
        });
    });
}

/// Pools two rows; `line` is 0 or 1, the row of the indices' windows that this is.
fn pool_row([above, below]: [&[f32]; 2], line: usize, pooled: &mut [f32], indices: &mut [f32]) {
    let windows = above.as_chunks::<8>().0.iter().zip(below.as_chunks::<8>().0);
    let texels = pooled.as_chunks_mut::<4>().0.iter_mut().zip(windows);
    for (x, (best, (above, below))) in texels.enumerate() {
        let (a, b) = (above.as_chunks::<4>().0, below.as_chunks::<4>().0);
        let mut bits = [1u32; 4];
        *best = a[0];
        for (k, value) in [(1, a[1]), (2, b[0]), (3, b[1])] {
            for lane in 0..4 {
                let larger = value[lane] > best[lane];
                best[lane] = if larger { value[lane] } else { best[lane] };
                bits[lane] = if larger { 1 << k } else { bits[lane] };
            }
        }
        for lane in 0..4 {
            bits[lane] = if best[lane] > 0.0 { bits[lane] } else { 0 };
        }
        indices[x / 2 * 4 + line * 2 + x % 2] =
            (bits[0] | bits[1] << 4 | bits[2] << 8 | bits[3] << 12) as f32;
    }
}

/// The gradient of the map from that of the pooled map.
pub(super) fn route(of: PoolIndices, indices: &[f32], upstream: &[f32], gradient: &mut [f32]) {
    let [half, layout] = [of.pooled(), of.layout()];
    fill_map(of.map, gradient, |quad, y, to| {
        if y / 2 >= half.height {
            return to.fill(0.0);
        }
        let upstream = row(upstream, half, quad, y / 2).as_chunks::<4>().0;
        let indices = row(indices, layout, quad, y / 4);
        let windows = to.as_chunks_mut::<8>();
        windows.1.fill(0.0);
        for (x, (to, from)) in windows.0.iter_mut().zip(upstream).enumerate() {
            let bits = indices[x / 2 * 4 + y / 2 % 2 * 2 + x % 2] as u32 >> (y % 2 * 2);
            let passes = |place: usize, lane: usize| bits & 1 << (4 * lane + place) != 0;
            for lane in 0..4 {
                to[lane] = if passes(0, lane) { from[lane] } else { 0.0 };
                to[4 + lane] = if passes(1, lane) { from[lane] } else { 0.0 };
            }
        }
    });
}

/// The planes of a map, each with a row of border before its pixels, which becomes zero as the closing border does.
fn planes(layout: MapLayout, map: &mut [f32]) -> impl IndexedParallelIterator<Item = &mut [f32]> {
    let (planes, end) = map.split_at_mut(layout.quads() * layout.plane() * 4);
    end.fill(0.0);
    let top = layout.pitch() * 4;
    planes.par_chunks_exact_mut(layout.plane() * 4).map(move |plane| {
        plane[..top].fill(0.0);
        plane
    })
}
