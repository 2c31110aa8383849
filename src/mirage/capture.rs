//! Targets: what the photo and the style images look like to the network.

use super::network_graph;
use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Memory, Program, Submission};
use crate::image_io::Picture;
use crate::ops::{Gram, PoolKind, Shape};
use crate::vgg::Network;
use std::sync::Arc;

/// One thing to capture of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    /// Index of the layer.
    pub layer: usize,
    /// True for its Gram matrix, false for its activations.
    pub gram: bool,
}

/// A captured tensor on the device.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub shape: Shape,
    pub buffer: Memory,
}

/// Values of a picture in the tensor's logical order: channel, row, column.
pub(super) fn planar(picture: &Picture) -> Vec<f32> {
    (0..3).flat_map(|channel| picture.rgb.iter().skip(channel).step_by(3).copied()).collect()
}

/// Has a picture run through the network once and keeps what is wanted, in that order. Waits for nothing: the
/// targets are there for whatever is submitted later, and the memory in use until the submission is done.
///
/// # Errors
/// If the picture is too small, or the device fails.
pub(super) fn capture(
    engine: &Arc<Engine>,
    network: &Network,
    picture: &Picture,
    pooling: PoolKind,
    wanted: &[Wanted],
) -> Result<(Vec<Target>, Submission)> {
    let mut graph = Graph::new();
    let mut bound = Bindings::new();
    let shape = Shape::map(3, picture.height, picture.width);
    let input = graph.external("picture", shape);
    bound.insert(input, engine.tensor_with("captured picture", shape, &planar(picture))?);
    let layers: Vec<usize> = wanted.iter().map(|item| item.layer).collect();
    if let Some(deepest) = layers.iter().max() {
        network_graph::check_size(network, *deepest, picture.height, picture.width)?;
    }
    let activations = network_graph::forward(&mut graph, network, input, &layers, pooling)?;
    let mut targets = Vec::new();
    let mut goals = Vec::new();
    for item in wanted {
        let name = &network.layers[item.layer].name;
        let mut tensor = activations[&item.layer];
        if item.gram {
            tensor = graph.apply(Gram, &[tensor], format!("Gram {name}"))?;
        }
        let shape = graph.shape(tensor);
        let buffer = match bound.get(&tensor) {
            Some(buffer) => buffer.clone(),
            None => engine.tensor(&format!("target {name}"), shape)?,
        };
        bound.insert(tensor, buffer.clone());
        goals.push(tensor);
        targets.push(Target { shape, buffer });
    }
    graph.fuse(&bound.keys().copied().collect());
    let program = Program::prepare(engine, &graph, &bound, &Goals::all(goals), |_| 0)?;
    let submission = program.submit(&[Goals::ALL], &[], "capturing targets")?;
    Ok((targets, submission))
}
