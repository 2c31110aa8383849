//! L-BFGS: curvature estimated from the last steps shapes the next one.

use super::{NextScale, Optimizer, Settings, StateTensor, StepInputs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::{
    LbfgsJudge, LbfgsMove, LbfgsProducts, LbfgsRecursion, LbfgsStore, LinearCombination, ProjectedGradient,
    Ring, Shape,
};

/// Rule for the length of a step along the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineSearch {
    /// Always the learning rate, as in Torch's `optim.lbfgs` and by default in PyTorch's.
    None,
    /// The learning rate, halved while the loss is too high or not finite.
    ///
    /// Each iteration tries one picture. It is accepted if its loss is below that of the accepted picture by at least
    /// 1e-4 of the decrease that the gradient predicts (Armijo), and the next picture is tried in a new direction.
    /// Otherwise the next picture is tried at half the distance from the accepted one. After six halvings all pairs are
    /// dropped and the direction is the negative gradient.
    Backtracking,
}

/// L-BFGS (Liu and Nocedal 1989), with its history on the device.
///
/// The two-loop recursion computes the direction from the last pairs of a step s and the change y of the gradient over
/// it. It starts from `s.y / y.y` of the newest pair. A pair is kept if `s.y > 1e-10`. The first step is `min(1, 1 /
/// |g|_1)` times the learning rate. With `clamp`, s is the difference of the clamped pictures, and the direction
/// excludes values at 0 or 1 that the gradient would push out of [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lbfgs {
    /// Step length relative to that of the recursion; 1 is usual.
    pub learning_rate: f32,
    /// Number of pairs kept, from 1 to 100. Each takes twice the memory of a picture: 8 MiB at 512 by 512.
    pub history: usize,
    /// Rule for the step length.
    pub line_search: LineSearch,
    /// True to clamp the picture to [0, 1] after each step.
    pub clamp: bool,
}

impl Default for Lbfgs {
    fn default() -> Self {
        Self { learning_rate: 1.0, history: 20, line_search: LineSearch::Backtracking, clamp: true }
    }
}

/// Largest number of pairs.
const LONGEST: usize = 100;
const _: () = assert!(LONGEST <= Ring::LONGEST);

impl Lbfgs {
    /// Creates the optimiser with these settings, and defaults for those that are `None`.
    pub(super) fn with(settings: &Settings, line_search: LineSearch) -> Self {
        let default = Self::default();
        Self {
            learning_rate: settings.learning_rate.unwrap_or(default.learning_rate),
            history: settings.history.unwrap_or(default.history),
            line_search,
            clamp: settings.clamp,
        }
    }

    fn searches(&self) -> bool {
        self.line_search == LineSearch::Backtracking
    }
}

impl Optimizer for Lbfgs {
    fn name(&self) -> &'static str {
        "lbfgs"
    }

    fn key(&self) -> String {
        format!("lbfgs {} {:?} {}", self.history, self.line_search, self.clamp)
    }

    fn check(&self) -> Result<()> {
        let Self { learning_rate, history, .. } = *self;
        if !(learning_rate > 0.0 && learning_rate.is_finite()) {
            let message =
                format!("--learning-rate is {learning_rate}: it must be above 0; 1 is usual for L-BFGS");
            return Err(Error::usage(message));
        }
        if !(1..=LONGEST).contains(&history) {
            let message = format!("--history is {history}: it must be from 1 to {LONGEST}; 20 is usual");
            return Err(Error::usage(message));
        }
        Ok(())
    }

    fn state(&self, picture: Shape) -> Vec<StateTensor> {
        let ring = Ring { picture, history: self.history };
        let tensor =
            |name, shape| StateTensor { name, shape, next_scale: NextScale::Zero, depends_on_weights: false };
        vec![
            tensor("accepted", picture),
            tensor("accepted_gradient", picture),
            tensor("direction", picture),
            tensor("steps", ring.shape()),
            tensor("gradient_changes", ring.shape()),
            tensor("inner_products", ring.products()),
            // All zeros mean that there is no history, so the other tensors are not read: see `ops/lbfgs`.
            StateTensor { depends_on_weights: true, ..tensor("scalars", ring.scalars()) },
        ]
    }

    fn needs_loss(&self) -> bool {
        self.searches()
    }

    fn shown(&self) -> Option<&'static str> {
        self.searches().then_some("accepted")
    }

    fn clamps(&self) -> bool {
        self.clamp
    }

    fn watched(&self) -> &'static [&'static str] {
        // The accepted gradient is the gradient itself, or with a line search always finite.
        &["direction"]
    }

    fn control(&self, _done: u32) -> [f32; 4] {
        [self.learning_rate, 0.0, 0.0, 0.0]
    }

    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>> {
        let &[accepted, accepted_gradient, direction, steps, changes, products, scalars] = state else {
            let message = format!("it got {} state tensors instead of 7", state.len());
            return Err(Error::internal("a step of L-BFGS", message));
        };
        let StepInputs { picture, gradient, loss, control } = *inputs;
        let line_search = self.searches();
        let free = match self.clamp {
            true => graph.apply(ProjectedGradient, &[picture, gradient], "free gradient")?,
            false => gradient,
        };
        let mut inputs = vec![picture, gradient, free, accepted, accepted_gradient, scalars];
        inputs.extend(loss.filter(|_| line_search));
        let judged = graph.apply(LbfgsJudge { line_search }, &inputs, "step: judge")?;
        let difference = LinearCombination { factors: vec![1.0, -1.0] };
        let change = graph.apply(difference, &[gradient, accepted_gradient], "change of the gradient")?;
        let kept = [accepted, accepted_gradient, steps, changes];
        let inputs = [&[picture, gradient][..], &kept, &[scalars, judged]].concat();
        let stored = graph.apply(LbfgsStore, &inputs, "step: store")?;
        let inputs = [steps, changes, free, change, scalars, stored];
        let fresh = graph.apply(LbfgsProducts, &inputs, "products with the history")?;
        let inputs = [fresh, control, products, scalars];
        let shaped = graph.apply(LbfgsRecursion { line_search }, &inputs, "step: recursion")?;
        let inputs = [picture, accepted, accepted_gradient, direction, steps, changes, scalars, shaped];
        Ok(vec![graph.apply(LbfgsMove { clamp: self.clamp, line_search }, &inputs, "step")?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_out_of_range_are_named() {
        let good = Lbfgs::default();
        good.check().unwrap();
        for (bad, name) in [
            (Lbfgs { learning_rate: 0.0, ..good }, "--learning-rate"),
            (Lbfgs { learning_rate: f32::INFINITY, ..good }, "--learning-rate"),
            (Lbfgs { history: 0, ..good }, "--history"),
            (Lbfgs { history: LONGEST + 1, ..good }, "--history"),
        ] {
            assert!(bad.check().unwrap_err().to_string().contains(name), "{bad:?}");
        }
    }

    #[test]
    fn only_line_search_needs_the_loss() {
        let shape = Shape::map(3, 2, 2);
        for line_search in [LineSearch::None, LineSearch::Backtracking] {
            let lbfgs = Lbfgs { line_search, ..Lbfgs::default() };
            let mut graph = Graph::new();
            let [picture, gradient] = ["picture", "gradient"].map(|label| graph.external(label, shape));
            let control = graph.external("control", Shape::Vector(4));
            let loss = Some(graph.external("loss", Shape::Vector(1)));
            let state: Vec<TensorId> = lbfgs
                .state(shape)
                .into_iter()
                .map(|StateTensor { name, shape, .. }| graph.external(name, shape))
                .collect();
            let inputs = StepInputs { picture, gradient, loss, control };
            assert_eq!(lbfgs.step(&mut graph, &inputs, &state).unwrap().len(), 1);
            let without = lbfgs.step(&mut graph, &StepInputs { loss: None, ..inputs }, &state);
            assert_eq!(without.is_ok(), !lbfgs.needs_loss());
            assert!(lbfgs.step(&mut graph, &inputs, &state[1..]).is_err());
        }
    }
}
