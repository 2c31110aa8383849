//! How the picture follows the gradient. One file for each optimiser.
//!
//! An optimiser is a sub-graph that changes the picture, and its state, which is a list of named tensors. The loop, the
//! scales and the checkpoints know no more of it than that.

mod adam;

pub use adam::Adam;

use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::Shape;
use std::fmt::Debug;

/// A tensor that an optimiser keeps between steps. It is all zeros before the first step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateTensor {
    /// Its name in checkpoints; unique within the optimiser.
    pub name: &'static str,
    /// Its shape.
    pub shape: Shape,
    /// What it begins the next scale with.
    pub next_scale: NextScale,
    /// True if it becomes zero where the objective changes under way, because its weights were measured anew.
    pub depends_on_weights: bool,
}

/// What a state tensor begins the next scale with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextScale {
    /// Zeros.
    Zero,
    /// The same values; for tensors whose shape does not depend on the picture's.
    Same,
    /// A map like the picture, resized bicubically.
    Bicubic,
    /// A map like the picture that is never negative: resized bilinearly, cut off at 0.
    BilinearPositive,
}

/// Tensors that a step reads or changes.
#[derive(Debug, Clone, Copy)]
pub struct StepInputs {
    /// The picture, a map of three channels, to be changed in place.
    pub picture: TensorId,
    /// The gradient of the whole objective at the picture, of the same shape.
    pub gradient: TensorId,
    /// The whole objective at the picture, a vector of length 1; only if [`Optimizer::needs_loss`].
    pub loss: Option<TensorId>,
    /// What [`Optimizer::control`] gives, a vector of length 4.
    pub control: TensorId,
}

/// An optimiser with its parameters.
pub trait Optimizer: Debug + Send + Sync {
    /// Its name, as options and records have it.
    fn name(&self) -> &'static str;

    /// Its name with all parameters that a prepared step depends on, which [`Optimizer::control`] does not give.
    fn key(&self) -> String;

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) naming the option.
    fn check(&self) -> Result<()>;

    /// What it keeps between steps, for a picture of this shape.
    fn state(&self, picture: Shape) -> Vec<StateTensor>;

    /// True if the step reads the loss, not only its gradient.
    fn needs_loss(&self) -> bool {
        false
    }

    /// The state tensor to show in place of the picture, of the same shape, by its name: for optimisers that may take a
    /// step back. It begins as the picture.
    fn shown(&self) -> Option<&'static str> {
        None
    }

    /// True if the picture is cut off to [0, 1] after each step.
    fn clamps(&self) -> bool;

    /// Four numbers for the step after `done` steps at this scale, such as a learning rate that decays.
    fn control(&self, done: u32) -> [f32; 4];

    /// Appends one step to a graph, and returns the outputs of the nodes that make it. `state` are the tensors of
    /// [`Optimizer::state`], in that order, to be changed in place.
    ///
    /// # Errors
    /// If a parameter is out of an op's range.
    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>>;
}
