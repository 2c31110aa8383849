//! Targets: the statistics of a picture, captured once.

use super::loss::Source;
use super::network_graph::{self, View};
use super::statistic::Statistic;
use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Memory, Program, Submission, TensorId};
use crate::image_io::Picture;
use crate::ops::Shape;
use crate::vgg::Network;
use std::sync::Arc;

/// The statistic of a layer, or of the picture itself, that is captured.
#[derive(Debug, Clone)]
pub(super) struct LayerStatistic {
    /// Index of the layer; none for the picture.
    pub layer: Option<usize>,
    pub statistic: Arc<dyn Statistic>,
}

impl LayerStatistic {
    /// What a loss of this source and statistic takes.
    ///
    /// # Errors
    /// If the network has no such layer.
    pub fn new(network: &Network, source: &Source, statistic: &Arc<dyn Statistic>) -> Result<Self> {
        let layer = match source {
            Source::Picture => None,
            Source::Layer(name) => Some(network.index_of(name)?),
        };
        Ok(Self { layer, statistic: statistic.clone() })
    }

    /// Its name in labels.
    pub fn label(&self, network: &Network) -> String {
        self.layer.map_or_else(|| "picture".to_owned(), |layer| network.layers[layer].name.clone())
    }
}

/// A captured tensor on the device.
#[derive(Debug, Clone)]
pub(super) struct Captured {
    pub shape: Shape,
    pub memory: Memory,
}

/// Shape and values, in logical order, of one tensor of a statistic.
pub(super) type Part = (Shape, Vec<f32>);

/// How much is computed of a statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// To the summary, which can be blended with others.
    Summary,
    /// To what a distance takes of it.
    Target,
}

/// Values of a picture in the tensor's logical order: channel, row, column.
pub(super) fn planar(picture: &Picture) -> Vec<f32> {
    (0..3).flat_map(|channel| picture.rgb.iter().skip(channel).step_by(3).copied()).collect()
}

/// Runs a picture through the network once and keeps the tensors of each of these statistics, in their order. Waits for
/// nothing: work that is submitted later can use the targets, and the pass keeps its memory until the submission is
/// done.
///
/// # Errors
/// If the picture is too small, or the device fails.
pub(super) fn capture(
    engine: &Arc<Engine>,
    network: &Network,
    view: View,
    picture: &Picture,
    statistics: &[LayerStatistic],
    stage: Stage,
) -> Result<(Vec<Vec<Captured>>, Submission)> {
    let mut graph = Graph::new();
    let mut bound = Bindings::new();
    let shape = Shape::map(3, picture.height, picture.width);
    let input = graph.external("picture", shape);
    bound.insert(input, engine.tensor_with("captured picture", shape, &planar(picture))?);
    let layers: Vec<usize> = statistics.iter().filter_map(|item| item.layer).collect();
    if let Some(deepest) = layers.iter().max() {
        network_graph::check_size(network, *deepest, picture.height, picture.width)?;
    }
    let activations = network_graph::forward(&mut graph, network, input, &layers, view)?;
    let mut found = Vec::new();
    for item in statistics {
        let label = item.label(network);
        let activation = item.layer.map_or(input, |layer| activations[&layer]);
        let mut tensors = item.statistic.summary(&mut graph, activation, &label)?;
        if stage == Stage::Target {
            tensors = item.statistic.target(&mut graph, &tensors, &label)?;
        }
        found.push((label, tensors));
    }
    run(engine, graph, bound, &found)
}

/// What the distances take of blended summaries, given as values in logical order.
///
/// # Errors
/// If the device fails.
pub(super) fn prepare(
    engine: &Arc<Engine>,
    network: &Network,
    summaries: &[(&LayerStatistic, Vec<Part>)],
) -> Result<Vec<Vec<Captured>>> {
    let mut graph = Graph::new();
    let mut bound = Bindings::new();
    let mut found = Vec::new();
    for (item, summary) in summaries {
        let label = item.label(network);
        let mut tensors = Vec::new();
        for (shape, values) in summary {
            let tensor = graph.external(format!("blended {label}"), *shape);
            bound.insert(tensor, engine.tensor_with("blended target", *shape, values)?);
            tensors.push(tensor);
        }
        found.push((label.clone(), item.statistic.target(&mut graph, &tensors, &label)?));
    }
    Ok(run(engine, graph, bound, &found)?.0)
}

/// Gives the tensors memory of their own and computes them.
fn run(
    engine: &Arc<Engine>,
    mut graph: Graph,
    mut bound: Bindings,
    found: &[(String, Vec<TensorId>)],
) -> Result<(Vec<Vec<Captured>>, Submission)> {
    let mut captured = Vec::new();
    let mut goals = Vec::new();
    for (label, tensors) in found {
        let mut parts = Vec::new();
        for tensor in tensors {
            let shape = graph.shape(*tensor);
            let memory = match bound.get(tensor) {
                Some(memory) => memory.clone(),
                None => engine.tensor(&format!("target {label}"), shape)?,
            };
            bound.insert(*tensor, memory.clone());
            goals.push(*tensor);
            parts.push(Captured { shape, memory });
        }
        captured.push(parts);
    }
    graph.fuse(&bound.keys().copied().collect());
    let program = Program::prepare(engine, &graph, &bound, &Goals::all(goals), |_| 0)?;
    let submission = program.submit(&[Goals::ALL], &[], "capturing targets")?;
    Ok((captured, submission))
}

/// Values of captured tensors, in logical order.
///
/// # Errors
/// If the device fails.
pub(super) fn read(engine: &Engine, captured: &[Captured], label: &str) -> Result<Vec<Part>> {
    captured.iter().map(|part| Ok((part.shape, engine.read(&part.memory, part.shape, label)?))).collect()
}
