//! A kernel held against the naive one: at the shapes of a real run an f64 reference would take minutes.

use super::compare::{Difference, HALF_TOLERANCE};
use crate::graph::SingleRun;

/// Largest difference between a kernel and the naive one, relative to the largest value: ten times the tolerance of
/// the least accurate kernel (Winograd F(4x4, 3x3), 1e-5), because at full size sums are longer, and the naive
/// kernel is no exact reference. A wrong kernel is off by far more.
const TOLERANCE: f64 = 1e-4;

/// Largest part of a second output that may differ: decisions fall another way only where two values are as good as
/// equal, and of random values few are. (Seen on lavapipe, Winograd against the naive kernel: below 1e-4.)
const TIES: f64 = 1e-3;

/// The same where factors are rounded to f16, which makes more of them as good as equal.
const HALF_TIES: f64 = 2e-2;

/// What is wrong with what a kernel left behind, if anything is; `naive` is what the naive kernel made of the same
/// inputs. `half` says that it rounds more to f16 than the naive kernel does.
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
        // Decisions, or numbers.
        (Some(one), Some(other)) => {
            same_decisions(one, other, ties) || Difference::of_two(one, other).within(tolerance)
        }
        _ => false,
    };
    (!same).then(|| "its second output differs from the naive kernel's by more than ties could".to_owned())
}

fn same_decisions(one: &[f32], other: &[f32], ties: f64) -> bool {
    // Not `!=`: a NaN differs from everything.
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
        assert_eq!(fault(&touched, &outcome(&[1.0], None), false).unwrap(), "writes behind its output");
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
