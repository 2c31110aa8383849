//! Mean squared error against a target, `mean((F - T)^2)` over all elements: neural-style's loss for content (F a map)
//! and style (F a Gram matrix).

use super::cpu::write_number;
use super::lanes::{elementwise, sums};
use super::shape::mismatch;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
    sum, window,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;
/// Quads summed per invocation; matches the shader's `TERMS`.
const TERMS: usize = 16;

/// `mean((F - T)^2)`, as a vector of length 1. Inputs: F, T of the same shape (map, vector or matrix). The target T
/// gets no gradient.
#[derive(Debug, Clone, Copy)]
pub struct MeanSquaredError;

/// Adjoint of [`MeanSquaredError`] with respect to F: `dF = 2 / n * (F - T) * w` with n elements. Inputs: F; T; w, the
/// upstream gradient, a vector of length 1, usually the loss weight.
#[derive(Debug, Clone, Copy)]
pub struct MseBackward;

fn same(op: &str, inputs: &[Shape]) -> Result<()> {
    if inputs[0] == inputs[1] {
        return Ok(());
    }
    Err(mismatch(op, &format!("{} and its target {} differ", inputs[0], inputs[1])))
}

fn dispatch(entry: &'static str, shape: Shape) -> Dispatch {
    Dispatch::new("mse", entry)
        .bind("input", Operand::Input(0))
        .bind("wanted", Operand::Input(1))
        .float("scale", 2.0 / shape.elements() as f32)
}

impl Op for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mse"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        same("mse", inputs)?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let shape = signature.inputs[0];
        let count = shape.stored() / 4;
        let windows = window::texels(count, device);
        let partials = |texels: usize| texels.div_ceil(TERMS).next_multiple_of(GROUP);
        let all: usize = windows.iter().map(|window| partials(window.len())).sum();
        let mut before = 0;
        let mut first = Vec::new();
        for texels in windows {
            let own = partials(texels.len());
            let sums = before / 4..(before + own) / 4;
            before += own;
            let part = dispatch("forward", shape)
                .bind("sums", Operand::Scratch(0))
                .size("count", texels.len())
                .size("partials", own)
                .linear(own, GROUP, device)
                .narrow_run(&["input", "wanted"], &texels, count)
                .narrow_run(&["sums"], &sums, all / 4);
            first.push(part);
        }
        Ok(vec![sum::total(first, all, 1.0 / shape.elements() as f64, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let elements = signature.inputs[0].elements() as f64;
        Ok(CpuKernel::new(move |call| {
            let [sum] = sums([call.inputs[0], call.inputs[1]], |[f, t]| [(f - t) * (f - t)]);
            write_number(call.output, (sum / elements) as f32);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let squares = inputs[0].iter().zip(inputs[1]).map(|(f, t)| (f - t).powi(2));
        vec![squares.sum::<f64>() / inputs[0].len() as f64]
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        if input != 0 {
            return None;
        }
        Adjoint::new(
            MseBackward,
            &[AdjointOperand::Input(0), AdjointOperand::Input(1), AdjointOperand::Upstream],
        )
    }

    fn flops(&self, signature: &Signature) -> u64 {
        3 * signature.inputs[0].elements() as u64
    }
}

impl Op for MseBackward {
    fn name(&self) -> &'static str {
        "mse_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        same("mse_backward", inputs)?;
        inputs[2].expect_number("mse_backward")?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let shape = signature.output;
        let kernel = dispatch("backward", shape)
            .bind("upstream", Operand::Input(2))
            .bind("output", Operand::Output)
            .size("partials", 0);
        let names = ["input", "wanted", "output"];
        let dispatches = window::elementwise(&kernel, &names, shape.stored() / 4, device);
        Ok(vec![Kernel::of("naive", dispatches)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let scale = 2.0 / signature.output.elements() as f32;
        Ok(CpuKernel::new(move |call| {
            let factor = scale * call.inputs[2][0];
            elementwise(call.output, [call.inputs[0], call.inputs[1]], |[f, t]| (f - t) * factor);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let factor = 2.0 / inputs[0].len() as f64 * inputs[2][0];
        inputs[0].iter().zip(inputs[1]).map(|(f, t)| factor * (f - t)).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.output.elements() as u64
    }
}

/// f32 sums of squares, at most 64 at a time and at most 64 such sums in sequence: 6e-8 * sqrt(64) = 5e-7 of the
/// result; the tolerance is twice that.
const TOLERANCE: f64 = 1e-6;

/// Four roundings of 6e-8 each.
const BACKWARD_TOLERANCE: f64 = 2.4e-7;

/// Every kind of shape, with fewer and more values than one workgroup processes.
fn samples() -> Vec<Shape> {
    vec![
        Shape::map(3, 1, 1),
        Shape::map(5, 7, 3),
        Shape::map(21, 37, 29),
        Shape::Vector(1),
        Shape::Vector(1003),
        Shape::Matrix { rows: 7, columns: 7 },
        Shape::Matrix { rows: 67, columns: 67 },
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = samples()
        .into_iter()
        .map(|shape| Case::normal(MeanSquaredError, &[shape, shape], TOLERANCE))
        .collect();
    // Enough partial sums to be folded once before the last workgroup.
    let large = Shape::map(4, 521, 523);
    let inputs = [(large, CaseInput::Rectified), (large, CaseInput::Positive)];
    cases.push(Case::drawn(MeanSquaredError, &inputs, TOLERANCE));
    cases
}

pub(super) fn backward_cases() -> Vec<Case> {
    samples()
        .into_iter()
        .map(|shape| Case::normal(MseBackward, &[shape, shape, Shape::Vector(1)], BACKWARD_TOLERANCE))
        .collect()
}
