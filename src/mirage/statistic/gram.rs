//! Gram matrices: which features occur together, regardless of position.

use super::relative::{inverse_mean_square, scaled};
use super::{Decomposition, Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{Gram, LinearCombination, MeanSquaredError};

/// Divisor of a Gram matrix with C channels and N pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Normalization {
    /// `C N`, as in neural-style.
    #[default]
    ChannelsAndPixels,
    /// `N`, as in Gatys et al. and style-transfer-pytorch: distances are C^2 times those of neural-style.
    Pixels,
    /// `C N`, with the distance divided by the mean square of the target's matrix, so that layers weigh alike whatever
    /// the scale of their activations.
    Relative,
}

/// `G = F F^T` of a feature map, divided by the [`Normalization`]. Distance: the mean over C^2 of `(G - A)^2`, where A
/// is the target's matrix.
#[derive(Debug, Clone, Copy, Default)]
pub struct GramMatrix {
    /// Divisor of the matrix.
    pub normalization: Normalization,
}

impl Statistic for GramMatrix {
    fn name(&self) -> &'static str {
        "gram"
    }

    fn key(&self) -> String {
        let normalization = match self.normalization {
            Normalization::ChannelsAndPixels => "",
            Normalization::Pixels => "-pixels",
            Normalization::Relative => "-relative",
        };
        format!("{}{normalization}", self.name())
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn decomposition(&self) -> Decomposition {
        Decomposition::Means
    }

    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let gram = graph.apply(Gram, &[activation], format!("Gram {label}"))?;
        if self.normalization != Normalization::Pixels {
            return Ok(vec![gram]);
        }
        let channels = graph.shape(activation).expect_map("gram")?.channels;
        let by_pixels = LinearCombination::scale(channels as f32);
        Ok(vec![graph.apply(by_pixels, &[gram], format!("Gram by pixels {label}"))?])
    }

    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let mut target = summary.to_vec();
        if self.normalization == Normalization::Relative {
            target.push(inverse_mean_square(graph, summary, label)?);
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
        let pair = [summary[0], target[0]];
        let label = format!("{label} Gram loss");
        match target {
            [_, inverse] => {
                let loss = graph.apply(MeanSquaredError, &pair, format!("{label}, absolute"))?;
                scaled(graph, loss, *inverse, &label)
            }
            _ => graph.apply(MeanSquaredError, &pair, label),
        }
    }
}
