//! Weights in f16 (`Precision::HalfWeights`): results and memory use of the kernels.

use crate::common::{assert_close, engine_with, filter, inputs, turn, widen};
use half::f16;
use neural_mirage::gpu::{DeviceOptions, Family, Precision};
use neural_mirage::graph::SingleOp;
use neural_mirage::ops::{
    Case, CaseInput, Conv, ConvBackward, Filter, GradientEpilogue, Linear, LinearBackward, Matrix,
    MatrixValues, Op, Shape,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The registry's tolerance for convolutions: rounded weights are exact in f32.
const DIRECT: f64 = 1e-5;
/// Not the weights but the transformed weights are rounded: an error of 2^-11 = 4.9e-4 of each product. In
/// F(4x4, 3x3) the products are up to six times as large as their sum.
const WINOGRAD: f64 = 3e-3;

/// Returns the filter with weights rounded to f16.
fn rounded(filter: &Arc<Filter>) -> Arc<Filter> {
    let weights = filter.weights.clone();
    let round = move || Ok(weights()?.iter().map(|value| f16::from_f32(*value).to_f32()).collect());
    Arc::new(Filter { weights: Arc::new(round), ..Filter::clone(filter) })
}

fn options(family: Family, half: bool) -> DeviceOptions {
    let precision = if half { Precision::HalfWeights } else { Precision::Single };
    DeviceOptions { family, precision, ..Default::default() }
}

/// Runs each kernel of `op` with weights in f16 against the reference of `expected`.
fn check(
    op: Arc<dyn Op>,
    expected: &dyn Op,
    drawn: &[(Shape, CaseInput)],
    tolerance: impl Fn(&str) -> f64,
) -> BTreeSet<&'static str> {
    let engine = engine_with(&options(Family::Buffer, true), |_| {});
    let shapes: Vec<Shape> = drawn.iter().map(|(shape, _)| *shape).collect();
    let case = Case { op: op.clone(), inputs: drawn.to_vec(), tolerance: 0.0 };
    let values = inputs(&case, 5);
    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    let expected = expected.reference(&wide, &shapes);
    let single = SingleOp::new(&engine, op.clone(), &shapes).unwrap();
    let variants = single.variants().unwrap();
    for (index, variant) in variants.iter().enumerate() {
        let outcome = single.run(index, &values).unwrap();
        assert_close(&format!("{op:?}/{variant}"), &outcome.values, &expected, tolerance(variant));
    }
    variants.into_iter().collect()
}

#[test]
fn convolutions_round_only_their_weights() {
    let _turn = turn();
    let mut seen = BTreeSet::new();
    for (outs, ins, height, width) in [(5, 3, 7, 5), (40, 37, 39, 43), (70, 33, 9, 13), (3, 17, 12, 11)] {
        let conv = Conv::same(filter(outs, ins, [3, 3]), true);
        let direct = Conv { filter: rounded(&conv.filter), ..conv.clone() };
        let (input, output) = (Shape::map(ins, height, width), Shape::map(outs, height, width));
        // The naive kernel keeps f32, as the reference on the device.
        let tolerance = |variant: &str| match variant {
            "naive" => WINOGRAD,
            name if name.contains("winograd") => WINOGRAD,
            _ => DIRECT,
        };
        seen.extend(check(Arc::new(conv.clone()), &direct, &[(input, CaseInput::Normal)], tolerance));
        let backward =
            |conv| ConvBackward { conv, size: [height, width], epilogue: GradientEpilogue::default() };
        let drawn = [(output, CaseInput::Rectified), (output, CaseInput::Normal)];
        seen.extend(check(Arc::new(backward(conv)), &backward(direct), &drawn, tolerance));
    }
    for variant in ["buffer_winograd4", "buffer_winograd2", "buffer", "buffer_small", "buffer_few"] {
        assert!(seen.contains(variant), "{variant} did not run: {seen:?}");
    }
}

#[test]
fn f16_weights_differ_from_f32_weights() {
    let _turn = turn();
    // Otherwise the test above would be void: the rounding must exceed its tolerance.
    let conv = Conv::same(filter(40, 37, [3, 3]), false);
    let values =
        vec![(0..37 * 15 * 17).map(|index| (index * 31 % 61) as f32 * 0.03 - 0.9).collect::<Vec<_>>()];
    let shape = [Shape::map(37, 15, 17)];
    let results = [false, true].map(|half| {
        let engine = engine_with(&options(Family::Buffer, half), |profile| profile.exact = true);
        SingleOp::new(&engine, Arc::new(conv.clone()), &shape).unwrap().run(0, &values).unwrap().values
    });
    let distance = crate::common::distance(&results[1], &widen(&results[0]));
    assert!(distance > 5.0 * DIRECT && distance < WINOGRAD, "{distance}");
}

#[test]
fn linear_layers_round_weights_in_every_family() {
    let _turn = turn();
    let (rows, columns) = (37, 91);
    let values = move |range: std::ops::Range<usize>| {
        let value = |index: usize| ((index * 7919 % 1013) as f32 - 506.0) * 1.1e-3;
        Ok(MatrixValues::F32((range.start * columns..range.end * columns).map(value).collect()))
    };
    let matrix = |half| {
        let bias = Arc::new(move || Ok((0..rows).map(|row| row as f32 * 0.1 - 2.0).collect()));
        Arc::new(Matrix { id: "test".to_owned(), rows, columns, half, values: Arc::new(values), bias })
    };
    // The tolerance of src/ops/linear/matrix.rs.
    let tolerance = |_: &str| 5e-6;
    let linear = |half| Linear { matrix: matrix(half), relu: true };
    let input = [(Shape::Vector(columns), CaseInput::Normal)];
    check(Arc::new(linear(false)), &linear(true), &input, tolerance);
    let upstream = [(Shape::Vector(rows), CaseInput::Rectified), (Shape::Vector(rows), CaseInput::Normal)];
    let backward = |half| LinearBackward { linear: linear(half) };
    check(Arc::new(backward(false)), &backward(true), &upstream, tolerance);

    let bytes = [false, true].map(|half| {
        let engine = engine_with(&options(Family::Texture, half), |_| {});
        let op = linear(false);
        let kernels = op.kernels(
            &neural_mirage::ops::Signature::of(&op, &[Shape::Vector(columns)]).unwrap(),
            engine.profile(),
        );
        let constants = kernels.unwrap()[0].dispatches[0].bindings.clone().into_iter();
        constants
            .filter_map(|(name, operand)| match operand {
                neural_mirage::ops::Operand::Constant(constant) if name == "weights" => Some(constant.bytes),
                _ => None,
            })
            .sum::<u64>()
    });
    // Rows are padded to 16 bytes: 92 values in f32, 96 in f16.
    assert_eq!(bytes, [37 * 92 * 4, 37 * 96 * 2]);
}
