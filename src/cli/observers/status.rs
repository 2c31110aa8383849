//! What the observers of a run share.

use crate::cli::record::metadata::RunMetadata;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

/// What is known of a run while it runs.
#[derive(Debug)]
pub(in crate::cli) struct RunStatus {
    /// What pictures and checkpoints carry, up to the newest event.
    pub metadata: RunMetadata,
    /// Notes for the user on the request, found before the run.
    pub notes: Vec<String>,
    /// Warnings about the newest report.
    pub warnings: Vec<String>,
    /// Where the newest snapshot was saved, if it could be.
    pub snapshot: Option<PathBuf>,
    /// Where the newest checkpoint was saved, if it could be.
    pub checkpoint: Option<PathBuf>,
    /// What went wrong beside the picture, in the order in which it did. A run goes on without what it can do without.
    pub problems: Vec<String>,
}

/// The status of one run, shared by all its observers.
pub(in crate::cli) type SharedStatus = Rc<RefCell<RunStatus>>;

impl RunStatus {
    /// The status of a run that is about to start.
    pub(in crate::cli) fn new(metadata: RunMetadata, notes: Vec<String>) -> SharedStatus {
        let (warnings, problems) = (Vec::new(), Vec::new());
        Rc::new(RefCell::new(Self { metadata, notes, warnings, snapshot: None, checkpoint: None, problems }))
    }

    /// The problems that are new to an observer that has seen the first `seen` of them.
    pub(in crate::cli) fn new_problems(&self, seen: &mut usize) -> Vec<String> {
        let new = self.problems[*seen..].to_vec();
        *seen = self.problems.len();
        new
    }
}
