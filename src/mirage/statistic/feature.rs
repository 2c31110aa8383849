//! The activation itself, which preserves the layout of feature maps.

use super::{Decomposition, Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::MeanSquaredError;

/// Activations `F` of a layer. Distance: `mean((F - T)^2)` over all elements (neural-style's content loss).
#[derive(Debug, Clone, Copy)]
pub struct Feature;

impl Statistic for Feature {
    fn name(&self) -> &'static str {
        "feature"
    }

    fn domain(&self) -> Domain {
        Domain::Any
    }

    fn decomposition(&self) -> Decomposition {
        Decomposition::Elements
    }

    fn summary(&self, _: &mut Graph, activation: TensorId, _: &str) -> Result<Vec<TensorId>> {
        Ok(vec![activation])
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        graph.apply(MeanSquaredError, &[summary, target].concat(), format!("{label} loss"))
    }
}
