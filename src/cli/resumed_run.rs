//! A resumed run may replace the files that it wrote itself, and no others.

use super::record::metadata::PictureMetadata;
use std::path::{Path, PathBuf};

/// A run that continues from a checkpoint.
#[derive(Debug, Clone)]
pub(super) struct ResumedRun {
    /// Identifier that its pictures and checkpoints carry; empty if it has none.
    pub id: String,
    /// Path of the checkpoint, with links resolved.
    checkpoint: Option<PathBuf>,
}

impl ResumedRun {
    /// Creates a run with this identifier, resumed from this checkpoint.
    pub(super) fn new(id: String, checkpoint: &Path) -> Self {
        Self { id, checkpoint: checkpoint.canonicalize().ok() }
    }

    /// True if the run wrote this file: the checkpoint, or a picture that carries the run's identifier. Links don't
    /// count, as they may lead anywhere.
    pub(super) fn wrote(&self, path: &Path) -> bool {
        if self.checkpoint.is_some() && path.canonicalize().ok() == self.checkpoint {
            return true;
        }
        let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
        let metadata = || PictureMetadata::read(path).ok().flatten();
        is_file && !self.id.is_empty() && metadata().is_some_and(|found| found.text("run") == Some(&self.id))
    }
}
