//! What happens in a run, and the observers that are informed of it.

use super::state::State;
use crate::error::Result;
use crate::graph::MemoryUse;
use crate::image_io::Picture;
use crate::mirage::loss::{Group, Shares};
use crate::mirage::scales::Scale;
use crate::mirage::setback::Setback;
use crate::mirage::weighting::Weights;
use std::ops::ControlFlow;

/// Follows a run: a terminal, a log, a page, a film, files.
pub trait Observer {
    /// Something happened. The answer is whether to go on, or to stop after the iterations that were submitted (two at
    /// most).
    ///
    /// # Errors
    /// Any; the run ends with it.
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>>;
}

impl<F: FnMut(Event<'_>) -> Result<ControlFlow<()>>> Observer for F {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        self(event)
    }
}

/// Something happened. Iterations are those of the whole run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// All is prepared; the first iteration follows.
    Started(&'a Started),
    /// A scale begins. Pictures have its size from here on.
    Scale(&'a ScaleStarted),
    /// Weights were measured for the groups' shares.
    Weighted {
        /// After this many iterations.
        iteration: u32,
        /// The shares of the groups in the objective.
        shares: &'a Shares,
        /// The weight of each group.
        weights: &'a Weights,
    },
    /// An iteration is done. Comes for every iteration, after its other events.
    Progress {
        /// Iterations done so far.
        iteration: u32,
        /// Seconds since the first began.
        seconds: f64,
    },
    /// Losses, shares and classes were measured.
    Report(&'a Report),
    /// A snapshot that the schedule or [`Controls`](crate::mirage::Controls) asked for.
    Snapshot {
        /// The picture after this many iterations.
        iteration: u32,
        /// The picture.
        picture: &'a Picture,
        /// Seconds from the start of the first iteration, without pauses, until it was read back.
        seconds: f64,
        /// What the network sees; see [`Report::readout`].
        readout: &'a Readout,
    },
    /// A picture to look at, where the schedule asks for one.
    Picture {
        /// The picture after this many iterations.
        iteration: u32,
        /// The picture.
        picture: &'a Picture,
        /// True if the run ends with it.
        last: bool,
    },
    /// The run's state, where the schedule asks for it.
    State(&'a State),
    /// Something went wrong, and the run goes on from an earlier picture. Iterations after that come a second time.
    Setback(&'a Setback),
    /// The run is paused, or goes on again.
    Paused {
        /// After this many iterations.
        iteration: u32,
        /// True if it is paused.
        paused: bool,
    },
}

/// What a run starts with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Started {
    /// Adapter, backend and driver.
    pub device: String,
    /// Device memory of the first scale.
    pub memory: MemoryUse,
    /// Height and width of the final picture.
    pub size: [usize; 2],
    /// The sizes that the run goes through; the last is that of the final picture.
    pub scales: Vec<Scale>,
    /// The groups of losses in the objective, with their shares and weights.
    pub groups: Vec<Group>,
    /// Seconds from the session's creation to here: targets captured, kernels compiled.
    pub prepared_in: f64,
    /// Top classes of the photo: class index and probability; empty without fc layers.
    pub photo_classes: Vec<(usize, f32)>,
    /// Notes for the user, e.g. what can't move yet.
    pub notes: Vec<String>,
    /// Label and chosen kernel variant of each node of the objective.
    pub variants: Vec<(String, &'static str)>,
}

/// A scale that begins.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ScaleStarted {
    /// Which one, counted from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    /// Its size and iterations.
    pub scale: Scale,
    /// Device memory at this scale.
    pub memory: MemoryUse,
}

/// What the network sees in a picture, and how far that is from what it sees in the photo.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Readout {
    /// Top classes: class index and probability; empty without fc layers.
    pub classes: Vec<(usize, f32)>,
    /// Distance of the class probabilities from the photo's, see [`class_distance`](crate::mirage::class_distance).
    pub distance: Option<f32>,
}

/// One weighted loss.
#[derive(Debug, Clone, PartialEq)]
pub struct TermLoss {
    /// Name of its group.
    pub group: String,
    /// Its layer, or `picture`.
    pub source: String,
    /// Weighted loss.
    pub loss: f64,
}

/// Numbers of the run after some iterations.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Iterations done: 0 is the start picture.
    pub iteration: u32,
    /// Seconds from the start of the first iteration, without pauses, until these numbers were read back.
    pub seconds: f64,
    /// Sum of all weighted losses.
    pub total: f64,
    /// Each weighted loss.
    pub terms: Vec<TermLoss>,
    /// Share of each measured group in the sum of their mean absolute gradients, in [0, 1]; empty in the report of a
    /// stopped run, and, of a picture in tiles, in all but the first and those just after the weights were
    /// measured.
    pub gradient_shares: Vec<(String, f32)>,
    /// What the network sees in the picture of this iteration, whose losses these are. The picture that is shown and saved
    /// may be another: the average of the last ones, or with a line search the accepted one.
    pub readout: Readout,
    /// Mean absolute change of a colour value in an iteration, where black to white is 1: of the last ten
    /// iterations that began at a multiple of ten. None before.
    pub change: Option<f32>,
}

impl Report {
    /// Sum of the weighted losses of one group.
    pub fn group_loss(&self, group: &str) -> f64 {
        self.terms.iter().filter(|term| term.group == group).map(|term| term.loss).sum()
    }

    /// The groups that have losses, in the objective's order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = self.terms.iter().map(|term| term.group.as_str()).collect();
        groups.dedup();
        groups
    }

    /// Share of one group in the sum of all weighted losses, in [0, 1]; 0 where all of them are 0.
    pub fn loss_share(&self, group: &str) -> f64 {
        if self.total > 0.0 { self.group_loss(group) / self.total } else { 0.0 }
    }

    /// Share of one group in the gradient, where it was measured.
    pub fn gradient_share(&self, group: &str) -> Option<f32> {
        self.gradient_shares.iter().find(|(name, _)| name == group).map(|(_, share)| *share)
    }
}
