//! Reads class probabilities and activations of a picture.

use super::capture::{Stage, capture, read};
use super::layer_statistic::LayerStatistic;
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::mirage::network_graph::{Pooling, View};
use crate::mirage::statistic::Feature;
use crate::ops::{Padding, Shape};
use crate::vgg::{LayerKind, Network};
use std::sync::Arc;

/// Returns the statistic of the class probabilities, if the network has a classifier.
pub(in crate::mirage) fn probabilities(network: &Network) -> Option<LayerStatistic> {
    let layer = network.layers.iter().position(|layer| matches!(layer.kind, LayerKind::Softmax));
    layer.map(|layer| LayerStatistic { layer: Some(layer), statistic: Arc::new(Feature) })
}

/// Returns the probability of each of the network's classes for a picture.
///
/// # Errors
/// [`Error::Usage`] if the network has no fully connected layers or the picture is too small; [`Error::File`] if the
/// probabilities are not finite; otherwise if the device fails.
pub fn classify(
    engine: &Arc<Engine>,
    network: &Network,
    picture: &Picture,
    pooling: Pooling,
) -> Result<Vec<f32>> {
    let statistic = probabilities(network).ok_or_else(|| {
        Error::usage(format!(
            "{} has no fully connected layers, so it has no classifier: use a weights file that has them",
            shown(&network.path)
        ))
    })?;
    let view = View { pooling, border: Padding::Zeros };
    let (found, _) = capture(engine, network, (view, None), picture, &[statistic], Stage::Target)?;
    let parts = read(engine, &found.concat(), "class probabilities")?;
    let values: Vec<f32> = parts.into_iter().flat_map(|(_, values)| values).collect();
    if values.iter().all(|value| value.is_finite()) {
        return Ok(values);
    }
    Err(Error::file(
        &network.path,
        "the network's activations overflow, so there are no class probabilities",
        "Its weights are too large; use another copy of the weights",
    ))
}

/// Returns the total variation distance of two pictures' class probabilities, i.e. half the sum of absolute
/// differences: from 0 (equal) to 1 (disjoint).
pub fn class_distance(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).sum::<f32>() / 2.0
}

/// Returns the activations of a picture at the named layers, in the order of `layers`: shape and values in logical
/// order (channel, row, column).
///
/// # Errors
/// [`Error::Usage`] for an unknown layer or a picture that is too small; otherwise if the device fails.
pub fn activations(
    engine: &Arc<Engine>,
    network: &Network,
    picture: &Picture,
    pooling: Pooling,
    layers: &[&str],
) -> Result<Vec<(Shape, Vec<f32>)>> {
    let statistics: Vec<LayerStatistic> = layers
        .iter()
        .map(|layer| {
            Ok(LayerStatistic { layer: Some(network.index_of(layer)?), statistic: Arc::new(Feature) })
        })
        .collect::<Result<_>>()?;
    let view = View { pooling, border: Padding::Zeros };
    let (found, _) = capture(engine, network, (view, None), picture, &statistics, Stage::Target)?;
    read(engine, &found.concat(), "activations")
}
