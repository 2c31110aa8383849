//! A run's state between two iterations: everything that the next one depends on besides the request.

use crate::error::{Error, Result};
use crate::mirage::loss::Shares;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::objective::step::STATE_PICTURE;
use crate::mirage::optimizer::Optimizer;
use crate::mirage::scales::Scale;
use crate::mirage::setback::LossTrend;
use crate::mirage::weighting::Weights;
use std::fmt;

/// Upper limit on a run's time, about thirty thousand years. Larger times can't be printed.
pub(in crate::mirage) const MOST_SECONDS: f64 = 1e12;

/// A completed scale of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierScale {
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// Iterations of the whole run up to the end of the scale.
    pub end: u32,
}

impl EarlierScale {
    /// Converts these scales.
    pub(in crate::mirage) fn list(scales: &[Scale]) -> Vec<Self> {
        scales.iter().map(|scale| Self { size: scale.size, end: scale.end }).collect()
    }
}

/// Losses of a run since its objective last changed, which show whether it diverges.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mirage) struct LossHistory {
    /// Loss at the state's iteration. A resumed run with another loss there has another objective, and drops the history.
    pub loss: f64,
    /// Trend of the losses before it.
    pub trend: LossTrend,
    /// Picture with the least loss, if it is an earlier one: iterations, loss, picture.
    pub best: Option<(u32, f64, KeptPicture)>,
}

/// State after some iterations. A [`Session`](crate::mirage::Session) with the same request, network and adapter
/// continues from it bit-identically to an uninterrupted run.
#[derive(Clone, PartialEq)]
pub struct State {
    /// Number of iterations of the whole run that are done.
    pub iteration: u32,
    /// Seconds that they took.
    pub seconds: f64,
    /// Index of the picture's scale.
    pub scale: usize,
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// Completed scales, which produced the start picture of this one; `None` if the checkpoint does not record them.
    pub earlier_scales: Option<Vec<EarlierScale>>,
    /// Name and values of each tensor in logical order (channel, row, column): the picture, clamped only if the run
    /// clamps; the average, if enabled; and the optimiser's tensors, named `optimiser:tensor`.
    pub tensors: Vec<(String, Vec<f32>)>,
    /// Requested shares of the groups in the objective; empty if all weights are fixed.
    pub shares: Shares,
    /// Current weights.
    pub weights: Weights,
    /// True if the weights were measured at this very picture. The next step then uses the measured gradients.
    pub weights_measured: bool,
    /// True if the shares changed after the weights were measured. They are then measured before the next step.
    pub shares_changed: bool,
    /// Number of times the step size was halved after a setback.
    pub halvings: u32,
    /// Iteration and values of the last picture that the change was measured from, interleaved as red, green and blue.
    /// Subsampled for a large picture. Only if the change may end the run.
    pub last_look: Option<(u32, Vec<f32>)>,
    /// False if an optimiser that rejects pictures has accepted none but the start picture.
    pub(in crate::mirage) has_moved: bool,
    /// Losses so far. `None` for an optimiser that rejects pictures by itself, and if the checkpoint has none.
    pub(in crate::mirage) losses: Option<LossHistory>,
}

/// Checks that a run with `done` iterations may continue to iteration `end`.
///
/// # Errors
/// [`Error::Usage`] if `done` exceeds `end`.
pub fn check_done(done: u32, end: u32) -> Result<()> {
    if done <= end {
        return Ok(());
    }
    let message = format!(
        "the run already has {done} iterations, more than {end}: give a larger number with --iterations"
    );
    Err(Error::usage(message))
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { iteration, scale, size, weights, .. } = self;
        write!(
            f,
            "State {{ iteration: {iteration}, scale: {scale}, size: {size:?}, weights: {weights:?}, .. }}"
        )
    }
}

impl State {
    /// True if the state has tensors with all these names.
    pub(in crate::mirage) fn holds<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        names.all(|name| self.tensors.iter().any(|(own, _)| own == name))
    }

    /// Returns the values of a tensor, if present.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(other, _)| other == name).map(|(_, values)| values.as_slice())
    }

    /// Drops the tensors of this optimiser, which another one can't use. If it keeps an accepted picture, that replaces
    /// the current one, which may be a trial that was not accepted.
    pub fn forget_optimizer(&mut self, optimizer: &dyn Optimizer) {
        let find = |tensors: &[(String, Vec<f32>)], wanted: &str| {
            tensors.iter().position(|(name, _)| name == wanted)
        };
        let accepted = optimizer.shown().and_then(|name| find(&self.tensors, &optimizer.tensor(name)));
        if let (Some(accepted), Some(picture)) = (accepted, find(&self.tensors, STATE_PICTURE)) {
            self.tensors[picture].1 = std::mem::take(&mut self.tensors[accepted].1);
        }
        let prefix = optimizer.tensor("");
        self.tensors.retain(|(name, _)| !name.starts_with(&prefix));
        // The next optimiser has not made any step.
        self.has_moved = false;
    }

    /// Checks that the run's time is valid.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not.
    pub(in crate::mirage) fn check_time(&self) -> Result<()> {
        // The value may come from an untrusted file.
        if (0.0..=MOST_SECONDS).contains(&self.seconds) {
            return Ok(());
        }
        Err(Error::usage(format!("the state's time of {} seconds is not valid", self.seconds)))
    }

    /// Returns the scale, among those of a run, at which the run continues.
    ///
    /// # Errors
    /// [`Error::Usage`] if the scale or size after this many iterations is another one, or if the completed scales
    /// differ.
    pub(in crate::mirage) fn scale_of(&self, scales: &[Scale]) -> Result<Scale> {
        const REMEDY: &str = "keep --scales, --min-size and the --iterations of the completed scales";
        let scale = scales.get(self.scale).copied();
        let scale = scale.filter(|scale| (scale.first..=scale.end).contains(&self.iteration));
        let scale = scale.ok_or_else(|| {
            Error::usage(format!(
                "after {} iterations the run was at another scale than with these options: {REMEDY}",
                self.iteration
            ))
        })?;
        self.check_size(scale.size)?;
        let best = self.losses.as_ref().and_then(|losses| losses.best.as_ref());
        if best.is_some_and(|(at, ..)| !(scale.first..=self.iteration).contains(at)) {
            return Err(Error::usage("the state's best picture is not one of its scale"));
        }
        if let Some(earlier) = &self.earlier_scales
            && *earlier != EarlierScale::list(&scales[..self.scale])
        {
            let message = "the completed scales of the run differ from those of these options";
            return Err(Error::usage(format!("{message}: {REMEDY}")));
        }
        Ok(scale)
    }

    fn check_size(&self, size: [usize; 2]) -> Result<()> {
        if self.size == size {
            return Ok(());
        }
        let [[height, width], [new_height, new_width]] = [self.size, size];
        Err(Error::usage(format!(
            "the run was at {width}x{height} pixels and can't continue at {new_width}x{new_height}: keep --size and --scales, or start a new run from its picture with --init"
        )))
    }

    /// Checks that the state belongs to a run at this size and has valid values.
    ///
    /// # Errors
    /// [`Error::Usage`] if sizes don't match, or a value is not finite or out of range.
    pub(in crate::mirage) fn check(&self, size: [usize; 2]) -> Result<()> {
        self.check_size(size)?;
        self.check_time()?;
        let values = size[0].saturating_mul(size[1]).saturating_mul(3);
        let picture = self.tensor("picture").map_or(0, <[f32]>::len);
        if picture != values {
            return Err(Error::usage(format!(
                "the state's picture has {picture} values instead of {values}"
            )));
        }
        let all = self.tensors.iter().map(|(name, values)| (name.as_str(), values));
        for (name, values) in all.chain(self.last_look.iter().map(|(_, values)| ("last look", values))) {
            if !values.iter().all(|value| value.is_finite()) {
                return Err(Error::usage(format!("the state's {name} holds NaN or infinite values")));
            }
        }
        Ok(())
    }
}
