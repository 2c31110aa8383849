//! Inputs and expected outputs of a test case.

use crate::ops::{Case, CaseInput, Shape};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Random values of one kind.
pub fn draw(shape: Shape, kind: CaseInput, random: &mut impl Rng) -> Vec<f32> {
    (0..shape.elements())
        .map(|index| match kind {
            CaseInput::Normal => StandardNormal.sample(random),
            CaseInput::Rectified => {
                let value: f32 = StandardNormal.sample(random);
                value.max(0.0)
            }
            CaseInput::Picture | CaseInput::Positive => random.random::<f32>(),
            CaseInput::Exactly(value) => value,
            CaseInput::Values(values) => values[index % values.len()],
            CaseInput::Scaled(deviation) => {
                let value: f32 = StandardNormal.sample(random);
                value * deviation
            }
            CaseInput::NonFinite => match random.random_range(0..15) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                _ => StandardNormal.sample(random),
            },
        })
        .collect()
}

/// Random inputs of a case in logical order, the same for the same seed on every machine.
pub fn inputs(case: &Case, seed: u64) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    case.inputs.iter().map(|(shape, kind)| draw(*shape, *kind, &mut random)).collect()
}

/// What the case's op makes of these inputs, in f64.
pub fn reference(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let wide: Vec<Vec<f64>> = inputs.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    case.op.reference(&wide, &shapes)
}

/// The same values in f64.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}
