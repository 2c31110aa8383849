//! Projected gradient of a picture that is constrained to [0, 1].

use super::lanes::elementwise;
use super::shape::expect_same;
use super::{Case, CaseInput, CpuKernel, Kernel, Op, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::Profile;

/// `p = g`, but 0 where x <= 0 and g is positive, or x >= 1 and g is negative: a step along `-g` would leave [0, 1]
/// there. Inputs: x, g of the same shape. For optimisers, so it has no adjoint.
#[derive(Debug, Clone, Copy)]
pub struct ProjectedGradient;

/// True if a step along `-g` would move x out of [0, 1].
pub(super) fn held<Real: PartialOrd + From<u8>>(x: Real, g: Real) -> bool {
    let [zero, one] = [0, 1].map(Real::from);
    // Branch-free, for loops over many values.
    ((x <= zero) & (g > zero)) | ((x >= one) & (g < zero))
}

impl Op for ProjectedGradient {
    fn name(&self) -> &'static str {
        "projected_gradient"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_same("projected_gradient", inputs)?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![window::elementwise_kernel("projected_gradient", &["x", "gradient"], signature, device)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let free = |[x, g]: [f32; 2]| if held(x, g) { 0.0 } else { g };
            elementwise(call.output, [call.inputs[0], call.inputs[1]], free);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let free = |(x, g): (&f64, &f64)| if held(*x, *g) { 0.0 } else { *g };
        inputs[0].iter().zip(inputs[1]).map(free).collect()
    }
}

/// Values at both bounds, beyond them and between.
pub(super) const AT_BOUNDS: CaseInput =
    CaseInput::Values(&[0.0, 1.0, 0.5, 0.0, 1.0, -0.25, 1.5, 1.0, 0.0, 0.3, 0.0, 1.0, 0.9]);

pub(super) fn cases() -> Vec<Case> {
    let shapes = [Shape::map(3, 1, 1), Shape::map(5, 7, 3), Shape::map(3, 37, 29), Shape::Vector(29)];
    let case =
        |(shape, gradient)| Case::drawn(ProjectedGradient, &[(shape, AT_BOUNDS), (shape, gradient)], 0.0);
    let drawn =
        shapes.into_iter().flat_map(|shape| [(shape, CaseInput::Normal), (shape, CaseInput::Rectified)]);
    drawn.map(case).collect()
}
