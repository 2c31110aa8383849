//! State shared by the observers of a run.

use crate::cli::record::metadata::RunMetadata;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

/// Status of a run in progress.
#[derive(Debug)]
pub(in crate::cli) struct RunStatus {
    /// Metadata of pictures and checkpoints, up to the newest event.
    pub metadata: RunMetadata,
    /// Notes for the user about the request, found before the run.
    pub notes: Vec<String>,
    /// Warnings about the newest report.
    pub warnings: Vec<String>,
    /// Where the newest snapshot was saved, if it could be.
    pub snapshot: Option<PathBuf>,
    /// Where the newest checkpoint was saved, if it could be.
    pub checkpoint: Option<PathBuf>,
    /// Problems other than with the picture, in the order of their occurrence. The run continues.
    pub problems: Vec<String>,
}

/// The status of one run, shared by all its observers.
pub(in crate::cli) type SharedStatus = Rc<RefCell<RunStatus>>;

impl RunStatus {
    /// Creates the status of a run that is about to start.
    pub(in crate::cli) fn new(metadata: RunMetadata, notes: Vec<String>) -> SharedStatus {
        let (warnings, problems) = (Vec::new(), Vec::new());
        Rc::new(RefCell::new(Self { metadata, notes, warnings, snapshot: None, checkpoint: None, problems }))
    }

    /// Returns the problems that are new to an observer that has seen the first `seen`, and updates `seen`.
    pub(in crate::cli) fn new_problems(&self, seen: &mut usize) -> Vec<String> {
        let new = self.problems[*seen..].to_vec();
        *seen = self.problems.len();
        new
    }
}
