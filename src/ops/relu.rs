//! ReLU: `y = max(x, 0)`, elementwise on any shape. Keeps NaN.

use super::lanes::elementwise;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
    window,
};
use crate::error::Result;
use crate::gpu::Profile;

/// ReLU: `y = max(x, 0)`.
#[derive(Debug, Clone, Copy)]
pub struct Relu;

/// Adjoint of [`Relu`]: `dx = dy where y > 0, else 0`. Inputs: y (the forward output), dy. Like PyTorch, 0 at `x = 0`.
#[derive(Debug, Clone, Copy)]
pub struct ReluBackward;

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![window::elementwise_kernel("relu", &["input"], signature, device)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| elementwise(call.output, [call.inputs[0]], |[x]| rectified(x))))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().copied().map(rectified).collect()
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(ReluBackward, &[AdjointOperand::Output, AdjointOperand::Upstream])
    }
}

impl ReluBackward {
    /// Dispatches of the adjoint, also a step of other kernels: inputs 0 (y) and 1 (dy) of this shape, to `output`.
    pub(super) fn dispatches(shape: Shape, output: Operand, device: &Profile) -> Vec<Dispatch> {
        let dispatch = Dispatch::new("relu", "backward")
            .bind("input", Operand::Input(0))
            .bind("upstream", Operand::Input(1))
            .bind("output", output);
        window::elementwise(&dispatch, &["input", "upstream", "output"], shape.stored() / 4, device)
    }
}

/// `max(x, 0)` on the CPU, also a step of other kernels and of references. Keeps NaN, so that a run detects it.
#[inline(always)]
pub(super) fn rectified<T: PartialOrd + Default>(x: T) -> T {
    if x < T::default() { T::default() } else { x }
}

/// Adjoint on the CPU, also a step of other kernels: dx from y and dy, all stored tensors.
pub(super) fn mask_gradient(dx: &mut [f32], y: &[f32], dy: &[f32]) {
    elementwise(dx, [y, dy], |[y, dy]| if y > 0.0 { dy } else { 0.0 });
}

impl Op for ReluBackward {
    fn name(&self) -> &'static str {
        "relu_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(inputs[1])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let dispatches = Self::dispatches(signature.output, Operand::Output, device);
        Ok(vec![Kernel::of("naive", dispatches)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| mask_gradient(call.output, call.inputs[0], call.inputs[1])))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().zip(inputs[1]).map(|(y, dy)| if *y > 0.0 { *dy } else { 0.0 }).collect()
    }
}

/// Exact: no arithmetic.
const TOLERANCE: f64 = 0.0;

pub(super) fn cases() -> Vec<Case> {
    [Shape::map(3, 1, 1), Shape::map(5, 7, 3), Shape::Vector(13), Shape::map(8, 130, 67)]
        .map(|shape| Case::normal(Relu, &[shape], TOLERANCE))
        .into()
}

pub(super) fn backward_cases() -> Vec<Case> {
    [Shape::map(3, 1, 1), Shape::map(5, 7, 3), Shape::Vector(13)]
        .map(|shape| {
            Case::drawn(ReluBackward, &[(shape, CaseInput::Rectified), (shape, CaseInput::Normal)], TOLERANCE)
        })
        .into()
}
