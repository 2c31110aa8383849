//! Test cases of an op, for the tests, the benches and `mirage kernels`.

use super::op::Op;
use super::sample::CaseInput;
use super::shape::Shape;
use std::sync::Arc;

/// One op with the shapes of its inputs.
#[derive(Debug, Clone)]
pub struct Case {
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Shape and distribution of each input.
    pub inputs: Vec<(Shape, CaseInput)>,
    /// Largest allowed error of a kernel against the f64 reference, relative to the largest absolute value of the
    /// reference output. Each op's file explains its value.
    pub tolerance: f64,
}

impl Case {
    /// Creates a case whose inputs are all drawn from a normal distribution.
    pub fn normal(op: impl Op + 'static, shapes: &[Shape], tolerance: f64) -> Self {
        Self::drawn(
            op,
            &shapes.iter().map(|shape| (*shape, CaseInput::Normal)).collect::<Vec<_>>(),
            tolerance,
        )
    }

    /// Creates a case with a distribution for each input.
    pub fn drawn(op: impl Op + 'static, inputs: &[(Shape, CaseInput)], tolerance: f64) -> Self {
        Self { op: Arc::new(op), inputs: inputs.to_vec(), tolerance }
    }
}
