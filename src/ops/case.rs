//! Test cases that an op brings along: used by the tests, the benches and `mirage kernels`.

use super::op::Op;
use super::shape::Shape;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};
use std::sync::Arc;

/// How the values of an input are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CaseInput {
    /// Normal with mean 0 and standard deviation 1.
    Normal,
    /// As after a ReLU: half of the values zero, so that maxima tie.
    Rectified,
    /// Uniform in [0, 1), as pictures are.
    Picture,
    /// Uniform in [0, 1), for quantities that can't be negative (second moments).
    Positive,
    /// Always this value.
    Exactly(f32),
    /// These values in order, from the start again when they are used up.
    Values(&'static [f32]),
    /// Normal with mean 0 and this standard deviation.
    Scaled(f32),
    /// Normal, but about one value in five is NaN, infinite or minus infinite.
    NonFinite,
}

impl CaseInput {
    /// Values of this kind for a tensor, in logical order.
    pub fn draw(self, shape: Shape, random: &mut impl Rng) -> Vec<f32> {
        (0..shape.elements())
            .map(|index| match self {
                Self::Normal => StandardNormal.sample(random),
                Self::Rectified => {
                    let value: f32 = StandardNormal.sample(random);
                    value.max(0.0)
                }
                Self::Picture | Self::Positive => random.random::<f32>(),
                Self::Exactly(value) => value,
                Self::Values(values) => values[index % values.len()],
                Self::Scaled(deviation) => {
                    let value: f32 = StandardNormal.sample(random);
                    value * deviation
                }
                Self::NonFinite => match random.random_range(0..15) {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => f32::NEG_INFINITY,
                    _ => StandardNormal.sample(random),
                },
            })
            .collect()
    }
}

/// One op at one choice of shapes.
#[derive(Debug, Clone)]
pub struct Case {
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Shape and distribution of each input.
    pub inputs: Vec<(Shape, CaseInput)>,
    /// Largest allowed error of a kernel against the f64 reference, relative to the largest absolute
    /// value of the reference output. Each op's file says where its value comes from.
    pub tolerance: f64,
}

impl Case {
    /// A case whose inputs are all drawn from a normal distribution.
    pub fn normal(op: impl Op + 'static, shapes: &[Shape], tolerance: f64) -> Self {
        Self::drawn(
            op,
            &shapes.iter().map(|shape| (*shape, CaseInput::Normal)).collect::<Vec<_>>(),
            tolerance,
        )
    }

    /// A case with a distribution for each input.
    pub fn drawn(op: impl Op + 'static, inputs: &[(Shape, CaseInput)], tolerance: f64) -> Self {
        Self { op: Arc::new(op), inputs: inputs.to_vec(), tolerance }
    }
}
