//! Differences between a kernel's output and the expected values.

/// Unit of errors: 2^-23, a unit in the last place (ULP). One rounding may cost half of that, 2^-24. The terms of a sum
/// round at the magnitude of the largest, so errors are counted in ULPs *of the largest expected value*, not of each
/// value.
pub const ULP: f64 = f32::EPSILON as f64;

/// Tolerance of a kernel that rounds weights or factors to f16 ([`crate::ops::Kernel::is_half`]), relative to the
/// largest expected value: 2^-11 = 4.9e-4 of each product for either factor, and Winograd's F(4x4, 3x3) sums products
/// that are up to six times as large. A wrong kernel is off by far more.
pub const HALF_TOLERANCE: f64 = 1e-2;

/// A difference between two vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Largest absolute difference divided by the largest absolute expected value (1e-30 if all are zero). Infinite if
    /// any difference is not finite or the lengths differ.
    pub largest: f64,
    /// Root mean square of the differences, divided by the same value.
    pub rms: f64,
    /// Position of the largest difference: index, actual value, expected value.
    pub worst: Option<(usize, f64, f64)>,
}

impl Difference {
    /// Compares values with expected values.
    pub fn of(actual: &[f32], expected: &[f64]) -> Self {
        Self::between(actual.iter().map(|value| f64::from(*value)), expected.iter().copied())
    }

    /// Compares values with those of another kernel.
    pub fn of_two(actual: &[f32], expected: &[f32]) -> Self {
        let [actual, expected] =
            [actual, expected].map(|values| values.iter().map(|value| f64::from(*value)));
        Self::between(actual, expected)
    }

    /// Compares numbers of any type.
    pub fn between(
        actual: impl ExactSizeIterator<Item = f64>,
        expected: impl ExactSizeIterator<Item = f64>,
    ) -> Self {
        Self::over(actual, expected, |a, e| (a, e, (a - e).abs()))
    }

    /// Compares integers exactly: differences count even if rounding to f64 would hide them.
    pub fn between_integers(
        actual: impl ExactSizeIterator<Item = i128>,
        expected: impl ExactSizeIterator<Item = i128>,
    ) -> Self {
        Self::over(actual, expected, |a, e| (a as f64, e as f64, a.abs_diff(e) as f64))
    }

    /// Compares with `widen`, which returns both numbers and their absolute difference.
    fn over<T>(
        actual: impl ExactSizeIterator<Item = T>,
        expected: impl ExactSizeIterator<Item = T>,
        widen: impl Fn(T, T) -> (f64, f64, f64),
    ) -> Self {
        let count = actual.len();
        if count != expected.len() {
            return Self { largest: f64::INFINITY, rms: f64::INFINITY, worst: None };
        }
        let mut largest = 0.0f64;
        let mut squares = 0.0f64;
        let mut worst = None;
        let mut scale = 1e-30f64;
        for (index, (a, e)) in actual.zip(expected).enumerate() {
            let (a, e, difference) = widen(a, e);
            if !difference.is_finite() {
                return Self { largest: f64::INFINITY, rms: f64::INFINITY, worst: Some((index, a, e)) };
            }
            squares += difference * difference;
            scale = scale.max(e.abs());
            if difference > largest {
                largest = difference;
                worst = Some((index, a, e));
            }
        }
        let rms = (squares / count.max(1) as f64).sqrt();
        Self { largest: largest / scale, rms: rms / scale, worst }
    }

    /// True if the largest difference is within `tolerance`; false for NaN.
    pub fn within(&self, tolerance: f64) -> bool {
        self.largest <= tolerance
    }
}

/// Returns [`Difference::largest`].
pub fn distance(actual: &[f32], expected: &[f64]) -> f64 {
    Difference::of(actual, expected).largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_largest_expected_value() {
        let difference = Difference::of(&[1.0, -4.0, 0.0], &[1.5, -4.0, 0.0]);
        assert_eq!(difference.largest, 0.125);
        assert_eq!(difference.rms, (0.25f64 / 3.0).sqrt() / 4.0);
        assert_eq!(difference.worst, Some((0, 1.0, 1.5)));
        assert!(difference.within(0.125) && !difference.within(0.12));
    }

    #[test]
    fn integers_are_compared_exactly_beyond_f64() {
        let numbers = [(1i128 << 53) + 1, -5];
        let of =
            |expected: [i128; 2]| Difference::between_integers(numbers.into_iter(), expected.into_iter());
        assert_eq!(of(numbers), Difference { largest: 0.0, rms: 0.0, worst: None });
        let difference = of([1 << 53, -5]);
        assert_eq!(difference.largest, 1.0 / (1u64 << 53) as f64);
        assert!(difference.worst.is_some_and(|(index, ..)| index == 0) && !difference.within(0.0));
    }

    #[test]
    fn incomparable_values_are_infinitely_far() {
        for (actual, expected) in [
            (&[f32::NAN, 1.0][..], &[0.0, 1.0][..]),
            (&[1.0, f32::INFINITY], &[1.0, 1.0]),
            (&[1.0, f32::INFINITY], &[1.0, f64::INFINITY]),
            (&[1.0, 1.0], &[1.0, f64::NAN]),
            (&[1.0], &[1.0, 1.0]),
        ] {
            let difference = Difference::of(actual, expected);
            assert_eq!(difference.largest, f64::INFINITY);
            assert!(!difference.within(1e30));
        }
        assert!(!Difference { largest: f64::NAN, rms: 0.0, worst: None }.within(1.0));
    }
}
