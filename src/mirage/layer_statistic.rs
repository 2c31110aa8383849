//! A statistic with the layer that it is taken of, and what is captured of it.

use super::loss::Source;
use super::statistic::Statistic;
use crate::error::Result;
use crate::graph::Memory;
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
    /// True for a map that was put together from tiles in 16 bits a value ([`StoreHalves`](crate::ops::StoreHalves)), of
    /// which only tiles may be taken.
    pub halves: bool,
}
