//! Almost all kernels propagate NaN, so a run detects overflowing activations. WGSL leaves comparisons with NaN
//! undefined, but the drivers tested here and the CPU device propagate it.

use super::cases::{Ran, kernels, single};
use crate::common::{cpu, engine, inputs, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::ops::{Case, REGISTRY, Shape};

/// Runs each kernel for each case of the ops once, with `spoil` applied to the first input. `check` receives a name, the
/// result of `expect` for the case and its inputs, and the output.
fn on_each<E>(
    takes: impl Fn(&str) -> bool,
    spoil: impl Fn(&mut [f32]),
    expect: impl Fn(&Case, &[Vec<f32>]) -> E,
    mut check: impl FnMut(&str, &E, &[f32]),
) {
    let _turn = turn();
    let mut ran = Ran::default();
    let engines = [engine(Family::Texture), engine(Family::Buffer), cpu(DeviceOptions::default())];
    for case in REGISTRY.iter().filter(|entry| takes(entry.name)).flat_map(|entry| (entry.cases)()) {
        let mut values = inputs(&case, 3);
        spoil(&mut values[0]);
        let expected = expect(&case, &values);
        for engine in &engines {
            let single = single(engine, &case);
            for (variant, kernel) in kernels(engine, case.op.as_ref(), &single).iter().enumerate() {
                if !ran.insert(&case, kernel) {
                    continue;
                }
                let found = single.run(variant, &values).unwrap().values;
                let name =
                    format!("{:?}/{} on {:?}, {}", case.op, kernel.variant, shapes(&case), engine.describe());
                check(&name, &expected, &found);
            }
        }
    }
}

fn shapes(case: &Case) -> Vec<Shape> {
    case.inputs.iter().map(|(shape, _)| *shape).collect()
}

#[test]
fn relu_propagates_nan() {
    let mut tested = 0;
    let check = |name: &str, (): &(), found: &[f32]| {
        assert!(found.iter().all(|value| value.is_nan()), "{name}");
        tested += 1;
    };
    on_each(|op| ["conv", "linear", "relu"].contains(&op), |values| values.fill(f32::NAN), |_, _| (), check);
    assert!(tested > 150, "{tested} kernels");
}

/// Ops that may lose NaN: comparisons, signs, pixels with weight zero, and ops applied only to weights or for display.
const MAY_LOSE_IT: [&str; 6] = [
    "interleave",
    "lbfgs_recursion",
    "resize",
    "total_variation",
    "total_variation_backward",
    "winograd_weights",
];

/// Every fifth value is NaN, so it is at varying positions in pooling windows.
#[test]
fn single_nans_reach_the_output() {
    let mut tested = 0;
    // References take longer than kernels.
    let expect = |case: &Case, values: &[Vec<f32>]| {
        let values: Vec<Vec<f64>> = values.iter().map(|input| widen(input)).collect();
        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        case.op.reference(&values, &shapes(case))
    };
    let check = |name: &str, expected: &Vec<f64>, found: &[f32]| {
        let lost =
            expected.iter().zip(found).position(|(expected, found)| expected.is_nan() && !found.is_nan());
        assert_eq!(lost, None, "{name}");
        // Cases whose reference has no NaN, such as a mask derived from it, test nothing here.
        tested += usize::from(expected.iter().any(|value| value.is_nan()));
    };
    let spoil = |values: &mut [f32]| values.iter_mut().step_by(5).for_each(|value| *value = f32::NAN);
    on_each(|op| !MAY_LOSE_IT.contains(&op), spoil, expect, check);
    assert!(tested > 500, "{tested} kernels");
}
