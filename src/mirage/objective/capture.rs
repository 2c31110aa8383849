//! Captures targets: computes the statistics of an image once.

use super::build::Build;
use super::layer_statistic::{Captured, LayerStatistic, TargetPlace};
use super::sources::Sources;
use super::tiling::graph::TileContext;
use super::tiling::passes::TilePasses;
use super::tiling::planes::Pixels;
use crate::error::Result;
use crate::graph::{Bindings, Engine, Goals, Graph, Program, Submission, TensorId};
use crate::image_io::Picture;
use crate::mirage::network_graph::{self, View};
use crate::ops::Shape;
use crate::vgg::Network;
use std::sync::Arc;

/// Shape and values (in logical order) of one tensor of a statistic.
pub(in crate::mirage) type ShapedValues = (Shape, Vec<f32>);

/// Extent to which a statistic is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mirage) enum Stage {
    /// Up to the summary, which can be blended with others.
    Summary,
    /// Up to the target, which the distance reads.
    Target,
}

/// Returns the values of a picture in the tensor's logical order: channel, row, column.
pub(in crate::mirage) fn planar(picture: &Picture) -> Vec<f32> {
    (0..3).flat_map(|channel| picture.rgb.iter().skip(channel).step_by(3).copied()).collect()
}

/// Runs a picture through the network once, and captures the tensors of each of these statistics, in their order. With
/// `tile`, larger pictures are computed in tiles of this side. Does not wait for the device: later submissions can use
/// the targets, and the pass keeps its memory until its submission is done.
///
/// # Errors
/// If the picture is too small, or the device fails.
pub(in crate::mirage) fn capture(
    engine: &Arc<Engine>,
    network: &Network,
    (view, tile): (View, Option<usize>),
    picture: &Picture,
    statistics: &[LayerStatistic],
    stage: Stage,
) -> Result<(Vec<Vec<Captured>>, Submission)> {
    let mut build = Build::new(engine);
    let shape = Shape::map(3, picture.height, picture.width);
    let input = build.graph.external("captured picture", shape);
    let layers: Vec<usize> = statistics.iter().filter_map(|item| item.layer).collect();
    if let Some(deepest) = layers.iter().max() {
        network_graph::check_size(network, *deepest, picture.height, picture.width)?;
    }
    let mut sources = Sources::new(&mut build, network, view, input, &layers, tile)?;
    if sources.assembly.is_none() {
        let memory = build.keep(input)?;
        engine.write(&memory, shape, &planar(picture))?;
    }
    let mut found = Vec::new();
    // Targets that the tiles write themselves, with their index among the statistics.
    let mut of_tiles = Vec::new();
    for (index, item) in statistics.iter().enumerate() {
        if stage == Stage::Target
            && let Some(target) = sources.target_of_tiles(item)?
        {
            of_tiles.push((index, target));
            continue;
        }
        let label = item.label(network);
        let mut tensors = sources.summary(&mut build, item)?;
        if stage == Stage::Target {
            tensors = item.statistic.target(&mut build.graph, &tensors, &label)?;
        }
        found.push((label, tensors));
    }
    let context = TileContext { engine, network, view };
    let tiles = sources.assembly.map(|assembly| assembly.prepare(context, None)).transpose()?;
    let tiles = tiles.as_ref().map(|tiles| (tiles, Pixels::Picture(picture)));
    let (mut captured, submission) = run(engine, build.graph, build.bound, &found, tiles)?;
    of_tiles.into_iter().for_each(|(index, target)| captured.insert(index, vec![target]));
    Ok((captured, submission))
}

/// Computes the targets of blended summaries, which are given as values in logical order.
///
/// # Errors
/// If the device fails.
pub(in crate::mirage) fn prepare(
    engine: &Arc<Engine>,
    network: &Network,
    summaries: &[(&LayerStatistic, Vec<ShapedValues>)],
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
    Ok(run(engine, graph, bound, &found, None)?.0)
}

/// Allocates memory for the tensors, and computes them after the sums over tiles.
fn run(
    engine: &Arc<Engine>,
    mut graph: Graph,
    mut bound: Bindings,
    found: &[(String, Vec<TensorId>)],
    tiles: Option<(&TilePasses, Pixels<'_>)>,
) -> Result<(Vec<Vec<Captured>>, Submission)> {
    let mut captured = Vec::new();
    let mut goals = Vec::new();
    for (label, tensors) in found {
        let mut of_statistic = Vec::new();
        for tensor in tensors {
            let shape = graph.shape(*tensor);
            let memory = match bound.get(tensor) {
                Some(memory) => memory.clone(),
                None => engine.tensor(&format!("target {label}"), shape)?,
            };
            bound.insert(*tensor, memory.clone());
            goals.push(*tensor);
            of_statistic.push(Captured { shape, place: TargetPlace::Device(memory) });
        }
        captured.push(of_statistic);
    }
    graph.fuse(&bound.keys().copied().collect());
    let program = Program::prepare(engine, &graph, &bound, &Goals::all(goals), |_| 0)?;
    if let Some((tiles, pixels)) = tiles {
        tiles.forward(pixels)?;
    }
    let submission = program.submit(&[Goals::ALL], &[], "capturing targets")?;
    Ok((captured, submission))
}

/// Reads the values of captured tensors, in logical order.
///
/// # Errors
/// If the device fails.
pub(in crate::mirage) fn read(
    engine: &Engine,
    captured: &[Captured],
    label: &str,
) -> Result<Vec<ShapedValues>> {
    captured
        .iter()
        .map(|tensor| Ok((tensor.shape, engine.read(tensor.memory(label)?, tensor.shape, label)?)))
        .collect()
}
