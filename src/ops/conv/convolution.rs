//! Definition of a convolution: filter, stride, padding, and its products.
//!
//! Same as PyTorch's `conv2d` (cross-correlation): `y[o, i, j] = b[o] + sum w[o, c, u, v] x[c, i*s + u - p, j*s + v -
//! p]`.

use super::blocks::Blocks;
use super::filter::{Filter, Packing};
use super::pool_indices::PoolIndices;
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::shape::{MapLayout, mismatch};
use crate::ops::{Dispatch, Op, Shape};
use std::ops::Range;
use std::sync::Arc;

/// Padding mode: values beyond the edge of a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Padding {
    /// Zeros.
    #[default]
    Zeros,
    /// The edge pixel, repeated.
    Replicate,
}

/// `y = conv(x) + b`, rectified with `relu`. With `pool`, y is then reduced to the maxima of adjacent 2x2 windows (an
/// odd last row or column is dropped), and the saved output holds the windows' pool indices (see `pool_indices.rs`).
/// Input: x, a map.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Weights and biases.
    pub filter: Arc<Filter>,
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Rows of padding above and below, columns left and right.
    pub padding: [usize; 2],
    /// Values of the padding.
    pub mode: Padding,
    /// True to apply a ReLU to the result.
    pub relu: bool,
    /// True to halve the result by a 2x2 max pool; only with `relu`.
    pub pool: bool,
}

/// Fused last steps of [`super::ConvBackward`]. Each takes one more input of dx's shape, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GradientEpilogue {
    /// Add another gradient; dx is written over it.
    pub add: bool,
    /// Zero dx where the input map is not positive: the adjoint of the ReLU before x.
    pub mask: bool,
}

impl Conv {
    /// Creates a size-preserving convolution: stride 1, and padding of half the kernel (1 for 3x3).
    pub fn same(filter: Arc<Filter>, relu: bool) -> Self {
        let padding = [filter.kernel[0] / 2, filter.kernel[1] / 2];
        Self { filter, stride: [1, 1], padding, mode: Padding::Zeros, relu, pool: false }
    }

    pub(super) fn output_size(&self, input: MapLayout) -> Result<[usize; 2]> {
        let mut size = [input.height, input.width];
        for (axis, size) in size.iter_mut().enumerate() {
            let padded = *size + 2 * self.padding[axis];
            let kernel = self.filter.kernel[axis];
            if padded < kernel {
                return Err(mismatch(
                    "conv",
                    &format!("the map {input:?} is smaller than the kernel {kernel}"),
                ));
            }
            *size = (padded - kernel) / self.stride[axis] + 1;
        }
        Ok(size)
    }

    /// Number of taps if the tuned kernels support this convolution: 9 for size-preserving 3x3 kernels (these kernels
    /// assume zero padding, see `edges.rs` for other modes), 1 for 1x1 kernels.
    pub(super) fn tuned_taps(&self) -> Option<u32> {
        match (self.filter.kernel, self.stride, self.padding) {
            ([3, 3], [1, 1], [1, 1]) => Some(9),
            ([1, 1], [1, 1], [0, 0]) => Some(1),
            _ => None,
        }
    }

    /// Layout of the convolution's own output, before the pool.
    pub(super) fn map(&self, input: MapLayout) -> Result<MapLayout> {
        let [height, width] = self.output_size(input)?;
        Ok(MapLayout { channels: self.filter.out_channels, height, width })
    }

    /// The same convolution without the pool.
    pub(super) fn unpooled(&self) -> Self {
        Self { pool: false, ..self.clone() }
    }

    pub(super) fn naive(&self, entry: &'static str, input: MapLayout, output: MapLayout) -> Dispatch {
        Dispatch::new("conv", entry)
            .consts(&[
                ("RELU", u32::from(self.relu)),
                ("REPLICATE", u32::from(self.mode == Padding::Replicate)),
            ])
            .bind("weights", self.filter.constant(4, false, Packing::Buffer))
            .size("in_height", input.height)
            .size("in_width", input.width)
            .size("in_quads", input.quads())
            .size("out_height", output.height)
            .size("out_width", output.width)
            .size("out_quads", output.quads())
            .size("kernel_height", self.filter.kernel[0])
            .size("kernel_width", self.filter.kernel[1])
            .size("stride_y", self.stride[0])
            .size("stride_x", self.stride[1])
            .size("pad_y", self.padding[0])
            .size("pad_x", self.padding[1])
    }

    /// Upper bound on the loop iterations of one invocation of the naive kernel: over the border rows that a pixel is
    /// repeated in, the kernel's rows, the same for columns, and the quads of channels.
    pub(super) fn loops(&self, beyond: [usize; 2], quads: usize) -> usize {
        // Pairs of such a row (column) and a kernel row (column) that contribute to an output.
        let [down, across] = [0, 1].map(|axis| {
            let kernel = self.filter.kernel[axis];
            (0..=beyond[axis]).map(|row| kernel.min(row + 1)).sum::<usize>().max(kernel)
        });
        let rows = (beyond[0] + 1) * (1 + self.filter.kernel[0]);
        let columns = (beyond[1] + 1) * (1 + self.filter.kernel[1]);
        rows + down * (columns + across * quads)
    }

    /// Source row or column of a tap, or `None` for zero padding.
    pub(super) fn source(&self, axis: usize, position: usize, tap: usize, size: usize) -> Option<usize> {
        let at = (position * self.stride[axis] + tap) as isize - self.padding[axis] as isize;
        match self.mode {
            Padding::Replicate => Some(at.clamp(0, size as isize - 1) as usize),
            Padding::Zeros => (0..size as isize).contains(&at).then_some(at as usize),
        }
    }

    /// Calls `visit(output row, input row, weight index, pairs)` for every output row and every weight applied to it.
    /// Rows are index ranges; each pair is an output column and the input column it reads. Row by row for speed: the
    /// tests spend most of their time here.
    pub(super) fn for_each_row(
        &self,
        input: MapLayout,
        output: [usize; 2],
        mut visit: impl FnMut(Range<usize>, Range<usize>, usize, &[(usize, usize)]),
    ) {
        let [kh, kw] = self.filter.kernel;
        let pairs = |kx| {
            let pair = |x| Some((x, self.source(1, x, kx, input.width)?));
            (0..output[1]).filter_map(pair).collect()
        };
        let pairs: Vec<Vec<(usize, usize)>> = (0..kw).map(pairs).collect();
        for o in 0..self.filter.out_channels {
            for c in 0..input.channels {
                for ky in 0..kh {
                    for y in 0..output[0] {
                        let Some(sy) = self.source(0, y, ky, input.height) else { continue };
                        let to = (o * output[0] + y) * output[1];
                        let from = (c * input.height + sy) * input.width;
                        for (kx, pairs) in pairs.iter().enumerate() {
                            let weight = ((o * input.channels + c) * kh + ky) * kw + kx;
                            visit(to..to + output[1], from..from + input.width, weight, pairs);
                        }
                    }
                }
            }
        }
    }

    /// Output shape, see [`Op::output`].
    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape> {
        let input = input.expect_map("conv")?;
        if input.channels != self.filter.in_channels {
            let message = format!("{:?} does not take {} channels", self.filter, input.channels);
            return Err(mismatch("conv", &message));
        }
        let map = self.map(input)?;
        let map = Shape::map(map.channels, map.height, map.width);
        if self.pool { PoolIndices::POOL.output(&[map]) } else { Ok(map) }
    }

    /// Shape of the saved output, see [`Op::saved`].
    pub(super) fn saved_shape(&self, input: Shape) -> Option<Shape> {
        let map = self.map(input.layout()?).ok()?;
        self.pool.then(|| PoolIndices::of(map).shape())
    }

    /// Number of multiply-adds of the direct method.
    pub(super) fn multiply_adds(&self, input: Shape) -> u64 {
        let [kh, kw] = self.filter.kernel;
        let map = input.layout().and_then(|input| self.map(input).ok());
        let outputs = map.map_or(0, |map| map.channels * map.pixels());
        (outputs * self.filter.in_channels * kh * kw) as u64
    }
}

/// The buffer family's choices of blocks for a result of this layout, each with the number of taps.
pub(super) fn tuned_blocks(taps: Option<u32>, result: MapLayout, device: &Profile) -> Vec<(Blocks, u32)> {
    let choices = |taps| Blocks::choices(result, device).into_iter().map(move |blocks| (blocks, taps));
    taps.into_iter().flat_map(choices).collect()
}
