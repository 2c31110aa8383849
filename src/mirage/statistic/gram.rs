//! Gram matrices: which features occur together, wherever they are.

use super::{Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{Gram, MeanSquaredError};

/// `G = F F^T / (C N)` of a feature map with C channels and N pixels. Distance: the mean over C^2 of `(G - A)^2`
/// (neural-style).
#[derive(Debug, Clone, Copy)]
pub struct GramMatrix;

impl Statistic for GramMatrix {
    fn name(&self) -> &'static str {
        "gram"
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        Ok(vec![graph.apply(Gram, &[activation], format!("Gram {label}"))?])
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        graph.apply(MeanSquaredError, &[summary, target].concat(), format!("{label} Gram loss"))
    }
}
