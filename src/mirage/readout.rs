//! What the network sees: class probabilities of a picture.

use super::capture::{Wanted, capture};
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::ops::{PoolKind, Shape};
use crate::vgg::{LayerKind, Network};
use std::sync::Arc;

/// Index of the layer that holds the class probabilities.
pub(super) fn probability_layer(network: &Network) -> Option<usize> {
    network.layers.iter().position(|layer| matches!(layer.kind, LayerKind::Softmax))
}

/// The probability of each of the network's classes, for a picture.
///
/// # Errors
/// [`Error::Usage`] if the network has no fully connected layers or the picture is too small; else if the
/// device fails.
pub fn classify(
    engine: &Arc<Engine>,
    network: &Network,
    picture: &Picture,
    pooling: PoolKind,
) -> Result<Vec<f32>> {
    let layer = probability_layer(network).ok_or_else(|| {
        Error::usage(format!(
            "{} has no fully connected layers, so it names no classes: use a weights file that has them",
            network.path.display()
        ))
    })?;
    let (targets, _) = capture(engine, network, picture, pooling, &[Wanted { layer, gram: false }])?;
    let mut probabilities = Vec::new();
    for target in targets {
        probabilities = engine.read(&target.buffer, target.shape, "class probabilities")?;
    }
    Ok(probabilities)
}

/// How far two pictures are apart in what the network sees: half the sum of absolute differences of their class
/// probabilities (total variation distance), from 0 (the same) to 1 (nothing in common).
pub fn class_distance(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).sum::<f32>() / 2.0
}

/// Activations of a picture at the named layers, in the order of `layers`: shape and values in logical
/// order (channel, row, column).
///
/// # Errors
/// [`Error::Usage`] for an unknown layer or a picture that is too small; else if the device fails.
pub fn activations(
    engine: &Arc<Engine>,
    network: &Network,
    picture: &Picture,
    pooling: PoolKind,
    layers: &[&str],
) -> Result<Vec<(Shape, Vec<f32>)>> {
    let wanted: Vec<Wanted> = layers
        .iter()
        .map(|layer| Ok(Wanted { layer: network.index_of(layer)?, gram: false }))
        .collect::<Result<_>>()?;
    let (targets, _) = capture(engine, network, picture, pooling, &wanted)?;
    targets
        .into_iter()
        .map(|target| Ok((target.shape, engine.read(&target.buffer, target.shape, "activations")?)))
        .collect()
}
