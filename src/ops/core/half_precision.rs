//! Weights in 16 bits.

use crate::error::{Error, Result};
use half::f16;

/// Values rounded to 16 bits, as bits. `what` they are is for the message.
///
/// # Errors
/// [`Error::Usage`] if one is too large.
pub(in crate::ops) fn to_half(what: &str, values: &[f32]) -> Result<Vec<u16>> {
    let half = |value: &f32| {
        let half = f16::from_f32(*value);
        // Infinity, or what was infinite before.
        if half.is_finite() { Ok(half.to_bits()) } else { Err(too_large(what, *value)) }
    };
    values.iter().map(half).collect()
}

fn too_large(what: &str, value: f32) -> Error {
    let most = f16::MAX;
    Error::usage(format!(
        "{what}: a weight of {value:e} has no place in 16 bits, which end at {most}. Use --precision single"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_refused() {
        let values = [1.0, -65504.0, 1e-9];
        let bits = to_half("conv1_1", &values).unwrap();
        assert_eq!(bits, values.map(|value| f16::from_f32(value).to_bits()));
        // From 65520 on it is rounded to infinity.
        for value in [65520.0, -1e30, f32::INFINITY, f32::NAN] {
            let error = to_half("conv1_1", &[0.0, value]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().starts_with("conv1_1: "), "{error}");
        }
    }
}
