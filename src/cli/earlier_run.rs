//! What a run takes from an earlier one.

use super::resumed_run::ResumedRun;
use crate::error::Result;
use crate::mirage::optimizer::Optimizer;
use crate::mirage::{CheckpointFile, State, Weights};
use std::path::PathBuf;
use std::sync::Arc;

/// What a run takes from an earlier one.
#[derive(Debug, Default)]
pub(super) struct EarlierRun {
    /// Notes for the user on the record.
    pub notes: Vec<String>,
    /// SHA-256 of the network, if it must be the same.
    pub network: Option<String>,
    /// The device of the run so far.
    pub device: String,
    /// The file that it was read from.
    pub file: Option<PathBuf>,
    /// The run, if it is resumed: it keeps its identifier and may replace its own files.
    pub resumed: Option<ResumedRun>,
    /// The state to start from.
    pub state: Option<EarlierState>,
}

/// The state that a run starts from. It stays on disk until the device is ready for it, and is read again if the device
/// is lost, so that the run never holds a copy of it.
#[derive(Debug)]
pub(super) struct EarlierState {
    pub file: CheckpointFile,
    /// True if its weights are measured anew.
    pub has_other_weights: bool,
    /// True if the first steps are as long as the learning rate says, although the run so far halved them.
    pub has_other_steps: bool,
    /// The optimiser so far, if another one goes on.
    pub replaced: Option<Arc<dyn Optimizer>>,
}

impl EarlierState {
    /// The state of a file as it is.
    pub(super) fn of(file: CheckpointFile) -> Self {
        Self { file, has_other_weights: false, has_other_steps: false, replaced: None }
    }

    /// Reads the state.
    ///
    /// # Errors
    /// As [`CheckpointFile::read`].
    pub(super) fn read(&self) -> Result<State> {
        let mut state = self.file.read(self.replaced.as_deref())?;
        if self.has_other_weights {
            state.weights = Weights::default();
        }
        if self.has_other_steps {
            state.halvings = 0;
        }
        Ok(state)
    }
}
