//! Total variation: how far neighbouring pixels are apart. It has no target.

use super::{Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{TotalVariation, VariationKind};

/// The total variation of a map in one of three definitions, see [`VariationKind`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Variation {
    /// Which one.
    pub kind: VariationKind,
}

impl Statistic for Variation {
    fn name(&self) -> &'static str {
        "total-variation"
    }

    fn key(&self) -> String {
        let kind = match self.kind {
            VariationKind::Squared => "",
            VariationKind::Absolute => "-absolute",
            VariationKind::Diagonal => "-diagonal",
        };
        format!("{}{kind}", self.name())
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
        graph.apply(TotalVariation { kind: self.kind }, summary, format!("{label} total variation"))
    }
}
