//! Saves the checkpoints of a run.

use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::cli::checkpoint::{self, RunTexts};
use crate::cli::files::rescue::rescue;
use crate::cli::output::escape::shown;
use crate::cli::own_files::owner;
use crate::error::{Error, Result};
use crate::files::{self, Overwrite};
use crate::mirage::{Event, Observer, State};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Saves each state in one file, which replaces the previous one. A failure is reported without ending the run; the
/// state is rescued to another place.
#[derive(Debug)]
pub(in crate::cli) struct Checkpoints {
    path: PathBuf,
    texts: RunTexts,
    status: SharedStatus,
    checked: Rc<CheckedRun>,
    /// True if files of others may be replaced.
    overwrite: bool,
    /// The checkpoint that was saved last, which the next one may replace.
    last: Overwrite,
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
        checked: &Rc<CheckedRun>,
        status: &SharedStatus,
    ) -> Result<Self> {
        let texts = RunTexts::new(&checked.options, &checked.inputs)?;
        let (checked, status) = (checked.clone(), status.clone());
        Ok(Self {
            path,
            texts,
            status,
            checked,
            overwrite,
            last: Overwrite::Never,
            saved: None,
            failed: false,
        })
    }

    /// Returns the path of the newest checkpoint, if one was saved.
    pub(in crate::cli) fn saved(&self) -> Option<&Path> {
        self.saved.as_deref()
    }

    /// Forgets the newest checkpoint, which can't be resumed.
    pub(in crate::cli) fn forget(&mut self) {
        self.saved = None;
        self.status.borrow_mut().checkpoint = None;
    }

    /// Removes the run's own checkpoint, if it is as it was saved.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails.
    pub(in crate::cli) fn remove(&self) -> Result<()> {
        let Overwrite::Only(version) = self.own(&self.path) else { return Ok(()) };
        let removed = files::remove(&self.path, version).map(drop);
        removed.map_err(Error::io(&self.path, "removing the checkpoint"))
    }

    /// Returns [`Overwrite::Only`] for a checkpoint that the run saved itself.
    fn own(&self, path: &Path) -> Overwrite {
        // The content of the file written last need not be read.
        if self.last.allows(path) {
            self.last
        } else {
            owner(path, &self.status.borrow().metadata.run).overwrite()
        }
    }

    /// Returns what a checkpoint at this path may replace.
    fn replaceable(&self, path: &Path) -> Overwrite {
        match self.own(path) {
            Overwrite::Never if self.overwrite && !self.checked.files.reads(path) => Overwrite::Always,
            own => own,
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
                self.last = written;
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
