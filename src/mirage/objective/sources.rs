//! Inputs of losses: activations of the whole picture, or sums over its tiles.

use super::build::Build;
use super::layer_statistic::{Captured, LayerStatistic};
use super::tiling::assembly::Assembly;
use super::tiling::bands::NeighborLoss;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::mirage::network_graph::{self, View};
use crate::mirage::statistic::Decomposition;
use crate::ops::Shape;
use crate::vgg::Network;
use std::collections::HashMap;

/// Map targets with more values than this (64 MiB of f32) are kept in host memory, in 16 bits per value, if they are
/// computed in tiles.
const HALVES_FROM: usize = 16 << 20;

/// Activations in a graph, and the sums over tiles.
pub(in crate::mirage) struct Sources<'a> {
    network: &'a Network,
    picture: TensorId,
    activations: HashMap<usize, TensorId>,
    /// Sums over tiles, if the picture is tiled.
    pub assembly: Option<Assembly>,
    /// Losses of a tiled picture that are computed band by band.
    pub of_neighbors: Vec<NeighborLoss>,
    /// Summaries appended so far, by layer and statistic.
    summaries: HashMap<(Option<usize>, String), Vec<TensorId>>,
}

impl<'a> Sources<'a> {
    /// Appends these layers of a network for a picture. With `tile`, the first layers of a larger picture are left to
    /// tiles of this side.
    ///
    /// # Errors
    /// If the picture is too small for the deepest layer, or the network can't be computed in tiles.
    pub fn new(
        build: &mut Build<'_>,
        network: &'a Network,
        view: View,
        picture: TensorId,
        layers: &[usize],
        tile: Option<usize>,
    ) -> Result<Self> {
        let map = build.graph.shape(picture).expect_map("a picture")?;
        let size = [map.height, map.width];
        let mut assembly = match tile.filter(|_| !layers.is_empty()) {
            Some(tile) => Assembly::new(network, view, layers, size, tile)?,
            None => None,
        };
        let activations = match &mut assembly {
            Some(assembly) => assembly.rest(build, network, view, layers)?,
            None => network_graph::forward(&mut build.graph, network, picture, layers, view)?,
        };
        let of_neighbors = Vec::new();
        Ok(Self { network, picture, activations, assembly, of_neighbors, summaries: HashMap::new() })
    }

    /// Returns the activation of a layer; `None` if it is computed in tiles.
    pub fn activation(&self, layer: usize) -> Option<TensorId> {
        self.activations.get(&layer).copied()
    }

    /// Returns the tiles' assembly if the layer of this statistic is computed in tiles.
    fn in_tiles(&mut self, item: &LayerStatistic) -> Option<&mut Assembly> {
        self.assembly.as_mut().filter(|assembly| item.layer.is_none_or(|layer| assembly.holds(layer)))
    }

    /// Appends the summary of a statistic.
    ///
    /// # Errors
    /// [`Error::Usage`] if it can't be computed in tiles; otherwise if shapes don't match or the device fails.
    pub fn summary(&mut self, build: &mut Build<'_>, item: &LayerStatistic) -> Result<Vec<TensorId>> {
        let key = (item.layer, item.statistic.key());
        if let Some(summary) = self.summaries.get(&key) {
            return Ok(summary.clone());
        }
        let label = item.label(self.network);
        let statistic = &item.statistic;
        let summary = match (self.in_tiles(item), statistic.decomposition()) {
            (None, _) => {
                let activation = item.layer.and_then(|layer| self.activation(layer)).unwrap_or(self.picture);
                statistic.summary(&mut build.graph, activation, &label)?
            }
            (Some(assembly), Decomposition::Means) => {
                let moments = assembly.moments(build, item.layer, statistic, &label)?;
                statistic.of_moments(&mut build.graph, &moments, &label)?
            }
            (Some(assembly), Decomposition::Elements) => vec![assembly.map(build, item.layer, &label)?],
            (Some(_), Decomposition::Neighbors { .. } | Decomposition::Whole) => {
                return Err(Error::usage(format!(
                    "the statistic {} of {label} can't be computed in tiles: choose another, or leave out --tile",
                    statistic.name()
                )));
            }
        };
        self.summaries.insert(key, summary.clone());
        Ok(summary)
    }

    /// Creates the host memory for a target that is a large map, if it is computed in tiles.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] of the host.
    pub fn target_of_tiles(&mut self, item: &LayerStatistic) -> Result<Option<Captured>> {
        let label = item.label(self.network);
        let is_map = item.statistic.decomposition() == Decomposition::Elements;
        match self.in_tiles(item).filter(|_| is_map) {
            Some(assembly) if assembly.shape(item.layer).elements() > HALVES_FROM => {
                assembly.target(item.layer, &label).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Appends the distance of a statistic from a target; `label` names it.
    ///
    /// # Errors
    /// Same as [`Sources::summary`].
    pub fn distance(
        &mut self,
        build: &mut Build<'_>,
        item: &LayerStatistic,
        target: Vec<Captured>,
        label: &str,
    ) -> Result<TensorId> {
        if item.statistic.decomposition() == Decomposition::Elements
            && let Some(assembly) = self.in_tiles(item)
            && let [target] = &target[..]
        {
            return assembly.distance(build, item.layer, (&item.statistic, target), label);
        }
        if let Decomposition::Neighbors { .. } = item.statistic.decomposition()
            && item.layer.is_none()
            && self.assembly.is_some()
        {
            let (loss, memory) = build.external(label, Shape::Vector(1))?;
            let (term, statistic) = (build.losses().count(), item.statistic.clone());
            self.of_neighbors.push(NeighborLoss { term, statistic, memory });
            return Ok(loss);
        }
        let target = build.targets(&format!("target {}", item.label(self.network)), &target)?;
        let summary = self.summary(build, item)?;
        item.statistic.distance(&mut build.graph, &summary, &target, label)
    }
}
