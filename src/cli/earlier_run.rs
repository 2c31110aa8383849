//! What a resumed run, or one that goes on from a cell of a sweep, takes from the run before.

use super::checked_run::CheckedRun;
use super::resumed_run::ResumedRun;
use crate::error::{Error, Result};
use crate::mirage::optimizer::Optimizer;
use crate::mirage::{CheckpointFile, Request, State, Weights};
use std::path::PathBuf;
use std::sync::Arc;

/// What a run takes from an earlier one.
#[derive(Debug, Default)]
pub(super) struct EarlierRun {
    /// Notes for the user on the record.
    pub notes: Vec<String>,
    /// SHA-256 of the network, if it must be the same.
    pub network: Option<String>,
    /// SHA-256 of the first pictures that the run read, if they must be the same
    /// ([`Inputs::of_pictures`](super::files::inputs::Inputs::of_pictures)).
    pub pictures: Option<String>,
    /// The device of the run so far.
    pub device: String,
    /// The file that it was read from.
    pub file: Option<PathBuf>,
    /// The run, if it is resumed: it keeps its identifier and may replace its own files.
    pub resumed: Option<ResumedRun>,
    /// The state to start from.
    pub state: Option<EarlierState>,
}

impl EarlierRun {
    /// Iterations that are done.
    pub(super) fn iteration(&self) -> u32 {
        self.state.as_ref().map_or(0, |state| state.file.iteration())
    }

    /// Checks that this run reads what the earlier one read, and can go on from its state.
    ///
    /// # Errors
    /// [`Error::File`] naming what has changed, [`Error::Usage`] if its scales have.
    pub(super) fn check(&self, checked: &CheckedRun) -> Result<()> {
        if let Some(before) = &self.network
            && *before != checked.network.sha256()?
        {
            return Err(Error::file(
                &checked.network.path,
                "this is not the network that the run was made with",
                "Restore that network, or choose another with --weights",
            ));
        }
        if let (Some(before), Some(file)) = (&self.pictures, &self.file)
            && !checked.inputs.of_pictures().starts_with(before)
        {
            return Err(Error::file(
                file,
                "its photo, or another picture that it was painted from, has changed",
                "Restore that picture, or start a new run with `mirage render`",
            ));
        }
        self.state.as_ref().map_or(Ok(()), |state| state.file.check_scales(&checked.scales))
    }
}

/// The state that a run starts from. It stays on disk until the device is ready for it, and is read again if the device
/// is lost, so that the run never holds a copy of it.
#[derive(Debug)]
pub(super) struct EarlierState {
    pub file: CheckpointFile,
    /// True if the weights are measured anew.
    pub measures_weights_anew: bool,
    /// True if the halvings of the step are forgotten, because --learning-rate is given.
    pub forgets_halvings: bool,
    /// The optimiser so far, if another one goes on.
    pub replaced: Option<Arc<dyn Optimizer>>,
}

impl EarlierState {
    /// The state of a file as it is.
    pub(super) fn of(file: CheckpointFile) -> Self {
        Self { file, measures_weights_anew: false, forgets_halvings: false, replaced: None }
    }

    /// Reads the state for a run of this request.
    ///
    /// # Errors
    /// As [`CheckpointFile::read`].
    pub(super) fn read(&self, request: &Request) -> Result<State> {
        let mut state = self.file.read(request, self.replaced.as_deref())?;
        if self.measures_weights_anew {
            state.weights = Weights::default();
        }
        if self.forgets_halvings {
            state.halvings = 0;
        }
        Ok(state)
    }
}
