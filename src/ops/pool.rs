//! Max and average pooling over windows of a fixed size, and their adjoints.
//!
//! Same windows as PyTorch's `max_pool2d` and `avg_pool2d` (dilation 1, `count_include_pad` true). Along each axis
//! window `o` starts at pixel `o*stride - padding` and is `kernel` long; there are `floor((size + 2*padding - kernel) /
//! stride) + 1` windows. `ceil` rounds up instead, but drops a last window that would start after the input and its
//! left padding. Padding is minus infinity for max and zero for average; an average divides by the window's length
//! within the padded input.

use super::cpu::{fill_map, row};
use super::lanes::keep;
use super::pool_windows::{PoolKind, Window, bind_backward, larger, nested, shape_before};
use super::shape::{MapLayout, mismatch};
use super::{
    Adjoint, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, epilogue, window,
};
use crate::error::Result;
use crate::gpu::{Family, Profile};
use std::ops::Range;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// `y[c, i, j] = max or mean of x[c]` over window (i, j). Input: x, a map of any number of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Max or average.
    pub kind: PoolKind,
    /// Height and width of a window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Rows of padding above and below, columns left and right; at most half of the kernel.
    pub padding: [usize; 2],
    /// True to keep a partial last window.
    pub ceil: bool,
}

/// Adjoint of [`Pool`]. Inputs: x and dy for max or if `rectified`, dy alone otherwise. Output: a map of x's size,
/// which is an attribute since several sizes can give the same output. `dx[p]` sums over the windows that contain p:
/// for max, dy of those with their first maximum at p; for average, dy divided by the window's divisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolBackward {
    /// The forward op.
    pub pool: Pool,
    /// Height and width of x.
    pub size: [usize; 2],
    /// True to zero the gradient where x is not positive: fuses the adjoint of a ReLU before x.
    pub rectified: bool,
}

impl Pool {
    /// Adjacent 2x2 windows; an odd last row or column is dropped.
    pub const fn halve(kind: PoolKind) -> Self {
        Self { kind, kernel: [2, 2], stride: [2, 2], padding: [0, 0], ceil: false }
    }

    /// Number of windows along an axis of this input.
    fn windows(&self, axis: usize, input: MapLayout) -> Result<usize> {
        let size = [input.height, input.width][axis];
        let (kernel, stride, padding) = (self.kernel[axis], self.stride[axis], self.padding[axis]);
        if kernel == 0 || stride == 0 || padding * 2 > kernel {
            let message = format!(
                "kernel {kernel}, stride {stride}, padding {padding}: kernel and stride must be positive and the padding at most half of the kernel"
            );
            return Err(mismatch("pool", &message));
        }
        let slack = if self.ceil { stride - 1 } else { 0 };
        let Some(room) = (size + 2 * padding + slack).checked_sub(kernel).filter(|_| size > 0) else {
            let message = format!(
                "a map of {}x{} is too small for windows of {}x{} with padding {:?}; use a larger picture or an earlier layer",
                input.height, input.width, self.kernel[0], self.kernel[1], self.padding
            );
            return Err(mismatch("pool", &message));
        };
        let last = room / stride;
        let dropped = self.ceil && last * stride >= size + padding;
        Ok(if dropped { last } else { last + 1 })
    }

    /// Windows along both axes.
    fn axes(&self, input: MapLayout) -> Result<[Vec<Window>; 2]> {
        let along = |axis: usize| -> Result<Vec<Window>> {
            let size = [input.height, input.width][axis];
            let (kernel, padding) = (self.kernel[axis], self.padding[axis]);
            let windows = (0..self.windows(axis, input)?).map(|o| {
                let padded = o * self.stride[axis];
                Window {
                    start: padded.saturating_sub(padding),
                    end: (padded + kernel - padding).min(size),
                    count: (padded + kernel).min(size + 2 * padding) - padded,
                }
            });
            Ok(windows.collect())
        };
        Ok([along(0)?, along(1)?])
    }

    /// True if the 2x2 kernels support this pooling.
    fn is_halving(&self, input: MapLayout, output: MapLayout) -> bool {
        // With `ceil`, an odd size has an extra partial window.
        *self == (Self { ceil: self.ceil, ..Self::halve(self.kind) })
            && [output.height, output.width] == [input.height / 2, input.width / 2]
    }

    fn dispatch(&self, entry: &'static str, input: MapLayout, output: MapLayout) -> Dispatch {
        Dispatch::new("pool", entry)
            .size("in_height", input.height)
            .size("in_width", input.width)
            .size("out_height", output.height)
            .size("out_width", output.width)
            .size("quads", input.quads())
            .size("kernel_height", self.kernel[0])
            .size("kernel_width", self.kernel[1])
            .size("stride_y", self.stride[0])
            .size("stride_x", self.stride[1])
            .size("pad_y", self.padding[0])
            .size("pad_x", self.padding[1])
    }

    /// Dispatches of a forward entry point, writing to the output.
    fn forward(
        &self,
        entry: &'static str,
        (operand, input): (&Operand, MapLayout),
        output: MapLayout,
        device: &Profile,
    ) -> Vec<Dispatch> {
        let part = |quads: Range<usize>| {
            self.dispatch(entry, input.part(&quads), output.part(&quads))
                .bind("input", operand.clone())
                .bind("output", Operand::Output)
                .loops(nested(self.kernel))
                .linear(output.part(&quads).texels(), GROUP, device)
                .narrow(&[("input", input), ("output", output)], &quads)
        };
        window::quads(&[input, output], 1, device).into_iter().map(part).collect()
    }
}

/// Pools adjacent 2x2 windows of a stored map on the CPU; also a step of other kernels.
pub(super) fn cpu_halve(kind: PoolKind, map: &[f32], layout: MapLayout, output: &mut [f32]) {
    fill_map(halved(layout), output, |quad, y, texels| {
        let [upper, lower] = [0, 1].map(|line| row(map, layout, quad, 2 * y + line).as_chunks::<8>().0);
        for ((texel, a), b) in texels.as_chunks_mut::<4>().0.iter_mut().zip(upper).zip(lower) {
            for (channel, value) in texel.iter_mut().enumerate() {
                let four = [a[channel], a[channel + 4], b[channel], b[channel + 4]];
                *value = match kind {
                    PoolKind::Max => four[1..].iter().fold(four[0], |best, value| larger(best, *value)),
                    PoolKind::Average => 0.25 * ((four[0] + four[1]) + (four[2] + four[3])),
                };
            }
        }
    });
}

/// Layout of a map after pooling adjacent 2x2 windows.
pub(super) fn halved(map: MapLayout) -> MapLayout {
    MapLayout { height: map.height / 2, width: map.width / 2, ..map }
}

/// Dispatches that max-pool the map in `input` by 2x2 windows to the output.
pub(super) fn halve_max(map: MapLayout, input: &Operand, device: &Profile) -> Vec<Dispatch> {
    let pool = Pool::halve(PoolKind::Max);
    pool.forward("halve_max_forward", (input, map), halved(map), device)
}

/// Gradients of the upper or lower row of 2x2 windows, from both rows of x. `dx` is by window.
fn halve_max_backward(
    lines: [&[f32]; 2],
    upper: bool,
    rectified: bool,
    upstream: &[[f32; 4]],
    dx: &mut [[f32; 8]],
) {
    let [above, below] = lines.map(|line| line.as_chunks::<8>().0);
    for (((dx, d), a), b) in dx.iter_mut().zip(upstream).zip(above).zip(below) {
        for channel in 0..4 {
            let [v0, v1, v2, v3] = [a[channel], a[channel + 4], b[channel], b[channel + 4]];
            // Larger than all earlier values, not smaller than any later one; so a window with NaN has no maximum.
            let (left, right, values) = if upper {
                let left = (v0 >= v1) & (v0 >= v2) & (v0 >= v3);
                let right = (v1 > v0) & (v1 >= v2) & (v1 >= v3);
                (left, right, [v0, v1])
            } else {
                let left = (v2 > v0) & (v2 > v1) & (v2 >= v3);
                let right = (v3 > v0) & (v3 > v1) & (v3 > v2);
                (left, right, [v2, v3])
            };
            let passes = |value: f32| !rectified | (value > 0.0);
            dx[channel] = keep(d[channel], left & passes(values[0]));
            dx[channel + 4] = keep(d[channel], right & passes(values[1]));
        }
    }
}

impl Op for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let input = inputs[0].expect_map("pool")?;
        Ok(Shape::map(input.channels, self.windows(0, input)?, self.windows(1, input)?))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.inputs[0].expect_map("pool")?;
        let output = signature.output.expect_map("pool")?;
        let (halve, naive) = match self.kind {
            PoolKind::Max => ("halve_max_forward", "max_forward"),
            PoolKind::Average => ("halve_average_forward", "average_forward"),
        };
        let kernel = |variant, entry| {
            Kernel::of(variant, self.forward(entry, (&Operand::Input(0), input), output, device))
        };
        let mut kernels = Vec::new();
        if self.is_halving(input, output) && !device.prefers(Family::Naive) {
            kernels.push(kernel("halve", halve));
        }
        kernels.push(kernel("naive", naive));
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let input = signature.inputs[0].expect_map("pool")?;
        let output = signature.output.expect_map("pool")?;
        if !self.is_halving(input, output) {
            return Ok(self.kind.cpu(input, output, self.axes(input)?));
        }
        let kind = self.kind;
        Ok(CpuKernel::new(move |call| cpu_halve(kind, call.inputs[0], input, call.output)))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let input = shapes[0].layout().expect("a map");
        self.kind.reference(inputs[0], input, &self.axes(input).expect("a valid size"))
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let input = shapes[0].layout()?;
        let op = PoolBackward { pool: *self, size: [input.height, input.width], rectified: false };
        Adjoint::new(op, self.kind.operands())
    }

    fn flops(&self, signature: &Signature) -> u64 {
        (signature.output.elements() * self.kernel[0] * self.kernel[1]) as u64
    }
}

impl PoolBackward {
    /// True if the adjoint reads x.
    fn reads_x(&self) -> bool {
        self.rectified || self.pool.kind == PoolKind::Max
    }
}

impl Op for PoolBackward {
    fn name(&self) -> &'static str {
        "pool_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let upstream = inputs[usize::from(self.reads_x())];
        let input = shape_before("pool_backward", &self.pool, self.size, upstream)?;
        if self.reads_x() && inputs[0] != input {
            return Err(mismatch("pool_backward", &format!("x is {}, not {input}", inputs[0])));
        }
        Ok(input)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let pool = &self.pool;
        let input = signature.output.expect_map("pool_backward")?;
        let output = pool.output(&[signature.output])?.expect_map("pool_backward")?;
        let (halve, naive) = match pool.kind {
            PoolKind::Max => ("halve_max_backward", "max_backward"),
            PoolKind::Average => ("halve_average_backward", "average_backward"),
        };
        // Number of windows that share a pixel.
        let sharing = [0, 1].map(|axis| pool.kernel[axis].div_ceil(pool.stride[axis]));
        let kernel = |variant, entry, invocations: &dyn Fn(MapLayout) -> usize| {
            let part = |quads: Range<usize>| {
                let layout = input.part(&quads);
                let dispatch = pool
                    .dispatch(entry, layout, output.part(&quads))
                    .consts(&[("RECTIFIED", u32::from(self.rectified))]);
                bind_backward(dispatch, self.reads_x())
                    .loops(pool.kind.backward_loops(pool.kernel, sharing))
                    .linear(invocations(layout), GROUP, device)
                    .narrow(&[("input", input), ("upstream", output), ("output", input)], &quads)
            };
            let dispatches = window::quads(&[input, output], 1, device).into_iter().map(part).collect();
            Kernel::of(variant, dispatches)
        };
        let mut kernels = Vec::new();
        if pool.is_halving(input, output) && !device.prefers(Family::Naive) {
            // Blocks of 2x2 texels, see the shader; the closing border takes two more rows of blocks.
            let [down, across] = [input.height, input.width].map(|size| (size + 3) / 2);
            kernels.push(kernel("halve", halve, &|layout| (layout.quads() * down + 2) * across));
        }
        kernels.push(kernel("naive", naive, &|layout| layout.texels()));
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let input = signature.output.expect_map("pool_backward")?;
        let output = self.pool.output(&[signature.output])?.expect_map("pool_backward")?;
        let (kind, rectified) = (self.pool.kind, self.rectified);
        if !self.pool.is_halving(input, output) {
            return Ok(kind.cpu_backward(input, output, self.pool.axes(input)?, rectified));
        }
        Ok(CpuKernel::new(move |call| {
            let (x, dy) = (call.inputs[0], call.inputs[call.inputs.len() - 1]);
            fill_map(input, call.output, |quad, y, texels| {
                if y / 2 == output.height {
                    // An odd last row is in no window.
                    texels.fill(0.0);
                    return;
                }
                let upstream = row(dy, output, quad, y / 2).as_chunks::<4>().0;
                let (windows, rest) = texels.split_at_mut(output.width * 8);
                rest.fill(0.0);
                let windows = windows.as_chunks_mut::<8>().0;
                match kind {
                    PoolKind::Max => {
                        let lines = [0, 1].map(|line| row(x, input, quad, y / 2 * 2 + line));
                        halve_max_backward(lines, y % 2 == 0, rectified, upstream, windows);
                    }
                    PoolKind::Average if rectified => {
                        let line = row(x, input, quad, y).as_chunks::<8>().0;
                        for ((window, d), x) in windows.iter_mut().zip(upstream).zip(line) {
                            for channel in 0..4 {
                                let share = 0.25 * d[channel];
                                window[channel] = if x[channel] > 0.0 { share } else { 0.0 };
                                window[channel + 4] = if x[channel + 4] > 0.0 { share } else { 0.0 };
                            }
                        }
                    }
                    PoolKind::Average => {
                        for (window, d) in windows.iter_mut().zip(upstream) {
                            let share = d.map(|d| 0.25 * d);
                            window.as_chunks_mut::<4>().0.fill(share);
                        }
                    }
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let input = self.output(shapes).expect("valid shapes").layout().expect("a map");
        let axes = self.pool.axes(input).expect("a valid size");
        let mut dx = self.pool.kind.reference_backward(inputs, input, &axes);
        if self.rectified {
            epilogue::mask(&mut dx, inputs[0]);
        }
        dx
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let upstream = signature.inputs[usize::from(self.reads_x())];
        self.pool.flops(&Signature { inputs: vec![signature.output], output: upstream })
    }
}

/// A maximum is selected, not computed.
const EXACT: f64 = 0.0;
/// Sums of up to 35 terms (pixels or overlapping windows) with one division each: 35 roundings of 6e-8 would give 2e-6
/// if all had the same sign; a division may be off by 2.5 units in the last place.
const TOLERANCE: f64 = 2e-6;

/// Each pooling with the shape of its test map.
fn samples() -> Vec<(Pool, Shape)> {
    let mut samples = Vec::new();
    for kind in [PoolKind::Max, PoolKind::Average] {
        let halve = Pool::halve(kind);
        let general = |kernel, stride, padding, ceil| Pool { kind, kernel, stride, padding, ceil };
        samples.extend([
            (halve, Shape::map(3, 2, 2)),
            (halve, Shape::map(5, 7, 13)),
            (halve, Shape::map(8, 6, 3)),
            (halve, Shape::map(17, 31, 64)),
            (Pool { ceil: true, ..halve }, Shape::map(4, 4, 6)), // same as without ceil
            (Pool { ceil: true, ..halve }, Shape::map(5, 5, 8)), // last windows have one row
            (Pool { ceil: true, ..halve }, Shape::map(2, 1, 1)), // smaller than the kernel
            (general([3, 3], [2, 2], [1, 1], false), Shape::map(6, 11, 7)),
            (general([3, 3], [2, 2], [0, 0], true), Shape::map(3, 13, 10)),
            (general([2, 2], [1, 1], [1, 1], false), Shape::map(1, 1, 1)),
            (general([2, 2], [2, 2], [1, 1], true), Shape::map(5, 5, 4)), // the last window is dropped
            (general([3, 2], [5, 3], [1, 0], true), Shape::map(4, 11, 17)), // gaps between windows
            (general([5, 7], [1, 2], [2, 3], true), Shape::map(7, 9, 12)), // ceil overhangs the padding
            (general([1, 1], [3, 1], [0, 0], false), Shape::map(4, 7, 2)),
        ]);
    }
    samples
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(pool, shape): (Pool, Shape)| match pool.kind {
        // Normal values: with padding, all values of a window may be negative.
        PoolKind::Max => Case::normal(pool, &[shape], EXACT),
        PoolKind::Average => Case::normal(pool, &[shape], TOLERANCE),
    };
    samples().into_iter().map(case).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let case = |(pool, shape): (Pool, Shape)| {
        let (layout, output) = (shape.layout()?, pool.output(&[shape]).ok()?);
        let upstream = (output, CaseInput::Normal);
        // Half of the cases fuse the adjoint of a ReLU.
        let rectified = layout.channels % 2 == 1;
        let op = PoolBackward { pool, size: [layout.height, layout.width], rectified };
        Some(if op.reads_x() {
            Case::drawn(op, &[(shape, CaseInput::Rectified), upstream], TOLERANCE)
        } else {
            Case::drawn(op, &[upstream], TOLERANCE)
        })
    };
    samples().into_iter().filter_map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Same count as in pool.wgsl.
    #[test]
    fn nested_loops_are_counted() {
        let window = [15, 15];
        assert_eq!(nested(window), 15 * 16);
        assert_eq!(PoolKind::Max.backward_loops(window, window), 54_240);
        assert_eq!(PoolKind::Average.backward_loops(window, [1, 2]), 3);
    }

    fn size(pool: Pool, height: usize, width: usize) -> Result<Shape> {
        pool.output(&[Shape::map(3, height, width)])
    }

    #[test]
    fn map_smaller_than_window_is_refused() {
        let error = size(Pool::halve(PoolKind::Max), 1, 9).unwrap_err().to_string();
        assert!(error.contains("1x9") && error.contains("2x2"), "{error}");
        assert!(size(Pool { kernel: [4, 4], ceil: true, ..Pool::halve(PoolKind::Max) }, 2, 9).is_err());
    }

    #[test]
    fn windows_without_pixels_are_refused() {
        for pool in [
            Pool { padding: [2, 0], ..Pool::halve(PoolKind::Average) },
            Pool { stride: [1, 0], ..Pool::halve(PoolKind::Max) },
            Pool { kernel: [0, 2], ..Pool::halve(PoolKind::Max) },
        ] {
            assert!(size(pool, 9, 9).is_err(), "{pool:?}");
        }
    }

    #[test]
    fn adjoint_refuses_gradient_of_wrong_size() {
        let op = PoolBackward { pool: Pool::halve(PoolKind::Max), size: [5, 5], rectified: false };
        let [x, dy, other] = [Shape::map(3, 5, 5), Shape::map(3, 2, 2), Shape::map(3, 4, 5)];
        assert_eq!(op.output(&[x, dy]).unwrap(), x);
        assert!(op.output(&[other, dy]).is_err() && op.output(&[x, other]).is_err());
    }
}
