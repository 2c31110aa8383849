//! The 2x2 max pool after a convolution, and its adjoint.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators that are not inlined are compiled without the vector instructions"
)]

use crate::ops::MapLayout;
use crate::ops::conv::pool_indices::PoolIndices;
use crate::ops::cpu::{fill_map, row};
use crate::ops::lanes::{keep, mask};
use multiversion::multiversion;
use rayon::prelude::*;

/// Pools a rectified map and writes the pool indices.
pub(super) fn pool(of: PoolIndices, map: &[f32], pooled: &mut [f32], indices: &mut [f32]) {
    let [half, layout] = [of.pooled(), of.layout()];
    let planes = planes(half, pooled).zip(planes(layout, indices)).enumerate();
    planes.for_each(|(quad, (pooled, indices))| {
        let [pitch, index_pitch] = [half.pitch(), layout.pitch()].map(|texels| texels * 4);
        // A row of indices covers two rows of the pooled map.
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

/// Pools two rows into one; `line`, 0 or 1, is the row within the windows of the pool indices. Uses masks instead of
/// branches, since the position of the maximum is unpredictable.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn pool_row([above, below]: [&[f32]; 2], line: usize, pooled: &mut [f32], indices: &mut [f32]) {
    let pooled = pooled.as_chunks_mut::<4>().0;
    let (above, below) = (above.as_chunks::<8>().0, below.as_chunks::<8>().0);
    for x in 0..pooled.len().min(above.len()).min(below.len()) {
        let (a, b) = (&above[x], &below[x]);
        let mut best = [a[0], a[1], a[2], a[3]];
        let mut bits = [1; 4];
        take_larger(&mut best, &mut bits, &a[4..], 2);
        take_larger(&mut best, &mut bits, &b[..4], 4);
        take_larger(&mut best, &mut bits, &b[4..], 8);
        for lane in 0..4 {
            bits[lane] &= mask(best[lane] > 0.0);
        }
        pooled[x] = best;
        indices[x / 2 * 4 + line * 2 + x % 2] =
            (bits[0] | bits[1] << 4 | bits[2] << 8 | bits[3] << 12) as f32;
    }
}

/// Where `value` is larger or NaN, stores it in `best` and `bit` in `bits`.
#[inline(always)]
fn take_larger(best: &mut [f32; 4], bits: &mut [u32; 4], value: &[f32], bit: u32) {
    for lane in 0..4 {
        let mask = mask((value[lane] > best[lane]) | value[lane].is_nan());
        best[lane] = f32::from_bits(value[lane].to_bits() & mask | best[lane].to_bits() & !mask);
        bits[lane] = bit & mask | bits[lane] & !mask;
    }
}

/// Computes the gradient of the map from that of the pooled map.
pub(super) fn route(of: PoolIndices, indices: &[f32], upstream: &[f32], gradient: &mut [f32]) {
    let [half, layout] = [of.pooled(), of.layout()];
    fill_map(of.map, gradient, |quad, y, to| {
        if y / 2 >= half.height {
            return to.fill(0.0);
        }
        route_row(row(upstream, half, quad, y / 2), row(indices, layout, quad, y / 4), y, to);
    });
}

/// Computes row `y` of the gradient; `indices` is the row of pool indices that covers it.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn route_row(upstream: &[f32], indices: &[f32], y: usize, to: &mut [f32]) {
    let upstream = upstream.as_chunks::<4>().0;
    let (to, rest) = to.as_chunks_mut::<8>();
    rest.fill(0.0);
    for x in 0..to.len().min(upstream.len()) {
        let bits = indices[x / 2 * 4 + y / 2 % 2 * 2 + x % 2] as u32 >> (y % 2 * 2);
        let (from, to) = (&upstream[x], &mut to[x]);
        for lane in 0..4 {
            let bits = bits >> (4 * lane);
            to[lane] = keep(from[lane], bits & 1 != 0);
            to[4 + lane] = keep(from[lane], bits & 2 != 0);
        }
    }
}

/// Planes of a map, each with a row of border before its pixels. Zeroes the closing border.
fn planes(layout: MapLayout, map: &mut [f32]) -> impl IndexedParallelIterator<Item = &mut [f32]> {
    let (planes, end) = map.split_at_mut(layout.quads() * layout.plane() * 4);
    end.fill(0.0);
    let top = layout.pitch() * 4;
    planes.par_chunks_exact_mut(layout.plane() * 4).map(move |plane| {
        plane[..top].fill(0.0);
        plane
    })
}
