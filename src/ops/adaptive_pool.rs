//! Adaptive max and average pooling to a given size, and their adjoints.
//!
//! Same windows as PyTorch's `adaptive_max_pool2d` and `adaptive_avg_pool2d`: along each axis, output `i` of `n` covers
//! the pixels `floor(i*size/n) .. ceil((i+1)*size/n)`. Neighbouring windows may overlap, and always do if the output is
//! larger than the input.

use super::pool_windows::{Window, bind_backward, nested, shape_before};
use super::shape::{MapLayout, mismatch};
use super::{Adjoint, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, PoolKind, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// `y[c, i, j] = max or mean of x[c]` over window (i, j). Input: x, a map of any number of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptivePool {
    /// Max or average.
    pub kind: PoolKind,
    /// Height and width of the output.
    pub size: [usize; 2],
}

/// Adjoint of [`AdaptivePool`]. Inputs: x and dy for max, dy alone for average. Output: a map of x's size. Max adds dy
/// to each window's first maximum in row-major order; average spreads it evenly over the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptivePoolBackward {
    /// The forward op.
    pub pool: AdaptivePool,
    /// Height and width of x.
    pub size: [usize; 2],
}

/// Shape of a map resized to `size`.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) if a size is zero or the kernels' 32-bit positions would
/// overflow.
pub(super) fn resized(name: &str, input: Shape, size: [usize; 2]) -> Result<Shape> {
    let MapLayout { channels, height, width } = input.expect_map(name)?;
    for (from, to) in [(height, size[0]), (width, size[1])] {
        // The shaders compute up to 2 * (from + 3) * to, which must not reach the sign bit.
        if from == 0 || to == 0 || (from + 3).saturating_mul(to) >= 1 << 30 {
            let message = format!("can't resize {input} to {}x{}", size[0], size[1]);
            return Err(mismatch(name, &message));
        }
    }
    Ok(Shape::map(channels, size[0], size[1]))
}

impl AdaptivePool {
    /// Windows along both axes.
    fn axes(&self, input: MapLayout) -> [Vec<Window>; 2] {
        let along = |size: usize, n: usize| {
            (0..n).map(move |i| {
                let (start, end) = (i * size / n, ((i + 1) * size).div_ceil(n));
                Window { start, end, count: end - start }
            })
        };
        [along(input.height, self.size[0]).collect(), along(input.width, self.size[1]).collect()]
    }

    /// Rows and columns of the largest window, for the loop bound.
    fn longest(&self, input: MapLayout) -> [usize; 2] {
        self.axes(input).map(|windows| windows.iter().map(|window| window.count).max().unwrap_or(0))
    }

    /// Largest number of windows that share a pixel, along rows and columns.
    fn sharing(&self, input: MapLayout) -> [usize; 2] {
        self.axes(input).map(|windows| {
            // Windows are in order: count those that start before the first one ends.
            let from =
                |first: usize| windows[first..].iter().take_while(|w| w.start < windows[first].end).count();
            (0..windows.len()).map(from).max().unwrap_or(0)
        })
    }

    fn dispatch(&self, entry: &'static str, input: MapLayout) -> Dispatch {
        Dispatch::new("adaptive_pool", entry)
            .size("in_height", input.height)
            .size("in_width", input.width)
            .size("out_height", self.size[0])
            .size("out_width", self.size[1])
            .size("quads", input.quads())
    }
}

impl Op for AdaptivePool {
    fn name(&self) -> &'static str {
        "adaptive_pool"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        resized("adaptive_pool", inputs[0], self.size)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.inputs[0].expect_map("adaptive_pool")?;
        let output = signature.output.expect_map("adaptive_pool")?;
        let entry = match self.kind {
            PoolKind::Max => "max_forward",
            PoolKind::Average => "average_forward",
        };
        let dispatch = self
            .dispatch(entry, input)
            .bind("input", Operand::Input(0))
            .bind("output", Operand::Output)
            .loops(nested(self.longest(input)))
            .linear(output.texels(), GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let input = signature.inputs[0].expect_map("adaptive_pool")?;
        let output = signature.output.expect_map("adaptive_pool")?;
        Ok(self.kind.cpu(input, output, self.axes(input)))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let input = shapes[0].layout().expect("a map");
        self.kind.reference(inputs[0], input, &self.axes(input))
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let input = shapes[0].layout()?;
        let op = AdaptivePoolBackward { pool: *self, size: [input.height, input.width] };
        Adjoint::new(op, self.kind.operands())
    }

    fn flops(&self, signature: &Signature) -> u64 {
        // Window size is the ratio of the sizes, at least one pixel.
        signature.inputs[0].elements().max(signature.output.elements()) as u64
    }
}

impl Op for AdaptivePoolBackward {
    fn name(&self) -> &'static str {
        "adaptive_pool_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let upstream = inputs[self.pool.kind.operands().len() - 1];
        let input = shape_before("adaptive_pool_backward", &self.pool, self.size, upstream)?;
        if self.pool.kind == PoolKind::Max && inputs[0] != input {
            return Err(mismatch("adaptive_pool_backward", &format!("x is {}, not {input}", inputs[0])));
        }
        Ok(input)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.output.expect_map("adaptive_pool_backward")?;
        let entry = match self.pool.kind {
            PoolKind::Max => "max_backward",
            PoolKind::Average => "average_backward",
        };
        let loops = self.pool.kind.backward_loops(self.pool.longest(input), self.pool.sharing(input));
        let dispatch = bind_backward(self.pool.dispatch(entry, input), self.pool.kind == PoolKind::Max);
        let dispatch = dispatch.loops(loops);
        Ok(vec![Kernel::single("naive", dispatch.linear(input.texels(), GROUP, device))])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let input = signature.output.expect_map("adaptive_pool_backward")?;
        let output = MapLayout { height: self.pool.size[0], width: self.pool.size[1], ..input };
        Ok(self.pool.kind.cpu_backward(input, output, self.pool.axes(input), false))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let input = self.output(shapes).expect("valid shapes").layout().expect("a map");
        self.pool.kind.reference_backward(inputs, input, &self.pool.axes(input))
    }
}

/// A maximum is selected, not computed.
const EXACT: f64 = 0.0;
/// Sums of up to 221 terms, row by row: a chain of about 30 roundings of 6e-8, 2e-6 if all had the same sign. Adjoints
/// add at most a few terms.
const TOLERANCE: f64 = 2e-6;

/// Each pooling with the shape of its test map.
fn samples() -> Vec<(AdaptivePool, Shape)> {
    let mut samples = Vec::new();
    for kind in [PoolKind::Max, PoolKind::Average] {
        let to = |height, width| AdaptivePool { kind, size: [height, width] };
        samples.extend([
            (to(7, 7), Shape::map(5, 16, 13)),
            (to(7, 7), Shape::map(3, 14, 21)),
            (to(7, 7), Shape::map(9, 4, 3)),
            (to(7, 7), Shape::map(4, 7, 7)),
            (to(5, 3), Shape::map(2, 3, 11)), // enlarges one axis and shrinks the other
            (to(1, 1), Shape::map(6, 13, 17)),
            (to(3, 2), Shape::map(1, 1, 1)),
        ]);
    }
    samples
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(pool, shape): (AdaptivePool, Shape)| match pool.kind {
        PoolKind::Max => Case::normal(pool, &[shape], EXACT),
        PoolKind::Average => Case::normal(pool, &[shape], TOLERANCE),
    };
    samples().into_iter().map(case).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let case = |(pool, shape): (AdaptivePool, Shape)| {
        let (layout, output) = (shape.layout()?, pool.output(&[shape]).ok()?);
        let op = AdaptivePoolBackward { pool, size: [layout.height, layout.width] };
        let upstream = (output, CaseInput::Normal);
        Some(match pool.kind {
            PoolKind::Max => Case::drawn(op, &[(shape, CaseInput::Rectified), upstream], TOLERANCE),
            PoolKind::Average => Case::drawn(op, &[upstream], TOLERANCE),
        })
    };
    samples().into_iter().filter_map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_windows_share_pixels() {
        let pool = |size| AdaptivePool { kind: PoolKind::Max, size };
        let input = MapLayout { channels: 4, height: 14, width: 10 };
        // 14 rows make seven windows of 2; 10 columns make seven of 2 or 3, where neighbours overlap.
        assert_eq!((pool([7, 7]).longest(input), pool([7, 7]).sharing(input)), ([2, 3], [1, 2]));
        // More windows than pixels: three one-pixel windows share a pixel.
        assert_eq!((pool([14, 30]).longest(input), pool([14, 30]).sharing(input)), ([1, 1], [1, 3]));
    }
}
