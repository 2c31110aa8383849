//! Sum of two tensors of the same shape.

use super::lanes::elementwise;
use super::shape::expect_same;
use super::{Case, CpuKernel, Kernel, Op, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::Profile;

/// `y = a + b`. Inputs: a and b. Sums the gradients of several consumers and the terms of an objective; neither is
/// differentiated through the sum, so it has no adjoint.
#[derive(Debug, Clone, Copy)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_same("add", inputs)?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![window::elementwise_kernel("add", &["a", "b"], signature, device)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| elementwise(call.output, [call.inputs[0], call.inputs[1]], |[a, b]| a + b)))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().zip(inputs[1]).map(|(a, b)| a + b).collect()
    }
}

/// One rounding.
const TOLERANCE: f64 = 1e-7;

pub(super) fn cases() -> Vec<Case> {
    // The last has more quads than a 16-bit counter holds.
    [Shape::map(3, 1, 1), Shape::map(5, 7, 3), Shape::Vector(13), Shape::Vector(4 * 65_537 + 3)]
        .map(|shape| Case::normal(Add, &[shape, shape], TOLERANCE))
        .into()
}
