//! Weighted sum of tensors of the same shape: combines gradients that were computed separately.

use super::cpu::for_each_part;
use super::lanes::update;
use super::shape::mismatch;
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::Profile;

/// `y = sum over k of weights[k] * a_k`, summed in that order. Inputs: the weights, a vector as long as the number of
/// summands; then a_0, a_1, ... For gradients only, so it has no adjoint.
#[derive(Debug, Clone, Copy)]
pub struct WeightedSum;

impl Op for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let [weights, first, rest @ ..] = inputs else {
            return Err(mismatch("weighted_sum", "it takes weights and at least one summand"));
        };
        if *weights != Shape::Vector(inputs.len() - 1) {
            let message = format!("{} summands need one weight each, not {weights}", inputs.len() - 1);
            return Err(mismatch("weighted_sum", &message));
        }
        if let Some(other) = rest.iter().find(|other| *other != first) {
            return Err(mismatch("weighted_sum", &format!("{first} and {other} differ")));
        }
        Ok(*first)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let quads = signature.output.stored() / 4;
        let summand = |index: usize| {
            let dispatch = Dispatch::new("weighted_sum", "forward")
                .bind("weights", Operand::Input(0))
                .bind("a", Operand::Input(1 + index))
                .bind("output", Operand::Output)
                .size("index", index);
            window::elementwise(&dispatch, &["a", "output"], quads, device)
        };
        let dispatches = (0..signature.inputs.len() - 1).flat_map(summand).collect();
        Ok(vec![Kernel::of("naive", dispatches)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let [weights, summands @ ..] = &call.inputs[..] else { return };
            for_each_part(call.output, |range, sum| {
                for (index, (summand, weight)) in summands.iter().zip(*weights).enumerate() {
                    let summand = [&summand[range.clone()]];
                    match index {
                        0 => update(sum, summand, |_, [value]| weight * value),
                        _ => update(sum, summand, |sum, [value]| sum + weight * value),
                    }
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let mut sums = vec![0.0; inputs[1].len()];
        for (weight, summand) in inputs[0].iter().zip(&inputs[1..]) {
            for (sum, value) in sums.iter_mut().zip(*summand) {
                *sum += weight * value;
            }
        }
        sums
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * (signature.output.elements() * (signature.inputs.len() - 1)) as u64
    }
}

/// One product and one sum per summand, of which there are at most five.
const TOLERANCE: f64 = 1e-6;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (count, shape) in [
        (1, Shape::map(3, 1, 1)),
        (2, Shape::map(5, 7, 3)),
        (4, Shape::map(3, 37, 29)),
        (5, Shape::Vector(13)),
    ] {
        let weights = (Shape::Vector(count), CaseInput::Normal);
        let inputs: Vec<_> =
            std::iter::once(weights).chain((0..count).map(|_| (shape, CaseInput::Normal))).collect();
        cases.push(Case::drawn(WeightedSum, &inputs, TOLERANCE));
    }
    cases
}
