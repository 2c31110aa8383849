//! Layout of tiles in a picture and in each layer's map. Arithmetic only, without a device.
//!
//! The layers up to some layer, the *trunk*, are computed tile by tile. Padding at the edges of a tile spoils the
//! pixels of its maps near these edges. So a tile also covers the picture around it, its *halo*, and of each map only
//! the *own* part counts. The own parts of all tiles cover the whole map. A tile ends at the edge of the picture, where
//! its padding equals that of the whole picture.

use crate::error::{Error, Result};
use crate::vgg::{LayerKind, Network};
use std::ops::Range;

/// The part of a network that is computed in tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mirage) struct Trunk {
    /// Index of the pool whose map is assembled from the tiles. The layers after it are computed from the whole map.
    pub cut: Option<usize>,
    /// Number of pools in the trunk.
    pub pools: usize,
    /// Width of the halo in pixels; a multiple of [`Trunk::unit`].
    pub halo: usize,
}

impl Trunk {
    /// Finds the trunk for these layers. It ends at the first pool whose map has at most `most` values, provided that a
    /// wanted layer follows, and at the latest before the fully connected layers. `elements` returns the number of
    /// values of a layer's map.
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
        // Width of the spoiled edge of a map, in its own pixels, and the largest such width in pixels of the picture.
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
                        "only convolutions with stride 1 and pools of size 2 with stride 2 are supported",
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

    /// Returns the alignment of tiles, which makes the windows of all pools coincide with those of the whole picture.
    pub fn unit(&self) -> usize {
        1 << self.pools
    }

    /// True if a layer's map is computed in tiles, and not from the assembled one.
    pub fn holds(&self, layer: usize) -> bool {
        self.cut.is_none_or(|cut| layer < cut)
    }
}

fn untiled(layer: &str, message: &str) -> Error {
    Error::usage(format!(
        "the network can't be computed in tiles at layer {layer}: {message}. Leave out --tile"
    ))
}

/// Extent of a tile along one axis, in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mirage) struct Span {
    /// All pixels, including the halo.
    pub all: Range<usize>,
    /// The tile's own pixels.
    pub own: Range<usize>,
}

impl Span {
    /// Returns its own pixels in the whole map, after this many pools.
    pub fn own_at(&self, pools: usize) -> Range<usize> {
        self.own.start >> pools..self.own.end >> pools
    }

    /// Returns the offset of its own pixels in the tile's map, after this many pools.
    pub fn offset_at(&self, pools: usize) -> usize {
        (self.own.start - self.all.start) >> pools
    }
}

/// Returns the tiles along an axis of this length. Each has `tile` own pixels, rounded up to units; the last may have
/// fewer or a few more. Most have the same length, so that few programs serve all.
pub(in crate::mirage) fn spans(length: usize, tile: usize, unit: usize, halo: usize) -> Vec<Span> {
    let tile = tile.max(1).next_multiple_of(unit);
    let whole = tile + 2 * halo;
    // The remainder after whole units belongs to the last tile.
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
    fn own_parts_cover_the_map_and_have_halos() {
        for unit in [1, 4, 16] {
            for length in [unit, unit + 1, 67, 96, 131, 512] {
                if length < unit {
                    continue;
                }
                for tile in [1, 7, 32, 100, 1000] {
                    for halo in [0, unit, 3 * unit] {
                        let spans = spans(length, tile, unit, halo);
                        let case =
                            format!("length {length}, tile {tile}, unit {unit}, halo {halo}: {spans:?}");
                        let mut next = 0;
                        for span in &spans {
                            assert_eq!(span.own.start, next, "{case}");
                            next = span.own.end;
                            assert!(span.own.len() >= unit && span.all.end <= length, "{case}");
                            assert!(span.all.start % unit == 0, "{case}");
                            assert!(span.all.end == length || span.all.end % unit == 0, "{case}");
                            assert!(span.all.start == 0 || span.all.start + halo <= span.own.start, "{case}");
                            assert!(span.all.end == length || span.own.end + halo <= span.all.end, "{case}");
                        }
                        assert_eq!(next, length, "{case}");
                        // At every depth.
                        for pools in 0..=unit.ilog2() as usize {
                            let mut next = 0;
                            for span in &spans {
                                let own = span.own_at(pools);
                                assert_eq!(own.start, next, "{case}");
                                assert!(!own.is_empty(), "{case}");
                                assert!(
                                    span.offset_at(pools) + own.len() <= span.all.len() >> pools,
                                    "{case}"
                                );
                                next = own.end;
                            }
                            assert_eq!(next, length >> pools, "{case}");
                        }
                        let mut lengths: Vec<usize> = spans.iter().map(|span| span.all.len()).collect();
                        lengths.sort_unstable();
                        lengths.dedup();
                        assert!(lengths.len() <= 3, "{case}");
                    }
                }
            }
        }
    }
}
