//! Values of options: their words on the command line, their meaning for the library, and their form in a record.

use crate::gpu::Family;
use crate::image_io::BitDepth;
use crate::ops::PoolKind;
use clap::ValueEnum;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt::Display;
use std::path::{Path, PathBuf};

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
pub(super) enum Start {
    Noise,
    Photo,
    Gray,
    File(PathBuf),
}

impl From<&std::ffi::OsStr> for Start {
    fn from(text: &std::ffi::OsStr) -> Self {
        match text.to_str() {
            Some("noise") => Self::Noise,
            Some("photo") => Self::Photo,
            Some("gray" | "grey") => Self::Gray,
            _ => Self::File(text.into()),
        }
    }
}

impl From<std::ffi::OsString> for Start {
    fn from(text: std::ffi::OsString) -> Self {
        Self::from(text.as_os_str())
    }
}

impl Start {
    /// As on the command line.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Noise => "noise".to_owned(),
            Self::Photo => "photo".to_owned(),
            Self::Gray => "gray".to_owned(),
            Self::File(path) => path.to_string_lossy().into_owned(),
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

impl Pooling {
    pub(super) fn kind(self) -> PoolKind {
        match self {
            Self::Max => PoolKind::Max,
            Self::Avg => PoolKind::Average,
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

impl Serialize for Start {
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

/// A file, as a record states it.
pub(super) fn path(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}
