//! Linear combination of tensors with fixed factors: for sums of losses and scaled statistics.

use super::lanes::elementwise;
use super::shape::mismatch;
use super::{
    Adjoint, AdjointOperand, Case, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, window,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Names of the summands and their factors in the shader.
const SUMMANDS: [(&str, &str); 3] = [("a", "factor_a"), ("b", "factor_b"), ("c", "factor_c")];

/// `y = sum over k of factors[k] * a_k`. Inputs: one to three tensors of the same shape, as many as there are factors.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearCombination {
    /// Factor of each input.
    pub factors: Vec<f32>,
}

impl LinearCombination {
    /// Creates a product of one tensor and a number.
    pub fn scale(factor: f32) -> Self {
        Self { factors: vec![factor] }
    }
}

impl Op for LinearCombination {
    fn name(&self) -> &'static str {
        "linear_combination"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let wrong = |message: String| Err(mismatch("linear_combination", &message));
        if inputs.len() != self.factors.len() || !(1..=SUMMANDS.len()).contains(&inputs.len()) {
            return wrong(format!("{} inputs for {} factors", inputs.len(), self.factors.len()));
        }
        if let Some(other) = inputs.iter().find(|other| **other != inputs[0]) {
            return wrong(format!("{} and {other} differ", inputs[0]));
        }
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let count = signature.inputs.len();
        let mut dispatch = Dispatch::new("linear_combination", "forward")
            .consts(&[("COUNT", count as u32)])
            .bind("output", Operand::Output);
        for (index, (name, factor)) in SUMMANDS.into_iter().enumerate() {
            // The shader always binds three inputs.
            let input = if index < count { index } else { 0 };
            dispatch = dispatch
                .bind(name, Operand::Input(input))
                .float(factor, self.factors.get(index).copied().unwrap_or(0.0));
        }
        let names = ["a", "b", "c", "output"];
        let quads = signature.output.stored() / 4;
        Ok(vec![Kernel::of("naive", window::elementwise(&dispatch, &names, quads, device))])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let factors = self.factors.clone();
        Ok(CpuKernel::new(move |call| match (&factors[..], &call.inputs[..]) {
            (&[of_a], &[a]) => elementwise(call.output, [a], |[a]| of_a * a),
            (&[of_a, of_b], &[a, b]) => elementwise(call.output, [a, b], |[a, b]| of_a * a + of_b * b),
            (&[of_a, of_b, of_c], &[a, b, c]) => {
                elementwise(call.output, [a, b, c], |[a, b, c]| of_a * a + of_b * b + of_c * c);
            }
            // `output` rejects any other number of inputs.
            _ => {}
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let mut sums = vec![0.0; inputs[0].len()];
        for (factor, input) in self.factors.iter().zip(inputs) {
            sums.iter_mut().zip(*input).for_each(|(sum, value)| *sum += f64::from(*factor) * value);
        }
        sums
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(Self::scale(*self.factors.get(input)?), &[AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * (signature.output.elements() * signature.inputs.len()) as u64
    }
}

/// Five roundings of 6e-8, of products that may be larger than their sum.
const TOLERANCE: f64 = 6e-7;

pub(super) fn cases() -> Vec<Case> {
    let shapes =
        [Shape::map(3, 1, 1), Shape::map(5, 7, 3), Shape::Vector(1), Shape::Matrix { rows: 67, columns: 35 }];
    let factors = [vec![1.0], vec![-0.25], vec![1.0, 2.5], vec![0.3, -1.7, 0.9]];
    let mut cases = Vec::new();
    for shape in shapes {
        for factors in factors.clone() {
            let inputs = vec![shape; factors.len()];
            cases.push(Case::normal(LinearCombination { factors }, &inputs, TOLERANCE));
        }
    }
    cases
}
