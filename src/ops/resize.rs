//! Resizing of maps. It has no adjoint: maps are resized only between scales, and no loss is computed from the result.
//!
//! Same as PyTorch's `interpolate` with `align_corners` and `antialias` false. Output pixel p is at `s = (p + 0.5) * in
//! / out - 0.5` along each axis. Bilinear weights the two pixels around s by `1 - |distance|`; bicubic weights four
//! pixels by the cubic convolution kernel (Keys 1981) with A = -0.75; pixels beyond the edge repeat the edge pixel.
//! Area is the mean over the windows of [`AdaptivePool`].

use super::adaptive_pool::{AdaptivePool, resized};
use super::cpu::{fill_map, row};
use super::lanes::update;
use super::shape::MapLayout;
use super::{Case, CpuKernel, Dispatch, Kernel, Op, Operand, PoolKind, Shape, Signature};
use crate::allocation::zeros;
use crate::error::{Error, Result};
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// Interpolation method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResizeMode {
    /// Interpolates the nearest 2x2 pixels.
    Bilinear,
    /// Interpolates the nearest 4x4 pixels; may overshoot.
    Bicubic,
    /// Mean of all pixels that the output pixel overlaps: for downscaling.
    Area,
}

/// Resizes a map of any number of channels, the only input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// Interpolation method.
    pub mode: ResizeMode,
    /// Height and width of the output.
    pub size: [usize; 2],
}

/// For each output pixel along an axis, its input pixels and their weights.
type Taps = Vec<Vec<(usize, f64)>>;

impl ResizeMode {
    /// Weight of a pixel at this distance from the source position.
    fn weight(self, distance: f64) -> f64 {
        let (d, a) = (distance.abs(), -0.75);
        match self {
            Self::Bilinear => (1.0 - d).max(0.0),
            Self::Bicubic if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Self::Bicubic if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Self::Bicubic | Self::Area => 0.0,
        }
    }

    /// Number of taps along an axis.
    fn width(self) -> usize {
        if self == Self::Bicubic { 4 } else { 2 }
    }

    /// Taps along an axis, for the reference.
    fn taps(self, from: usize, to: usize) -> Taps {
        let taps = |p: usize| {
            let position = (p as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let near = position.floor() as isize;
            (near - 1..=near + 2)
                .map(|pixel| {
                    (pixel.clamp(0, from as isize - 1) as usize, self.weight(position - pixel as f64))
                })
                .collect()
        };
        (0..to).map(taps).collect()
    }

    /// Taps along an axis for the CPU, computed like in the shader: integer positions, and weights as products, which
    /// lose few digits. Pixels beyond the edge are clamped to it.
    fn shares(self, out: usize, before: usize) -> Shares {
        let near = |d: f32| (1.25 * d - 2.25) * d * d + 1.0;
        let far = |d: f32| -0.75 * d * (1.0 - d) * (1.0 - d);
        let shares = |p: usize| {
            // floor(position) + 1, and the fraction.
            let shifted = (2 * p + 1) * before + out;
            let (next, t) = (shifted / (2 * out), (shifted % (2 * out)) as f32 / (2 * out) as f32);
            let weights = match self {
                Self::Bicubic => vec![far(t), near(t), near(1.0 - t), far(1.0 - t)],
                Self::Bilinear | Self::Area => vec![1.0 - t, t],
            };
            let first = next as isize - self.width() as isize / 2;
            let pixels = (first..).map(|pixel| pixel.clamp(0, before as isize - 1) as usize);
            pixels.zip(weights).collect()
        };
        (0..out).map(shares).collect()
    }
}

/// For each output pixel along an axis, its input pixels and their f32 weights.
type Shares = Vec<Vec<(usize, f32)>>;

/// Computes a row of output pixels of `VALUES` floats each: sums rows of the input with their weights, then pixels of
/// the sum with the weights in `across`.
fn weigh_row<'a, const VALUES: usize>(
    lines: impl Iterator<Item = (&'a [f32], f32)>,
    sum: &mut [f32],
    across: &Shares,
    output: &mut [f32],
) {
    sum.fill(0.0);
    for (line, weight) in lines {
        update(sum, [line], |sum, [value]| sum + weight * value);
    }
    let sum = sum.as_chunks::<VALUES>().0;
    for (pixel, shares) in output.as_chunks_mut::<VALUES>().0.iter_mut().zip(across) {
        *pixel = [0.0; VALUES];
        for (column, weight) in shares {
            pixel.iter_mut().zip(sum[*column]).for_each(|(to, value)| *to += weight * value);
        }
    }
}

/// Computes the output with the weights along both axes.
fn weigh(input: &[f32], from: MapLayout, [down, across]: &[Shares; 2], output: &mut [f32], to: MapLayout) {
    fill_map(to, output, |quad, y, texels| {
        let lines = down[y].iter().map(|(line, weight)| (row(input, from, quad, *line), *weight));
        weigh_row::<4>(lines, &mut vec![0.0; from.width * 4], across, texels);
    });
}

/// Resizes a map in logical order in host memory, with the same bits as the op on the CPU device, for maps that a
/// device can't hold. It needs almost no memory besides the result. Not for [`ResizeMode::Area`].
///
/// # Errors
/// [`Error::OutOfMemory`] if host memory does not suffice; [`Error::Internal`](crate::Error::Internal) if `shape` is no
/// map.
pub fn resize_in_host_memory(
    mode: ResizeMode,
    values: &[f32],
    shape: Shape,
    size: [usize; 2],
) -> Result<Vec<f32>> {
    debug_assert_ne!(mode, ResizeMode::Area);
    let from = shape.expect_map("resizing a map")?;
    let count = from.channels * size[0] * size[1];
    let mut output = zeros(count).map_err(|_| Error::out_of_host_memory("resized map", count as u64 * 4))?;
    let [down, across] =
        [(size[0], from.height), (size[1], from.width)].map(|(out, before)| mode.shares(out, before));
    let mut sum = vec![0.0; from.width];
    let channels = values.chunks_exact((from.height * from.width).max(1));
    for (channel, larger) in channels.zip(output.chunks_exact_mut((size[0] * size[1]).max(1))) {
        for (shares, row) in down.iter().zip(larger.chunks_exact_mut(size[1].max(1))) {
            let line = |line: usize| &channel[line * from.width..][..from.width];
            let lines = shares.iter().map(|(at, weight)| (line(*at), *weight));
            weigh_row::<1>(lines, &mut sum, &across, row);
        }
    }
    Ok(output)
}

impl Resize {
    /// The equivalent pooling op for [`ResizeMode::Area`]; `None` for other modes.
    fn as_pool(&self) -> Option<AdaptivePool> {
        let pool = AdaptivePool { kind: PoolKind::Average, size: self.size };
        (self.mode == ResizeMode::Area).then_some(pool)
    }

    fn dispatch(&self, entry: &'static str, input: MapLayout) -> Dispatch {
        Dispatch::new("resize", entry)
            .consts(&[("TAPS", self.mode.width() as u32)])
            .size("in_height", input.height)
            .size("in_width", input.width)
            .size("out_height", self.size[0])
            .size("out_width", self.size[1])
            .size("quads", input.quads())
    }

    /// Calls `visit(output index, input index, weight)` for every product of the interpolation.
    fn for_each_product(&self, input: MapLayout, mut visit: impl FnMut(usize, usize, f64)) {
        let rows = self.mode.taps(input.height, self.size[0]);
        let columns = self.mode.taps(input.width, self.size[1]);
        for c in 0..input.channels {
            for (y, down) in rows.iter().enumerate() {
                for (x, across) in columns.iter().enumerate() {
                    let to = (c * self.size[0] + y) * self.size[1] + x;
                    for (sy, wy) in down {
                        for (sx, wx) in across {
                            visit(to, (c * input.height + sy) * input.width + sx, wy * wx);
                        }
                    }
                }
            }
        }
    }
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        resized("resize", inputs[0], self.size)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        if let Some(pool) = self.as_pool() {
            return pool.kernels(signature, device);
        }
        let dispatch = self
            .dispatch("forward", signature.inputs[0].expect_map("resize")?)
            .bind("input", Operand::Input(0))
            .bind("output", Operand::Output)
            .linear(signature.output.expect_map("resize")?.texels(), GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        if let Some(pool) = self.as_pool() {
            return pool.cpu(signature, device);
        }
        let input = signature.inputs[0].expect_map("resize")?;
        let output = signature.output.expect_map("resize")?;
        let shares = [(output.height, input.height), (output.width, input.width)]
            .map(|(out, before)| self.mode.shares(out, before));
        Ok(CpuKernel::new(move |call| weigh(call.inputs[0], input, &shares, call.output, output)))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        if let Some(pool) = self.as_pool() {
            return pool.reference(inputs, shapes);
        }
        let input = shapes[0].layout().expect("a map");
        let mut y = vec![0.0; input.channels * self.size[0] * self.size[1]];
        self.for_each_product(input, |to, from, weight| y[to] += weight * inputs[0][from]);
        y
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let products = match self.mode {
            ResizeMode::Bilinear => 4,
            ResizeMode::Bicubic => 16,
            ResizeMode::Area => 1,
        };
        2 * products * signature.output.elements() as u64
    }
}

/// Weights of both axes with an error of about 2e-7 each, and up to some hundred products with a rounding error of 6e-8
/// each, which mostly cancel; measured 2e-7 (6e-7 for single pixels).
const TOLERANCE: f64 = 1e-6;

/// Each resizing with the shape of its test map.
fn samples() -> Vec<(Resize, Shape)> {
    let mut samples = Vec::new();
    for mode in [ResizeMode::Bilinear, ResizeMode::Bicubic, ResizeMode::Area] {
        let to = |height, width| Resize { mode, size: [height, width] };
        samples.extend([
            (to(7, 5), Shape::map(3, 7, 5)),   // the same size
            (to(14, 9), Shape::map(3, 10, 7)), // about the ratio of consecutive scales
            (to(8, 6), Shape::map(5, 16, 12)),
            (to(17, 3), Shape::map(4, 5, 31)), // enlarges one axis and shrinks the other, by more than 3 to 1
            (to(6, 8), Shape::map(2, 1, 1)),
            (to(1, 1), Shape::map(6, 11, 4)),
            (to(23, 29), Shape::map(9, 2, 3)),
            (to(3, 1499), Shape::map(3, 2, 1201)), // wide: positions need full precision
        ]);
    }
    samples
}

pub(super) fn cases() -> Vec<Case> {
    samples().into_iter().map(|(resize, shape)| Case::normal(resize, &[shape], TOLERANCE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_resize_is_bit_identical_to_cpu_device() {
        for (Resize { mode, size }, shape) in samples() {
            if mode == ResizeMode::Area {
                continue;
            }
            let values: Vec<f32> = (0..shape.elements()).map(|at| (at as f32 * 1.7).sin()).collect();
            let larger = Shape::map(shape.layout().unwrap().channels, size[0], size[1]);
            let [from, to] = [shape, larger].map(|shape| shape.layout().unwrap());
            let shares = [(to.height, from.height), (to.width, from.width)]
                .map(|(out, before)| mode.shares(out, before));
            let mut stored = vec![f32::NAN; larger.stored()];
            weigh(&shape.pack(&values), from, &shares, &mut stored, to);
            let planes = resize_in_host_memory(mode, &values, shape, size).unwrap();
            assert_eq!(larger.unpack(&stored), planes, "{mode:?} of {shape:?} to {size:?}");
        }
        assert!(resize_in_host_memory(ResizeMode::Bicubic, &[1.0], Shape::Vector(1), [1, 1]).is_err());
    }
}
