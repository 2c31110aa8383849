//! Values of options: on the command line, in the library, and in a record.

use super::escape::path_text;
use crate::gpu::Family;
use crate::image_io::BitDepth;
use crate::mirage::statistic::{self, Statistic};
use crate::mirage::{self, ScaleCount};
use crate::ops::{Padding, PoolKind, VariationKind};
use clap::ValueEnum;
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

impl Serialize for ScaleCountArg {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
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
    /// As on the command line.
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

impl Border {
    pub(super) fn kind(self) -> Padding {
        match self {
            Self::Zeros => Padding::Zeros,
            Self::Replicate => Padding::Replicate,
        }
    }
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

/// A value that has a text, or none, as a record states it.
pub(super) fn text<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

/// One, several or no files, as a record states them.
pub(super) fn paths<S: Serializer>(value: &impl Paths, serializer: S) -> Result<S::Ok, S::Error> {
    value.record().serialize(serializer)
}

/// Options that name files.
pub(super) trait Paths {
    /// As a record states them.
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

/// A file, as a record states it; [`path_of_text`](super::escape::path_of_text) leads back.
pub(super) fn path(path: &Path) -> Value {
    path_text(path).into()
}
