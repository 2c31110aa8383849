//! What losses look at: activations of the whole picture, or what is put together from its tiles.

use super::build::Build;
use super::layer_statistic::{Captured, LayerStatistic};
use super::network_graph::{self, View};
use super::statistic::Decomposition;
use super::tiles::Assembly;
use crate::error::{Error, Result};
use crate::graph::TensorId;
use crate::ops::{Shape, StoreHalves};
use crate::vgg::Network;
use std::collections::HashMap;

/// A target that is a map with more values than this, 64 MiB, is kept in 16 bits each where it is computed in tiles.
const HALVES_FROM: usize = 16 << 20;

/// True for a map that is kept so.
fn is_large(map: Shape) -> bool {
    map.elements() > HALVES_FROM && StoreHalves::packed(map).is_ok()
}

/// The activations that a graph reads.
pub(super) struct Sources<'a> {
    network: &'a Network,
    picture: TensorId,
    activations: HashMap<usize, TensorId>,
    /// What comes from tiles.
    pub assembly: Option<Assembly>,
    /// Summaries that are there already, by layer and statistic.
    summaries: HashMap<(Option<usize>, String), Vec<TensorId>>,
}

impl<'a> Sources<'a> {
    /// Appends these layers of a network for a picture; with `tile` the first of them are left to tiles of this side, if
    /// the picture is larger.
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
        Ok(Self { network, picture, activations, assembly, summaries: HashMap::new() })
    }

    /// The activation of a layer; none if it is computed in tiles.
    pub fn activation(&self, layer: usize) -> Option<TensorId> {
        self.activations.get(&layer).copied()
    }

    /// The layer of a statistic and what is put together from tiles, if the layer is computed in tiles.
    fn in_tiles(&mut self, item: &LayerStatistic) -> Option<(usize, &mut Assembly)> {
        let layer = item.layer?;
        self.assembly.as_mut().filter(|assembly| assembly.holds(layer)).map(|assembly| (layer, assembly))
    }

    /// The summary of a statistic.
    ///
    /// # Errors
    /// [`Error::Usage`] if it can't be computed in tiles; else if its shapes do not fit or the device fails.
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
            (Some((layer, assembly)), Decomposition::Means) => {
                let moments = assembly.moments(build, layer, statistic, &label)?;
                statistic.of_moments(&mut build.graph, &moments, &label)?
            }
            (Some((layer, assembly)), Decomposition::Elements) => vec![assembly.map(build, layer, &label)?],
            (Some(_), Decomposition::Whole) => {
                return Err(Error::usage(format!(
                    "the statistic {} of {label} can't be computed in tiles: choose another, or leave out --tile",
                    statistic.name()
                )));
            }
        };
        self.summaries.insert(key, summary.clone());
        Ok(summary)
    }

    /// The target that is a large map, if it is computed in tiles: only tiles of it are ever taken, so it can be kept in 16
    /// bits a value.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn target_of_tiles(
        &mut self,
        build: &mut Build<'_>,
        item: &LayerStatistic,
    ) -> Result<Option<Captured>> {
        let label = item.label(self.network);
        let is_map = item.statistic.decomposition() == Decomposition::Elements;
        match self.in_tiles(item).filter(|_| is_map) {
            Some((layer, assembly)) if is_large(assembly.shape(layer)) => {
                assembly.target(build, layer, &label).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The distance of a statistic from a target, which `label` names.
    ///
    /// # Errors
    /// As [`Sources::summary`].
    pub fn distance(
        &mut self,
        build: &mut Build<'_>,
        item: &LayerStatistic,
        target: Vec<Captured>,
        label: &str,
    ) -> Result<TensorId> {
        if item.statistic.decomposition() == Decomposition::Elements
            && let Some((layer, assembly)) = self.in_tiles(item)
            && let [target] = &target[..]
        {
            return assembly.distance(build, layer, (&item.statistic, target), label);
        }
        if target.iter().any(|target| target.halves) {
            return Err(Error::gpu(
                label,
                "its target was captured in tiles, and it is not computed in tiles",
            ));
        }
        let summary = self.summary(build, item)?;
        let target = build.targets(&format!("target {}", item.label(self.network)), target);
        item.statistic.distance(&mut build.graph, &summary, &target, label)
    }
}
