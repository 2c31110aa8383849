//! Multiplies a tensor by a number on the device: for losses relative to the size of their target.

use super::cpu::write_number;
use super::lanes::elementwise;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
    window,
};
use crate::error::Result;
use crate::gpu::Profile;

/// `y = x * s`. Inputs: x, of any shape; s, a vector of length 1, which gets no gradient.
#[derive(Debug, Clone, Copy)]
pub struct ScaleBy;

/// `y = 1 / (scale * x + smallest)`. Input: x, a vector of length 1. For targets, so it has no adjoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reciprocal {
    /// Factor of the input, e.g. to turn a sum into a mean.
    pub scale: f32,
    /// Added to the denominator, so that an input of 0 gives a finite result.
    pub smallest: f32,
}

impl Op for ScaleBy {
    fn name(&self) -> &'static str {
        "scale_by"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[1].expect_number("scale_by")?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let dispatch = Dispatch::new("scale_by", "forward")
            .bind("input", Operand::Input(0))
            .bind("number", Operand::Input(1))
            .bind("output", Operand::Output)
            .float("scale", 1.0)
            .float("smallest", 0.0);
        let quads = signature.output.stored() / 4;
        Ok(vec![Kernel::of("naive", window::elementwise(&dispatch, &["input", "output"], quads, device))])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let factor = call.inputs[1][0];
            elementwise(call.output, [call.inputs[0]], |[x]| x * factor);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().map(|value| value * inputs[1][0]).collect()
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        if input != 0 {
            return None;
        }
        Adjoint::new(Self, &[AdjointOperand::Upstream, AdjointOperand::Input(1)])
    }
}

impl Op for Reciprocal {
    fn name(&self) -> &'static str {
        "reciprocal"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_number("reciprocal")?;
        Ok(inputs[0])
    }

    fn kernels(&self, _signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        let dispatch = Dispatch::new("scale_by", "reciprocal")
            .bind("number", Operand::Input(0))
            .bind("output", Operand::Output)
            .size("count", 1)
            .float("scale", self.scale)
            .float("smallest", self.smallest);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let Self { scale, smallest } = *self;
        Ok(CpuKernel::new(move |call| {
            write_number(call.output, 1.0 / (scale * call.inputs[0][0] + smallest));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        vec![1.0 / (f64::from(self.scale) * inputs[0][0] + f64::from(self.smallest))]
    }
}

/// One rounding.
const TOLERANCE: f64 = 1e-7;

/// Two roundings, and a division with an error of up to 2.5 units in the last place.
const RECIPROCAL_TOLERANCE: f64 = 4e-7;

pub(super) fn cases() -> Vec<Case> {
    let one = Shape::Vector(1);
    [Shape::map(3, 1, 1), Shape::map(5, 7, 3), one, Shape::Matrix { rows: 67, columns: 35 }]
        .map(|shape| Case::normal(ScaleBy, &[shape, one], TOLERANCE))
        .into()
}

pub(super) fn reciprocal_cases() -> Vec<Case> {
    let case = |scale, input| {
        let op = Reciprocal { scale, smallest: 1e-8 };
        Case::drawn(op, &[(Shape::Vector(1), input)], RECIPROCAL_TOLERANCE)
    };
    vec![
        case(0.2, CaseInput::Positive),
        case(1.0 / 4096.0, CaseInput::Exactly(0.0)),
        case(3.0, CaseInput::Exactly(1e9)),
    ]
}
