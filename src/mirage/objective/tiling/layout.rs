//! Where tiles of a picture lie, and what of each layer's map belongs to a tile: arithmetic without a device.
//!
//! The layers up to some layer, the *trunk*, are computed tile by tile. A tile's maps are exact where no pixel of the
//! padding beyond its edges has reached: so a tile takes in more of the picture on each side, its *halo*, and of each map
//! only the *own* part counts. The own parts of all tiles make up the whole map. Where a tile touches the edge of the
//! picture it ends there, so its padding is that of the whole.

use crate::error::{Error, Result};
use crate::vgg::{LayerKind, Network};
use std::ops::Range;

/// The part of a network that is computed in tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mirage) struct Trunk {
    /// Index of a pool whose map is put together from the tiles': what follows is computed of the whole map.
    pub cut: Option<usize>,
    /// Pools in the trunk.
    pub pools: usize,
    /// Pixels around the own part of a tile that its maps depend on; a multiple of [`Trunk::unit`].
    pub halo: usize,
}

impl Trunk {
    /// The trunk for these layers. It ends at the first pool whose map has no more than `most` values, if a wanted layer
    /// comes after that pool, and at the latest before the fully connected layers. `elements` gives the values of a
    /// layer's map.
    ///
    /// # Errors
    /// [`Error::Usage`] for a network that can't be computed in tiles.
    pub fn new(
        network: &Network,
        wanted: &[usize],
        most: usize,
        elements: impl Fn(usize) -> Option<usize>,
    ) -> Result<Self> {
        let deepest = wanted.iter().copied().max().unwrap_or(0);
        let mut trunk = Self { cut: None, pools: 0, halo: 0 };
        // Pixels at the edge of a map, in its own pixels, that differ from those of the whole.
        let (mut spoiled, mut reach) = (0, 0);
        for (index, layer) in network.layers.iter().enumerate().take(deepest + 1) {
            match &layer.kind {
                LayerKind::Conv(conv) if conv.stride == [1, 1] => {
                    spoiled += conv.padding[0].max(conv.padding[1])
                }
                LayerKind::Pool { size: 2, stride: 2 } => {
                    spoiled = spoiled.div_ceil(2);
                    trunk.pools += 1;
                }
                LayerKind::Relu => {}
                LayerKind::AdaptivePool { .. } | LayerKind::Linear(_) => {
                    let message = "no pool comes before its fully connected layers";
                    return Err(untiled(&network.layers[index].name, message));
                }
                _ => {
                    return Err(untiled(
                        &layer.name,
                        "steps of 1 in convolutions and of 2 in pools are needed",
                    ));
                }
            }
            let next = network.layers.get(index + 1).map(|next| &next.kind);
            let last = matches!(next, Some(LayerKind::AdaptivePool { .. } | LayerKind::Linear(_)));
            let small = elements(index).is_some_and(|elements| elements <= most);
            let cut = matches!(layer.kind, LayerKind::Pool { .. }) && index <= deepest && (small || last);
            if cut || wanted.contains(&index) {
                reach = reach.max(spoiled << trunk.pools);
            }
            if cut {
                trunk.cut = Some(index);
                break;
            }
        }
        trunk.halo = reach.next_multiple_of(trunk.unit());
        Ok(trunk)
    }

    /// Tiles start at multiples of this, so that the windows of all pools are those of the whole picture.
    pub fn unit(&self) -> usize {
        1 << self.pools
    }

    /// True if a layer's map is computed in tiles, and not from the one that is put together.
    pub fn holds(&self, layer: usize) -> bool {
        self.cut.is_none_or(|cut| layer < cut)
    }
}

fn untiled(layer: &str, message: &str) -> Error {
    Error::usage(format!(
        "the network can't be computed in tiles at layer {layer}: {message}. Leave out --tile"
    ))
}

/// Pixels of a tile along one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mirage) struct Span {
    /// All of them.
    pub all: Range<usize>,
    /// Those that are its own.
    pub own: Range<usize>,
}

impl Span {
    /// Its own pixels of a map behind so many pools, in the whole map.
    pub fn own_at(&self, pools: usize) -> Range<usize> {
        self.own.start >> pools..self.own.end >> pools
    }

    /// Where these start in the tile's map.
    pub fn offset_at(&self, pools: usize) -> usize {
        (self.own.start - self.all.start) >> pools
    }
}

/// The tiles along an axis of this length: each with `tile` pixels of its own, rounded up to units, but for the last. Most
/// have the same length, so that few programs serve all.
pub(in crate::mirage) fn spans(length: usize, tile: usize, unit: usize, halo: usize) -> Vec<Span> {
    let tile = tile.max(1).next_multiple_of(unit);
    let whole = tile + 2 * halo;
    // What remains after whole units belongs to the last tile.
    let count = (length / unit * unit).div_ceil(tile).max(1);
    let span = |index: usize| {
        let own = index * tile..if index + 1 == count { length } else { (index + 1) * tile };
        let start = own.start.saturating_sub(halo);
        let end = own.end + halo;
        let all = if end >= length {
            start.min(length.saturating_sub(whole) / unit * unit)..length
        } else {
            start..end.max(start + whole).min(length)
        };
        Span { all, own }
    };
    (0..count).map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_parts_make_up_the_whole_and_halos_are_there() {
        for unit in [1, 4, 16] {
            for length in [unit, unit + 1, 67, 96, 131, 512] {
                if length < unit {
                    continue;
                }
                for tile in [1, 7, 32, 100, 1000] {
                    for halo in [0, unit, 3 * unit] {
                        let spans = spans(length, tile, unit, halo);
                        let what =
                            format!("length {length}, tile {tile}, unit {unit}, halo {halo}: {spans:?}");
                        let mut next = 0;
                        for span in &spans {
                            assert_eq!(span.own.start, next, "{what}");
                            next = span.own.end;
                            assert!(span.own.len() >= unit && span.all.end <= length, "{what}");
                            assert!(span.all.start % unit == 0, "{what}");
                            assert!(span.all.end == length || span.all.end % unit == 0, "{what}");
                            assert!(span.all.start == 0 || span.all.start + halo <= span.own.start, "{what}");
                            assert!(span.all.end == length || span.own.end + halo <= span.all.end, "{what}");
                        }
                        assert_eq!(next, length, "{what}");
                        // At every depth.
                        for pools in 0..=unit.ilog2() as usize {
                            let mut next = 0;
                            for span in &spans {
                                let own = span.own_at(pools);
                                assert_eq!(own.start, next, "{what}");
                                assert!(!own.is_empty(), "{what}");
                                assert!(
                                    span.offset_at(pools) + own.len() <= span.all.len() >> pools,
                                    "{what}"
                                );
                                next = own.end;
                            }
                            assert_eq!(next, length >> pools, "{what}");
                        }
                        let mut lengths: Vec<usize> = spans.iter().map(|span| span.all.len()).collect();
                        lengths.sort_unstable();
                        lengths.dedup();
                        assert!(lengths.len() <= 3, "{what}");
                    }
                }
            }
        }
    }
}
