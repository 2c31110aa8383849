//! How the picture follows the gradient. One file for each optimiser.
//!
//! An optimiser is a sub-graph that changes the picture, and its state, which is a list of named tensors. The loop, the
//! scales and the checkpoints know no more of it than that.

mod adam;
mod lbfgs;

pub use adam::Adam;
pub use lbfgs::{Lbfgs, LineSearch};

use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::Shape;
use std::fmt::Debug;
use std::sync::Arc;

/// A tensor that an optimiser keeps between steps. It is all zeros before the first step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateTensor {
    /// Its name in checkpoints; unique within the optimiser.
    pub name: &'static str,
    /// Its shape.
    pub shape: Shape,
    /// What it begins the next scale with.
    pub next_scale: NextScale,
    /// True if it becomes zero where the objective changes under way, because its weights were measured anew. The next
    /// step then starts from the picture: that is the one shown, if the optimiser has one (see [`Optimizer::shown`]).
    pub depends_on_weights: bool,
}

/// What a state tensor begins the next scale with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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

    /// The name in a run's state of a tensor that it keeps.
    fn tensor(&self, name: &str) -> String {
        format!("{}:{name}", self.name())
    }

    /// Its name with all parameters that a prepared step depends on, which [`Optimizer::control`] does not give.
    fn key(&self) -> String;

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option.
    fn check(&self) -> Result<()>;

    /// What it keeps between steps, for a picture of this shape.
    fn state(&self, picture: Shape) -> Vec<StateTensor>;

    /// True if a step treats each value of the picture by itself, so that it can be made part by part.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// True if the step reads the loss, not only its gradient.
    fn needs_loss(&self) -> bool {
        false
    }

    /// The state tensor to show instead of the picture, of the same shape, by its name: for optimisers that may take a
    /// step back. It begins as the picture. Where weights are measured anew, the loop first copies it to the picture,
    /// which otherwise may be one that was tried and not accepted. Such an optimiser has to reject pictures whose
    /// gradient or loss is not finite, or whose loss rises: the loop does not look for these then.
    fn shown(&self) -> Option<&'static str> {
        None
    }

    /// True if the picture is cut off to [0, 1] after each step.
    fn clamps(&self) -> bool;

    /// The state tensors that have to stay finite, by name: two at most, of the picture's shape.
    fn watched(&self) -> &'static [&'static str];

    /// Four numbers for the step after `done` steps at this scale. The first is the step size, which the loop halves
    /// where the run has gone wrong.
    fn control(&self, done: u32) -> [f32; 4];

    /// Appends one step to a graph, and returns the outputs of the nodes that make it. `state` are the tensors of
    /// [`Optimizer::state`], in that order, to be changed in place.
    ///
    /// # Errors
    /// If a parameter is out of an op's range.
    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>>;
}

/// An optimiser that can be chosen by name.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name, as [`Optimizer::name`] gives it, or with a variant behind it (`lbfgs-plain`).
    pub name: &'static str,
    /// What it does, in a few words for `--help`.
    pub help: &'static str,
    /// Makes it.
    pub make: fn(&Settings) -> Arc<dyn Optimizer>,
}

/// Settings of any optimiser. Each takes those that it has; `None` is its default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Step size.
    pub learning_rate: Option<f32>,
    /// How fast Adam's step size decays, see [`Adam::decay`].
    pub decay: Option<f32>,
    /// Decay of Adam's first moment.
    pub beta1: Option<f64>,
    /// Decay of Adam's second moment.
    pub beta2: Option<f64>,
    /// Adam's epsilon.
    pub epsilon: Option<f64>,
    /// Pairs that L-BFGS keeps.
    pub history: Option<usize>,
    /// True to cut the picture off to [0, 1] after each step.
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
        help: "curvature from the last steps; takes no step that raises the loss",
        make: |settings| Arc::new(Lbfgs::with(settings, LineSearch::Backtracking)),
    },
    Entry {
        name: "lbfgs-plain",
        help: "the same without a line search, as in neural-style",
        make: |settings| Arc::new(Lbfgs::with(settings, LineSearch::None)),
    },
];

/// The optimiser of this name with these settings.
///
/// # Errors
/// [`Error::Usage`] with the names that there are, or naming a setting that is out of range.
pub fn by_name(name: &str, settings: &Settings) -> Result<Arc<dyn Optimizer>> {
    let found = OPTIMIZERS.iter().find(|entry| entry.name == name).map(|entry| (entry.make)(settings));
    let optimizer = found.ok_or_else(|| {
        let names: Vec<&str> = OPTIMIZERS.iter().map(|entry| entry.name).collect();
        Error::usage(format!("there is no optimiser `{name}`: choose one of {}", names.join(", ")))
    })?;
    optimizer.check()?;
    Ok(optimizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_makes_the_optimizer_it_names() {
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
            // What is shown is a picture, and outlives a change of the weights.
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
