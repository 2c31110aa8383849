//! Keeps the metadata of a run up to date.

use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::error::Result;
use crate::mirage::{Event, Observer};
use std::ops::ControlFlow;
use std::rc::Rc;

/// Updates [`RunMetadata`](crate::cli::record::metadata::RunMetadata). Comes before the observers that save it.
#[derive(Debug)]
pub(in crate::cli) struct MetadataRecorder {
    pub checked: Rc<CheckedRun>,
    pub status: SharedStatus,
}

impl Observer for MetadataRecorder {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        let metadata = &mut self.status.borrow_mut().metadata;
        match event {
            Event::Started(started) => metadata.device.clone_from(&started.device),
            Event::Weighted { weights, .. } => metadata.set_weights(weights),
            Event::Progress { seconds, .. } => metadata.seconds = seconds,
            Event::Report(report) => {
                metadata.seconds = report.seconds;
                metadata.set_report(report, &self.checked.names);
            }
            Event::Snapshot { seconds, readout, .. } => {
                metadata.seconds = seconds;
                metadata.set_readout(readout, &self.checked.names);
            }
            Event::Scale(_)
            | Event::Picture { .. }
            | Event::State(_)
            | Event::Setback(_)
            | Event::Paused { .. } => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
