//! Standard deviation from first and second moments, for when the values themselves are no longer available, and its
//! gradients.

use super::lanes::elementwise;
use super::shape::mismatch;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Smallest variance, the same as in [`ChannelDeviation`](super::ChannelDeviation).
const SMALLEST: f32 = 1e-5;

/// `sigma = sqrt(max(q - mu^2, 1e-5))`. Inputs: q, the second moments of some values plus 1e-5; mu, their means;
/// vectors of the same length.
///
/// In f32 the error of the variance is up to 2e-7 of q: small unless the deviation is much smaller than the mean.
#[derive(Debug, Clone, Copy)]
pub struct Deviation;

/// Adjoint of [`Deviation`] with respect to q, `dsigma / (2 sigma)`, or to mu, `-mu dsigma / sigma`, also where the
/// variance is clamped. Inputs: mu, sigma, dsigma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviationBackward {
    /// True for the gradient with respect to mu, false with respect to q.
    pub by_mean: bool,
}

fn same(op: &str, inputs: &[Shape], count: usize) -> Result<Shape> {
    let length = inputs[0].expect_vector(op)?;
    if inputs.len() == count && inputs.iter().all(|shape| *shape == inputs[0]) {
        return Ok(Shape::Vector(length));
    }
    Err(mismatch(op, &format!("takes {count} vectors of the same length, not {inputs:?}")))
}

fn dispatch(entry: &'static str, length: usize, device: &Profile) -> Dispatch {
    Dispatch::new("deviation", entry)
        .size("length", length)
        .float("smallest", SMALLEST)
        .bind("output", Operand::Output)
        .linear(length.div_ceil(4), 64, device)
}

impl Op for Deviation {
    fn name(&self) -> &'static str {
        "deviation"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        same("deviation", inputs, 2)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let length = signature.output.expect_vector("deviation")?;
        let dispatch = dispatch("forward", length, device);
        let dispatch = dispatch.bind("square", Operand::Input(0)).bind("mean", Operand::Input(1));
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let length = signature.output.expect_vector("deviation")?;
        Ok(CpuKernel::new(move |call| {
            elementwise(call.output, [call.inputs[0], call.inputs[1]], |[square, mean]| {
                let variance = square - mean * mean;
                // Unlike `max`, this keeps NaN.
                if variance < SMALLEST { SMALLEST.sqrt() } else { variance.sqrt() }
            });
            call.output[length..].fill(0.0);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let pairs = inputs[0].iter().zip(inputs[1]);
        let least = f64::from(SMALLEST);
        let bounded = |variance: f64| if variance < least { least } else { variance };
        pairs.map(|(square, mean)| bounded(square - mean * mean).sqrt()).collect()
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        let op = DeviationBackward { by_mean: input == 1 };
        Adjoint::new(op, &[AdjointOperand::Input(1), AdjointOperand::Output, AdjointOperand::Upstream])
    }
}

impl Op for DeviationBackward {
    fn name(&self) -> &'static str {
        "deviation_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        same("deviation_backward", inputs, 3)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let length = signature.output.expect_vector("deviation_backward")?;
        let dispatch = dispatch("backward", length, device)
            .consts(&[("BY_MEAN", u32::from(self.by_mean))])
            .bind("mean", Operand::Input(0))
            .bind("deviation", Operand::Input(1))
            .bind("upstream", Operand::Input(2));
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let length = signature.output.expect_vector("deviation_backward")?;
        let by_mean = self.by_mean;
        Ok(CpuKernel::new(move |call| {
            let inputs = [call.inputs[0], call.inputs[1], call.inputs[2]];
            elementwise(call.output, inputs, |[mean, deviation, upstream]| {
                let factor = if by_mean { -mean } else { 0.5 };
                factor * upstream / deviation
            });
            // Padding has no deviation and would be 0 / 0.
            call.output[length..].fill(0.0);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let rate = |((mean, deviation), upstream): ((&f64, &f64), &f64)| {
            let factor = if self.by_mean { -mean } else { 0.5 };
            factor * upstream / deviation
        };
        inputs[0].iter().zip(inputs[1]).zip(inputs[2]).map(rate).collect()
    }
}

/// Variances are at least a tenth of the second moments: three roundings of 6e-8 of these, and a root.
const TOLERANCE: f64 = 2e-6;
/// Two roundings, and a division with an error of up to 2.5 units in the last place.
const BACKWARD_TOLERANCE: f64 = 5e-7;

const LENGTHS: [usize; 5] = [1, 3, 7, 64, 263];

pub(super) fn cases() -> Vec<Case> {
    let case = |length| {
        let square = CaseInput::Values(&[1.5, 2.0, 0.9, 1.3, 4.0, 0.7]);
        let mean = CaseInput::Values(&[0.5, -0.7, 0.2, 0.0, 0.6]);
        let vector = Shape::Vector(length);
        Case::drawn(Deviation, &[(vector, square), (vector, mean)], TOLERANCE)
    };
    LENGTHS.map(case).into()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let case = |by_mean| {
        move |length| {
            let deviation = CaseInput::Values(&[0.5, 2.0, 0.9, 1.3, 0.003_2]);
            let vector = Shape::Vector(length);
            let inputs = [(vector, CaseInput::Normal), (vector, deviation), (vector, CaseInput::Normal)];
            Case::drawn(DeviationBackward { by_mean }, &inputs, BACKWARD_TOLERANCE)
        }
    };
    [LENGTHS.map(case(false)), LENGTHS.map(case(true))].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_rounded_variance_gives_the_minimum() {
        let found = Deviation.reference(&[&[4.0], &[2.000_001]], &[Shape::Vector(1); 2]);
        assert!((found[0] - f64::from(SMALLEST).sqrt()).abs() <= 1e-9);
        assert!(Deviation.output(&[Shape::Vector(3), Shape::Vector(4)]).is_err());
        assert!(DeviationBackward { by_mean: true }.output(&[Shape::Vector(3); 2]).is_err());
    }
}
