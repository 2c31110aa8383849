//! Total variation: how far neighbouring pixels are apart. It has no target.

use super::{Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::TotalVariation;

/// `1/2 sum(dx^2 + dy^2)` of a map, neural-style's definition; see [`TotalVariation`].
#[derive(Debug, Clone, Copy)]
pub struct Variation;

impl Statistic for Variation {
    fn name(&self) -> &'static str {
        "total-variation"
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn has_target(&self) -> bool {
        false
    }

    fn summary(&self, _: &mut Graph, activation: TensorId, _: &str) -> Result<Vec<TensorId>> {
        Ok(vec![activation])
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        _: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        graph.apply(TotalVariation, summary, format!("{label} total variation"))
    }
}
