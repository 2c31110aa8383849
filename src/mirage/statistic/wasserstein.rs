//! Wasserstein-2 distance between Gaussian distributions of the features.

use super::{Decomposition, Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{
    ChannelMean, Covariance, Gram, LinearCombination, MatMul, MatrixRoot, MeanSquaredError, RootTrace, Trace,
};

/// Added to the diagonal of each covariance matrix, as in style-transfer-pytorch.
const RIDGE: f32 = 1e-4;

/// Channel means mu and second moments M. With `C = M - mu mu^T + 1e-4 I`, the distance is that between Gaussian
/// distributions: `mean((mu - mu_t)^2) + mean diag(C + C_t - 2 (C_t^1/2 C C_t^1/2)^1/2)` (style-transfer-pytorch).
/// Several targets are blended in mu and M. For the root and its gradient see [`RootTrace`].
///
/// M is kept as a Gram matrix, i.e. divided by the number of channels.
#[derive(Debug, Clone, Copy)]
pub struct Wasserstein;

impl Wasserstein {
    /// Appends the covariance of a summary.
    fn covariance(graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<TensorId> {
        let channels = graph.shape(summary[0]).elements();
        let covariance = Covariance { scale: channels as f32, ridge: RIDGE };
        graph.apply(covariance, &[summary[1], summary[0]], format!("covariance {label}"))
    }
}

impl Statistic for Wasserstein {
    fn name(&self) -> &'static str {
        "wasserstein"
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn decomposition(&self) -> Decomposition {
        Decomposition::Means
    }

    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let mean = graph.apply(ChannelMean, &[activation], format!("mean {label}"))?;
        let gram = graph.apply(Gram, &[activation], format!("Gram {label}"))?;
        Ok(vec![mean, gram])
    }

    /// Appends mu_t, the root of C_t, and the trace of C_t.
    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let covariance = Self::covariance(graph, summary, label)?;
        let root = graph.apply(MatrixRoot, &[covariance], format!("root of covariance {label}"))?;
        let trace = graph.apply(Trace, &[covariance], format!("trace of covariance {label}"))?;
        Ok(vec![summary[0], root, trace])
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        let [mean, root, trace] = [target[0], target[1], target[2]];
        let means = graph.apply(MeanSquaredError, &[summary[0], mean], format!("{label} mean loss"))?;
        let covariance = Self::covariance(graph, summary, label)?;
        let own_trace = graph.apply(Trace, &[covariance], format!("{label} trace"))?;
        let product = graph.apply(MatMul::default(), &[root, covariance], format!("{label} half product"))?;
        let product = graph.apply(MatMul::default(), &[product, root], format!("{label} product"))?;
        let shared = graph.apply(RootTrace, &[product], format!("{label} trace of root"))?;
        let channels = graph.shape(summary[0]).elements() as f32;
        let factors = vec![1.0 / channels, 1.0 / channels, -2.0 / channels];
        let covariances = graph.apply(
            LinearCombination { factors },
            &[own_trace, trace, shared],
            format!("{label} covariance loss"),
        )?;
        graph.apply(
            LinearCombination { factors: vec![1.0, 1.0] },
            &[means, covariances],
            format!("{label} Wasserstein loss"),
        )
    }
}
