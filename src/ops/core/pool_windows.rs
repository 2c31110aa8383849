//! What poolings have in common: windows along each axis, and how their pixels become one value or share a gradient.

use super::cpu::{fill_map, row};
use super::shape::{MapLayout, mismatch};
use super::{AdjointOperand, CpuKernel, Dispatch, Op, Operand, Shape};
use crate::error::Result;
use std::ops::Range;

/// What a window is reduced to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Its largest value. The gradient goes to the first maximum in row-major order.
    Max,
    /// Its mean.
    Average,
}

/// One axis of a window: its pixels `start..end`, and by how many positions an average divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Window {
    pub start: usize,
    pub end: usize,
    pub count: usize,
}

/// Iterations of a loop over rows and one over columns inside it.
pub(in crate::ops) fn nested([rows, columns]: [usize; 2]) -> usize {
    rows * (1 + columns)
}

impl PoolKind {
    /// Loop iterations of one invocation of the adjoint, at most, where so many windows share a pixel.
    pub(in crate::ops) fn backward_loops(self, window: [usize; 2], sharing: [usize; 2]) -> usize {
        let search = if self == Self::Max { nested(window) } else { 0 };
        nested(sharing) + sharing[0] * sharing[1] * search
    }

    /// What the adjoint reads: max searches x again for its maxima.
    pub(in crate::ops) fn operands(self) -> &'static [AdjointOperand] {
        match self {
            Self::Max => &[AdjointOperand::Input(0), AdjointOperand::Upstream],
            Self::Average => &[AdjointOperand::Upstream],
        }
    }

    /// Pools in f64 over the windows along each axis.
    pub(in crate::ops) fn reference(self, x: &[f64], input: MapLayout, axes: &[Vec<Window>; 2]) -> Vec<f64> {
        each_window(input, axes)
            .map(|(pixels, divisor)| match self {
                Self::Max => x[first_maximum(x, &pixels)],
                Self::Average => pixels.iter().map(|p| x[*p]).sum::<f64>() / divisor,
            })
            .collect()
    }

    /// The adjoint in f64, on the adjoint's inputs: every window hands its gradient down to its pixels.
    pub(in crate::ops) fn reference_backward(
        self,
        inputs: &[&[f64]],
        input: MapLayout,
        axes: &[Vec<Window>; 2],
    ) -> Vec<f64> {
        let mut dx = vec![0.0; input.channels * input.pixels()];
        match self {
            Self::Max => {
                let (x, dy) = (inputs[0], inputs[1]);
                for ((pixels, _), d) in each_window(input, axes).zip(dy) {
                    dx[first_maximum(x, &pixels)] += d;
                }
            }
            Self::Average => {
                for ((pixels, divisor), d) in each_window(input, axes).zip(inputs[inputs.len() - 1]) {
                    pixels.iter().for_each(|p| dx[*p] += d / divisor);
                }
            }
        }
        dx
    }
}

/// Binds an adjoint's inputs: dy, and before it x if the adjoint reads it.
pub(in crate::ops) fn bind_backward(dispatch: Dispatch, reads_x: bool) -> Dispatch {
    let dispatch = if reads_x {
        dispatch.bind("input", Operand::Input(0)).bind("upstream", Operand::Input(1))
    } else {
        dispatch.bind("upstream", Operand::Input(0))
    };
    dispatch.bind("output", Operand::Output)
}

/// For each output element in logical order: its pixels in row-major order, and the average's divisor.
fn each_window(input: MapLayout, axes: &[Vec<Window>; 2]) -> impl Iterator<Item = (Vec<usize>, f64)> {
    let MapLayout { channels, height, width } = input;
    let [rows, columns] = axes;
    (0..channels).flat_map(move |c| {
        rows.iter().flat_map(move |row| {
            columns.iter().map(move |column| {
                let pixels = (row.start..row.end)
                    .flat_map(|y| (column.start..column.end).map(move |x| (c * height + y) * width + x));
                (pixels.collect(), (row.count * column.count) as f64)
            })
        })
    })
}

/// The first maximum. Beside NaN it is the last NaN, which the forward pass keeps; references of adjoints are not meant for
/// NaN.
fn first_maximum(x: &[f64], pixels: &[usize]) -> usize {
    pixels.iter().fold(pixels[0], |best, p| if x[*p] > x[best] || x[*p].is_nan() { *p } else { best })
}

/// Shape of the x that `forward` maps to the shape of `upstream`, for adjoints that know x's size; `name` is
/// the adjoint's.
pub(in crate::ops) fn shape_before(
    name: &str,
    forward: &dyn Op,
    size: [usize; 2],
    upstream: Shape,
) -> Result<Shape> {
    let input = Shape::map(upstream.expect_map(name)?.channels, size[0], size[1]);
    let expected = forward.output(&[input])?;
    if upstream != expected {
        let message = format!("upstream is {upstream}, but {input} gives {expected}");
        return Err(mismatch(name, &message));
    }
    Ok(input)
}

/// The larger of two values, the first if they are equal; NaN if either is, so that a run notices it.
pub(in crate::ops) fn larger(best: f32, value: f32) -> f32 {
    if value > best || value.is_nan() { value } else { best }
}

/// Texels of some columns of a row of texels.
fn columns(row: &[f32], window: Window) -> &[[f32; 4]] {
    &row.as_chunks::<4>().0[window.start..window.end]
}

/// The windows, in order along an axis, that hold a position.
fn holding(windows: &[Window], position: usize) -> Range<usize> {
    let first = windows.partition_point(|window| window.end <= position);
    let end = windows.partition_point(|window| window.start <= position);
    first..end.max(first)
}

impl PoolKind {
    /// The CPU kernel over the windows along each axis.
    pub(in crate::ops) fn cpu(
        self,
        input: MapLayout,
        output: MapLayout,
        axes: [Vec<Window>; 2],
    ) -> CpuKernel {
        let [rows, across] = axes;
        CpuKernel::new(move |call| {
            let x = call.inputs[0];
            fill_map(output, call.output, |quad, y, texels| {
                let down = rows[y];
                let texels = texels.as_chunks_mut::<4>().0;
                for (texel, window) in texels.iter_mut().zip(&across) {
                    let lines = (down.start..down.end).map(|y| columns(row(x, input, quad, y), *window));
                    *texel = match self {
                        Self::Max => maximum(lines),
                        Self::Average => {
                            let count = (down.count * window.count) as f32;
                            sum(lines).map(|sum| sum / count)
                        }
                    };
                }
            });
        })
    }

    /// The CPU kernel of the adjoint, on its inputs; `rectified` as in [`super::PoolBackward`].
    pub(in crate::ops) fn cpu_backward(
        self,
        input: MapLayout,
        output: MapLayout,
        axes: [Vec<Window>; 2],
        rectified: bool,
    ) -> CpuKernel {
        let [rows, across] = axes;
        CpuKernel::new(move |call| {
            let (x, dy) = (call.inputs[0], call.inputs[call.inputs.len() - 1]);
            // Every row of dx takes what is its own from the windows that hold it.
            fill_map(input, call.output, |quad, y, texels| {
                texels.fill(0.0);
                let dx = texels.as_chunks_mut::<4>().0;
                for over in holding(&rows, y) {
                    let down = rows[over];
                    let upstream = row(dy, output, quad, over).as_chunks::<4>().0;
                    for (window, d) in across.iter().zip(upstream) {
                        match self {
                            Self::Max => {
                                let lines =
                                    (down.start..down.end).map(|y| columns(row(x, input, quad, y), *window));
                                let own = first_maxima(lines, y - down.start);
                                let places = own.iter().zip(d).enumerate();
                                for (channel, (place, d)) in places {
                                    if let Some(place) = place {
                                        dx[window.start + place][channel] += d;
                                    }
                                }
                            }
                            Self::Average => {
                                let count = (down.count * window.count) as f32;
                                let share = d.map(|d| d / count);
                                for dx in &mut dx[window.start..window.end] {
                                    dx.iter_mut().zip(share).for_each(|(dx, share)| *dx += share);
                                }
                            }
                        }
                    }
                }
                if rectified {
                    let x = row(x, input, quad, y);
                    texels.iter_mut().zip(x).for_each(|(dx, x)| *dx = if *x > 0.0 { *dx } else { 0.0 });
                }
            });
        })
    }
}

/// The largest value of each channel.
fn maximum<'a>(mut lines: impl Iterator<Item = &'a [[f32; 4]]>) -> [f32; 4] {
    let first = lines.next().unwrap_or_default();
    // No window is empty.
    let best = first.first().copied().unwrap_or_default();
    std::iter::once(first).chain(lines).flatten().fold(best, |mut best, texel| {
        best.iter_mut().zip(texel).for_each(|(best, value)| *best = larger(*best, *value));
        best
    })
}

/// The sum of each channel. Row by row, so that a mean over a whole map doesn't add small values to one huge sum.
fn sum<'a>(lines: impl Iterator<Item = &'a [[f32; 4]]>) -> [f32; 4] {
    let add = |mut sum: [f32; 4], texel: &[f32; 4]| {
        sum.iter_mut().zip(texel).for_each(|(sum, value)| *sum += value);
        sum
    };
    lines.fold([0.0; 4], |sum, line| add(sum, &line.iter().fold([0.0; 4], add)))
}

/// For each channel the column of the window's first maximum, if it lies in line `own`. A window with NaN has none.
fn first_maxima<'a>(lines: impl Iterator<Item = &'a [[f32; 4]]>, own: usize) -> [Option<usize>; 4] {
    let mut best: [Option<(f32, [usize; 2])>; 4] = [None; 4];
    let mut comparable = [true; 4];
    for (line, texels) in lines.enumerate() {
        for (column, texel) in texels.iter().enumerate() {
            for channel in 0..4 {
                let value = texel[channel];
                comparable[channel] &= !value.is_nan();
                if best[channel].is_none_or(|(best, _)| value > best) {
                    best[channel] = Some((value, [line, column]));
                }
            }
        }
    }
    [0, 1, 2, 3].map(|channel| {
        let (_, [line, column]) = best[channel].filter(|_| comparable[channel])?;
        (line == own).then_some(column)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the comparisons in pool.wgsl decide: the first of equal maxima, and none beside NaN.
    #[test]
    fn the_first_maximum_wins_and_none_beside_nan() {
        let texels = [[1.0, 2.0, f32::NAN, 0.0], [3.0, 2.0, 5.0, 0.0], [3.0, 1.0, 5.0, f32::NAN]];
        let lines = || texels.chunks(2);
        assert_eq!(first_maxima(lines(), 0), [Some(1), Some(0), None, None]);
        assert_eq!(first_maxima(lines(), 1), [None; 4]);
        let negative = [[-2.0; 4], [-1.0; 4]];
        assert_eq!(first_maxima(negative.chunks(1), 1), [Some(0); 4]);
        assert_eq!(maximum(negative.chunks(1)), [-1.0; 4]);
    }
}
