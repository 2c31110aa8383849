//! What a session tells its listeners: terminal, files, and whatever else wants to follow.

use super::request::{Balance, FactorKind};
use super::state::State;
use crate::graph::MemoryUse;
use crate::image_io::Picture;

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// All is prepared; the first iteration follows.
    Started(&'a Started),
    /// Raw weights were set from the shares of a balance: factor, weight, measured gradient norm (mean
    /// absolute gradient at weight 1).
    Balanced {
        /// After this many iterations.
        iteration: u32,
        /// The shares.
        balance: Balance,
        /// Factor, raw weight, mean absolute gradient per unit of weight.
        weights: &'a [(FactorKind, f32, f32)],
    },
    /// An iteration is done; comes for every one, after what else it has to tell.
    Progress {
        /// Iterations done so far.
        iteration: u32,
        /// Seconds since the first began.
        seconds: f64,
    },
    /// Losses, shares and classes were measured.
    Report(&'a Report),
    /// A snapshot that was asked for, by the schedule or through [`Controls`](super::Controls).
    Snapshot {
        /// The picture after this many iterations.
        iteration: u32,
        /// The picture.
        picture: &'a Picture,
        /// Seconds from the start of the first iteration, without pauses, until it was there.
        seconds: f64,
        /// What the network sees in it.
        readout: &'a Readout,
    },
    /// A picture for whoever looks on, as the schedule wants it.
    Picture {
        /// The picture after this many iterations.
        iteration: u32,
        /// The picture.
        picture: &'a Picture,
        /// True if the run ends with it.
        last: bool,
    },
    /// The run's state, as the schedule wants it.
    State(&'a State),
    /// The run is held, or goes on again.
    Paused {
        /// After this many iterations.
        iteration: u32,
        /// True if it is held.
        paused: bool,
    },
}

/// What a run starts with.
#[derive(Debug, Clone)]
pub struct Started {
    /// Adapter, backend and driver.
    pub device: String,
    /// Device memory of the run.
    pub memory: MemoryUse,
    /// Output height and width.
    pub size: [usize; 2],
    /// Seconds from the session's creation to here: targets captured, kernels compiled.
    pub prepared_in: f64,
    /// Top classes of the photo: class index and probability; empty without fc layers.
    pub photo_classes: Vec<(usize, f32)>,
    /// Notes for the user, e.g. what can't move yet.
    pub notes: Vec<String>,
    /// Label and chosen kernel variant of each node of the objective.
    pub variants: Vec<(String, &'static str)>,
}

/// What the network sees in a picture, and how far that is from what it sees in the photo.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Readout {
    /// Top classes: class index and probability; empty without fc layers.
    pub classes: Vec<(usize, f32)>,
    /// Distance of the class probabilities from the photo's, see [`class_distance`](super::class_distance).
    pub distance: Option<f32>,
}

/// One weighted loss.
#[derive(Debug, Clone, PartialEq)]
pub struct TermLoss {
    /// Its factor.
    pub factor: FactorKind,
    /// Its layer; `picture` for the total variation.
    pub layer: String,
    /// Weighted loss.
    pub loss: f64,
}

/// State of the run after some iterations.
#[derive(Debug, Clone)]
pub struct Report {
    /// Iterations done: 0 is the start picture.
    pub iteration: u32,
    /// Seconds from the start of the first iteration until these numbers were there.
    pub seconds: f64,
    /// Sum of all weighted losses.
    pub total: f64,
    /// Each weighted loss.
    pub terms: Vec<TermLoss>,
    /// Share of each of the three factors, as far as active, in the sum of their mean absolute gradients, in
    /// [0, 1]; empty in the report of a stopped run.
    pub gradient_shares: Vec<(FactorKind, f32)>,
    /// What the network sees in the picture.
    pub readout: Readout,
    /// Mean absolute change of a colour value in an iteration, where black to white is 1: of the last ten
    /// iterations that began at a multiple of ten. None before.
    pub change: Option<f32>,
}

impl Report {
    /// Sum of the weighted losses of one factor.
    pub fn factor_loss(&self, kind: FactorKind) -> f64 {
        self.terms.iter().filter(|term| term.factor == kind).map(|term| term.loss).sum()
    }

    /// The factors that have losses, the smoothness last.
    pub fn factors(&self) -> Vec<FactorKind> {
        let mut factors: Vec<FactorKind> = self.terms.iter().map(|term| term.factor).collect();
        factors.sort_unstable();
        factors.dedup();
        factors
    }

    /// Share of one factor in the sum of all weighted losses, in [0, 1]; 0 where all of them are 0.
    pub fn loss_share(&self, kind: FactorKind) -> f64 {
        if self.total > 0.0 { self.factor_loss(kind) / self.total } else { 0.0 }
    }

    /// Share of one of the three factors in the gradient, where it was measured.
    pub fn gradient_share(&self, kind: FactorKind) -> Option<f32> {
        self.gradient_shares.iter().find(|(factor, _)| *factor == kind).map(|(_, share)| *share)
    }
}
