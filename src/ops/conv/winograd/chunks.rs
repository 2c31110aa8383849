//! Cuts a map into Winograd tiles and the tiles into chunks, for both families.

use super::tile::{TEXEL, WinogradTile};
use crate::gpu::Profile;
use crate::ops::{Dispatch, MapLayout};
use std::ops::Range;

/// Extra texels between the positions of the transformed tiles.
const STRIDE_PADDING: usize = 16;

/// Tiles of a map, grouped in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileChunks {
    pub tile: WinogradTile,
    /// Tiles along both axes.
    tiles: [usize; 2],
    /// Tiles per chunk.
    pub chunk: usize,
    /// Tiles per run: the transformed values of one quad of a run are contiguous. A chunk is whole runs.
    pub run: usize,
}

impl TileChunks {
    /// Number of tiles of a map.
    pub fn count(tile: WinogradTile, map: MapLayout) -> usize {
        map.height.div_ceil(tile.side()) * map.width.div_ceil(tile.side())
    }

    /// Cuts maps of the size of `output` with up to `quads` quads into chunks of whole `unit`s of tiles. The
    /// transformed values of a chunk take at most `most` bytes unless one unit takes more. With `runs` each unit is a
    /// run, otherwise the whole chunk is. Returns `None` if a unit exceeds a binding, or if there are more positions
    /// than workgroups along one axis.
    pub fn cut(
        tile: WinogradTile,
        output: MapLayout,
        quads: usize,
        (unit, runs): (usize, bool),
        most: usize,
        device: &Profile,
    ) -> Option<Self> {
        let tiles = [output.height, output.width].map(|size| size.div_ceil(tile.side()));
        let units = Self::count(tile, output).div_ceil(unit);
        let of = |chunk: usize| {
            let run = if runs { unit } else { chunk };
            Self { tile, tiles, chunk, run }
        };
        let bytes = of(unit).bytes_of(quads);
        if bytes > device.max_binding || tile.positions() > device.max_groups as usize {
            return None;
        }
        let most = (most.min(device.max_binding as usize) / bytes as usize).max(1);
        // Chunks of equal size.
        Some(of(units.div_ceil(units.div_ceil(most)) * unit))
    }

    /// Texels from one position of the transformed tiles to the next. Padded, so that it is not a power of two: a
    /// transform accesses all positions of a tile together, and they must not map to the same cache set.
    pub fn stride(&self, quads: usize) -> usize {
        quads * self.chunk + STRIDE_PADDING
    }

    fn bytes_of(&self, quads: usize) -> u64 {
        (self.tile.positions() * self.stride(quads) * TEXEL) as u64
    }

    /// Bytes of the transformed values of one chunk of a map.
    pub fn bytes(&self, map: MapLayout) -> u64 {
        self.bytes_of(map.quads())
    }

    /// Index of the first tile of each chunk.
    pub fn chunks(&self) -> impl Iterator<Item = usize> {
        (0..self.tiles[0] * self.tiles[1]).step_by(self.chunk)
    }

    /// Dispatch of a transform over some quads of `map`, for the chunk that starts at tile `first`.
    pub fn transform(
        &self,
        shader: &'static str,
        entry: &'static str,
        map: MapLayout,
        quads: &Range<usize>,
        first: usize,
    ) -> Dispatch {
        Dispatch::new(shader, entry)
            .consts(&self.tile.consts())
            .size("height", map.height)
            .size("width", map.width)
            .size("quads", quads.len())
            .size("first_quad", quads.start)
            .size("stride", self.stride(map.quads()))
            .size("tiles", self.tiles[0] * self.tiles[1])
            .size("tiles_across", self.tiles[1])
            .size("first_tile", first)
            .size("chunk", self.chunk)
    }
}
