//! Inputs and expected outputs of a test case.

use crate::ops::{Case, Op, Shape, Signature};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Draws random inputs of a case in logical order. The same seed gives the same inputs on every machine.
pub fn inputs(case: &Case, seed: u64) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    case.inputs.iter().map(|(shape, kind)| kind.draw(*shape, &mut random)).collect()
}

/// Draws random inputs of the kinds that an op takes.
pub fn samples(op: &dyn Op, signature: &Signature) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let inputs = signature.inputs.iter().enumerate();
    inputs.map(|(index, shape)| op.sample(index).draw(*shape, &mut random)).collect()
}

/// Computes the output of the case's op for these inputs in f64.
pub fn reference(case: &Case, inputs: &[Vec<f32>]) -> Vec<f64> {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let wide: Vec<Vec<f64>> = inputs.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    case.op.reference(&wide, &shapes)
}

/// Converts values to f64.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}
