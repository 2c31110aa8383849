//! Weights and maps in half precision.

use crate::error::{Error, Result};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

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

/// Values that are converted at a time.
const CONVERTED: usize = 256;

/// The value that a half-precision map stores, not yet rounded: limited to the finite range of f16, and not so close to
/// zero that a driver may flush it to zero. So the sign never changes. Keeps NaN.
#[inline(always)]
fn storable(value: f32) -> f32 {
    let (largest, smallest) = (f16::MAX.to_f32_const(), f16::MIN_POSITIVE.to_f32_const());
    let size = value.abs();
    let limited = if size > largest { largest } else { size };
    let limited = if size > 0.0 && size < smallest { smallest } else { limited };
    limited.copysign(value)
}

/// Rounds values for a half-precision map. `stored` is the memory of all of them, and of zeros to a multiple of 4 floats.
pub(in crate::ops) fn to_half_map(values: &[f32], stored: &mut [f32]) {
    let (bits, padding) = half_bits_mut(stored).split_at_mut(values.len());
    padding.fill(0);
    for (bits, values) in bits.chunks_mut(CONVERTED).zip(values.chunks(CONVERTED)) {
        let mut kept = [0.0; CONVERTED];
        kept.iter_mut().zip(values).for_each(|(kept, value)| *kept = storable(*value));
        bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(&kept[..values.len()]);
    }
}

/// The bits of one value of a half-precision map.
pub(in crate::ops) fn to_half_bits(value: f32) -> u16 {
    f16::from_f32(storable(value)).to_bits()
}

/// The memory of a half-precision map as bits, four per texel.
pub(in crate::ops) fn half_bits(stored: &[f32]) -> &[u16] {
    bytemuck::cast_slice(stored)
}

/// Same as [`half_bits`], to be written.
pub(in crate::ops) fn half_bits_mut(stored: &mut [f32]) -> &mut [u16] {
    bytemuck::cast_slice_mut(stored)
}

/// Converts bits to single precision. Exact.
pub(in crate::ops) fn to_single(bits: &[u16], values: &mut [f32]) {
    bits.reinterpret_cast::<f16>().convert_to_f32_slice(values);
}

/// True if the value with these bits is positive; false for NaN.
#[inline(always)]
pub(in crate::ops) fn is_positive(bits: u16) -> bool {
    bits.wrapping_sub(1) < f16::INFINITY.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_keep_sign_range_and_nan() {
        let values = [
            0.0,
            1e-30,
            -1e-30,
            6.2e-5,
            1.0,
            -2.5,
            65504.0,
            1e30,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        let mut stored = [f32::NAN; 8];
        to_half_map(&values, &mut stored);
        let bits = half_bits(&stored);
        assert!(bits[values.len()..].iter().all(|bits| *bits == 0));
        let mut back = [0.0; 11];
        to_single(&bits[..values.len()], &mut back);
        for ((value, back), bits) in values.iter().zip(back).zip(bits) {
            assert_eq!(to_half_bits(*value), *bits, "{value}");
            assert_eq!(is_positive(*bits), *value > 0.0, "{value}");
            assert_eq!(value.is_nan(), back.is_nan());
            if !value.is_nan() {
                let limited = value.abs().clamp(6.103_515_6e-5, 65504.0).copysign(*value);
                let expected = if *value == 0.0 { 0.0 } else { limited };
                assert!(
                    (back - expected).abs() <= expected.abs() * 0.5_f32.powi(11),
                    "{value} became {back}"
                );
            }
        }
    }

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
