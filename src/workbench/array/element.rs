//! Number types.

use half::{bf16, f16};
use npyz::TypeChar;
use safetensors::Dtype;
use std::fmt;

/// Type of a number, in a file or in a shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the types")]
pub enum Element {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Element {
    pub(super) const ALL: [Self; 12] = [
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
    ];

    /// Name in WGSL, if it has one there.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
        }
    }

    /// Finds a type by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.name() == name)
    }

    /// Name in NumPy, such as `float32` (NumPy has no bf16).
    pub fn numpy(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
        }
    }

    /// Size of a number in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// True for floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// Reads a number from the first [`Element::size`] bytes as f64; 64-bit integers are rounded. NaN if there are too
    /// few bytes.
    pub fn widen(self, bytes: &[u8]) -> f64 {
        fn first<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f64) -> f64 {
            bytes.first_chunk().map_or(f64::NAN, |bytes| convert(*bytes))
        }
        match self {
            Self::F16 => first(bytes, |bytes| f16::from_le_bytes(bytes).to_f64()),
            Self::Bf16 => first(bytes, |bytes| bf16::from_le_bytes(bytes).to_f64()),
            Self::F32 => first(bytes, |bytes| f32::from_le_bytes(bytes).into()),
            Self::F64 => first(bytes, f64::from_le_bytes),
            Self::I8 => first(bytes, |bytes| i8::from_le_bytes(bytes).into()),
            Self::I16 => first(bytes, |bytes| i16::from_le_bytes(bytes).into()),
            Self::I32 => first(bytes, |bytes| i32::from_le_bytes(bytes).into()),
            Self::I64 => first(bytes, |bytes| i64::from_le_bytes(bytes) as f64),
            Self::U8 => first(bytes, |bytes| u8::from_le_bytes(bytes).into()),
            Self::U16 => first(bytes, |bytes| u16::from_le_bytes(bytes).into()),
            Self::U32 => first(bytes, |bytes| u32::from_le_bytes(bytes).into()),
            Self::U64 => first(bytes, |bytes| u64::from_le_bytes(bytes) as f64),
        }
    }

    /// Reads an integer from the first [`Element::size`] bytes. `None` for floating-point types, or if there are too
    /// few bytes.
    pub fn integer(self, bytes: &[u8]) -> Option<i128> {
        fn first<const N: usize, T: Into<i128>>(bytes: &[u8], convert: fn([u8; N]) -> T) -> Option<i128> {
            bytes.first_chunk().map(|bytes| convert(*bytes).into())
        }
        match self {
            Self::F16 | Self::Bf16 | Self::F32 | Self::F64 => None,
            Self::I8 => first(bytes, i8::from_le_bytes),
            Self::I16 => first(bytes, i16::from_le_bytes),
            Self::I32 => first(bytes, i32::from_le_bytes),
            Self::I64 => first(bytes, i64::from_le_bytes),
            Self::U8 => first(bytes, u8::from_le_bytes),
            Self::U16 => first(bytes, u16::from_le_bytes),
            Self::U32 => first(bytes, u32::from_le_bytes),
            Self::U64 => first(bytes, u64::from_le_bytes),
        }
    }

    /// Writes a number into the first [`Element::size`] bytes, rounded or saturated to the type's range. Does nothing
    /// if there are fewer bytes.
    pub fn put(self, value: f64, bytes: &mut [u8]) {
        fn first<const N: usize>(bytes: &mut [u8], number: [u8; N]) {
            if let Some(place) = bytes.first_chunk_mut() {
                *place = number;
            }
        }
        match self {
            Self::F16 => first(bytes, f16::from_f64(value).to_le_bytes()),
            Self::Bf16 => first(bytes, bf16::from_f64(value).to_le_bytes()),
            Self::F32 => first(bytes, (value as f32).to_le_bytes()),
            Self::F64 => first(bytes, value.to_le_bytes()),
            Self::I8 => first(bytes, (value as i8).to_le_bytes()),
            Self::I16 => first(bytes, (value as i16).to_le_bytes()),
            Self::I32 => first(bytes, (value as i32).to_le_bytes()),
            Self::I64 => first(bytes, (value as i64).to_le_bytes()),
            Self::U8 => first(bytes, (value as u8).to_le_bytes()),
            Self::U16 => first(bytes, (value as u16).to_le_bytes()),
            Self::U32 => first(bytes, (value as u32).to_le_bytes()),
            Self::U64 => first(bytes, (value as u64).to_le_bytes()),
        }
    }

    /// Parses a decimal number, or a hexadecimal integer with `0x`, into its bytes. `None` if the type can't represent
    /// it.
    pub fn parse(self, text: &str) -> Option<Vec<u8>> {
        if self.is_float() {
            let value: f64 = text.parse().ok()?;
            let mut bytes = vec![0; self.size()];
            self.put(value, &mut bytes);
            // A finite number that became infinite exceeds the type's range.
            return (value.is_finite() == self.widen(&bytes).is_finite()).then_some(bytes);
        }
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        // Reject `--1` and `-+1`.
        if !hexadecimal.unwrap_or(digits).starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return None;
        }
        let magnitude = match hexadecimal {
            Some(digits) => i128::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        let value = sign * magnitude.ok()?;
        Some(match self {
            Self::I8 => i8::try_from(value).ok()?.to_le_bytes().to_vec(),
            Self::I16 => i16::try_from(value).ok()?.to_le_bytes().to_vec(),
            Self::I32 => i32::try_from(value).ok()?.to_le_bytes().to_vec(),
            Self::I64 => i64::try_from(value).ok()?.to_le_bytes().to_vec(),
            Self::U8 => u8::try_from(value).ok()?.to_le_bytes().to_vec(),
            Self::U16 => u16::try_from(value).ok()?.to_le_bytes().to_vec(),
            Self::U32 => u32::try_from(value).ok()?.to_le_bytes().to_vec(),
            _ => u64::try_from(value).ok()?.to_le_bytes().to_vec(),
        })
    }

    pub(super) fn of_tensor(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::F32 => Self::F32,
            Dtype::F64 => Self::F64,
            Dtype::I8 => Self::I8,
            Dtype::I16 => Self::I16,
            Dtype::I32 => Self::I32,
            Dtype::I64 => Self::I64,
            Dtype::U8 => Self::U8,
            Dtype::U16 => Self::U16,
            Dtype::U32 => Self::U32,
            Dtype::U64 => Self::U64,
            _ => return None,
        })
    }

    /// Kind and size in a .npy header, without the byte order.
    pub(super) fn npy(self) -> Option<(TypeChar, u64)> {
        let kind = match self {
            Self::Bf16 => return None,
            Self::F16 | Self::F32 | Self::F64 => TypeChar::Float,
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => TypeChar::Int,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => TypeChar::Uint,
        };
        Some((kind, self.size() as u64))
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed() {
        let parse = |element: Element, text: &str| element.parse(text).map(|bytes| element.widen(&bytes));
        for (element, text, value) in [
            (Element::U32, "4294967295", 4_294_967_295.0),
            (Element::U32, "0xff", 255.0),
            (Element::I32, "-3", -3.0),
            (Element::I64, "-0x10", -16.0),
            (Element::F32, "0.5", 0.5),
            (Element::F32, "1e-3", f64::from(1e-3f32)),
            (Element::F32, "-inf", f64::NEG_INFINITY),
            (Element::F16, "65504", 65504.0),
        ] {
            assert_eq!(parse(element, text), Some(value), "{text}");
        }
        for (element, text) in [
            (Element::U32, "-1"),
            (Element::U32, "4294967296"),
            (Element::U32, "1.0"),
            (Element::I32, "--1"),
            (Element::I32, "+-1"),
            (Element::I32, ""),
            (Element::I32, "0x"),
            (Element::F32, "1e39"),
            (Element::F16, "70000"),
            (Element::F32, "one"),
        ] {
            assert_eq!(parse(element, text), None, "{text}");
        }
    }
}
