//! A run may replace the files that it saved itself, and no others.

use super::checkpoint;
use super::record::metadata::PictureMetadata;
use crate::files::{FileVersion, Overwrite};
use crate::image_io;
use std::path::Path;

/// What a run may do with an existing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The run saved it, and it is as saved: this version may be replaced.
    Run(FileVersion),
    /// The run saved it, but it was changed since, or made read-only.
    Edited,
    /// Anything else.
    Other,
}

impl Owner {
    /// Returns whether the run may replace the file. If there is none, it may write one.
    pub(super) fn overwrite(self) -> Overwrite {
        match self {
            Self::Run(version) => Overwrite::Only(version),
            Self::Edited | Self::Other => Overwrite::Never,
        }
    }
}

/// Bytes of the largest picture that a run replaces: as many as 89 million pixels of 16 bits, not compressed. Larger files
/// are not read.
const LARGEST_PICTURE: u64 = 1 << 29;

/// Returns whose file this is: `run` is the identifier that the run's checkpoints and pictures carry. Links don't count,
/// as they may lead anywhere.
pub(super) fn owner(path: &Path, run: &str) -> Owner {
    let Some(version) = FileVersion::of(path).filter(|_| !run.is_empty()) else { return Owner::Other };
    let owned = |is_unchanged: bool| {
        if is_unchanged && !is_read_only(path) { Owner::Run(version) } else { Owner::Edited }
    };
    // Checkpoints may be large, and are not read as pictures.
    if let Some(found) = checkpoint::run_of(path) {
        return if found == run { owned(checkpoint::is_unchanged(path)) } else { Owner::Other };
    }
    if version.length() > LARGEST_PICTURE {
        return Owner::Other;
    }
    match PictureMetadata::read(path) {
        Ok(Some(metadata)) if metadata.text("run") == Some(run) => {
            owned(image_io::is_unchanged(path).unwrap_or(false))
        }
        _ => Owner::Other,
    }
}

/// Same as [`owner`], for a path where a picture is to be written: checkpoints, also the run's own, are not replaced by
/// one.
pub(super) fn owner_of_picture(path: &Path, run: &str) -> Owner {
    if checkpoint::run_of(path).is_some() { Owner::Other } else { owner(path, run) }
}

/// True for a read-only file: it is to be kept.
pub(super) fn is_read_only(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.permissions().readonly())
}

/// Returns whether a picture may be replaced that this program saved: only if it is as saved.
pub(super) fn overwrite_unchanged(path: &Path) -> Overwrite {
    overwrite_if(path, LARGEST_PICTURE, |path| image_io::is_unchanged(path).unwrap_or(false))
}

/// Returns whether a file may be replaced: only if it has at most `most` bytes, is not read-only, and `is_own` is true for
/// it.
pub(super) fn overwrite_if(path: &Path, most: u64, is_own: impl Fn(&Path) -> bool) -> Overwrite {
    // The version first: the file may change.
    match FileVersion::of(path).filter(|version| version.length() <= most && !is_read_only(path)) {
        Some(version) if is_own(path) => Overwrite::Only(version),
        _ => Overwrite::Never,
    }
}
