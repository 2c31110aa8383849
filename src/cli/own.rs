//! The files of a run that goes on: it may replace what it wrote itself, and nothing else.

use super::record::Told;
use std::path::{Path, PathBuf};

/// A run that goes on.
#[derive(Debug, Clone)]
pub(super) struct Own {
    /// Its name, which its pictures and checkpoints carry; empty if it has none.
    pub run: String,
    /// The checkpoint that it goes on from, without links.
    checkpoint: Option<PathBuf>,
}

impl Own {
    /// The run of this name, which goes on from a checkpoint.
    pub(super) fn new(run: String, checkpoint: &Path) -> Self {
        Self { run, checkpoint: checkpoint.canonicalize().ok() }
    }

    /// True if the run wrote this file: the checkpoint that it goes on from, or a picture that carries its name. A
    /// link may lead anywhere and is nothing that the run wrote.
    pub(super) fn wrote(&self, path: &Path) -> bool {
        if self.checkpoint.is_some() && path.canonicalize().ok() == self.checkpoint {
            return true;
        }
        let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
        let carries = |told: Told| told.facts.iter().any(|(name, text)| name == "run" && *text == self.run);
        !self.run.is_empty() && is_file && Told::by(path).ok().flatten().is_some_and(carries)
    }
}
