//! Shared code of the pooling ops: windows along each axis, and the forward and backward pass over them.

use super::cpu::{fill_map, row};
use super::shape::{MapLayout, mismatch};
use super::{AdjointOperand, CpuKernel, Dispatch, Op, Operand, Shape};
use crate::error::Result;
use std::ops::Range;

/// Reduction of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Its largest value. The gradient goes to the first maximum in row-major order.
    Max,
    /// Its mean.
    Average,
}

/// One axis of a window: its pixels `start..end`, and the length `count` that an average divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Window {
    pub start: usize,
    pub end: usize,
    pub count: usize,
}

/// Iterations of a loop over rows with an inner loop over columns.
pub(in crate::ops) fn nested([rows, columns]: [usize; 2]) -> usize {
    rows * (1 + columns)
}

impl PoolKind {
    /// Upper bound on the loop iterations of one invocation of the adjoint; `sharing` is the number of windows that
    /// share a pixel.
    pub(in crate::ops) fn backward_loops(self, window: [usize; 2], sharing: [usize; 2]) -> usize {
        let search = if self == Self::Max { nested(window) } else { 0 };
        nested(sharing) + sharing[0] * sharing[1] * search
    }

    /// Operands of the adjoint: max searches x again for its maxima.
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

    /// Adjoint in f64, on the adjoint's inputs: every window adds its gradient to its pixels.
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

/// Binds an adjoint's inputs: dy and, if the adjoint reads it, x before it.
pub(in crate::ops) fn bind_backward(dispatch: Dispatch, reads_x: bool) -> Dispatch {
    let dispatch = if reads_x {
        dispatch.bind("input", Operand::Input(0)).bind("upstream", Operand::Input(1))
    } else {
        dispatch.bind("upstream", Operand::Input(0))
    };
    dispatch.bind("output", Operand::Output)
}

/// For each output element in logical order, its pixels in row-major order and the average's divisor.
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

/// Position of the first maximum or, with NaN, of the last NaN, which the forward pass returns. References of adjoints
/// don't support NaN.
fn first_maximum(x: &[f64], pixels: &[usize]) -> usize {
    pixels.iter().fold(pixels[0], |best, p| if x[*p] > x[best] || x[*p].is_nan() { *p } else { best })
}

/// Shape of the x that `forward` maps to the shape of `upstream`, for adjoints with x's size as an attribute; `name` is
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

/// The larger of two values, the first if they are equal; NaN if either is NaN, so that a run detects it.
pub(in crate::ops) fn larger(best: f32, value: f32) -> f32 {
    if value > best || value.is_nan() { value } else { best }
}

/// Texels of a window's columns in a row of texels.
fn columns(row: &[f32], window: Window) -> &[[f32; 4]] {
    &row.as_chunks::<4>().0[window.start..window.end]
}

/// Range of the windows, in order along an axis, that contain a position.
fn holding(windows: &[Window], position: usize) -> Range<usize> {
    let first = windows.partition_point(|window| window.end <= position);
    let end = windows.partition_point(|window| window.start <= position);
    first..end.max(first)
}

impl PoolKind {
    /// CPU kernel of the pooling over the windows along each axis.
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

    /// CPU kernel of the adjoint, on its inputs; `rectified` as in [`super::PoolBackward`].
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
            // Every row of dx gathers from the windows that contain it.
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

/// Maximum of each channel.
fn maximum<'a>(mut lines: impl Iterator<Item = &'a [[f32; 4]]>) -> [f32; 4] {
    let first = lines.next().unwrap_or_default();
    // No window is empty.
    let best = first.first().copied().unwrap_or_default();
    std::iter::once(first).chain(lines).flatten().fold(best, |mut best, texel| {
        best.iter_mut().zip(texel).for_each(|(best, value)| *best = larger(*best, *value));
        best
    })
}

/// Sum of each channel. Row by row, so that a mean over a whole map doesn't add small values to one huge sum.
fn sum<'a>(lines: impl Iterator<Item = &'a [[f32; 4]]>) -> [f32; 4] {
    let add = |mut sum: [f32; 4], texel: &[f32; 4]| {
        sum.iter_mut().zip(texel).for_each(|(sum, value)| *sum += value);
        sum
    };
    lines.fold([0.0; 4], |sum, line| add(sum, &line.iter().fold([0.0; 4], add)))
}

/// For each channel, the column of the window's first maximum if it is in line `own`. A window with NaN has none.
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

    /// Same rule as in pool.wgsl: the first of equal maxima, and none with NaN.
    #[test]
    fn first_maximum_wins_and_nan_gives_none() {
        let texels = [[1.0, 2.0, f32::NAN, 0.0], [3.0, 2.0, 5.0, 0.0], [3.0, 1.0, 5.0, f32::NAN]];
        let lines = || texels.chunks(2);
        assert_eq!(first_maxima(lines(), 0), [Some(1), Some(0), None, None]);
        assert_eq!(first_maxima(lines(), 1), [None; 4]);
        let negative = [[-2.0; 4], [-1.0; 4]];
        assert_eq!(first_maxima(negative.chunks(1), 1), [Some(0); 4]);
        assert_eq!(maximum(negative.chunks(1)), [-1.0; 4]);
    }
}
