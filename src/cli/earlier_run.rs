//! State and checks for a run that continues an earlier one, by `mirage resume` or from a cell of a sweep.

use super::checked_run::CheckedRun;
use crate::error::{Error, Result};
use crate::mirage::optimizer::Optimizer;
use crate::mirage::{CheckpointFile, Request, State, Weights};
use std::path::PathBuf;
use std::sync::Arc;

/// The earlier run that a run continues; empty for a new run.
#[derive(Debug, Default)]
pub(super) struct EarlierRun {
    /// Notes for the user about the record.
    pub notes: Vec<String>,
    /// SHA-256 that the network must have, if any.
    pub network: Option<String>,
    /// SHA-256 that the first pictures read by the run must have, if any
    /// ([`Inputs::of_pictures`](super::files::inputs::Inputs::of_pictures)).
    pub pictures: Option<String>,
    /// Device of the run so far.
    pub device: String,
    /// File that the earlier run was read from.
    pub file: Option<PathBuf>,
    /// Identifier of the earlier run, if this run keeps it and may replace its files.
    pub run: Option<String>,
    /// State to start from.
    pub state: Option<EarlierState>,
}

impl EarlierRun {
    /// Returns the number of iterations that are done.
    pub(super) fn iteration(&self) -> u32 {
        self.state.as_ref().map_or(0, |state| state.file.iteration())
    }

    /// Checks that this run reads the same data as the earlier one, and can continue from its state.
    ///
    /// # Errors
    /// [`Error::File`] naming what has changed, [`Error::Usage`] if the scales have.
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

/// The state that a run starts from. It stays on disk until the device is ready, and is read again if the device is
/// lost, so the run never holds a copy.
#[derive(Debug)]
pub(super) struct EarlierState {
    pub file: CheckpointFile,
    /// True if the weights are measured again.
    pub measures_weights_anew: bool,
    /// True if the halvings of the step size are reset, because --learning-rate is given.
    pub forgets_halvings: bool,
    /// The optimiser so far, if the run continues with another.
    pub replaced: Option<Arc<dyn Optimizer>>,
}

impl EarlierState {
    /// Uses the state of a file unchanged.
    pub(super) fn of(file: CheckpointFile) -> Self {
        Self { file, measures_weights_anew: false, forgets_halvings: false, replaced: None }
    }

    /// Reads the state for a run with this request.
    ///
    /// # Errors
    /// See [`CheckpointFile::read`].
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
