//! Saves the checkpoints of a run.

use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::cli::checkpoint::{self, RunTexts};
use crate::cli::files::rescue::rescue;
use crate::cli::output::escape::shown;
use crate::cli::own_files::owner;
use crate::error::{Error, Result};
use crate::files::{self, FileVersion, Overwrite};
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
    /// What the next checkpoint may replace, besides an unchanged one of this run.
    overwrite: Overwrite,
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
        let overwrite = overwrite.into();
        Ok(Self { path, texts, status: status.clone(), overwrite, saved: None, failed: false })
    }

    /// Returns the path of the newest checkpoint, if one was saved.
    pub(in crate::cli) fn saved(&self) -> Option<&Path> {
        self.saved.as_deref()
    }

    /// Removes the file with the checkpoints' name, if it may be replaced.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails.
    pub(in crate::cli) fn remove(&self) -> Result<()> {
        let version = match self.replaceable(&self.path) {
            Overwrite::Only(version) => version,
            Overwrite::Always => match FileVersion::of(&self.path) {
                Some(version) => version,
                None => return Ok(()),
            },
            Overwrite::Never => return Ok(()),
        };
        let removed = files::remove(&self.path, version).map(drop);
        removed.map_err(Error::io(&self.path, "removing the checkpoint"))
    }

    /// Returns what a checkpoint at this path may replace.
    fn replaceable(&self, path: &Path) -> Overwrite {
        // The content of the file written last need not be read.
        if self.overwrite.allows(path) {
            self.overwrite
        } else {
            owner(path, &self.status.borrow().metadata.run).overwrite()
        }
    }

    /// Saves a state. Returns its path, if it could be saved, and a message if it couldn't and the previous one could.
    fn save(&mut self, state: &State) -> (Option<PathBuf>, Option<String>) {
        let status = self.status.borrow();
        let write = |path: &Path, overwrite: Overwrite| {
            checkpoint::save(path, overwrite, state, &self.texts, &status.metadata)
        };
        let error = match write(&self.path, self.replaceable(&self.path)) {
            Ok(written) => {
                self.failed = false;
                if self.overwrite != Overwrite::Always {
                    self.overwrite = written;
                }
                self.saved = Some(self.path.clone());
                return (self.saved.clone(), None);
            }
            Err(error) => error,
        };
        let before = self.saved.take();
        // The place of an earlier rescue.
        let is_rescued = |at: &PathBuf| *at != self.path && write(at, self.replaceable(at)).is_ok();
        let again = before.clone().filter(is_rescued);
        let rescued = again.or_else(|| rescue(&self.path, |place| write(place, Overwrite::Never).map(drop)));
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
