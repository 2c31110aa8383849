//! A run's state between two iterations: all that the next one depends on, besides the request.

use super::balance::Weights;
use super::request::{Balance, FactorKind};
use crate::error::{Error, Result};
use std::fmt;

/// State after some iterations. A [`Session`](super::Session) of the same request, network and adapter goes on from
/// it with the same bits as if it had never been interrupted.
#[derive(Clone, PartialEq)]
pub struct State {
    /// Iterations done.
    pub iteration: u32,
    /// Seconds that they took.
    pub seconds: f64,
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// The picture: channel, row, column; not clamped where the run does not clamp.
    pub picture: Vec<f32>,
    /// Adam's first moment, in the same order.
    pub first_moment: Vec<f32>,
    /// Adam's second moment.
    pub second_moment: Vec<f32>,
    /// Adam's step counter and bias corrections: `[t, 1 - beta1^t, 1 - beta2^t, 0]`.
    pub optimiser: [f32; 4],
    /// The shares that the run aims at.
    pub balance: Option<Balance>,
    /// Raw weight of each factor in force.
    pub weights: Vec<(FactorKind, f32)>,
    /// Factor, raw weight and gradient norm as measured last; empty if the weights were given.
    pub measured: Vec<(FactorKind, f32, f32)>,
    /// True if the balance was measured at this very picture: the next step is then made of these gradients.
    pub balanced: bool,
    /// The last picture that the change was measured from, as red, green, blue of pixel after pixel, and its
    /// iteration; only where the run may end by it.
    pub looked: Option<(u32, Vec<f32>)>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { iteration, size, weights, .. } = self;
        write!(f, "State {{ iteration: {iteration}, size: {size:?}, weights: {weights:?}, .. }}")
    }
}

impl State {
    /// Weights and how they came about.
    pub(super) fn as_weights(&self) -> Weights {
        Weights { raw: self.weights.clone(), measured: self.measured.clone() }
    }

    /// Checks that the state is one of a run at this size.
    ///
    /// # Errors
    /// [`Error::Usage`] if sizes don't match, or a value isn't finite.
    pub(super) fn check(&self, size: [usize; 2]) -> Result<()> {
        if self.size != size {
            let [[height, width], [new_height, new_width]] = [self.size, size];
            return Err(Error::usage(format!(
                "the run was at {width}x{height} pixels and can't go on at {new_width}x{new_height}: keep --size, or start anew with --init and its picture"
            )));
        }
        let values = 3 * size[0] * size[1];
        for (name, tensor) in [
            ("picture", self.picture.as_slice()),
            ("first moment", &self.first_moment),
            ("second moment", &self.second_moment),
            ("optimiser state", &self.optimiser),
        ] {
            if name != "optimiser state" && tensor.len() != values {
                return Err(Error::usage(format!(
                    "the state's {name} has {} values in place of {values}",
                    tensor.len()
                )));
            }
            if !tensor.iter().all(|value| value.is_finite()) {
                return Err(Error::usage(format!("the state's {name} holds NaN or infinite values")));
            }
        }
        Ok(())
    }
}
