//! The forward and backward pass of a network's first layers, tile by tile, so that pictures need not fit on the device
//! with all their feature maps.
//!
//! The losses need of these layers only sums over pixels (moments, distances) and one small map. A first pass over all
//! tiles adds these up; losses and their gradients with respect to these sums are then computed once, as if the sums came
//! from outside; a second pass over all tiles takes each gradient back to the picture. So it is the gradient of the whole
//! picture to rounding, wherever tiles begin.

use super::build::Build;
use super::layer_statistic::Captured;
use super::network_graph::{self, View};
use super::statistic::Statistic;
use super::tile_layout::{Span, Trunk, spans};
use crate::error::{Error, Result};
use crate::graph::{
    Engine, Goals, Graph, Memory, MemoryUse, Program, Seeds, Submission, TensorId, Workspace,
};
use crate::ops::{Accumulate, Crop, LinearCombination, LoadHalves, Shape, StoreHalves};
use crate::vgg::{LayerKind, Network};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// Section that adds a tile's part to the sums.
const FORWARD: &str = "forward";
/// Section that adds a tile's part to the gradient of the picture.
const BACKWARD: &str = "backward";

/// What is put together from the tiles of a picture, while the graph that reads it is being built.
#[derive(Debug)]
pub(super) struct Assembly {
    trunk: Trunk,
    tile: usize,
    size: [usize; 2],
    /// The maps of layers for the whole picture.
    shapes: HashMap<usize, Shape>,
    of_layers: Vec<LayerSums>,
}

/// What is added up of one layer.
#[derive(Debug)]
struct LayerSums {
    layer: usize,
    kind: Kind,
    sums: Vec<Sum>,
}

#[derive(Debug)]
enum Kind {
    /// The moments of a statistic.
    Moments(Arc<dyn Statistic>),
    /// Its distance from a target.
    Distance(Arc<dyn Statistic>, Captured),
    /// The map itself.
    Map,
    /// The map in 16 bits a value, only as a target.
    Halves,
}

/// A tensor that tiles are added up in.
#[derive(Debug, Clone)]
pub(super) struct Sum {
    /// It in the graph that reads it.
    pub tensor: TensorId,
    pub memory: Memory,
    pub shape: Shape,
}

/// What tiles are computed of.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub engine: &'a Arc<Engine>,
    pub network: &'a Network,
    pub view: View,
    pub picture: &'a Memory,
}

/// Where a backward pass begins and ends.
pub(super) struct TileGradients {
    /// The gradients by the sums, in the order of [`Assembly::sums`].
    pub sums: Vec<Memory>,
    /// To which the gradient of the picture is added.
    pub picture: Memory,
    /// True to compute activations again in the backward pass where that saves memory.
    pub recompute: bool,
}

impl Assembly {
    /// Nothing yet, for these layers of a picture of this size in tiles with `tile` pixels a side; none if the picture is
    /// one tile.
    ///
    /// # Errors
    /// As [`Trunk::new`].
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
            found.into_iter().map(|(layer, tensor)| (layer, graph.shape(tensor))).collect();
        let convolutions = network.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Conv(conv) => Some(conv.out_channels),
            _ => None,
        });
        // A map that is no larger than one of a tile's need not be computed in tiles.
        let most = tile.saturating_mul(tile).saturating_mul(convolutions.take(1).sum());
        let trunk = Trunk::new(network, wanted, most, |layer| shapes.get(&layer).map(Shape::elements))?;
        let assembly = Self { trunk, tile, size, shapes, of_layers: Vec::new() };
        let [rows, columns] = assembly.spans();
        Ok((rows.len() * columns.len() > 1).then_some(assembly))
    }

    fn spans(&self) -> [Vec<Span>; 2] {
        self.size.map(|length| spans(length, self.tile, self.trunk.unit(), self.trunk.halo))
    }

    /// True if a layer's map is computed in tiles.
    pub fn holds(&self, layer: usize) -> bool {
        self.trunk.holds(layer)
    }

    /// The activations of those layers that are computed of the whole picture.
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
        let map = self.map(build, cut, &network.layers[cut].name)?;
        let deeper: Vec<usize> = wanted.iter().copied().filter(|layer| *layer > cut).collect();
        let mut found =
            network_graph::forward_from(&mut build.graph, network, (cut + 1, map), &deeper, view)?;
        found.insert(cut, map);
        Ok(found)
    }

    /// The moments of a layer's map.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn moments(
        &mut self,
        build: &mut Build<'_>,
        layer: usize,
        statistic: &Arc<dyn Statistic>,
        label: &str,
    ) -> Result<Vec<TensorId>> {
        let mut graph = Graph::new();
        let map = graph.external("map", self.shape(layer));
        let moments = statistic.moments(&mut graph, map, label)?;
        self.add(build, layer, Kind::Moments(statistic.clone()), &graph.shapes(&moments), label)
    }

    /// The distance of a layer's map from a target of the same shape.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn distance(
        &mut self,
        build: &mut Build<'_>,
        layer: usize,
        (statistic, target): (&Arc<dyn Statistic>, &Captured),
        label: &str,
    ) -> Result<TensorId> {
        let kind = Kind::Distance(statistic.clone(), target.clone());
        Ok(self.add(build, layer, kind, &[Shape::Vector(1)], label)?[0])
    }

    /// A layer's map.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn map(&mut self, build: &mut Build<'_>, layer: usize, label: &str) -> Result<TensorId> {
        Ok(self.add(build, layer, Kind::Map, &[self.shape(layer)], label)?[0])
    }

    /// A layer's map in 16 bits a value, to be a target of tiles.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn target(&mut self, build: &mut Build<'_>, layer: usize, label: &str) -> Result<Captured> {
        let shape = self.shape(layer);
        self.add(build, layer, Kind::Halves, &[StoreHalves::packed(shape)?], label)?;
        let memory = self.sums().last().map(|sum| sum.memory.clone());
        let memory = memory.ok_or_else(|| Error::gpu(label, "its target was not added"))?;
        Ok(Captured { shape, memory, halves: true })
    }

    fn add(
        &mut self,
        build: &mut Build<'_>,
        layer: usize,
        kind: Kind,
        shapes: &[Shape],
        label: &str,
    ) -> Result<Vec<TensorId>> {
        let mut sums = Vec::new();
        for shape in shapes {
            let (tensor, memory) = build.external(&format!("{label} of all tiles"), *shape)?;
            sums.push(Sum { tensor, memory, shape: *shape });
        }
        let tensors = sums.iter().map(|sum| sum.tensor).collect();
        self.of_layers.push(LayerSums { layer, kind, sums });
        Ok(tensors)
    }

    /// The whole map of a layer.
    pub fn shape(&self, layer: usize) -> Shape {
        // Only layers that `new` was given are asked for.
        self.shapes.get(&layer).copied().unwrap_or(Shape::map(1, 1, 1))
    }

    /// Pools up to a layer.
    fn pools(&self, network: &Network, layer: usize) -> usize {
        let until = network.layers[..=layer].iter();
        until.filter(|layer| matches!(layer.kind, LayerKind::Pool { .. })).count()
    }

    /// All sums.
    pub fn sums(&self) -> impl Iterator<Item = &Sum> {
        self.of_layers.iter().flat_map(|of_layer| &of_layer.sums)
    }

    /// Memory for the gradients that the second pass reads and adds up.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn gradients(&self, build: &Build<'_>, picture: Shape, recompute: bool) -> Result<TileGradients> {
        let sums =
            self.sums().map(|sum| build.memory("gradient by a sum", sum.shape)).collect::<Result<_>>()?;
        Ok(TileGradients { sums, picture: build.memory("gradient", picture)?, recompute })
    }

    /// Prepares both passes, or without `gradients` only the first.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn prepare(&self, subject: Subject<'_>, gradients: Option<&TileGradients>) -> Result<Tiles> {
        let places = Shape::Vector(place_of(self.trunk.pools + 1, 0));
        let memory = subject.engine.tensor("places of a tile", places)?;
        let [rows, columns] = self.spans();
        let pairs = || rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
        let lengths = |(row, column): (&Span, &Span)| {
            [row.all.len(), column.all.len(), row.own.len(), column.own.len()]
        };
        let mut sizes: Vec<[usize; 4]> = pairs().map(lengths).collect();
        // The largest first, for the workspace.
        sizes.sort_unstable_by_key(|[height, width, own @ ..]| Reverse((height * width, *own)));
        sizes.dedup();
        let mut workspace = Workspace::default();
        let program =
            |size: &[usize; 4]| self.program(subject, gradients, (&memory, places), *size, &mut workspace);
        let programs = sizes.iter().map(program).collect::<Result<Vec<Program>>>()?;
        let mut tiles = Vec::new();
        for pair in pairs() {
            let program = sizes.iter().position(|size| *size == lengths(pair));
            tiles.extend(program.map(|program| (program, self.places(pair.0, pair.1))));
        }
        let targets = self.of_layers.iter().filter_map(|of_layer| match &of_layer.kind {
            Kind::Distance(_, target) => Some(target.memory.bytes()),
            _ => None,
        });
        // The programs share their memory; what is bound to them counts elsewhere, but for targets.
        let programs_use = programs.iter().map(Program::memory);
        let most = programs_use.fold(MemoryUse::default(), |most, program| most.combined(program, u64::max));
        let memory_use = MemoryUse { bound: targets.sum(), ..most };
        let is_map = |of_layer: &&LayerSums| matches!(of_layer.kind, Kind::Map | Kind::Halves);
        let added = self.of_layers.iter().filter(|of_layer| !is_map(of_layer));
        let zeroed =
            added.flat_map(|of_layer| &of_layer.sums).map(|sum| (sum.memory.clone(), sum.shape)).collect();
        Ok(Tiles {
            engine: subject.engine.clone(),
            programs,
            memory: memory_use,
            tiles,
            places: (memory, places),
            zeroed,
        })
    }

    /// Where a tile is, and its own part of each map: see [`place_of`].
    fn places(&self, row: &Span, column: &Span) -> Vec<f32> {
        let mut places = vec![row.all.start, column.all.start];
        for pools in 0..=self.trunk.pools {
            places.extend([row.offset_at(pools), column.offset_at(pools)]);
            places.extend([row.own_at(pools).start, column.own_at(pools).start]);
        }
        places.into_iter().map(|place| place as f32).collect()
    }

    /// The program of all tiles with these sizes: rows and columns, then of those its own.
    fn program(
        &self,
        subject: Subject<'_>,
        gradients: Option<&TileGradients>,
        places: (&Memory, Shape),
        [height, width, own_height, own_width]: [usize; 4],
        workspace: &mut Workspace,
    ) -> Result<Program> {
        let mut build = Build::new(subject.engine);
        let whole = Shape::map(3, self.size[0], self.size[1]);
        let picture = build.alias("picture", subject.picture, whole);
        let places = build.alias("places", places.0, places.1);
        let tile = build.graph.apply(Crop { size: [height, width], at: 0 }, &[picture, places], "tile")?;
        let layers: Vec<usize> = self.of_layers.iter().map(|of_layer| of_layer.layer).collect();
        let activations =
            network_graph::forward(&mut build.graph, subject.network, tile, &layers, subject.view)?;
        let mut own_maps: HashMap<usize, TensorId> = HashMap::new();
        let (mut added, mut seeds) = (Vec::new(), Vec::new());
        let mut of_sums = gradients.iter().flat_map(|gradients| &gradients.sums);
        for of_layer in &self.of_layers {
            let name = subject.network.layers[of_layer.layer].name.as_str();
            let pools = self.pools(subject.network, of_layer.layer);
            let size = [own_height >> pools, own_width >> pools];
            let own = match own_maps.get(&of_layer.layer) {
                Some(own) => *own,
                None => {
                    let crop = Crop { size, at: place_of(pools, 0) };
                    build.graph.apply(
                        crop,
                        &[activations[&of_layer.layer], places],
                        format!("{name} of its own"),
                    )?
                }
            };
            own_maps.insert(of_layer.layer, own);
            let layout = self.shape(of_layer.layer).expect_map("a layer in tiles")?;
            let share = (size[0] * size[1]) as f32 / layout.pixels() as f32;
            let at = place_of(pools, 1);
            let values = match &of_layer.kind {
                Kind::Moments(statistic) => statistic.moments(&mut build.graph, own, name)?,
                Kind::Distance(statistic, target) => {
                    let label = format!("target {name}");
                    let target = if target.halves {
                        let all = build.alias("target", &target.memory, StoreHalves::packed(target.shape)?);
                        let load = LoadHalves { channels: layout.channels, size, at };
                        build.graph.apply(load, &[all, places], label)?
                    } else {
                        let all = build.alias("target", &target.memory, target.shape);
                        build.graph.apply(Crop { size, at }, &[all, places], label)?
                    };
                    vec![statistic.distance(&mut build.graph, &[own], &[target], name)?]
                }
                Kind::Map | Kind::Halves => vec![own],
            };
            for (value, sum) in values.into_iter().zip(&of_layer.sums) {
                let all = build.alias(name, &sum.memory, sum.shape);
                let gradient = of_sums.next().map(|memory| build.alias("gradient", memory, sum.shape));
                let label = format!("{name} added");
                added.push(match of_layer.kind {
                    Kind::Map => {
                        let put = Accumulate { factor: 1.0, at: Some(at), replace: true };
                        build.graph.apply(put, &[all, value, places], label)?
                    }
                    Kind::Halves => build.graph.apply(StoreHalves { at }, &[all, value, places], label)?,
                    Kind::Moments(_) | Kind::Distance(..) => {
                        let add = Accumulate { factor: share, at: None, replace: false };
                        build.graph.apply(add, &[all, value], label)?
                    }
                });
                let Some(gradient) = gradient else { continue };
                let label = format!("gradient of {name}");
                let seed = match of_layer.kind {
                    Kind::Map => build.graph.apply(Crop { size, at }, &[gradient, places], label)?,
                    _ => build.graph.apply(LinearCombination::scale(share), &[gradient], label)?,
                };
                seeds.push((value, seed));
            }
        }
        let mut goals = Goals::default().section(FORWARD, added);
        if let Some(gradients) = gradients {
            let sums: [(&str, &Seeds); 1] = [("", &seeds)];
            let mut found = build.differentiate(&sums, &[tile], gradients.recompute)?;
            let gradient = found.pop().and_then(|mut by| by.pop());
            let mut done = Vec::new();
            if let Some(gradient) = gradient.flatten() {
                let all = build.alias("gradient", &gradients.picture, whole);
                let add = Accumulate { factor: 1.0, at: Some(0), replace: false };
                done.push(build.graph.apply(add, &[all, gradient, places], "gradient added")?);
            }
            goals = goals.section(BACKWARD, done);
        }
        build.graph.fuse(&build.bound.keys().copied().collect());
        Program::prepare_in(subject.engine, &build.graph, &build.bound, &goals, workspace)
    }
}

/// Index of a place behind so many pools: of a tile's own part in its map (0), or in the whole map (1). Before them lies
/// that of the tile in the picture.
fn place_of(pools: usize, which: usize) -> usize {
    2 + 4 * pools + 2 * which
}

/// Both passes over the tiles of a picture.
#[derive(Debug)]
pub(super) struct Tiles {
    engine: Arc<Engine>,
    /// One for all tiles of the same size.
    programs: Vec<Program>,
    memory: MemoryUse,
    /// The program of each tile, and its places.
    tiles: Vec<(usize, Vec<f32>)>,
    places: (Memory, Shape),
    /// The sums that begin at zero.
    zeroed: Vec<(Memory, Shape)>,
}

impl Tiles {
    /// Puts the sums together for the present picture. Waits for nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward(&self) -> Result<Option<Submission>> {
        for (memory, shape) in &self.zeroed {
            self.engine.write(memory, *shape, &vec![0.0; shape.elements()])?;
        }
        self.each(FORWARD)
    }

    /// Adds the gradient of the picture, given the gradients by the sums. Waits for nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(&self) -> Result<Option<Submission>> {
        self.each(BACKWARD)
    }

    fn each(&self, section: &str) -> Result<Option<Submission>> {
        let mut last = None;
        for (program, places) in &self.tiles {
            self.engine.write(&self.places.0, self.places.1, places)?;
            last = Some(self.programs[*program].submit(&[section], &[], "a tile")?);
        }
        Ok(last)
    }

    /// Device memory in use, besides picture, sums and gradients: the programs share it.
    pub fn memory(&self) -> MemoryUse {
        self.memory
    }
}
