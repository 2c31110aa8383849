//! Class distribution that the network assigns to the picture.

use super::{Domain, Statistic};
use crate::error::Result;
use crate::graph::{Graph, TensorId};
use crate::ops::{CrossEntropy, Softmax};

/// Stands for the logarithm of a probability of 0: its exponential is 0 in f32, and sums with it stay finite.
const NEVER: f32 = -1e30;

/// Logits z of the last layer. The target is a distribution p over the classes, either given by name or that of an
/// image. Distance: cross-entropy `-sum p_i ln softmax(z)_i` less the entropy of p, so it is 0 where the distributions
/// are equal. Several targets are blended as probabilities.
#[derive(Debug, Clone, Copy)]
pub struct Classes;

impl Classes {
    /// Returns the summary of a distribution over the classes: logits whose softmax is that distribution.
    pub fn summary_of(distribution: &[f32]) -> Vec<Vec<f32>> {
        vec![distribution.iter().map(|p| if *p > 0.0 { p.ln() } else { NEVER }).collect()]
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|z| (z - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

impl Statistic for Classes {
    fn name(&self) -> &'static str {
        "classes"
    }

    fn domain(&self) -> Domain {
        Domain::Vectors
    }

    fn takes_classes(&self) -> bool {
        true
    }

    fn summary(&self, _: &mut Graph, activation: TensorId, _: &str) -> Result<Vec<TensorId>> {
        Ok(vec![activation])
    }

    fn blend(&self, summaries: &[(f32, Vec<Vec<f32>>)]) -> Result<Vec<Vec<f32>>> {
        let distributions: Vec<(f32, Vec<Vec<f32>>)> = summaries
            .iter()
            .map(|(weight, logits)| (*weight, logits.iter().map(|logits| softmax(logits)).collect()))
            .collect();
        let blended = super::linear_blend(&distributions)?;
        Ok(blended.iter().flat_map(|distribution| Self::summary_of(distribution)).collect())
    }

    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        Ok(vec![graph.apply(Softmax, summary, format!("wanted classes {label}"))?])
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        graph.apply(CrossEntropy, &[summary, target].concat(), format!("{label} class loss"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_blended_as_probabilities() {
        let named = Classes::summary_of(&[0.25, 0.0, 0.75, 0.0]);
        assert_eq!(named[0][1], NEVER);
        let other = vec![vec![0.0, 0.0, 80.0, 0.0]];
        let blended = Classes.blend(&[(0.5, named), (0.5, other)]).unwrap();
        let p = softmax(&blended[0]);
        for (actual, expected) in p.iter().zip([0.125, 0.0, 0.875, 0.0]) {
            assert!((actual - expected).abs() <= 1e-6, "{p:?}");
        }
        assert!(p.iter().all(|p| p.is_finite()));
    }
}
