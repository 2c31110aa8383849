//! Optimisers, which update the picture from the gradient. One file each.
//!
//! An optimiser is a sub-graph that changes the picture and a list of named state tensors. The main loop, the scales
//! and checkpoints depend on nothing else.

mod adam;
mod lbfgs;

pub use adam::Adam;
pub use lbfgs::{Lbfgs, LineSearch};

use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::Shape;
use std::fmt::Debug;
use std::sync::Arc;

/// A tensor that an optimiser keeps between steps. All zeros before the first step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateTensor {
    /// Name in checkpoints; unique within the optimiser.
    pub name: &'static str,
    /// Its shape.
    pub shape: Shape,
    /// Initial value at the next scale.
    pub next_scale: NextScale,
    /// True if the tensor is zeroed when weights are measured again during a scale, because that changes the objective.
    /// The next step then starts from the picture, which is set to the shown one first (see [`Optimizer::shown`]).
    pub depends_on_weights: bool,
}

/// Initial value of a state tensor at the next scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextScale {
    /// Zeros.
    Zero,
    /// The same values; for tensors whose shape does not depend on the picture.
    Same,
    /// Bicubic resize of a map with the picture's size.
    Bicubic,
    /// Bilinear resize, clamped at 0, of a non-negative map with the picture's size.
    BilinearPositive,
}

/// Tensors that a step reads or changes.
#[derive(Debug, Clone, Copy)]
pub struct StepInputs {
    /// The picture, a map of three channels, changed in place.
    pub picture: TensorId,
    /// Gradient of the whole objective with respect to the picture, of the same shape.
    pub gradient: TensorId,
    /// Value of the whole objective at the picture, a vector of length 1; only if [`Optimizer::needs_loss`].
    pub loss: Option<TensorId>,
    /// Values of [`Optimizer::control`], a vector of length 4.
    pub control: TensorId,
}

/// An optimiser with its parameters.
pub trait Optimizer: Debug + Send + Sync {
    /// Returns the name used in options and records.
    fn name(&self) -> &'static str;

    /// Returns the name of a state tensor in the run's state.
    fn tensor(&self, name: &str) -> String {
        format!("{}:{name}", self.name())
    }

    /// Returns the name with all parameters that a prepared step depends on, other than those of
    /// [`Optimizer::control`].
    fn key(&self) -> String;

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option.
    fn check(&self) -> Result<()>;

    /// Lists the state tensors for a picture of this shape.
    fn state(&self, picture: Shape) -> Vec<StateTensor>;

    /// True if a step treats each value of the picture independently, so that it can run band by band.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// True if the step reads the loss as well as the gradient.
    fn needs_loss(&self) -> bool {
        false
    }

    /// Name of the state tensor to show instead of the picture, for optimisers that may reject a step. It has the
    /// picture's shape and is initialised to the picture. Before the loop measures weights, it copies this tensor to
    /// the picture, which may be a trial picture that is not accepted yet. Such an optimiser has to reject pictures
    /// whose gradient or loss is not finite, or whose loss rises: the loop then does not check for these.
    fn shown(&self) -> Option<&'static str> {
        None
    }

    /// True if each step clamps the picture to [0, 1].
    fn clamps(&self) -> bool;

    /// Names of the state tensors that must stay finite: at most two, of the picture's shape.
    fn watched(&self) -> &'static [&'static str];

    /// Returns four numbers for the step after `done` steps at this scale. The first is the step size, which the loop
    /// halves after a setback.
    fn control(&self, done: u32) -> [f32; 4];

    /// Appends one step to a graph, and returns the outputs of its final nodes. `state` are the tensors of
    /// [`Optimizer::state`], in that order, changed in place.
    ///
    /// # Errors
    /// If a parameter is out of an op's range, or `state` has the wrong number of tensors.
    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>>;
}

/// Entry of [`OPTIMIZERS`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name: [`Optimizer::name`], optionally followed by a variant (`lbfgs-plain`).
    pub name: &'static str,
    /// Short description for `--help`.
    pub help: &'static str,
    /// Creates the optimiser.
    pub make: fn(&Settings) -> Arc<dyn Optimizer>,
}

/// Settings of all optimisers. Each reads those that apply to it; `None` selects the default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Step size.
    pub learning_rate: Option<f32>,
    /// Decay of Adam's step size, see [`Adam::decay`].
    pub decay: Option<f32>,
    /// Decay of Adam's first moment.
    pub beta1: Option<f64>,
    /// Decay of Adam's second moment.
    pub beta2: Option<f64>,
    /// Adam's epsilon.
    pub epsilon: Option<f64>,
    /// Number of pairs that L-BFGS keeps.
    pub history: Option<usize>,
    /// True to clamp the picture to [0, 1] after each step.
    pub clamp: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            learning_rate: None,
            decay: None,
            beta1: None,
            beta2: None,
            epsilon: None,
            history: None,
            clamp: true,
        }
    }
}

/// The optimisers that can be chosen by name.
pub const OPTIMIZERS: &[Entry] = &[
    Entry {
        name: "adam",
        help: "running means of the gradient and its square; robust",
        make: |settings| Arc::new(Adam::with(settings)),
    },
    Entry {
        name: "lbfgs",
        help: "curvature from recent steps; rejects steps that raise the loss",
        make: |settings| Arc::new(Lbfgs::with(settings, LineSearch::Backtracking)),
    },
    Entry {
        name: "lbfgs-plain",
        help: "lbfgs without the line search, as in neural-style",
        make: |settings| Arc::new(Lbfgs::with(settings, LineSearch::None)),
    },
];

/// Creates the optimiser of this name with these settings.
///
/// # Errors
/// [`Error::Usage`] listing the valid names, or naming a setting that is out of range.
pub fn by_name(name: &str, settings: &Settings) -> Result<Arc<dyn Optimizer>> {
    let found = OPTIMIZERS.iter().find(|entry| entry.name == name).map(|entry| (entry.make)(settings));
    let optimizer = found.ok_or_else(|| {
        let names: Vec<&str> = OPTIMIZERS.iter().map(|entry| entry.name).collect();
        Error::usage(format!("unknown optimiser `{name}`: choose one of {}", names.join(", ")))
    })?;
    optimizer.check()?;
    Ok(optimizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_creates_the_named_optimizer() {
        let mut keys = Vec::new();
        for entry in OPTIMIZERS {
            let made = by_name(entry.name, &Settings::default()).unwrap();
            assert!(entry.name.starts_with(made.name()) && made.clamps(), "{}", entry.name);
            keys.push(made.key());
            let picture = Shape::map(3, 5, 7);
            let state = made.state(picture);
            let mut names: Vec<&str> = state.iter().map(|tensor| tensor.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), state.len(), "{}", entry.name);
            for watched in made.watched() {
                assert!(state.iter().any(|tensor| tensor.name == *watched && tensor.shape == picture));
            }
            assert!(made.watched().len() <= 2, "{}", entry.name);
            // The shown tensor has the picture's shape, and is not reset when weights change.
            if let Some(shown) = made.shown() {
                let tensor = state.iter().find(|tensor| tensor.name == shown).unwrap();
                assert_eq!((tensor.shape, tensor.depends_on_weights), (picture, false));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), OPTIMIZERS.len());
        assert!(by_name("nothing", &Settings::default()).unwrap_err().to_string().contains("lbfgs"));
    }

    #[test]
    fn settings_reach_the_optimizer_and_are_checked() {
        let settings = Settings { learning_rate: Some(0.5), clamp: false, ..Settings::default() };
        for entry in OPTIMIZERS {
            let made = by_name(entry.name, &settings).unwrap();
            assert_eq!((made.control(0)[0], made.clamps()), (0.5, false), "{}", entry.name);
            let bad = Settings { learning_rate: Some(-1.0), ..settings };
            assert!(by_name(entry.name, &bad).unwrap_err().to_string().contains("--learning-rate"));
        }
        let history = |history| Settings { history: Some(history), ..settings };
        assert_ne!(
            by_name("lbfgs", &history(3)).unwrap().key(),
            by_name("lbfgs", &history(4)).unwrap().key()
        );
        let decay = Settings { decay: Some(1.0), beta1: Some(0.5), ..settings };
        let adam = by_name("adam", &decay).unwrap();
        assert!(adam.control(3)[0] == 0.25 && adam.key().contains("0.5"));
    }
}
