//! Saves the snapshots of a run.

use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::error::Result;
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;
use std::rc::Rc;

/// Saves each snapshot beside the finished picture, with the run's metadata. A failure is reported without ending the
/// run.
#[derive(Debug)]
pub(in crate::cli) struct Snapshots {
    checked: Rc<CheckedRun>,
    status: SharedStatus,
    /// True if the last one could not be saved.
    failed: bool,
}

impl Snapshots {
    pub(in crate::cli) fn new(checked: &Rc<CheckedRun>, status: &SharedStatus) -> Self {
        Self { checked: checked.clone(), status: status.clone(), failed: false }
    }
}

impl Observer for Snapshots {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        if let Event::Snapshot { iteration, picture, .. } = event {
            let CheckedRun { files, options, .. } = &*self.checked;
            let path = files.free_snapshot(iteration);
            let texts = self.status.borrow().metadata.texts(options, iteration);
            let saved = files.write(&path, &*self.checked.at_full_size(picture)?, texts);
            let status = &mut *self.status.borrow_mut();
            match saved {
                Ok(()) => {
                    status.snapshot = Some(path);
                    self.failed = false;
                }
                Err(error) => {
                    status.snapshot = None;
                    // On a full disk all later ones fail too: one message is enough.
                    if !std::mem::replace(&mut self.failed, true) {
                        status.problems.push(format!("no snapshot: {error}"));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
