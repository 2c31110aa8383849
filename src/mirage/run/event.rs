//! Events of a run, and the observers that receive them.

use super::state::State;
use crate::error::Result;
use crate::graph::MemoryUse;
use crate::image_io::Picture;
use crate::mirage::loss::{Group, Shares};
use crate::mirage::scales::Scale;
use crate::mirage::setback::Setback;
use crate::mirage::weighting::Weights;
use std::ops::ControlFlow;

/// Receives the events of a run, e.g. for a terminal, a log, a web page, a film or files.
pub trait Observer {
    /// Handles an event. The return value says whether to continue, or to stop after the iterations in flight (two at
    /// most).
    ///
    /// # Errors
    /// Any error ends the run and is returned from it.
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>>;
}

impl<F: FnMut(Event<'_>) -> Result<ControlFlow<()>>> Observer for F {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        self(event)
    }
}

/// An event of a run. Iterations count from the start of the whole run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Everything is prepared; the first iteration follows.
    Started(&'a Started),
    /// A scale starts. Pictures have its size from now on.
    Scale(&'a ScaleStarted),
    /// Weights were measured for the groups' shares.
    Weighted {
        /// Number of iterations done.
        iteration: u32,
        /// Shares of the groups in the objective.
        shares: &'a Shares,
        /// Weight of each group.
        weights: &'a Weights,
    },
    /// An iteration is done. Sent for every iteration, after its other events.
    Progress {
        /// Number of iterations done.
        iteration: u32,
        /// Seconds since the start of the first iteration, without pauses.
        seconds: f64,
    },
    /// Losses, shares and classes were measured.
    Report(&'a Report),
    /// A snapshot requested by the schedule or [`Controls`](crate::mirage::Controls).
    Snapshot {
        /// Number of iterations done.
        iteration: u32,
        /// The picture after them.
        picture: &'a Picture,
        /// Seconds from the start of the first iteration until the picture was read back, without pauses.
        seconds: f64,
        /// Classes of the picture; see [`Report::readout`].
        readout: &'a Readout,
    },
    /// A preview picture requested by the schedule.
    Picture {
        /// Number of iterations done.
        iteration: u32,
        /// The picture after them.
        picture: &'a Picture,
        /// True if the run ends with this picture.
        last: bool,
    },
    /// The run's state, if requested by the schedule.
    State(&'a State),
    /// A fault occurred, and the run continues from an earlier picture. Iterations after that one are repeated.
    Setback(&'a Setback),
    /// The run was paused or resumed.
    Paused {
        /// Number of iterations done.
        iteration: u32,
        /// True if it was paused.
        paused: bool,
    },
}

/// Data available when a run starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Started {
    /// Adapter, backend and driver.
    pub device: String,
    /// Device memory of the first scale.
    pub memory: MemoryUse,
    /// Height and width of the final picture.
    pub size: [usize; 2],
    /// Scales of the run; the last has the size of the final picture.
    pub scales: Vec<Scale>,
    /// Groups of losses in the objective, with their shares or weights.
    pub groups: Vec<Group>,
    /// Seconds since the session's creation, for capturing targets and compiling kernels.
    pub prepared_in: f64,
    /// Top classes of the photo: class index and probability; empty without fc layers.
    pub photo_classes: Vec<(usize, f32)>,
    /// Notes for the user, e.g. that the picture can't change yet.
    pub notes: Vec<String>,
    /// Label and chosen kernel variant of each node of the objective.
    pub variants: Vec<(String, &'static str)>,
}

/// The start of a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ScaleStarted {
    /// Index of the scale.
    pub index: usize,
    /// Number of scales.
    pub count: usize,
    /// Size and iterations of the scale.
    pub scale: Scale,
    /// Device memory at this scale.
    pub memory: MemoryUse,
}

/// The network's classification of a picture, and its distance from that of the photo.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Readout {
    /// Top classes: class index and probability; empty without fc layers.
    pub classes: Vec<(usize, f32)>,
    /// Distance of the class probabilities from the photo's, see [`class_distance`](crate::mirage::class_distance).
    pub distance: Option<f32>,
}

/// A weighted loss.
#[derive(Debug, Clone, PartialEq)]
pub struct TermLoss {
    /// Name of the group.
    pub group: String,
    /// Name of the layer, or `picture`.
    pub source: String,
    /// Weighted loss.
    pub loss: f64,
}

/// Measurements after a number of iterations.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Number of iterations done: 0 is the start picture.
    pub iteration: u32,
    /// Seconds from the start of the first iteration until these values were read back, without pauses.
    pub seconds: f64,
    /// Sum of all weighted losses.
    pub total: f64,
    /// Each weighted loss.
    pub terms: Vec<TermLoss>,
    /// Each measured group's share of the sum of mean absolute gradients, in [0, 1]. Empty in the report of a stopped
    /// run. In the tiled case also empty, except in the first report and directly after a measurement of the weights.
    pub gradient_shares: Vec<(String, f32)>,
    /// Classification of this iteration's picture, to which the losses belong. The picture that is shown and saved may
    /// be another one: the average, or with a line search the accepted picture.
    pub readout: Readout,
    /// Mean absolute change of a colour value per iteration, where black to white is 1. Measured over the last ten
    /// iterations that started at a multiple of ten; `None` before that.
    pub change: Option<f32>,
}

impl Report {
    /// Returns the sum of the weighted losses of a group.
    pub fn group_loss(&self, group: &str) -> f64 {
        self.terms.iter().filter(|term| term.group == group).map(|term| term.loss).sum()
    }

    /// Returns the groups that have losses, in the objective's order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.terms.iter().map(|term| term.group.as_str()).collect();
        groups.dedup();
        groups
    }

    /// Returns a group's share of the sum of weighted losses, in [0, 1]; 0 if all losses are 0.
    pub fn loss_share(&self, group: &str) -> f64 {
        if self.total > 0.0 { self.group_loss(group) / self.total } else { 0.0 }
    }

    /// Returns a group's share of the gradient, if it was measured.
    pub fn gradient_share(&self, group: &str) -> Option<f32> {
        self.gradient_shares.iter().find(|(name, _)| name == group).map(|(_, share)| *share)
    }
}
