//! A run may replace the files that it saved itself, and no others.

use super::checkpoint;
use super::record::metadata::PictureMetadata;
use crate::image_io;
use std::path::Path;

/// What a run may do with an existing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The run saved it, and it is as saved: it may be replaced.
    Run,
    /// It is a picture that the run saved, but it was changed since.
    Edited,
    /// Anything else.
    Other,
}

/// Returns whose file this is: `run` is the identifier that the run's checkpoints and pictures carry. Links don't count,
/// as they may lead anywhere.
pub(super) fn owner(path: &Path, run: &str) -> Owner {
    if run.is_empty() || !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        return Owner::Other;
    }
    // Checkpoints may be large, and are not read as pictures.
    if let Some(found) = checkpoint::run_of(path) {
        return if found == run { Owner::Run } else { Owner::Other };
    }
    match PictureMetadata::read(path) {
        Ok(Some(metadata)) if metadata.text("run") == Some(run) => {
            if image_io::is_unchanged(path).unwrap_or(false) { Owner::Run } else { Owner::Edited }
        }
        _ => Owner::Other,
    }
}
