//! Forward and backward pass of a network's first layers, tile by tile, for pictures whose feature maps exceed the
//! device's memory.
//!
//! Losses read only two things from these layers: sums over pixels (moments, distances) and one small map. A first pass
//! over all tiles accumulates both. The losses and their gradients with respect to the sums are then computed once,
//! with the sums as external tensors. A second pass over all tiles propagates these gradients to the picture. The
//! result equals the gradient of the whole picture up to rounding, for any tile layout. Picture and gradient are in
//! host memory: the device holds at most a tile of them.

use super::graph::{self, Accumulator, LayerSums, TileContext, TileGradients, TileOutput, place_of};
use super::layout::{Span, Trunk, spans};
use super::passes::{Inputs, Tile, TilePasses, TileProgram};
use super::planes::HalfMap;
use crate::error::Result;
use crate::graph::{Graph, MemoryUse, Node, TensorId, Workspace};
use crate::mirage::network_graph::{self, View};
use crate::mirage::objective::build::Build;
use crate::mirage::objective::layer_statistic::{Captured, TargetPlace};
use crate::mirage::request::Activations;
use crate::mirage::statistic::Statistic;
use crate::ops::Shape;
use crate::vgg::{LayerKind, Network};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Sums over the tiles of a picture, while the graph that reads them is being built.
#[derive(Debug)]
pub(in crate::mirage) struct Assembly {
    trunk: Trunk,
    tile: usize,
    size: [usize; 2],
    /// Shape of each layer's map for the whole picture.
    shapes: HashMap<usize, Shape>,
    /// Fraction, from 0 to 1, of the operations on maps that the trunk computes.
    trunk_share: f64,
    of_layers: Vec<LayerSums>,
}

/// Returns the fraction, from 0 to 1, of a graph's operations on maps that its first `nodes` nodes compute.
fn share_of_first(graph: &Graph, nodes: usize) -> f64 {
    let flops = |nodes: &[Node]| {
        let of_maps = nodes.iter().map(|node| (node, graph.signature(node)));
        let of_maps = of_maps.filter(|(_, signature)| signature.output.layout().is_some());
        of_maps.map(|(node, signature)| node.op.flops(&signature)).sum::<u64>()
    };
    match flops(graph.nodes()) {
        0 => 1.0,
        all => flops(&graph.nodes()[..nodes]) as f64 / all as f64,
    }
}

impl Assembly {
    /// Creates an assembly without sums, for these layers of a picture of this size with tiles of side `tile`. `None`
    /// if a single tile covers the picture.
    ///
    /// # Errors
    /// Same as [`Trunk::new`].
    pub fn new(
        network: &Network,
        view: View,
        wanted: &[usize],
        size: [usize; 2],
        tile: usize,
    ) -> Result<Option<Self>> {
        let deepest = wanted.iter().copied().max().unwrap_or(0);
        let is_pool = |index: &usize| matches!(network.layers[*index].kind, LayerKind::Pool { .. });
        let layers: Vec<usize> = wanted.iter().copied().chain((0..deepest).filter(is_pool)).collect();
        let mut graph = Graph::new();
        let picture = graph.external("picture", Shape::map(3, size[0], size[1]));
        let found = network_graph::forward(&mut graph, network, picture, &layers, view)?;
        let shapes: HashMap<usize, Shape> =
            found.iter().map(|(layer, tensor)| (*layer, graph.shape(*tensor))).collect();
        let convolutions = network.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Conv(conv) => Some(conv.out_channels),
            _ => None,
        });
        // A map that is no larger than the first layer's map of a tile need not be tiled.
        let most = tile.saturating_mul(tile).saturating_mul(convolutions.take(1).sum());
        let trunk = Trunk::new(network, wanted, most, |layer| shapes.get(&layer).map(Shape::elements))?;
        let cut = trunk.cut.and_then(|cut| found.get(&cut)).and_then(|map| graph.tensor(*map).producer);
        let trunk_share = share_of_first(&graph, cut.map_or(graph.nodes().len(), |node| node + 1));
        let assembly = Self { trunk, tile, size, shapes, trunk_share, of_layers: Vec::new() };
        let [rows, columns] = assembly.spans();
        Ok((rows.len() * columns.len() > 1).then_some(assembly))
    }

    fn spans(&self) -> [Vec<Span>; 2] {
        self.size.map(|length| spans(length, self.tile, self.trunk.unit(), self.trunk.halo))
    }

    /// Returns the pixels that one pass computes in tiles, including halos, and those computed for the whole picture.
    /// Each is scaled to the equivalent number of pixels that pass through all layers.
    pub fn pixels(&self) -> [f64; 2] {
        let in_tiles = self.spans().map(|spans| spans.iter().map(|span| span.all.len() as f64).sum::<f64>());
        let of_picture = (self.size[0] * self.size[1]) as f64;
        [in_tiles[0] * in_tiles[1] * self.trunk_share, of_picture * (1.0 - self.trunk_share)]
    }

    /// True if a layer's map is computed in tiles.
    pub fn holds(&self, layer: usize) -> bool {
        self.trunk.holds(layer)
    }

    /// Appends the layers behind the trunk, and returns their activations.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn rest(
        &mut self,
        build: &mut Build<'_>,
        network: &Network,
        view: View,
        wanted: &[usize],
    ) -> Result<HashMap<usize, TensorId>> {
        let Some(cut) = self.trunk.cut else { return Ok(HashMap::new()) };
        let map = self.map(build, Some(cut), &network.layers[cut].name)?;
        let deeper: Vec<usize> = wanted.iter().copied().filter(|layer| *layer > cut).collect();
        let mut found =
            network_graph::forward_from(&mut build.graph, network, (cut + 1, map), &deeper, view)?;
        found.insert(cut, map);
        Ok(found)
    }

    /// Adds sums for the moments of a layer's map.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn moments(
        &mut self,
        build: &mut Build<'_>,
        layer: Option<usize>,
        statistic: &Arc<dyn Statistic>,
        label: &str,
    ) -> Result<Vec<TensorId>> {
        let mut graph = Graph::new();
        let map = graph.external("map", self.shape(layer));
        let moments = statistic.moments(&mut graph, map, label)?;
        self.add(build, layer, TileOutput::Moments(statistic.clone()), &graph.shapes(&moments), label)
    }

    /// Adds a sum for the distance of a layer's map from a target of the same shape.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn distance(
        &mut self,
        build: &mut Build<'_>,
        layer: Option<usize>,
        (statistic, target): (&Arc<dyn Statistic>, &Captured),
        label: &str,
    ) -> Result<TensorId> {
        let kind = TileOutput::Distance(statistic.clone(), target.clone());
        Ok(self.add(build, layer, kind, &[Shape::Vector(1)], label)?[0])
    }

    /// Adds a layer's map, assembled from the tiles.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn map(&mut self, build: &mut Build<'_>, layer: Option<usize>, label: &str) -> Result<TensorId> {
        Ok(self.add(build, layer, TileOutput::Map, &[self.shape(layer)], label)?[0])
    }

    /// Adds a layer's map in host memory, which serves as a target of tiles.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] of the host.
    pub fn target(&mut self, layer: Option<usize>, label: &str) -> Result<Captured> {
        let shape = self.shape(layer);
        let map = Arc::new(Mutex::new(HalfMap::zeros(label, shape)?));
        let kind = TileOutput::Target(map.clone());
        self.of_layers.push(LayerSums { layer, map: shape, kind, sums: Vec::new() });
        Ok(Captured { shape, place: TargetPlace::Host(map) })
    }

    fn add(
        &mut self,
        build: &mut Build<'_>,
        layer: Option<usize>,
        kind: TileOutput,
        shapes: &[Shape],
        label: &str,
    ) -> Result<Vec<TensorId>> {
        let mut sums = Vec::new();
        for shape in shapes {
            let (tensor, memory) = build.external(&format!("{label} of all tiles"), *shape)?;
            sums.push(Accumulator { tensor, memory, shape: *shape });
        }
        let tensors = sums.iter().map(|sum| sum.tensor).collect();
        let map = self.shape(layer);
        self.of_layers.push(LayerSums { layer, map, kind, sums });
        Ok(tensors)
    }

    /// Returns the shape of a layer's whole map, or of the picture.
    pub fn shape(&self, layer: Option<usize>) -> Shape {
        match layer {
            None => Shape::map(3, self.size[0], self.size[1]),
            // Callers ask only for layers that were given to `new`.
            Some(layer) => self.shapes.get(&layer).copied().unwrap_or(Shape::map(1, 1, 1)),
        }
    }

    /// Returns all sums.
    pub fn sums(&self) -> impl Iterator<Item = &Accumulator> {
        self.of_layers.iter().flat_map(|of_layer| &of_layer.sums)
    }

    /// Allocates memory for the gradients with respect to the sums, which the second pass reads.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn gradients(&self, build: &Build<'_>, activations: Activations) -> Result<TileGradients> {
        let sums =
            self.sums().map(|sum| build.memory("gradient of a sum", sum.shape)).collect::<Result<_>>()?;
        Ok(TileGradients { sums, activations })
    }

    /// Prepares both passes, or without `gradients` only the first one.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn prepare(&self, context: TileContext<'_>, gradients: Option<&TileGradients>) -> Result<TilePasses> {
        let [rows, columns] = self.spans();
        let pairs = || rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
        let lengths = |(row, column): (&Span, &Span)| {
            [row.all.len(), column.all.len(), row.own.len(), column.own.len()]
        };
        let mut sizes: Vec<[usize; 4]> = pairs().map(lengths).collect();
        let inputs = self.inputs(context, &sizes)?;
        // Largest first, since the first program allocates the shared workspace.
        sizes.sort_unstable_by_key(|[height, width, own @ ..]| Reverse((height * width, *own)));
        sizes.dedup();
        let mut workspace = Workspace::default();
        let program = |size: &[usize; 4]| {
            graph::program(&self.of_layers, context, gradients, &inputs, *size, &mut workspace)
        };
        let programs = sizes.iter().map(program).collect::<Result<Vec<TileProgram>>>()?;
        let mut tiles = Vec::new();
        for pair in pairs() {
            let program = sizes.iter().position(|size| *size == lengths(pair));
            tiles.extend(program.map(|program| self.tile(context.network, program, pair)));
        }
        let targets = self.of_layers.iter().filter_map(|of_layer| match &of_layer.kind {
            TileOutput::Distance(_, Captured { place: TargetPlace::Device(memory), .. }) => {
                Some(memory.bytes())
            }
            _ => None,
        });
        // The programs share their memory. Bound tensors are counted elsewhere, except for targets and inputs.
        let programs_use = programs.iter().map(|program| program.program.memory());
        let most = programs_use.fold(MemoryUse::default(), |most, program| most.combined(program, u64::max));
        let memory_use = MemoryUse { bound: targets.sum::<u64>() + inputs.bytes(), ..most };
        let is_added = |of_layer: &&LayerSums| {
            matches!(of_layer.kind, TileOutput::Moments(_) | TileOutput::Distance(..))
        };
        let added = self.of_layers.iter().filter(is_added).flat_map(|of_layer| &of_layer.sums);
        let zeroed = added.map(|sum| (sum.memory.clone(), sum.shape)).collect();
        let captured = self.of_layers.iter().filter_map(|of_layer| match &of_layer.kind {
            TileOutput::Target(map) => Some(map.clone()),
            _ => None,
        });
        Ok(TilePasses {
            engine: context.engine.clone(),
            programs,
            across: columns.len(),
            memory: memory_use,
            tiles,
            inputs,
            captured: captured.collect(),
            zeroed,
        })
    }

    /// Allocates the inputs of tiles of these sizes: rows and columns, then the tile's own rows and columns.
    fn inputs(&self, context: TileContext<'_>, sizes: &[[usize; 4]]) -> Result<Inputs> {
        let engine = context.engine;
        let most = |index: usize| sizes.iter().map(|size| size[index]).max().unwrap_or(1);
        let places = Shape::Vector(place_of(self.trunk.pools + 1, 0));
        let mut targets = Vec::new();
        for of_layer in &self.of_layers {
            if let TileOutput::Distance(_, Captured { shape, place: TargetPlace::Host(map) }) = &of_layer.kind
            {
                let whole = shape.expect_map("a target")?;
                let pools = of_layer.pools(context.network);
                let part = Shape::map(whole.channels, most(2) >> pools, most(3) >> pools);
                targets.push((map.clone(), engine.tensor("target of a tile", part)?));
            }
        }
        Ok(Inputs {
            tile: engine.tensor("tile", Shape::map(3, most(0), most(1)))?,
            places: (engine.tensor("places of a tile", places)?, places),
            targets,
        })
    }

    /// Creates a tile, with the positions that its program reads.
    fn tile(&self, network: &Network, program: usize, (row, column): (&Span, &Span)) -> Tile {
        let mut places = vec![row.all.start, column.all.start];
        for pools in 0..=self.trunk.pools {
            places.extend([row.offset_at(pools), column.offset_at(pools)]);
            places.extend([row.own_at(pools).start, column.own_at(pools).start]);
        }
        let own = |of_layer: &LayerSums| {
            let pools = of_layer.pools(network);
            [row.own_at(pools), column.own_at(pools)]
        };
        let of = |wanted: fn(&TileOutput) -> bool| {
            self.of_layers.iter().filter(|of_layer| wanted(&of_layer.kind)).map(own).collect()
        };
        Tile {
            program,
            all: [row.all.clone(), column.all.clone()],
            places: places.into_iter().map(|place| place as f32).collect(),
            targets: of(|kind| {
                matches!(kind, TileOutput::Distance(_, Captured { place: TargetPlace::Host(_), .. }))
            }),
            captured: of(|kind| matches!(kind, TileOutput::Target(_))),
        }
    }
}
