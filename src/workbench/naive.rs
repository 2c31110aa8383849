//! Compares a kernel with the naive one: at the shapes of a real run, an f64 reference would take minutes.

use super::compare::{Difference, HALF_TOLERANCE};
use crate::graph::SingleRun;

/// Tolerance between a kernel and the naive one, relative to the largest value: ten times that of the least accurate
/// kernel (Winograd F(4x4, 3x3), 1e-5), because sums are longer at full size and the naive kernel is not exact. A wrong
/// kernel is off by far more.
const TOLERANCE: f64 = 1e-4;

/// Fraction of a saved output that may differ: decisions differ only where two values are almost equal, and few random
/// values are. (Seen on lavapipe, Winograd against the naive kernel: below 1e-4.)
const TIES: f64 = 1e-3;

/// The same fraction if factors are rounded to f16, which makes more values almost equal.
const HALF_TIES: f64 = 2e-2;

/// Describes what is wrong with a kernel's outcome, if anything. `naive` is the naive kernel's outcome for the same
/// inputs. `half` is true if the kernel rounds to f16 where the naive one does not.
pub fn fault(outcome: &SingleRun, naive: &SingleRun, half: bool) -> Option<String> {
    let (tolerance, ties) = if half { (HALF_TOLERANCE, HALF_TIES) } else { (TOLERANCE, TIES) };
    let difference = Difference::of_two(&outcome.values, &naive.values);
    if !difference.within(tolerance) {
        let worst = difference.worst.map_or_else(String::new, |(index, actual, expected)| {
            format!(": value {index} is {actual:e} instead of {expected:e}")
        });
        return Some(format!("differs from the naive kernel by {:.1e}{worst}", difference.largest));
    }
    if let Some(fault) = outcome.fault() {
        return Some(fault.to_owned());
    }
    let same = match (&outcome.saved, &naive.saved) {
        (None, None) => true,
        // The saved output contains decisions or numbers.
        (Some(one), Some(other)) => {
            same_decisions(one, other, ties) || Difference::of_two(one, other).within(tolerance)
        }
        _ => false,
    };
    (!same).then(|| "its saved output differs from the naive kernel's by more than ties explain".to_owned())
}

fn same_decisions(one: &[f32], other: &[f32], ties: f64) -> bool {
    // `!(==)` is meant: a NaN differs from everything.
    let differing = one.iter().zip(other).filter(|(one, other)| !(one == other)).count();
    one.len() == other.len() && differing as f64 <= ties * one.len() as f64 + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(values: &[f32], saved: Option<&[f32]>) -> SingleRun {
        let (values, saved) = (values.to_vec(), saved.map(<[f32]>::to_vec));
        SingleRun { values, saved, padding_is_zero: true, guard_intact: true, is_written: true }
    }

    fn differs(actual: &[f32], expected: &[f32]) -> bool {
        fault(&outcome(actual, None), &outcome(expected, None), false).is_some()
    }

    #[test]
    fn wrong_results_are_detected() {
        assert!(!differs(&[1.0, -2.0], &[1.0, -2.0]));
        assert!(!differs(&[1.0, -2.0001], &[1.0, -2.0]));
        assert!(differs(&[1.0, -2.0], &[2.0, -2.0]));
        assert!(differs(&[f32::NAN, -2.0], &[1.0, -2.0]));
        assert!(differs(&[1.0, f32::NAN, 1.0], &[1.0, 2.0, 1.0]));
        let in_half =
            |value| fault(&outcome(&[1.0, value], None), &outcome(&[1.0, 0.0], None), true).is_some();
        assert!(!in_half(0.009) && in_half(0.011));
        assert!(differs(&[1.0], &[1.0, -2.0]));
        assert!(differs(&[f32::INFINITY], &[f32::INFINITY]));
        let touched = SingleRun { guard_intact: false, ..outcome(&[1.0], None) };
        assert_eq!(
            fault(&touched, &outcome(&[1.0], None), false).unwrap(),
            "writes past the end of its output"
        );
    }

    #[test]
    fn saved_indices_may_differ_only_in_ties() {
        let indices: Vec<f32> = (0..3000).map(|index| (index % 7) as f32).collect();
        let naive = outcome(&[1.0], Some(&indices));
        let changed_in = |half, count: usize, value: f32| {
            let mut other = indices.clone();
            other[..count].fill(value);
            fault(&outcome(&[1.0], Some(&other)), &naive, half)
        };
        let changed = |count, value| changed_in(false, count, value);
        assert!(changed_in(true, 61, 9.0).is_none() && changed_in(true, 62, 9.0).is_some());
        assert_eq!(changed(4, 9.0), None);
        assert!(changed(5, 9.0).is_some() && changed(5, f32::NAN).is_some());
        assert!(fault(&outcome(&[1.0], None), &naive, false).is_some());
        assert!(fault(&outcome(&[1.0], Some(&indices[1..])), &naive, false).is_some());
    }

    #[test]
    fn saved_values_may_differ_by_rounding() {
        let saved = |by: f32| outcome(&[1.0], Some(&[0.3 + by, -2.0 + by, 1.0 + by]));
        assert_eq!(fault(&saved(1e-5), &saved(0.0), false), None);
        assert!(fault(&saved(1e-3), &saved(0.0), false).is_some());
    }
}
