//! Softmax of a vector, and its adjoint.

use super::lanes::{elementwise, sums};
use super::shape::expect_same;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
};
use crate::error::Result;
use crate::gpu::Profile;

/// `y_i = exp(x_i - max x) / sum_j exp(x_j - max x)`, like PyTorch's `softmax`. Input: x, a vector of any length.
/// Finite x of any magnitude give finite y.
#[derive(Debug, Clone, Copy)]
pub struct Softmax;

/// Adjoint of [`Softmax`]: `dx_i = y_i (dy_i - sum_j y_j dy_j)`. Inputs: y (the forward output), dy.
#[derive(Debug, Clone, Copy)]
pub struct SoftmaxBackward;

fn kernel(dispatch: Dispatch, shape: Shape) -> Kernel {
    let dispatch = dispatch
        .bind("input", Operand::Input(0))
        .bind("output", Operand::Output)
        .size("length", shape.elements())
        .size("stored", shape.stored());
    Kernel::single("naive", dispatch)
}

/// The largest value, and the sum of `exp(x - largest)`. Exponents are at most 0, so nothing overflows, and the largest
/// term is 1. If a value is NaN or infinite, the sum is NaN.
pub(super) fn largest_and_powers(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().copied().fold(f32::MIN, f32::max);
    let [powers] = sums([values], |[x]| [(x - largest).exp()]);
    (largest, powers as f32)
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_vector("softmax")?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![kernel(Dispatch::new("softmax", "forward"), signature.output)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let length = signature.output.elements();
        Ok(CpuKernel::new(move |call| {
            let x = &call.inputs[0][..length];
            let (high, powers) = largest_and_powers(x);
            let (output, padding) = call.output.split_at_mut(length);
            padding.fill(0.0);
            elementwise(output, [x], |[x]| (x - high).exp() / powers);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let largest = inputs[0].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = inputs[0].iter().map(|x| (x - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(SoftmaxBackward, &[AdjointOperand::Output, AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        // The maximum; difference, power and sum; and the quotient.
        5 * signature.output.elements() as u64
    }
}

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_vector("softmax_backward")?;
        expect_same("softmax_backward", inputs)?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        let dispatch = Dispatch::new("softmax", "backward").bind("upstream", Operand::Input(1));
        Ok(vec![kernel(dispatch, signature.output)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let length = signature.output.elements();
        Ok(CpuKernel::new(move |call| {
            let inputs = [call.inputs[0], call.inputs[1]].map(|input| &input[..length]);
            let [sum] = sums(inputs, |[y, dy]| [y * dy]);
            let sum = sum as f32;
            let (output, padding) = call.output.split_at_mut(length);
            padding.fill(0.0);
            elementwise(output, inputs, |[y, dy]| y * (dy - sum));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let sum: f64 = inputs[0].iter().zip(inputs[1]).map(|(y, dy)| y * dy).sum();
        inputs[0].iter().zip(inputs[1]).map(|(y, dy)| y * (dy - sum)).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        4 * signature.output.elements() as u64
    }
}

/// Vulkan allows exp(x) an error of 3 + 2|x| units in the last place. For the relevant terms (x near 0) and their
/// quotient by the sum it stays below ten units, 6e-7.
const TOLERANCE: f64 = 1e-6;

/// The sum of a few thousand products of similar size in f32, in a tree: a few units in the last place of 6e-8; the
/// following difference may cancel part of the value.
const BACKWARD_TOLERANCE: f64 = 3e-6;

const LENGTHS: [usize; 7] = [1, 2, 7, 255, 257, 1000, 4099];

pub(super) fn cases() -> Vec<Case> {
    // Standard deviation 80: exp would overflow without subtracting the maximum; 1e30: even differences of exponents
    // overflow.
    let inputs =
        [CaseInput::Normal, CaseInput::Scaled(80.0), CaseInput::Exactly(-80.0), CaseInput::Scaled(1e30)];
    let case = |(length, input)| Case::drawn(Softmax, &[(Shape::Vector(length), input)], TOLERANCE);
    LENGTHS.into_iter().flat_map(|length| inputs.map(|input| (length, input))).map(case).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    LENGTHS
        .map(Shape::Vector)
        .map(|shape| {
            let inputs = [(shape, CaseInput::Positive), (shape, CaseInput::Normal)];
            Case::drawn(SoftmaxBackward, &inputs, BACKWARD_TOLERANCE)
        })
        .into()
}
