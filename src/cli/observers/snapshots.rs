//! Saves the snapshots of a run.

use super::status::SharedStatus;
use crate::cli::plan::Plan;
use crate::error::Result;
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;
use std::rc::Rc;

/// Saves each snapshot beside the finished picture, with the run's metadata.
#[derive(Debug)]
pub(in crate::cli) struct Snapshots {
    pub plan: Rc<Plan>,
    pub status: SharedStatus,
}

impl Observer for Snapshots {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        if let Event::Snapshot { iteration, picture, .. } = event {
            let Plan { files, options, .. } = &*self.plan;
            let path = files.free_snapshot(iteration);
            let texts = self.status.borrow().metadata.texts(options, iteration);
            files.write(&path, &*self.plan.at_full_size(picture)?, texts)?;
            self.status.borrow_mut().snapshot = path;
        }
        Ok(ControlFlow::Continue(()))
    }
}
