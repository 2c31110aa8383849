//! Replicate padding: a map with its edge pixels repeated once on each side, and the adjoint.

use super::epilogue::Epilogue;
use super::layout::bands;
use crate::ops::MapLayout;
use crate::ops::cpu::fill_map;
use rayon::prelude::*;

/// Layout of the map with one more pixel on each side.
pub(super) fn padded(map: MapLayout) -> MapLayout {
    MapLayout { height: map.height + 2, width: map.width + 2, ..map }
}

/// Copies a map and repeats its edge pixels around it.
pub(super) fn repeat(map: &[f32], layout: MapLayout) -> Vec<f32> {
    let padded = padded(layout);
    let mut repeated = vec![0.0; padded.texels() * 4];
    fill_map(padded, &mut repeated, |quad, y, row| {
        let start = layout.texel(quad, y.saturating_sub(1).min(layout.height - 1), 0) * 4;
        let from = &map[start..start + layout.width * 4];
        let (first, rest) = row.split_at_mut(4);
        let (middle, last) = rest.split_at_mut(from.len());
        first.copy_from_slice(&from[..4]);
        middle.copy_from_slice(from);
        last.copy_from_slice(&from[from.len() - 4..]);
    });
    repeated
}

/// Adjoint of [`repeat`]: each edge pixel gets the sum of its copies' gradients.
pub(super) fn fold(gradient: &[f32], layout: MapLayout, epilogue: &Epilogue<'_>, output: &mut [f32]) {
    let from = padded(layout);
    // Range of padded rows (or columns) that are copies of this one, including itself.
    let copies = |at: usize, size: usize| {
        let first = if at == 0 { 0 } else { at + 1 };
        let last = if at + 1 == size { size + 1 } else { at + 1 };
        first..=last
    };
    bands(layout, output, 1).into_par_iter().enumerate().for_each(|(y, rows)| {
        for (quad, row) in rows.into_iter().enumerate() {
            for (x, to) in row.as_chunks_mut::<4>().0[1..].iter_mut().enumerate() {
                let mut sum = [0.0; 4];
                for above in copies(y, layout.height) {
                    for beside in copies(x, layout.width) {
                        let start = from.texel(quad, above, beside) * 4;
                        sum.iter_mut()
                            .zip(&gradient[start..start + 4])
                            .for_each(|(sum, value)| *sum += value);
                    }
                }
                epilogue.write(quad, layout.texel(quad, y, x), [sum], std::array::from_mut(to));
            }
        }
    });
}
