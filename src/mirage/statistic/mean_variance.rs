//! Mean and standard deviation of each channel: how strong each feature is, and how unevenly.

use super::relative::{inverse_mean_square, mean_squared_errors, scaled};
use super::{Decomposition, Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{ChannelDeviation, ChannelMean, Deviation, LinearCombination, Multiply};

/// Mean mu and standard deviation sigma of each channel. Distance: `(mean((mu - mu_t)^2) + mean((sigma - sigma_t)^2))
/// / (mean(mu_t^2) + mean(sigma_t^2))`.
///
/// It uses the deviation instead of the variance, as in "Demystifying Neural Style Transfer" (Li et al., 2017) and
/// AdaIN: it has the unit of the mean, so both weigh alike. The denominator is the mean square of the target's
/// activations, so layers weigh alike too.
#[derive(Debug, Clone, Copy)]
pub struct MeanVariance;

impl Statistic for MeanVariance {
    fn name(&self) -> &'static str {
        "mean-variance"
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let mean = graph.apply(ChannelMean, &[activation], format!("mean {label}"))?;
        let deviation =
            graph.apply(ChannelDeviation, &[activation, mean], format!("standard deviation {label}"))?;
        Ok(vec![mean, deviation])
    }

    fn decomposition(&self) -> Decomposition {
        Decomposition::Means
    }

    /// Appends the mean, and the mean square plus 1e-5: the square of the deviation from 0.
    fn moments(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let mean = graph.apply(ChannelMean, &[activation], format!("mean {label}"))?;
        let zeros = graph.apply(LinearCombination::scale(0.0), &[mean], "zeros")?;
        let root =
            graph.apply(ChannelDeviation, &[activation, zeros], format!("root mean square {label}"))?;
        let square = graph.apply(Multiply, &[root, root], format!("mean square {label}"))?;
        Ok(vec![mean, square])
    }

    fn of_moments(&self, graph: &mut Graph, moments: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let [mean, square] = [moments[0], moments[1]];
        let deviation = graph.apply(Deviation, &[square, mean], format!("standard deviation {label}"))?;
        Ok(vec![mean, deviation])
    }

    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let inverse = inverse_mean_square(graph, summary, label)?;
        Ok([summary, &[inverse]].concat())
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        let label = format!("{label} mean and deviation loss");
        let loss = mean_squared_errors(graph, summary, &target[..2], &format!("{label}, absolute"))?;
        scaled(graph, loss, target[2], &label)
    }
}
