//! Option values: parsed from the command line, converted to the library's types, and serialised for records.

use super::output::escape::path_text;
use crate::error::Error;
use crate::gpu::{self, Family};
use crate::image_io::{BitDepth, MAX_SIDE};
use crate::mirage::statistic::{self, Statistic};
use crate::mirage::{self, ScaleCount, Tiling};
use crate::ops::{Padding, PoolKind, VariationKind};
use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// `--bit-depth`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Depth {
    #[value(name = "8")]
    Eight,
    #[value(name = "16")]
    Sixteen,
}

/// `--alpha`: how transparency is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AlphaArg {
    /// Saved pictures keep the photo's alpha. During the run it is composited on white.
    Keep,
    /// Transparency is composited on this colour.
    On([u8; 3]),
}

/// Named colours.
const COLORS: [(&str, [u8; 3]); 3] = [("white", [255; 3]), ("black", [0; 3]), ("gray", [128; 3])];

impl AlphaArg {
    /// The colour that transparent pixels are composited on.
    pub(super) fn background(self) -> [f32; 3] {
        match self {
            Self::Keep => [1.0; 3],
            Self::On(color) => color.map(|level| f32::from(level) / 255.0),
        }
    }
}

impl FromStr for AlphaArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase().replace("grey", "gray");
        if text == "keep" {
            return Ok(Self::Keep);
        }
        if let Some((_, color)) = COLORS.iter().find(|(name, _)| *name == text) {
            return Ok(Self::On(*color));
        }
        let is_hex = |digits: &&str| digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = text.strip_prefix('#').filter(is_hex);
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let [_, color @ ..] = number
            .ok_or_else(|| "write keep, white, black, gray, or a colour such as #f4ecd8".to_owned())?
            .to_be_bytes();
        Ok(Self::On(color))
    }
}

impl Display for AlphaArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::On(color) => match COLORS.iter().find(|(_, known)| known == color) {
                Some((name, _)) => f.write_str(name),
                None => write!(f, "#{:02x}{:02x}{:02x}", color[0], color[1], color[2]),
            },
        }
    }
}

/// `--size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeArg {
    /// The largest size that fits in memory.
    Auto,
    /// Longest side in pixels.
    Pixels(u32),
}

impl SizeArg {
    /// Returns the longest side in pixels.
    ///
    /// # Errors
    /// [`Error::Usage`] for `auto`, in a command that does not choose the size.
    pub(super) fn pixels(self) -> crate::Result<u32> {
        match self {
            Self::Pixels(pixels) => Ok(pixels),
            Self::Auto => {
                Err(Error::usage("--size auto works only for a single new picture: give a number of pixels"))
            }
        }
    }
}

impl FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(pixels) if (1..=MAX_SIDE as u32).contains(&pixels) => Ok(Self::Pixels(pixels)),
            _ => Err(format!("write auto, or a number of pixels from 1 to {MAX_SIDE}")),
        }
    }
}

impl Display for SizeArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Pixels(pixels) => write!(f, "{pixels}"),
        }
    }
}

impl Serialize for SizeArg {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Pixels(pixels) => serializer.serialize_u32(*pixels),
        }
    }
}

/// A number of bytes, such as `4GiB` or `800MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write a number and a unit, such as 4GiB, 1.5GB or 800MB".to_owned();
        let text = text.trim();
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let bytes = number * factor as f64;
        if bytes >= 1.0 && bytes < (1_u64 << 53) as f64 { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// `--pooling`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pooling {
    Max,
    Avg,
    Avg2,
}

/// `--border`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Border {
    Zeros,
    Replicate,
}

/// `--tv-kind`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Variation {
    Squared,
    Absolute,
    Diagonal,
}

/// `--tile`.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileArg(pub Tiling);

impl FromStr for TileArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(Tiling::Whole)),
            "auto" => Ok(Self(Tiling::Auto)),
            _ => match text.parse() {
                Ok(side) if (Tiling::LEAST..=65_536).contains(&side) => Ok(Self(Tiling::Side(side))),
                _ => Err("write none, auto, or a number from 16 to 65536".to_owned()),
            },
        }
    }
}

impl Display for TileArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Tiling::Auto => f.write_str("auto"),
            Tiling::Side(side) => write!(f, "{side}"),
            _ => f.write_str("none"),
        }
    }
}

/// `--scales`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScaleCountArg(pub ScaleCount);

impl FromStr for ScaleCountArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self(ScaleCount::Auto)),
            _ => match text.parse() {
                Ok(count) if (1..=32).contains(&count) => Ok(Self(ScaleCount::Exactly(count))),
                _ => Err("write auto, or a number from 1 to 32".to_owned()),
            },
        }
    }
}

impl Display for ScaleCountArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ScaleCount::Auto => f.write_str("auto"),
            ScaleCount::Exactly(count) => write!(f, "{count}"),
        }
    }
}

/// `--kernels`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kernels {
    Auto,
    Texture,
    Buffer,
    Naive,
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Precision {
    Single,
    HalfWeights,
    Half,
}

/// `--init`.
#[derive(Debug, Clone)]
pub(super) enum StartPicture {
    Noise,
    Blur,
    Photo,
    Gray,
    File(PathBuf),
}

impl From<&std::ffi::OsStr> for StartPicture {
    fn from(text: &std::ffi::OsStr) -> Self {
        match text.to_str() {
            Some("noise") => Self::Noise,
            Some("blur") => Self::Blur,
            Some("photo") => Self::Photo,
            Some("gray" | "grey") => Self::Gray,
            _ => Self::File(text.into()),
        }
    }
}

impl From<std::ffi::OsString> for StartPicture {
    fn from(text: std::ffi::OsString) -> Self {
        Self::from(text.as_os_str())
    }
}

impl StartPicture {
    /// Returns the value as written on the command line.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Noise => "noise".to_owned(),
            Self::Blur => "blur".to_owned(),
            Self::Photo => "photo".to_owned(),
            Self::Gray => "gray".to_owned(),
            Self::File(path) => path_text(path),
        }
    }
}

impl Depth {
    pub(super) fn bits(self) -> BitDepth {
        match self {
            Self::Eight => BitDepth::Eight,
            Self::Sixteen => BitDepth::Sixteen,
        }
    }
}

impl Kernels {
    pub(super) fn family(self) -> Family {
        match self {
            Self::Auto => Family::Auto,
            Self::Texture => Family::Texture,
            Self::Buffer => Family::Buffer,
            Self::Naive => Family::Naive,
        }
    }
}

impl Precision {
    pub(super) fn precision(self) -> gpu::Precision {
        match self {
            Self::Single => gpu::Precision::Single,
            Self::HalfWeights => gpu::Precision::HalfWeights,
            Self::Half => gpu::Precision::Half,
        }
    }
}

impl Border {
    pub(super) fn kind(self) -> Padding {
        match self {
            Self::Zeros => Padding::Zeros,
            Self::Replicate => Padding::Replicate,
        }
    }
}

/// Returns the possible values of `--style-statistic`.
pub(super) fn style_statistics() -> PossibleValuesParser {
    statistic::of_style().map(|entry| entry.name).collect::<Vec<_>>().into()
}

impl Variation {
    pub(super) fn statistic(self) -> Arc<dyn Statistic> {
        let kind = match self {
            Self::Squared => VariationKind::Squared,
            Self::Absolute => VariationKind::Absolute,
            Self::Diagonal => VariationKind::Diagonal,
        };
        Arc::new(statistic::Variation::summed(kind))
    }
}

impl Pooling {
    pub(super) fn pooling(self) -> mirage::Pooling {
        match self {
            Self::Max => PoolKind::Max.into(),
            Self::Avg => PoolKind::Average.into(),
            Self::Avg2 => mirage::Pooling { kind: PoolKind::Average, gain: 2.0 },
        }
    }
}

impl Serialize for Depth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Eight => 8,
            Self::Sixteen => 16,
        })
    }
}

impl Serialize for StartPicture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// Returns the name of an option's value.
pub(super) fn value_name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Serialises a value as its text.
pub(super) fn displayed<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serialises an optional value as its text or `null`.
pub(super) fn text<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

/// Serialises one, several or no paths in the form of a record.
pub(super) fn paths<S: Serializer>(value: &impl Paths, serializer: S) -> Result<S::Ok, S::Error> {
    value.record().serialize(serializer)
}

/// Options that name files.
pub(super) trait Paths {
    /// Returns the value in the form of a record.
    fn record(&self) -> Value;
}

impl Paths for PathBuf {
    fn record(&self) -> Value {
        path(self)
    }
}

impl Paths for Option<PathBuf> {
    fn record(&self) -> Value {
        self.as_deref().map(path).into()
    }
}

impl Paths for Vec<PathBuf> {
    fn record(&self) -> Value {
        self.iter().map(|file| path(file)).collect()
    }
}

/// Returns a path in the form of a record; [`path_of_text`](super::output::escape::path_of_text) reverses it.
pub(super) fn path(path: &Path) -> Value {
    path_text(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_pixels_or_auto() {
        for (text, size) in
            [("auto", SizeArg::Auto), ("1", SizeArg::Pixels(1)), ("32768", SizeArg::Pixels(32768))]
        {
            assert_eq!(text.parse(), Ok(size));
            assert_eq!(size.to_string(), text);
        }
        for text in ["0", "32769", "-1", "Auto", "", "5.5"] {
            assert!(text.parse::<SizeArg>().is_err(), "{text}");
        }
        assert!(SizeArg::Auto.pixels().is_err());
    }

    #[test]
    fn byte_counts_have_units() {
        for (text, bytes) in
            [("4GiB", 4 << 30), ("800MB", 800_000_000), ("1.5 g", 3 << 29), ("512 KiB", 512 << 10), ("7b", 7)]
        {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
        for text in ["", "4", "GiB", "-1GiB", "4 apples", "0GB", "1e9GB", "nanMB", "99999999TiB", "1.2.3GB"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }

    #[test]
    fn alpha_option_takes_colors_or_keep() {
        for (text, value, name) in [
            ("keep", AlphaArg::Keep, "keep"),
            ("White", AlphaArg::On([255; 3]), "white"),
            ("#ffffff", AlphaArg::On([255; 3]), "white"),
            ("grey", AlphaArg::On([128; 3]), "gray"),
            ("#F4ecd8", AlphaArg::On([0xf4, 0xec, 0xd8]), "#f4ecd8"),
            ("#000001", AlphaArg::On([0, 0, 1]), "#000001"),
        ] {
            let parsed: AlphaArg = text.parse().unwrap();
            assert_eq!((parsed, parsed.to_string().as_str()), (value, name));
            assert_eq!(name.parse::<AlphaArg>(), Ok(value));
        }
        for text in ["", "#fff", "#ggffff", "f4ecd8", "#+fffff", "whitish", "#f4ecd800", "#é1234"] {
            assert!(text.parse::<AlphaArg>().is_err(), "{text}");
        }
    }
}
