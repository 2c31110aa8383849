//! Total variation: differences between neighbouring pixels. It has no target.

use super::{Decomposition, Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{LinearCombination, TotalVariation, TotalVariationBackward, VariationKind};

/// The total variation of a map in one of three definitions, see [`VariationKind`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Variation {
    /// Definition of the total variation.
    pub kind: VariationKind,
    /// True to multiply by the number of pixels, for a definition that takes means. The same weight then smooths
    /// equally at every size. The other definitions are sums already.
    pub by_pixels: bool,
}

impl Variation {
    /// Creates a definition as a sum over pixels.
    pub fn summed(kind: VariationKind) -> Self {
        Self { kind, by_pixels: kind == VariationKind::Diagonal }
    }
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
        let by_pixels = if self.by_pixels { "-by-pixels" } else { "" };
        format!("{}{kind}{by_pixels}", self.name())
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn has_target(&self) -> bool {
        false
    }

    fn decomposition(&self) -> Decomposition {
        let degree = if self.kind == VariationKind::Absolute { 1 } else { 2 };
        Decomposition::Neighbors { degree }
    }

    fn gradient_of_part(
        &self,
        graph: &mut Graph,
        [part, upstream]: [TensorId; 2],
        whole: [usize; 2],
        label: &str,
    ) -> Result<TensorId> {
        let op = TotalVariationBackward { kind: self.kind, of: Some(whole) };
        let gradient = graph.apply(op, &[part, upstream], format!("{label} total variation"))?;
        if !self.by_pixels {
            return Ok(gradient);
        }
        let pixels = LinearCombination::scale((whole[0] * whole[1]) as f32);
        graph.apply(pixels, &[gradient], format!("{label} by pixels"))
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
        let label = format!("{label} total variation");
        let variation = graph.apply(TotalVariation { kind: self.kind }, summary, label.clone())?;
        let mut pixels = 1.0;
        for activation in summary.iter().filter(|_| self.by_pixels) {
            pixels = graph.shape(*activation).expect_map("total variation")?.pixels() as f32;
        }
        if pixels == 1.0 {
            return Ok(variation);
        }
        graph.apply(LinearCombination::scale(pixels), &[variation], format!("{label} by pixels"))
    }
}
