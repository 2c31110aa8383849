//! Converts between maps of the convolutional layers and vectors of the fully connected layers.

use super::cpu::{fill_map, for_each_row, row};
use super::shape::{MapLayout, mismatch};
use super::{Adjoint, AdjointOperand, Case, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// Flattens a map `[channels, height, width]` to a vector in channel, row, column order, like PyTorch's `flatten`.
#[derive(Debug, Clone, Copy)]
pub struct Flatten;

/// Reshapes a vector to a map of this size, like PyTorch's `reshape`; the adjoint (and inverse) of [`Flatten`].
#[derive(Debug, Clone, Copy)]
pub struct Unflatten {
    /// Channels of the map.
    pub channels: usize,
    /// Rows of the map.
    pub height: usize,
    /// Columns of the map.
    pub width: usize,
}

fn kernel(entry: &'static str, map: MapLayout, output: Shape, device: &Profile) -> Kernel {
    let quads = output.stored() / 4;
    let dispatch = Dispatch::new("flatten", entry)
        .bind("input", Operand::Input(0))
        .bind("output", Operand::Output)
        .size("channels", map.channels)
        .size("height", map.height)
        .size("width", map.width)
        .size("count", quads)
        .linear(quads, 64, device);
    Kernel::single("naive", dispatch)
}

impl Op for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_map("flatten")?;
        Ok(Shape::Vector(inputs[0].elements()))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.inputs[0].expect_map("flatten")?;
        Ok(vec![kernel("flatten", map, signature.output, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.inputs[0].expect_map("flatten")?;
        Ok(CpuKernel::new(move |call| {
            let (values, padding) = call.output.split_at_mut(map.channels * map.pixels());
            padding.fill(0.0);
            for_each_row(values, map.width, |index, values| {
                let (channel, y) = (index / map.height, index % map.height);
                let texels = row(call.inputs[0], map, channel / 4, y).as_chunks::<4>().0;
                values.iter_mut().zip(texels).for_each(|(value, texel)| *value = texel[channel % 4]);
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        // Logical order is already channel, row, column; only the memory layout differs.
        inputs[0].to_vec()
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let MapLayout { channels, height, width } = shapes[0].layout()?;
        Adjoint::new(Unflatten { channels, height, width }, &[AdjointOperand::Upstream])
    }
}

impl Unflatten {
    fn map(self) -> Shape {
        Shape::map(self.channels, self.height, self.width)
    }
}

impl Op for Unflatten {
    fn name(&self) -> &'static str {
        "unflatten"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        if inputs[0].expect_vector("unflatten")? != self.map().elements() {
            let message = format!("{} values do not fill a map of {}", inputs[0], self.map());
            return Err(mismatch("unflatten", &message));
        }
        Ok(self.map())
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.output.expect_map("unflatten")?;
        Ok(vec![kernel("unflatten", map, signature.output, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.output.expect_map("unflatten")?;
        Ok(CpuKernel::new(move |call| {
            fill_map(map, call.output, |quad, y, row| {
                row.fill(0.0);
                for (lane, channel) in (quad * 4..map.channels).take(4).enumerate() {
                    let values = &call.inputs[0][(channel * map.height + y) * map.width..];
                    let texels = row.as_chunks_mut::<4>().0;
                    texels.iter_mut().zip(values).for_each(|(texel, value)| texel[lane] = *value);
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].to_vec()
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(Flatten, &[AdjointOperand::Upstream])
    }
}

/// Exact: values only move.
const TOLERANCE: f64 = 0.0;

/// Channels, height, width.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 1, 1), (5, 7, 3), (4, 1, 9), (13, 5, 1), (64, 7, 7)];

pub(super) fn cases() -> Vec<Case> {
    SIZES.map(|(c, h, w)| Case::normal(Flatten, &[Shape::map(c, h, w)], TOLERANCE)).into()
}

pub(super) fn unflatten_cases() -> Vec<Case> {
    SIZES
        .map(|(channels, height, width)| {
            let op = Unflatten { channels, height, width };
            Case::normal(op, &[Shape::Vector(channels * height * width)], TOLERANCE)
        })
        .into()
}
