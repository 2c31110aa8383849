//! Adam: the running mean of the gradient, divided by the root of the running mean of its square.

use super::{NextScale, Optimizer, Settings, StateTensor, StepInputs};
use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::{self, Shape};

/// Adam (Kingma and Ba 2015) as in PyTorch, with a decaying learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Step size, in the picture's unit (0 is black, 1 is white).
    pub learning_rate: f32,
    /// The learning rate is divided by `sqrt(1 + decay * steps done at this scale)`.
    pub decay: f32,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after bias correction.
    pub epsilon: f64,
    /// True to clamp the picture to [0, 1] after each step.
    pub clamp: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self { learning_rate: 0.02, decay: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, clamp: true }
    }
}

impl Adam {
    /// Creates the optimiser with these settings, and defaults for those that are `None`.
    pub(super) fn with(settings: &Settings) -> Self {
        let default = Self::default();
        Self {
            learning_rate: settings.learning_rate.unwrap_or(default.learning_rate),
            decay: settings.decay.unwrap_or(default.decay),
            beta1: settings.beta1.unwrap_or(default.beta1),
            beta2: settings.beta2.unwrap_or(default.beta2),
            epsilon: settings.epsilon.unwrap_or(default.epsilon),
            clamp: settings.clamp,
        }
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn key(&self) -> String {
        format!("adam {} {} {} {}", self.beta1, self.beta2, self.epsilon, self.clamp)
    }

    fn check(&self) -> Result<()> {
        let Self { learning_rate, decay, beta1, beta2, epsilon, .. } = *self;
        if !(learning_rate > 0.0 && learning_rate.is_finite()) {
            return Err(Error::usage(format!(
                "--learning-rate is {learning_rate}: it must be above 0; 0.02 is usual"
            )));
        }
        if !(decay >= 0.0 && decay.is_finite()) {
            return Err(Error::usage(format!("--learning-rate-decay is {decay}: it must be a number >= 0")));
        }
        for (name, beta) in [("--beta1", beta1), ("--beta2", beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::usage(format!("{name} is {beta}: it must be at least 0 and below 1")));
            }
        }
        // Below the smallest normal f32, epsilon would be zero on the device, and pixels without a gradient 0 / 0.
        // Above the largest, no pixel would move.
        let (least, most) = (f32::MIN_POSITIVE, f32::MAX);
        if !(f64::from(least)..=f64::from(most)).contains(&epsilon) {
            return Err(Error::usage(format!(
                "--epsilon is {epsilon:e}: it must be from {least:e} to {most:e}; 1e-8 is usual"
            )));
        }
        Ok(())
    }

    fn state(&self, picture: Shape) -> Vec<StateTensor> {
        let tensor =
            |name, shape, next_scale| StateTensor { name, shape, next_scale, depends_on_weights: false };
        vec![
            tensor("first_moment", picture, NextScale::Bicubic),
            tensor("second_moment", picture, NextScale::BilinearPositive),
            // The step counter and bias corrections: `[t, 1 - beta1^t, 1 - beta2^t, 0]`.
            tensor("counters", Shape::Vector(4), NextScale::Same),
        ]
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn clamps(&self) -> bool {
        self.clamp
    }

    fn watched(&self) -> &'static [&'static str] {
        &["first_moment", "second_moment"]
    }

    fn control(&self, done: u32) -> [f32; 4] {
        let rate = f64::from(self.learning_rate) / (1.0 + f64::from(self.decay) * f64::from(done)).sqrt();
        [rate as f32, 0.0, 0.0, 0.0]
    }

    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>> {
        let Self { beta1, beta2, epsilon, clamp, .. } = *self;
        let op = ops::Adam { beta1, beta2, epsilon, clamp };
        let inputs = [&[inputs.picture, inputs.gradient], state, &[inputs.control]].concat();
        Ok(vec![graph.apply(op, &inputs, "step")?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_rate_decays_within_a_scale() {
        let adam = Adam { learning_rate: 0.5, decay: 3.0, ..Adam::default() };
        assert_eq!([0, 1, 5].map(|done| adam.control(done)[0]), [0.5, 0.25, 0.125]);
        assert_eq!(Adam { decay: 0.0, ..adam }.control(1000)[0], 0.5);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let good = Adam::default();
        good.check().unwrap();
        for (bad, name) in [
            (Adam { learning_rate: 0.0, ..good }, "--learning-rate"),
            (Adam { learning_rate: f32::NAN, ..good }, "--learning-rate"),
            (Adam { decay: -1.0, ..good }, "--learning-rate-decay"),
            (Adam { beta1: 1.0, ..good }, "--beta1"),
            (Adam { beta2: f64::NAN, ..good }, "--beta2"),
            (Adam { epsilon: 1e-60, ..good }, "--epsilon"),
            (Adam { epsilon: 1e-45, ..good }, "--epsilon"),
            (Adam { epsilon: 0.0, ..good }, "--epsilon"),
            (Adam { epsilon: f64::NAN, ..good }, "--epsilon"),
            (Adam { epsilon: 1e39, ..good }, "--epsilon"),
        ] {
            assert!(bad.check().unwrap_err().to_string().contains(name), "{bad:?}");
        }
    }
}
