//! What the loop of a run holds: the iterations that are submitted, why it ends, and where it goes on.

use super::event::{Event, Observer};
use crate::error::Result;
use crate::graph::Submission;
use crate::mirage::weighting::Weights;
use std::collections::VecDeque;

/// Why a run ended.
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

/// An iteration that is submitted and not yet reported.
#[derive(Debug)]
pub(in crate::mirage) struct SubmittedIteration {
    /// Iterations before it.
    pub iteration: u32,
    pub submission: Submission,
    /// The weights it runs with.
    pub weights: Weights,
    pub due: Due,
}

/// What an iteration does and reports.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::mirage) struct Due {
    pub report: bool,
    /// With the groups' shares.
    pub shares: bool,
    pub snapshot: bool,
    pub picture: bool,
    pub state: bool,
    /// The picture is compared with the last one, to measure its change.
    pub change: bool,
    /// Picture and losses are read, so that the run can go back to it.
    pub keep: bool,
    /// It makes a step.
    pub step: bool,
    /// The run ends with it.
    pub last: bool,
    /// The weights were measured just before it.
    pub weights_measured: bool,
}

impl Due {
    /// True if losses and classes are read.
    pub fn numbers(&self) -> bool {
        self.report || self.snapshot || self.state || self.keep
    }

    /// True if the state is read once all else is done, because no step follows: tensor by tensor, and what is in the
    /// host's memory is moved out. So it takes less memory than a read-back.
    pub fn takes_state(&self) -> bool {
        self.state && self.last
    }

    /// True if the picture is read.
    pub fn pixels(&self) -> bool {
        self.numbers() || self.picture || self.change
    }
}

/// State of the loop of a run: what was submitted, why the run ends, and the observer.
pub(in crate::mirage) struct RunLoop<'a> {
    pub in_flight: VecDeque<SubmittedIteration>,
    pub ending: Option<Ending>,
    /// The iteration at which the run, or its present scale, began.
    pub first: u32,
    /// The iteration to go back to, after something has gone wrong.
    pub back: Option<u32>,
    /// The iteration that the run went back to last: it has been reported.
    pub reported: Option<u32>,
    observer: &'a mut dyn Observer,
}

impl<'a> RunLoop<'a> {
    /// The loop of a run that begins at this iteration.
    pub fn new(first: u32, observer: &'a mut dyn Observer) -> Self {
        Self { in_flight: VecDeque::new(), ending: None, first, back: None, reported: None, observer }
    }

    /// Informs the observer, and notes if it asks to stop.
    ///
    /// # Errors
    /// The observer's.
    pub fn emit(&mut self, event: Event<'_>) -> Result<()> {
        if self.observer.observe(event)?.is_break() {
            self.ending = self.ending.or(Some(Ending::Stopped));
        }
        Ok(())
    }
}
