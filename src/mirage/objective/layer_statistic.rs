//! A statistic with the layer that it is taken of, and what is captured of it.

use super::tiling::planes::HalfMap;
use crate::error::{Error, Result};
use crate::graph::Memory;
use crate::mirage::loss::Source;
use crate::mirage::statistic::Statistic;
use crate::ops::Shape;
use crate::vgg::Network;
use std::sync::{Arc, Mutex};

/// The statistic of a layer, or of the picture itself, that is captured.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct LayerStatistic {
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

/// A captured tensor.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct Captured {
    pub shape: Shape,
    pub place: TargetPlace,
}

/// Where a captured tensor lies.
#[derive(Debug, Clone)]
pub(in crate::mirage) enum TargetPlace {
    /// On the device.
    Device(Memory),
    /// In the host's memory: a large map of which only tiles are ever taken.
    Host(Arc<Mutex<HalfMap>>),
}

impl Captured {
    /// Its memory on the device; `label` names it.
    ///
    /// # Errors
    /// If it is elsewhere, because it was captured in tiles.
    pub fn memory(&self, label: &str) -> Result<&Memory> {
        match &self.place {
            TargetPlace::Device(memory) => Ok(memory),
            TargetPlace::Host(_) => Err(Error::internal(
                label,
                "its target was captured in tiles, and it is not computed in tiles",
            )),
        }
    }
}
