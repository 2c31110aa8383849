//! What a loss compares: a statistic of an activation, and its distance from a target's.
//!
//! One file for each statistic, and one line in [`STATISTICS`]. A statistic is made of graph ops, so its gradient
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

/// What a statistic can be taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Feature maps, the picture among them: activations that have a layout.
    Maps,
    /// Activations of fully connected layers.
    Vectors,
    /// Either.
    Any,
}

/// How a statistic of a map follows from the parts of that map, where the map is computed in tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decomposition {
    /// From its moments ([`Statistic::moments`]), which are means over pixels: those of a map are the means of its
    /// parts', weighted by their pixels.
    Means,
    /// The summary is the map itself, and the distance a mean over its elements: it is the mean of the parts' distances,
    /// weighted by their pixels.
    Elements,
    /// The distance of the picture is a sum over pixels and their neighbours, without a target, and its gradient at a pixel
    /// follows from the pixel's eight neighbours ([`Statistic::gradient_of_part`]).
    Neighbors {
        /// The distance of a map times a number is the distance of the map times this power of the number. So it is the
        /// product of map and gradient, divided by this.
        degree: u8,
    },
    /// Only from the whole map.
    Whole,
}

/// A statistic of an activation, and how far two values of it are apart.
///
/// The photo and the other images are summarised once (`summary`), several of them are blended (`blend`), what the
/// distance needs of the blend is prepared once (`target`); each iteration then computes `summary` of the picture's
/// activation and `distance`.
pub trait Statistic: Debug + Send + Sync {
    /// Its name, as options and records have it, e.g. `gram`.
    fn name(&self) -> &'static str;

    /// Its name with all parameters. Statistics with the same key compute the same numbers.
    fn key(&self) -> String {
        self.name().to_owned()
    }

    /// What it can be taken of.
    fn domain(&self) -> Domain;

    /// False for a statistic that measures the picture alone, such as its smoothness; there is then no target.
    fn has_target(&self) -> bool {
        true
    }

    /// True if its target may be a probability for each class; [`Statistic::distance`] then takes that vector alone.
    fn takes_classes(&self) -> bool {
        false
    }

    /// Appends the statistic of an activation to a graph. `label` names the layer.
    ///
    /// # Errors
    /// If the activation's shape does not suit it.
    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>>;

    /// How it follows from the parts of a map.
    fn decomposition(&self) -> Decomposition {
        Decomposition::Whole
    }

    /// Appends what the summary is made of; [`Decomposition`] says of what use it is.
    ///
    /// # Errors
    /// As [`Statistic::summary`].
    fn moments(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        self.summary(graph, activation, label)
    }

    /// Appends the summary of a map with these moments.
    ///
    /// # Errors
    /// If the moments' shapes do not suit it.
    fn of_moments(&self, graph: &mut Graph, moments: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let _ = (graph, label);
        Ok(moments.to_vec())
    }

    /// Appends the gradient of the distance with respect to a part of a map of `whole` rows and columns, times a number. It
    /// is right where all neighbours of a pixel are in the part, or beyond the edge of the map. Only for
    /// [`Decomposition::Neighbors`].
    ///
    /// # Errors
    /// If the statistic does not decompose so.
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

    /// Blends the summaries of several images; the weights sum to 1. Values are in logical order.
    ///
    /// # Errors
    /// [`Error::Usage`] if the images can't be blended, e.g. because their feature maps differ in size.
    fn blend(&self, summaries: &[(f32, Vec<Vec<f32>>)]) -> Result<Vec<Vec<f32>>> {
        linear_blend(summaries)
    }

    /// Appends what the distance needs of a target's summary; it is computed once and kept.
    ///
    /// # Errors
    /// If the summary's shapes do not suit it.
    fn target(&self, graph: &mut Graph, summary: &[TensorId], label: &str) -> Result<Vec<TensorId>> {
        let _ = (graph, label);
        Ok(summary.to_vec())
    }

    /// Appends the distance of a summary from a prepared target: a vector of length 1, at least 0.
    ///
    /// # Errors
    /// If the shapes do not suit it.
    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId>;
}

/// A statistic that can be chosen by name, which is its key.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name, as [`Statistic::key`] gives it: the statistic's name, or with a variant behind it (`gram-pixels`).
    pub name: &'static str,
    /// What it does, in a few words for `--help`.
    pub help: &'static str,
    /// True if it describes style: what there is in an activation, but not where.
    pub describes_style: bool,
    /// Makes it.
    pub make: fn() -> Arc<dyn Statistic>,
}

/// The statistics that can be chosen by name.
pub const STATISTICS: &[Entry] = &[
    Entry {
        name: "classes",
        help: "what the network takes the picture for (last layer only)",
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
        help: "Gram matrix over channels and pixels, as neural-style",
        describes_style: true,
        make: || gram(Normalization::ChannelsAndPixels),
    },
    Entry {
        name: "gram-pixels",
        help: "Gram matrix over pixels alone, as Gatys",
        describes_style: true,
        make: || gram(Normalization::Pixels),
    },
    Entry {
        name: "gram-relative",
        help: "Gram matrix; its distance relative to the target's size, so that each layer counts alike",
        describes_style: true,
        make: || gram(Normalization::Relative),
    },
    Entry {
        name: "mean-covariance",
        help: "mean and covariance of the channels, each relative to the target's size",
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
        help: "squared differences of neighbours, as neural-style",
        describes_style: false,
        make: || variation(VariationKind::Squared),
    },
    Entry {
        name: "total-variation-absolute",
        help: "absolute differences of neighbours, as neural-style-pt",
        describes_style: false,
        make: || variation(VariationKind::Absolute),
    },
    Entry {
        name: "total-variation-diagonal",
        help: "squared differences, diagonals too, by their mean, as style-transfer-pytorch",
        describes_style: false,
        make: || variation(VariationKind::Diagonal),
    },
    Entry {
        name: "wasserstein",
        help: "Wasserstein-2 distance of means and covariances, as style-transfer-pytorch",
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

/// Those that describe style.
pub fn of_style() -> impl Iterator<Item = &'static Entry> {
    STATISTICS.iter().filter(|entry| entry.describes_style)
}

/// The statistic of this name.
///
/// # Errors
/// [`Error::Usage`] with the names that there are.
pub fn by_name(name: &str) -> Result<Arc<dyn Statistic>> {
    let found = STATISTICS.iter().find(|entry| entry.name == name);
    found.map(|entry| (entry.make)()).ok_or_else(|| {
        let names: Vec<&str> = STATISTICS.iter().map(|entry| entry.name).collect();
        Error::usage(format!("there is no statistic `{name}`: choose one of {}", names.join(", ")))
    })
}

/// The weighted mean of summaries, number by number.
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
                "images of different sizes can't be blended where their layout counts: use one image, or images of one size",
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
    fn every_entry_makes_the_statistic_it_names() {
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
    fn keys_differ() {
        let mut keys: Vec<String> = STATISTICS.iter().map(|entry| (entry.make)().key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), STATISTICS.len());
    }

    #[test]
    fn blends_are_means_by_weight() {
        let summaries = [(0.25, vec![vec![4.0, 8.0], vec![0.0]]), (0.75, vec![vec![0.0, 4.0], vec![1.0]])];
        assert_eq!(linear_blend(&summaries).unwrap(), [vec![1.0, 5.0], vec![0.75]]);
        assert!(linear_blend(&[(0.5, vec![vec![1.0]]), (0.5, vec![vec![1.0, 2.0]])]).is_err());
        assert!(linear_blend(&[]).unwrap().is_empty());
    }
}
