//! The comparators must reject wrong results; otherwise no test that uses them is worth anything.

use crate::common::{assert_close, distance, draw, relative_l2, widen};
use neural_mirage::ops::{CaseInput, Shape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 5;
const COLUMNS: usize = 7;
const CHANNELS: usize = 3;
const TOLERANCE: f64 = 1e-5;

fn random(seed: u64) -> Vec<f32> {
    draw(Shape::map(CHANNELS, ROWS, COLUMNS), CaseInput::Normal, &mut ChaCha8Rng::seed_from_u64(seed))
}

fn good() -> (Vec<f32>, Vec<f64>) {
    let values = random(1);
    let expected = widen(&values);
    (values, expected)
}

fn replaced(index: usize, value: f32) -> Vec<f32> {
    let mut values = good().0;
    values[index] = value;
    values
}

/// Checks that both comparators, and the assertion built on the first, reject.
fn assert_rejected(what: &str, actual: &[f32], expected: &[f64]) {
    let accepted = distance(actual, expected) <= TOLERANCE;
    assert!(!accepted, "distance accepts {what}");
    let accepted = relative_l2(actual, expected) <= TOLERANCE;
    assert!(!accepted, "relative_l2 accepts {what}");
    let outcome = std::panic::catch_unwind(|| assert_close(what, actual, expected, TOLERANCE));
    assert!(outcome.is_err(), "assert_close accepts {what}");
}

#[test]
fn equal_values_are_accepted() {
    let (actual, expected) = good();
    assert_eq!(distance(&actual, &expected), 0.0);
    assert_eq!(relative_l2(&actual, &expected), 0.0);
    assert_close("equal", &actual, &expected, 0.0);
    assert_close("empty", &[], &[], 0.0);
    assert_close("zeros", &[0.0; 4], &[0.0; 4], 0.0);
    assert_close("signed zeros", &[-0.0; 4], &[0.0; 4], 0.0);
}

#[test]
fn single_rounding_error_is_accepted() {
    let (actual, expected) = good();
    let nudged: Vec<f64> = expected.iter().map(|value| value * (1.0 + 6e-8)).collect();
    assert_close("rounded", &actual, &nudged, TOLERANCE);
}

#[test]
fn nan_and_infinity_are_rejected() {
    let (actual, expected) = good();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for index in [0, 50, actual.len() - 1] {
            assert_rejected(&format!("{value} at {index}"), &replaced(index, value), &expected);
        }
        // A broken reference must not let a broken kernel pass.
        let mut broken = expected.clone();
        broken[3] = f64::from(value);
        assert_rejected("a broken reference", &actual, &broken);
        assert_rejected("broken on both sides", &replaced(3, value), &broken);
    }
    assert_rejected("all NaN", &vec![f32::NAN; actual.len()], &expected);
}

#[test]
fn misplaced_values_are_rejected() {
    let (actual, expected) = good();
    assert_rejected("another run's output", &random(2), &expected);
    let mut shifted = actual.clone();
    shifted.rotate_right(1);
    assert_rejected("shifted by one", &shifted, &expected);
    let plane = ROWS * COLUMNS;
    let transposed: Vec<f32> = (0..CHANNELS)
        .flat_map(|c| (0..COLUMNS).flat_map(move |x| (0..ROWS).map(move |y| c * plane + y * COLUMNS + x)))
        .map(|index| actual[index])
        .collect();
    assert_rejected("transposed", &transposed, &expected);
    let mut swapped = actual.clone();
    let (first, rest) = swapped.split_at_mut(plane);
    first.swap_with_slice(&mut rest[..plane]);
    assert_rejected("two channels swapped", &swapped, &expected);
}

#[test]
fn different_lengths_are_rejected() {
    let (mut actual, expected) = good();
    actual.push(0.0);
    assert_rejected("one value more", &actual, &expected);
    assert_rejected("one value less", &actual[..expected.len() - 1], &expected);
    assert_rejected("no values", &[], &expected);
    assert_rejected("values for an empty reference", &actual, &[]);
}

#[test]
fn small_errors_are_rejected() {
    let (actual, expected) = good();
    let scaled: Vec<f32> = actual.iter().map(|value| value * 1.001).collect();
    assert_rejected("scaled by 1.001", &scaled, &expected);
    for index in [0, 17, actual.len() - 1] {
        assert_rejected("one wrong value", &replaced(index, actual[index] + 1e-3), &expected);
        assert_rejected("one missing value", &replaced(index, 0.0), &expected);
    }
}

#[test]
fn nonzero_for_expected_zero_is_rejected() {
    assert_rejected("a tiny value for zeros", &[0.0, 1e-30, 0.0], &[0.0; 3]);
    assert_rejected("values for zeros", &random(1), &vec![0.0; CHANNELS * ROWS * COLUMNS]);
    let (_, expected) = good();
    assert_rejected("zeros for values", &vec![0.0; expected.len()], &expected);
}
