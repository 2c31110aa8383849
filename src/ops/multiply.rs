//! Elementwise product of two tensors.

use super::lanes::elementwise;
use super::shape::expect_same;
use super::{Adjoint, AdjointOperand, Case, CpuKernel, Kernel, Op, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::Profile;

/// `y = a * b`, elementwise. Inputs: a, b of the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Multiply;

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_same("multiply", inputs)?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![window::elementwise_kernel("multiply", &["a", "b"], signature, device)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| elementwise(call.output, [call.inputs[0], call.inputs[1]], |[a, b]| a * b)))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().zip(inputs[1]).map(|(a, b)| a * b).collect()
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(Self, &[AdjointOperand::Upstream, AdjointOperand::Input(1 - input)])
    }
}

/// One rounding.
const TOLERANCE: f64 = 1e-7;

pub(super) fn cases() -> Vec<Case> {
    [Shape::map(3, 1, 1), Shape::map(5, 7, 3), Shape::Vector(13), Shape::Matrix { rows: 67, columns: 35 }]
        .map(|shape| Case::normal(Multiply, &[shape, shape], TOLERANCE))
        .into()
}
