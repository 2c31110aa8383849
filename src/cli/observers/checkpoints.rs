//! Saves the checkpoints of a run.

use super::status::SharedStatus;
use crate::cli::checkpoint::{self, RunTexts};
use crate::cli::plan::Plan;
use crate::error::Result;
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Saves each state in one file: the newest replaces the one before.
#[derive(Debug)]
pub(in crate::cli) struct Checkpoints {
    path: PathBuf,
    texts: RunTexts,
    status: SharedStatus,
    saved: bool,
}

impl Checkpoints {
    /// For a run that reads `inputs`.
    ///
    /// # Errors
    /// If an input can't be read any more.
    pub(in crate::cli) fn new(
        path: PathBuf,
        plan: &Plan,
        inputs: &[PathBuf],
        status: &SharedStatus,
    ) -> Result<Self> {
        let texts = RunTexts::new(&plan.options, inputs)?;
        Ok(Self { path, texts, status: status.clone(), saved: false })
    }

    /// The file, if it was saved.
    pub(in crate::cli) fn saved(&self) -> Option<&Path> {
        self.saved.then_some(&self.path)
    }
}

impl Observer for Checkpoints {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        if let Event::State(state) = event {
            checkpoint::save(&self.path, state, &self.texts, &self.status.borrow().metadata)?;
            self.saved = true;
        }
        Ok(ControlFlow::Continue(()))
    }
}
