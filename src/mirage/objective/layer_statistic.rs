//! A statistic with its layer, and the tensors captured from it.

use super::tiling::planes::HalfMap;
use crate::error::{Error, Result};
use crate::graph::Memory;
use crate::mirage::loss::Source;
use crate::mirage::statistic::Statistic;
use crate::ops::Shape;
use crate::vgg::Network;
use std::sync::{Arc, Mutex};

/// A statistic of a layer, or of the picture itself.
#[derive(Debug, Clone)]
pub(in crate::mirage) struct LayerStatistic {
    /// Index of the layer; `None` for the picture.
    pub layer: Option<usize>,
    pub statistic: Arc<dyn Statistic>,
}

impl LayerStatistic {
    /// Creates the statistic of a loss.
    ///
    /// # Errors
    /// If the network lacks the layer.
    pub fn new(network: &Network, source: &Source, statistic: &Arc<dyn Statistic>) -> Result<Self> {
        let layer = match source {
            Source::Picture => None,
            Source::Layer(name) => Some(network.index_of(name)?),
        };
        Ok(Self { layer, statistic: statistic.clone() })
    }

    /// Returns the name for labels.
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

/// Location of a captured tensor.
#[derive(Debug, Clone)]
pub(in crate::mirage) enum TargetPlace {
    /// In device memory.
    Device(Memory),
    /// In host memory: a large map, read only tile by tile.
    Host(Arc<Mutex<HalfMap>>),
}

impl Captured {
    /// Returns the tensor's device memory; `label` is used in errors.
    ///
    /// # Errors
    /// If it was captured in tiles, and so is in host memory.
    pub fn memory(&self, label: &str) -> Result<&Memory> {
        match &self.place {
            TargetPlace::Device(memory) => Ok(memory),
            TargetPlace::Host(_) => Err(Error::internal(
                label,
                "its target was captured in tiles, but its distance is not computed in tiles",
            )),
        }
    }
}
