//! Saves the checkpoints of a run.

use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::cli::checkpoint::{self, RunTexts};
use crate::cli::files::rescue::rescue;
use crate::cli::output::escape::shown;
use crate::cli::own_files::{Owner, owner};
use crate::error::Result;
use crate::files::Overwrite;
use crate::mirage::{Event, Observer, State};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Saves each state in one file, which replaces the previous one. A failure is reported without ending the run; the
/// state is rescued to another place.
#[derive(Debug)]
pub(in crate::cli) struct Checkpoints {
    path: PathBuf,
    texts: RunTexts,
    status: SharedStatus,
    /// True if any existing file with this name may be replaced, not only the run's own.
    overwrite: bool,
    /// Path of the newest checkpoint.
    saved: Option<PathBuf>,
    failed: bool,
}

impl Checkpoints {
    /// Creates the observer of a run. A file that is not the run's own is replaced only with `overwrite`.
    ///
    /// # Errors
    /// See [`RunTexts::new`].
    pub(in crate::cli) fn new(
        path: PathBuf,
        overwrite: bool,
        checked: &CheckedRun,
        status: &SharedStatus,
    ) -> Result<Self> {
        let texts = RunTexts::new(&checked.options, &checked.inputs)?;
        Ok(Self { path, texts, status: status.clone(), overwrite, saved: None, failed: false })
    }

    /// Returns the path of the newest checkpoint, if one was saved.
    pub(in crate::cli) fn saved(&self) -> Option<&Path> {
        self.saved.as_deref()
    }

    /// True if this file is the run's own.
    pub(in crate::cli) fn owns(&self, path: &Path) -> bool {
        matches!(owner(path, &self.status.borrow().metadata.run), Owner::Run(_))
    }

    /// Saves a state. Returns its path, if it could be saved, and a message if it couldn't and the previous one could.
    fn save(&mut self, state: &State) -> (Option<PathBuf>, Option<String>) {
        let status = self.status.borrow();
        let write = |path: &Path, overwrite: Overwrite| {
            checkpoint::save(path, overwrite, state, &self.texts, &status.metadata)
        };
        let own = |path: &Path| owner(path, &status.metadata.run).overwrite();
        let overwrite = if self.overwrite { Overwrite::Always } else { own(&self.path) };
        let Err(error) = write(&self.path, overwrite) else {
            self.failed = false;
            self.saved = Some(self.path.clone());
            return (self.saved.clone(), None);
        };
        let before = self.saved.take();
        // The place of an earlier rescue.
        let again =
            before.clone().filter(|before| *before != self.path && write(before, own(before)).is_ok());
        let rescued = again.or_else(|| rescue(&self.path, |place| write(place, Overwrite::Never)));
        let is_new = !std::mem::replace(&mut self.failed, true);
        let place = rescued.as_ref().map(|place| format!("; it is in {}", shown(place)));
        // The previous one still exists.
        self.saved = rescued.clone().or(before);
        let problem = is_new.then(|| format!("no checkpoint: {error}{}", place.unwrap_or_default()));
        (rescued, problem)
    }
}

impl Observer for Checkpoints {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        if let Event::State(state) = event {
            let (place, problem) = self.save(state);
            let mut status = self.status.borrow_mut();
            status.checkpoint = place;
            status.problems.extend(problem);
        }
        Ok(ControlFlow::Continue(()))
    }
}
