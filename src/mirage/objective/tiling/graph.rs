//! Program of the tiles of one size: the network's first layers, their contributions to the sums over all tiles, and
//! the backward pass from the gradients with respect to these sums.

use super::in_transit::IN_FLIGHT;
use super::passes::{BACKWARD, FORWARD, GRADIENT, Inputs, TARGETS, TileProgram};
use super::planes::HalfMap;
use crate::error::{Error, Result};
use crate::graph::{Engine, Goals, Memory, Program, Readback, Seeds, TensorId, When, Workspace};
use crate::mirage::network_graph::{self, View};
use crate::mirage::objective::build::Build;
use crate::mirage::objective::layer_statistic::{Captured, TargetPlace};
use crate::mirage::request::Activations;
use crate::mirage::statistic::Statistic;
use crate::ops::{Accumulate, Crop, LinearCombination, Shape};
use crate::vgg::{LayerKind, Network};
use std::collections::HashMap;
use std::slice;
use std::sync::{Arc, Mutex};

/// Sums of one layer, or of the picture itself.
#[derive(Debug)]
pub(in crate::mirage) struct LayerSums {
    pub layer: Option<usize>,
    /// Shape of the whole map.
    pub map: Shape,
    pub kind: TileOutput,
    pub sums: Vec<Accumulator>,
}

#[derive(Debug)]
pub(in crate::mirage) enum TileOutput {
    /// Moments of a statistic.
    Moments(Arc<dyn Statistic>),
    /// Distance of a statistic from a target.
    Distance(Arc<dyn Statistic>, Captured),
    /// The map itself.
    Map,
    /// The map, read back and kept as a target in host memory.
    Target(Arc<Mutex<HalfMap>>),
}

/// A tensor that accumulates the contributions of tiles.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct Accumulator {
    /// Tensor in the graph that reads the sum.
    pub tensor: TensorId,
    pub memory: Memory,
    pub shape: Shape,
}

/// Inputs shared by all tile programs.
#[derive(Clone, Copy)]
pub(in crate::mirage) struct TileContext<'a> {
    pub engine: &'a Arc<Engine>,
    pub network: &'a Network,
    pub view: View,
}

/// Inputs of a backward pass.
pub(in crate::mirage) struct TileGradients {
    /// Gradients with respect to the sums, in their order.
    pub sums: Vec<Memory>,
    /// How activations are kept for it.
    pub activations: Activations,
}

impl LayerSums {
    /// Returns the number of pools up to the layer.
    pub fn pools(&self, network: &Network) -> usize {
        let until = self.layer.map_or(&[][..], |layer| &network.layers[..=layer]).iter();
        until.filter(|layer| matches!(layer.kind, LayerKind::Pool { .. })).count()
    }
}

/// Prepares the program of all tiles with these sizes: rows and columns, then the tile's own rows and columns.
///
/// # Errors
/// If the device fails or has too little memory.
pub(in crate::mirage) fn program(
    of_layers: &[LayerSums],
    context: TileContext<'_>,
    gradients: Option<&TileGradients>,
    inputs: &Inputs,
    [height, width, own_height, own_width]: [usize; 4],
    workspace: &mut Workspace,
) -> Result<TileProgram> {
    let mut build = Build::new(context.engine);
    let tile = build.alias("tile", &inputs.tile, Shape::map(3, height, width));
    let places = build.alias("places", &inputs.places.0, inputs.places.1);
    let layers: Vec<usize> = of_layers.iter().filter_map(|of_layer| of_layer.layer).collect();
    let mut maps: HashMap<Option<usize>, TensorId> =
        network_graph::forward(&mut build.graph, context.network, tile, &layers, context.view)?
            .into_iter()
            .map(|(layer, map)| (Some(layer), map))
            .collect();
    maps.insert(None, tile);
    let mut graph = TileGraph {
        build,
        places,
        target_tiles: inputs.targets.iter(),
        added: Vec::new(),
        captured: Vec::new(),
        seeds: Vec::new(),
    };
    let mut own_maps: HashMap<Option<usize>, TensorId> = HashMap::new();
    let mut of_sums = gradients.iter().flat_map(|gradients| &gradients.sums);
    for of_layer in of_layers {
        let name = of_layer.layer.map_or("picture", |layer| context.network.layers[layer].name.as_str());
        let pools = of_layer.pools(context.network);
        let part = Part { name, whole: of_layer.map, pools, size: [own_height >> pools, own_width >> pools] };
        let own = match own_maps.get(&of_layer.layer) {
            Some(own) => *own,
            None => graph.own(&part, maps[&of_layer.layer])?,
        };
        own_maps.insert(of_layer.layer, own);
        let values = graph.values(of_layer, &part, own)?;
        for (value, sum) in values.into_iter().zip(&of_layer.sums) {
            graph.add(of_layer, &part, value, sum, of_sums.next())?;
        }
    }
    graph.prepare(context, gradients, tile, workspace)
}

/// A tile's own part of a layer's map.
struct Part<'a> {
    /// Name of the layer.
    name: &'a str,
    /// The whole map.
    whole: Shape,
    /// Number of pools up to the layer.
    pools: usize,
    /// Rows and columns.
    size: [usize; 2],
}

impl Part<'_> {
    /// Returns the index of its position in the whole map among the tile's positions.
    fn place(&self) -> usize {
        place_of(self.pools, 1)
    }

    /// Returns its fraction of the whole map's pixels, from 0 to 1.
    fn share(&self) -> Result<f32> {
        let pixels = self.whole.expect_map("a layer in tiles")?.pixels();
        Ok((self.size[0] * self.size[1]) as f32 / pixels as f32)
    }
}

/// Graph of a tile, while it is being built.
struct TileGraph<'a> {
    build: Build<'a>,
    places: TensorId,
    /// Targets in host memory that no layer has been assigned yet.
    target_tiles: slice::Iter<'a, (Arc<Mutex<HalfMap>>, Memory)>,
    /// Outputs of the forward pass, which add to the sums.
    added: Vec<TensorId>,
    /// Maps to capture as targets in host memory.
    captured: Vec<(String, TensorId)>,
    /// Contributions to the sums, and the gradients with respect to them.
    seeds: Vec<(TensorId, TensorId)>,
}

impl TileGraph<'_> {
    /// Appends the crop of a map to the tile's own part.
    fn own(&mut self, part: &Part<'_>, map: TensorId) -> Result<TensorId> {
        let crop = Crop { size: part.size, at: place_of(part.pools, 0) };
        self.build.graph.apply(crop, &[map, self.places], format!("{} of its own", part.name))
    }

    /// Appends the contributions to the sums of a layer.
    fn values(&mut self, of_layer: &LayerSums, part: &Part<'_>, own: TensorId) -> Result<Vec<TensorId>> {
        match &of_layer.kind {
            TileOutput::Moments(statistic) => statistic.moments(&mut self.build.graph, own, part.name),
            TileOutput::Distance(statistic, target) => {
                Ok(vec![self.distance(statistic.as_ref(), target, part, own)?])
            }
            TileOutput::Map => Ok(vec![own]),
            TileOutput::Target(_) => {
                self.captured.push((format!("target {}", part.name), own));
                Ok(Vec::new())
            }
        }
    }

    /// Appends the distance from the same part of a target.
    fn distance(
        &mut self,
        statistic: &dyn Statistic,
        target: &Captured,
        part: &Part<'_>,
        own: TensorId,
    ) -> Result<TensorId> {
        let label = format!("target {}", part.name);
        let target = match &target.place {
            TargetPlace::Device(memory) => {
                let all = self.build.alias("target", memory, target.shape);
                let crop = Crop { size: part.size, at: part.place() };
                self.build.graph.apply(crop, &[all, self.places], label)?
            }
            TargetPlace::Host(_) => {
                let no_memory = || Error::internal(&label, "there is no memory for a tile's part of it");
                let (_, memory) = self.target_tiles.next().ok_or_else(no_memory)?;
                let channels = part.whole.expect_map("a target")?.channels;
                self.build.alias(&label, memory, Shape::map(channels, part.size[0], part.size[1]))
            }
        };
        statistic.distance(&mut self.build.graph, &[own], &[target], part.name)
    }

    /// Adds a contribution to its sum, and derives its gradient from the sum's.
    fn add(
        &mut self,
        of_layer: &LayerSums,
        part: &Part<'_>,
        value: TensorId,
        sum: &Accumulator,
        gradient: Option<&Memory>,
    ) -> Result<()> {
        let all = self.build.alias(part.name, &sum.memory, sum.shape);
        let gradient = gradient.map(|memory| self.build.alias("gradient", memory, sum.shape));
        let (graph, at) = (&mut self.build.graph, part.place());
        let label = format!("{} added", part.name);
        let is_map = matches!(of_layer.kind, TileOutput::Map);
        self.added.push(if is_map {
            let put = Accumulate { factor: 1.0, at: Some(at), replace: true };
            graph.apply(put, &[all, value, self.places], label)?
        } else {
            let add = Accumulate { factor: part.share()?, at: None, replace: false };
            graph.apply(add, &[all, value], label)?
        });
        if let Some(gradient) = gradient {
            let label = format!("gradient of {}", part.name);
            let seed = if is_map {
                graph.apply(Crop { size: part.size, at }, &[gradient, self.places], label)?
            } else {
                graph.apply(LinearCombination::scale(part.share()?), &[gradient], label)?
            };
            self.seeds.push((value, seed));
        }
        Ok(())
    }

    /// Appends the backward pass to `tile`, if there are gradients, and prepares the program.
    fn prepare(
        self,
        context: TileContext<'_>,
        gradients: Option<&TileGradients>,
        tile: TensorId,
        workspace: &mut Workspace,
    ) -> Result<TileProgram> {
        let Self { mut build, mut added, captured, seeds, .. } = self;
        added.extend(captured.iter().map(|(_, own)| *own));
        let mut goals = Goals::default().section(FORWARD, added);
        let readback = |name: &str, tensors, when| Readback {
            name: name.to_owned(),
            tensors,
            when,
            in_flight: IN_FLIGHT,
        };
        let captures = !captured.is_empty();
        if captures {
            goals = goals.readback(readback(TARGETS, captured, When::After));
        }
        let mut has_gradient = false;
        if let Some(gradients) = gradients {
            let sums: [(&str, &Seeds); 1] = [("", &seeds)];
            let mut found = build.differentiate(&sums, &[tile], gradients.activations.recompute)?;
            if let Some(gradient) = found.pop().and_then(|mut by| by.pop()).flatten() {
                has_gradient = true;
                goals = goals.section(BACKWARD, [gradient]);
                let read = vec![(GRADIENT.to_owned(), gradient)];
                goals = goals.readback(readback(GRADIENT, read, When::AfterOnce));
            }
        }
        build.fuse(&goals);
        if gradients.is_some_and(|gradients| gradients.activations.half) {
            build.keep_in_half(&goals)?;
        }
        let program = Program::prepare_in(context.engine, &build.graph, &build.bound, &goals, workspace)?;
        Ok(TileProgram { program, captures, has_gradient })
    }
}

/// Returns the index, among a tile's positions, of that of its own part after this many pools: in the tile's map
/// (`which` 0) or in the whole map (1). The position of the tile in the picture comes before all of them.
pub(in crate::mirage) fn place_of(pools: usize, which: usize) -> usize {
    2 + 4 * pools + 2 * which
}
