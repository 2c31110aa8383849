//! Cross-entropy between the softmax of a vector of logits and a distribution, and its gradient.

use super::cpu::write_number;
use super::lanes::{elementwise, sums};
use super::shape::mismatch;
use super::softmax::largest_and_powers;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Kullback-Leibler divergence `sum_i p_i (ln p_i - ln softmax(z)_i)`: the cross-entropy of p and the softmax of z
/// minus the entropy of p. It is 0 where both are equal and positive elsewhere. Inputs: z, a vector of logits; p, a
/// distribution over as many classes, which gets no gradient. Output: a vector of length 1. Finite z of any magnitude
/// give a finite result.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy;

/// Adjoint of [`CrossEntropy`] with respect to z: `dz = (softmax(z) * sum p - p) * w`. Inputs: z; p; w, the upstream
/// gradient, a vector of length 1.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropyBackward;

fn expect_pair(op: &str, inputs: &[Shape]) -> Result<()> {
    inputs[0].expect_vector(op)?;
    if inputs[0] == inputs[1] {
        return Ok(());
    }
    Err(mismatch(op, &format!("{} logits need one probability each, not {}", inputs[0], inputs[1])))
}

fn kernel(entry: &'static str, shape: Shape) -> Dispatch {
    Dispatch::new("cross_entropy", entry)
        .bind("input", Operand::Input(0))
        .bind("wanted", Operand::Input(1))
        .bind("output", Operand::Output)
        .size("length", shape.elements())
        .size("stored", shape.stored())
}

/// Logarithms of the softmax.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
    logits.iter().map(|z| z - largest - sum.ln()).collect()
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_pair("cross_entropy", inputs)?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![Kernel::single("naive", kernel("forward", signature.inputs[0]))])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let length = signature.inputs[0].elements();
        Ok(CpuKernel::new(move |call| {
            let [z, p] = [call.inputs[0], call.inputs[1]].map(|input| &input[..length]);
            let (high, sum) = largest_and_powers(z);
            let normaliser = sum.ln();
            // p ln p is 0 at p = 0.
            let term = |[z, p]: [f32; 2]| if p > 0.0 { p * (p.ln() - (z - high - normaliser)) } else { 0.0 };
            let [sum] = sums([z, p], |values| [term(values)]);
            write_number(call.output, sum as f32);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let terms = log_softmax(inputs[0]).into_iter().zip(inputs[1]);
        vec![terms.filter(|(_, p)| **p > 0.0).map(|(q, p)| p * (p.ln() - q)).sum()]
    }

    fn sample(&self, input: usize) -> CaseInput {
        if input == 1 { CaseInput::Positive } else { CaseInput::Normal }
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        if input != 0 {
            return None;
        }
        Adjoint::new(
            CrossEntropyBackward,
            &[AdjointOperand::Input(0), AdjointOperand::Input(1), AdjointOperand::Upstream],
        )
    }

    fn flops(&self, signature: &Signature) -> u64 {
        8 * signature.inputs[0].elements() as u64
    }
}

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_pair("cross_entropy_backward", inputs)?;
        inputs[2].expect_number("cross_entropy_backward")?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        let dispatch = kernel("backward", signature.output).bind("upstream", Operand::Input(2));
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let length = signature.output.elements();
        Ok(CpuKernel::new(move |call| {
            let [z, p] = [call.inputs[0], call.inputs[1]].map(|input| &input[..length]);
            let upstream = call.inputs[2][0];
            let (high, powers) = largest_and_powers(z);
            let [mass] = sums([p], |[p]| [p.max(0.0)]);
            let mass = mass as f32;
            let (output, padding) = call.output.split_at_mut(length);
            padding.fill(0.0);
            elementwise(output, [z, p], |[z, p]| ((z - high).exp() / powers * mass - p.max(0.0)) * upstream);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let mass: f64 = inputs[1].iter().map(|p| p.max(0.0)).sum();
        let gradient = |(q, p): (f64, &f64)| (q.exp() * mass - p.max(0.0)) * inputs[2][0];
        log_softmax(inputs[0]).into_iter().zip(inputs[1]).map(gradient).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        6 * signature.output.elements() as u64
    }
}

/// As for softmax, Vulkan allows exp(x) an error of 3 + 2|x| units in the last place, and log(x) one of 2^-21 near 1.
/// The sum over all classes has terms of both signs, a few times larger than the sum itself.
const TOLERANCE: f64 = 4e-6;

const LENGTHS: [usize; 6] = [1, 2, 7, 255, 1000, 4099];

/// One class, or two with a rare second one.
const TWO_CLASSES: CaseInput = CaseInput::Values(&[0.0, 0.9, 0.0, 0.0, 0.1, 0.0, 0.0]);

fn samples() -> Vec<[(Shape, CaseInput); 2]> {
    let mut samples = Vec::new();
    for length in LENGTHS.map(Shape::Vector) {
        // Standard deviation 80: exp would overflow without subtracting the maximum.
        for logits in [CaseInput::Normal, CaseInput::Scaled(80.0)] {
            samples.push([(length, logits), (length, CaseInput::Positive)]);
        }
        samples.push([(length, CaseInput::Normal), (length, TWO_CLASSES)]);
    }
    // A softmax of 1 with a probability of 1.
    samples.push([(Shape::Vector(1), CaseInput::Exactly(-3.0)), (Shape::Vector(1), CaseInput::Exactly(1.0))]);
    samples
}

pub(super) fn cases() -> Vec<Case> {
    samples().iter().map(|inputs| Case::drawn(CrossEntropy, inputs, TOLERANCE)).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let case = |inputs: &[(Shape, CaseInput); 2]| {
        let inputs = [inputs[0], inputs[1], (Shape::Vector(1), CaseInput::Normal)];
        Case::drawn(CrossEntropyBackward, &inputs, TOLERANCE)
    };
    samples().iter().map(case).collect()
}
