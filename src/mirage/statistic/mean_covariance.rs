//! Mean and covariance of the channels: Gram matrices split so that brightness and texture weigh separately.

use super::relative::{inverse_mean_square, scaled, sum};
use super::{Decomposition, Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{ChannelMean, Covariance, Gram, MeanSquaredError};

/// Channel means mu and covariance `C = F F^T / N - mu mu^T` over N pixels. Distance: `mean((mu - mu_t)^2) /
/// mean(mu_t^2) + mean((C - C_t)^2) / mean(C_t^2)`.
#[derive(Debug, Clone, Copy)]
pub struct MeanCovariance;

impl Statistic for MeanCovariance {
    fn name(&self) -> &'static str {
        "mean-covariance"
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let moments = self.moments(graph, activation, label)?;
        self.of_moments(graph, &moments, label)
    }

    fn decomposition(&self) -> Decomposition {
        Decomposition::Means
    }

    /// Appends the mean and the Gram matrix.
    fn moments(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let mean = graph.apply(ChannelMean, &[activation], format!("mean {label}"))?;
        let gram = graph.apply(Gram, &[activation], format!("Gram {label}"))?;
        Ok(vec![mean, gram])
    }

    fn of_moments(&self, graph: &mut Graph, moments: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let [mean, gram] = [moments[0], moments[1]];
        let channels = graph.shape(mean).elements();
        let covariance = Covariance { scale: channels as f32, ridge: 0.0 };
        let covariance = graph.apply(covariance, &[gram, mean], format!("covariance {label}"))?;
        Ok(vec![mean, covariance])
    }

    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let mut target = summary.to_vec();
        for part in summary {
            target.push(inverse_mean_square(graph, &[*part], label)?);
        }
        Ok(target)
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        let mut losses = Vec::new();
        for (part, name) in ["mean", "covariance"].into_iter().enumerate() {
            let pair = [summary[part], target[part]];
            let loss = graph.apply(MeanSquaredError, &pair, format!("{label} {name} loss, absolute"))?;
            losses.push(scaled(graph, loss, target[2 + part], &format!("{label} {name} loss"))?);
        }
        sum(graph, &losses, &format!("{label} mean and covariance loss"))
    }
}
