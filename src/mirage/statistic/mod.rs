//! Statistics of activations that losses compare, and their distance from a target.
//!
//! One file per statistic, and one line in [`STATISTICS`]. A statistic is a sequence of graph ops, so its gradient
//! follows from their adjoints.

mod classes;
mod feature;
mod gram;
mod mean_covariance;
mod mean_variance;
mod relative;
mod total_variation;
mod wasserstein;

pub use classes::Classes;
pub use feature::Feature;
pub use gram::{GramMatrix, Normalization};
pub use mean_covariance::MeanCovariance;
pub use mean_variance::MeanVariance;
pub use total_variation::Variation;
pub use wasserstein::Wasserstein;

use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::VariationKind;
use std::fmt::Debug;
use std::sync::Arc;

/// Kind of activation that a statistic applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Feature maps, including the picture: activations with rows and columns.
    Maps,
    /// Activations of fully connected layers.
    Vectors,
    /// Either.
    Any,
}

/// How a statistic of a map is computed from parts of the map, for tiled computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decomposition {
    /// From its moments ([`Statistic::moments`]), which are means over pixels. A map's moments are the means of its
    /// parts' moments, weighted by their pixel counts.
    Means,
    /// The summary is the map itself, and the distance is a mean over its elements: the mean of the parts' distances,
    /// weighted by their pixel counts.
    Elements,
    /// The distance is a sum over pixels of the picture and their neighbours, without a target. The gradient at a pixel
    /// depends only on the pixel and its eight neighbours ([`Statistic::gradient_of_part`]).
    Neighbors {
        /// Degree of homogeneity: scaling the map by a factor scales the distance by this power of it. By Euler's
        /// theorem, the distance is the inner product of the map and the gradient, divided by the degree.
        degree: u8,
    },
    /// Only from the whole map.
    Whole,
}

/// A statistic of an activation, and a distance between two of its values.
///
/// `summary` runs once for the photo and each of the other images. `blend` combines several images, and `target`
/// prepares the values that the distance reads. Each iteration then computes `summary` of the picture's activation, and
/// `distance`.
pub trait Statistic: Debug + Send + Sync {
    /// Returns the name used in options and records, e.g. `gram`.
    fn name(&self) -> &'static str;

    /// Returns the name with all parameters. Statistics with equal keys compute the same numbers.
    fn key(&self) -> String {
        self.name().to_owned()
    }

    /// Returns the kind of activation that the statistic applies to.
    fn domain(&self) -> Domain;

    /// False for a statistic of the picture alone, such as its smoothness, which has no target.
    fn has_target(&self) -> bool {
        true
    }

    /// True if the target may be a vector of class probabilities, which [`Statistic::distance`] then gets as its only
    /// tensor.
    fn takes_classes(&self) -> bool {
        false
    }

    /// Appends the statistic of an activation to a graph. `label` names the layer.
    ///
    /// # Errors
    /// If the statistic does not accept the activation's shape.
    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>>;

    /// Returns how the statistic is computed from parts of a map.
    fn decomposition(&self) -> Decomposition {
        Decomposition::Whole
    }

    /// Appends the moments that the summary is computed from; see [`Decomposition::Means`].
    ///
    /// # Errors
    /// Same as [`Statistic::summary`].
    fn moments(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        self.summary(graph, activation, label)
    }

    /// Appends the summary of a map with these moments.
    ///
    /// # Errors
    /// If the statistic does not accept the moments' shapes.
    fn of_moments(&self, graph: &mut Graph, moments: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let _ = (graph, label);
        Ok(moments.to_vec())
    }

    /// Appends the gradient of the distance with respect to a part of a map of `whole` rows and columns, times
    /// `upstream`. It is exact for pixels whose neighbours are all in the part or beyond the edge of the map. Only for
    /// [`Decomposition::Neighbors`].
    ///
    /// # Errors
    /// If the statistic does not decompose this way.
    fn gradient_of_part(
        &self,
        graph: &mut Graph,
        [part, upstream]: [TensorId; 2],
        whole: [usize; 2],
        label: &str,
    ) -> Result<TensorId> {
        let _ = (graph, part, upstream, whole);
        Err(Error::internal(label, format!("the statistic {} has no gradient of parts", self.name())))
    }

    /// Blends the summaries of several images with weights that sum to 1. Values are in logical order.
    ///
    /// # Errors
    /// [`Error::Usage`] if the images can't be blended, e.g. because their feature maps differ in size.
    fn blend(&self, summaries: &[(f32, Vec<Vec<f32>>)]) -> Result<Vec<Vec<f32>>> {
        linear_blend(summaries)
    }

    /// Appends the target tensors that the distance reads, computed once from a summary.
    ///
    /// # Errors
    /// If the statistic does not accept the summary's shapes.
    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let _ = (graph, label);
        Ok(summary.to_vec())
    }

    /// Appends the distance between a summary and a prepared target: a vector of length 1, at least 0.
    ///
    /// # Errors
    /// If the shapes do not match.
    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId>;
}

/// Entry of [`STATISTICS`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name, equal to [`Statistic::key`]: the statistic's name, optionally followed by a variant (`gram-pixels`).
    pub name: &'static str,
    /// Short description for `--help`.
    pub help: &'static str,
    /// True if the statistic describes style, i.e. ignores where features are.
    pub describes_style: bool,
    /// Creates the statistic.
    pub make: fn() -> Arc<dyn Statistic>,
}

/// The statistics that can be chosen by name.
pub const STATISTICS: &[Entry] = &[
    Entry {
        name: "classes",
        help: "class probabilities of the network (last layer only)",
        describes_style: false,
        make: || Arc::new(Classes),
    },
    Entry {
        name: "feature",
        help: "the activations themselves",
        describes_style: false,
        make: || Arc::new(Feature),
    },
    Entry {
        name: "gram",
        help: "Gram matrix divided by channels and pixels, as in neural-style",
        describes_style: true,
        make: || gram(Normalization::ChannelsAndPixels),
    },
    Entry {
        name: "gram-pixels",
        help: "Gram matrix divided by pixels only, as in Gatys et al.",
        describes_style: true,
        make: || gram(Normalization::Pixels),
    },
    Entry {
        name: "gram-relative",
        help: "Gram matrix with a distance relative to the target, so that all layers weigh alike",
        describes_style: true,
        make: || gram(Normalization::Relative),
    },
    Entry {
        name: "mean-covariance",
        help: "mean and covariance of the channels, each relative to the target",
        describes_style: true,
        make: || Arc::new(MeanCovariance),
    },
    Entry {
        name: "mean-variance",
        help: "mean and standard deviation of each channel",
        describes_style: true,
        make: || Arc::new(MeanVariance),
    },
    Entry {
        name: "total-variation",
        help: "squared differences of neighbours, as in neural-style",
        describes_style: false,
        make: || variation(VariationKind::Squared),
    },
    Entry {
        name: "total-variation-absolute",
        help: "absolute differences of neighbours, as in neural-style-pt",
        describes_style: false,
        make: || variation(VariationKind::Absolute),
    },
    Entry {
        name: "total-variation-diagonal",
        help: "mean squared differences including diagonals, as in style-transfer-pytorch",
        describes_style: false,
        make: || variation(VariationKind::Diagonal),
    },
    Entry {
        name: "wasserstein",
        help: "Wasserstein-2 distance of means and covariances, as in style-transfer-pytorch",
        describes_style: true,
        make: || Arc::new(Wasserstein),
    },
];

fn gram(normalization: Normalization) -> Arc<dyn Statistic> {
    Arc::new(GramMatrix { normalization })
}

fn variation(kind: VariationKind) -> Arc<dyn Statistic> {
    Arc::new(Variation { kind, by_pixels: false })
}

/// Returns the statistics that describe style.
pub fn of_style() -> impl Iterator<Item = &'static Entry> {
    STATISTICS.iter().filter(|entry| entry.describes_style)
}

/// Creates the statistic of this name.
///
/// # Errors
/// [`Error::Usage`] listing the valid names.
pub fn by_name(name: &str) -> Result<Arc<dyn Statistic>> {
    let found = STATISTICS.iter().find(|entry| entry.name == name);
    found.map(|entry| (entry.make)()).ok_or_else(|| {
        let names: Vec<&str> = STATISTICS.iter().map(|entry| entry.name).collect();
        Error::usage(format!("unknown statistic `{name}`: choose one of {}", names.join(", ")))
    })
}

/// Returns the elementwise weighted mean of summaries.
///
/// # Errors
/// [`Error::Usage`] if they differ in size.
pub fn linear_blend(summaries: &[(f32, Vec<Vec<f32>>)]) -> Result<Vec<Vec<f32>>> {
    let Some((_, first)) = summaries.first() else { return Ok(Vec::new()) };
    let mut blended: Vec<Vec<f32>> = first.iter().map(|values| vec![0.0; values.len()]).collect();
    for (weight, summary) in summaries {
        let same_sizes = summary.len() == blended.len()
            && summary.iter().zip(&blended).all(|(values, sum)| values.len() == sum.len());
        if !same_sizes {
            return Err(Error::usage(
                "images of different sizes can't be blended for a statistic that depends on layout: use one image, or images of one size",
            ));
        }
        for (sum, values) in blended.iter_mut().zip(summary) {
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
    }
    Ok(blended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_creates_the_named_statistic() {
        for entry in STATISTICS {
            assert!(entry.name.starts_with((entry.make)().name()), "{}", entry.name);
            assert_eq!(by_name(entry.name).unwrap().key(), entry.name);
        }
        let styles: Vec<&str> = of_style().map(|entry| entry.name).collect();
        let expected =
            ["gram", "gram-pixels", "gram-relative", "mean-covariance", "mean-variance", "wasserstein"];
        assert_eq!(styles, expected);
        assert!(by_name("nothing").unwrap_err().to_string().contains("gram"));
    }

    #[test]
    fn keys_are_unique() {
        let mut keys: Vec<String> = STATISTICS.iter().map(|entry| (entry.make)().key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), STATISTICS.len());
    }

    #[test]
    fn blends_are_weighted_means() {
        let summaries = [(0.25, vec![vec![4.0, 8.0], vec![0.0]]), (0.75, vec![vec![0.0, 4.0], vec![1.0]])];
        assert_eq!(linear_blend(&summaries).unwrap(), [vec![1.0, 5.0], vec![0.75]]);
        assert!(linear_blend(&[(0.5, vec![vec![1.0]]), (0.5, vec![vec![1.0, 2.0]])]).is_err());
        assert!(linear_blend(&[]).unwrap().is_empty());
    }
}
