//! Weights in half precision.

use crate::error::{Error, Result};
use half::f16;

/// Rounds values to f16 and returns their bits. `what` names the values in the error message.
///
/// # Errors
/// [`Error::Usage`] if a value is outside the range of f16.
pub(in crate::ops) fn to_half(what: &str, values: &[f32]) -> Result<Vec<u16>> {
    let half = |value: &f32| {
        let half = f16::from_f32(*value);
        // Too large for f16, or infinite or NaN in f32 already.
        if half.is_finite() { Ok(half.to_bits()) } else { Err(too_large(what, *value)) }
    };
    values.iter().map(half).collect()
}

fn too_large(what: &str, value: f32) -> Error {
    let most = f16::MAX;
    Error::usage(format!(
        "{what}: weight {value:e} is outside the f16 range of ±{most}. Use --precision single"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_f16_are_refused() {
        let values = [1.0, -65504.0, 1e-9];
        let bits = to_half("conv1_1", &values).unwrap();
        assert_eq!(bits, values.map(|value| f16::from_f32(value).to_bits()));
        // Values from 65520 on round to infinity.
        for value in [65520.0, -1e30, f32::INFINITY, f32::NAN] {
            let error = to_half("conv1_1", &[0.0, value]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().starts_with("conv1_1: "), "{error}");
        }
    }
}
