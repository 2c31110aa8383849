//! A run's state between two iterations: all that the next one depends on, besides the request.

use crate::error::{Error, Result};
use crate::mirage::loss::Shares;
use crate::mirage::objective::step::STATE_PICTURE;
use crate::mirage::optimizer::Optimizer;
use crate::mirage::scales::Scale;
use crate::mirage::weighting::Weights;
use std::fmt;

/// More than any run takes: thirty thousand years. Beyond it times can't be printed.
pub(in crate::mirage) const MOST_SECONDS: f64 = 1e12;

/// A scale that a run is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierScale {
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// The iterations of the whole run that were done with it.
    pub end: u32,
}

impl EarlierScale {
    /// Those of these scales.
    pub(in crate::mirage) fn list(scales: &[Scale]) -> Vec<Self> {
        scales.iter().map(|scale| Self { size: scale.size, end: scale.end }).collect()
    }
}

/// State after some iterations. A [`Session`](crate::mirage::Session) of the same request, network and adapter goes on from
/// it with the same bits as if it had never been interrupted.
#[derive(Clone, PartialEq)]
pub struct State {
    /// Iterations of the whole run that are done.
    pub iteration: u32,
    /// Seconds that they took.
    pub seconds: f64,
    /// The scale that the picture belongs to, counted from 0.
    pub scale: usize,
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// The scales before it, which made its start picture; `None` in checkpoints that don't state them.
    pub earlier_scales: Option<Vec<EarlierScale>>,
    /// Name and values of each tensor in logical order (channel, row, column): the picture, not clamped where the run
    /// does not clamp; the average if there is one; what the optimiser keeps, named `optimiser:tensor`.
    pub tensors: Vec<(String, Vec<f32>)>,
    /// The requested shares of the groups in the objective; empty if all weights were given.
    pub shares: Shares,
    /// The weights in force.
    pub weights: Weights,
    /// True if the weights were measured at this very picture: the next step is then made of these gradients.
    pub weights_measured: bool,
    /// True if the shares changed after the weights were measured: they are measured before the next step.
    pub shares_changed: bool,
    /// How often the step was halved because something went wrong.
    pub halvings: u32,
    /// Iteration and values of the last picture that the change was measured from: red, green and blue, pixel by pixel, of
    /// a large picture some of them; only if the change may end the run.
    pub last_look: Option<(u32, Vec<f32>)>,
}

/// Checks that a run of which so much is done may go on to the iteration `end`.
///
/// # Errors
/// [`Error::Usage`] if it is beyond that.
pub fn check_done(done: u32, end: u32) -> Result<()> {
    if done <= end {
        return Ok(());
    }
    let message = format!(
        "the run has {done} iterations already, of {end} now: give a larger number with --iterations"
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
    /// Values of one tensor.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(other, _)| other == name).map(|(_, values)| values.as_slice())
    }

    /// Drops what this optimiser keeps, which another one can't use. The picture becomes the one that its steps have led
    /// to; it may be one that was tried and not accepted.
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
    }

    /// Checks that the run's time is possible.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not.
    pub(in crate::mirage) fn check_time(&self) -> Result<()> {
        // A file may state anything.
        if (0.0..=MOST_SECONDS).contains(&self.seconds) {
            return Ok(());
        }
        Err(Error::usage(format!("the state's time can't be {} seconds", self.seconds)))
    }

    /// The scale, among those of a run, that the run goes on at.
    ///
    /// # Errors
    /// [`Error::Usage`] if the run was at another scale or size after its iterations, or came there through others.
    pub(in crate::mirage) fn scale_of(&self, scales: &[Scale]) -> Result<Scale> {
        const REMEDY: &str = "keep --scales, --min-size and the --iterations of the scales that are done";
        let scale = scales.get(self.scale).copied();
        let scale = scale.filter(|scale| (scale.first..=scale.end).contains(&self.iteration));
        let scale = scale.ok_or_else(|| {
            Error::usage(format!(
                "after {} iterations the run was at another scale than it would be now: {REMEDY}",
                self.iteration
            ))
        })?;
        self.check_size(scale.size)?;
        if let Some(earlier) = &self.earlier_scales
            && *earlier != EarlierScale::list(&scales[..self.scale])
        {
            let message = "the scales that the run is done with were not those that it would have now";
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
            "the run was at {width}x{height} pixels and can't go on at {new_width}x{new_height}: keep --size and --scales, or start anew with --init and its picture"
        )))
    }

    /// Checks that the state is one of a run at this size.
    ///
    /// # Errors
    /// [`Error::Usage`] if sizes don't match, or a value isn't finite or possible.
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
