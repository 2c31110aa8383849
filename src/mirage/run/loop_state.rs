//! State of a run's main loop: iterations in flight, the reason to end, and the iteration to return to.

use super::event::{Event, Observer};
use crate::error::Result;
use crate::graph::Submission;
use crate::mirage::weighting::Weights;
use std::collections::VecDeque;

/// Reason why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All iterations were done.
    Finished,
    /// The picture changed by less than [`Request::stop_when_change_below`](crate::mirage::Request).
    Settled,
    /// An observer asked to stop.
    Stopped,
    /// [`Controls::stop`](crate::mirage::Controls::stop) was called.
    Commanded,
}

/// An iteration that was submitted and is not reported yet.
#[derive(Debug)]
pub(in crate::mirage) struct SubmittedIteration {
    /// Number of iterations before it.
    pub iteration: u32,
    pub submission: Submission,
    /// Weights of the groups during the iteration.
    pub weights: Weights,
    pub due: Due,
}

/// Tasks of an iteration and its report.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::mirage) struct Due {
    pub report: bool,
    /// The report contains the groups' shares.
    pub shares: bool,
    pub snapshot: bool,
    pub picture: bool,
    pub state: bool,
    /// The picture is compared with the last one to measure its change.
    pub change: bool,
    /// Picture and losses are read, so that the run can return to this picture.
    pub keep: bool,
    /// The iteration makes a step.
    pub step: bool,
    /// The run ends with this iteration.
    pub last: bool,
    /// The weights were measured directly before it.
    pub weights_measured: bool,
    /// Its loss and picture count for later setbacks. Only those of the schedule do, so that a run that was interrupted,
    /// or watched, goes back like any other.
    pub counts: bool,
}

impl Due {
    /// True if losses and classes are read.
    pub fn numbers(&self) -> bool {
        self.report || self.snapshot || self.state || self.keep
    }

    /// True if the state is read after everything else, because no step follows. It is then read tensor by tensor, and
    /// moved out of host memory, which takes less memory than a read-back.
    pub fn takes_state(&self) -> bool {
        self.state && self.last
    }

    /// True if the picture is read.
    pub fn pixels(&self) -> bool {
        self.numbers() || self.picture || self.change
    }
}

/// State of the main loop, and the observer.
pub(in crate::mirage) struct RunLoop<'a> {
    pub in_flight: VecDeque<SubmittedIteration>,
    pub ending: Option<Ending>,
    /// Iteration at which the run or its current scale started.
    pub first: u32,
    /// Iteration to return to after a fault.
    pub back: Option<u32>,
    /// Iteration of the last setback's picture, which has already been reported.
    pub reported: Option<u32>,
    /// True if a run that is about to end does so with the picture that it went back to, without another report.
    pub gave_up: bool,
    observer: &'a mut dyn Observer,
}

impl<'a> RunLoop<'a> {
    /// Creates the state of a run that starts at this iteration.
    pub fn new(first: u32, observer: &'a mut dyn Observer) -> Self {
        Self {
            in_flight: VecDeque::new(),
            ending: None,
            first,
            back: None,
            reported: None,
            gave_up: false,
            observer,
        }
    }

    /// Sends an event to the observer, and records whether it asks to stop.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn emit(&mut self, event: Event<'_>) -> Result<()> {
        if self.observer.observe(event)?.is_break() {
            self.ending = self.ending.or(Some(Ending::Stopped));
        }
        Ok(())
    }
}
