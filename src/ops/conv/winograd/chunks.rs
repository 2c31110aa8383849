//! The cut of a map into Winograd tiles and chunks of these, in both families.

use super::tile::{TEXEL, WinogradTile};
use crate::gpu::Profile;
use crate::ops::{Dispatch, MapLayout};
use std::ops::Range;

/// Texels between the positions of the transformed tiles.
const STRIDE_PADDING: usize = 16;

/// A map cut into tiles, and these into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileChunks {
    pub tile: WinogradTile,
    /// Tiles along both axes.
    tiles: [usize; 2],
    /// Tiles of a chunk.
    pub chunk: usize,
    /// Tiles of which the transformed values of one quad lie together; a chunk is whole runs.
    pub run: usize,
}

impl TileChunks {
    /// Number of tiles of a map.
    pub fn count(tile: WinogradTile, map: MapLayout) -> usize {
        map.height.div_ceil(tile.side()) * map.width.div_ceil(tile.side())
    }

    /// Cuts maps of the size of `output` with up to `quads` quads into chunks of whole `unit`s of tiles, the
    /// transformed values of which take no more than `most` bytes where the chunk is not the smallest there
    /// is. With `runs` a unit is a run, otherwise the chunk is. `None` if not even the smallest chunk fits a
    /// binding, or there are more positions than the device takes workgroups.
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

    /// Texels from one position of the transformed tiles to the next. Not a power of two: a transform
    /// touches all positions of a tile at once, and these must not fall into the same set of a cache.
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

    /// First tile of each chunk.
    pub fn chunks(&self) -> impl Iterator<Item = usize> {
        (0..self.tiles[0] * self.tiles[1]).step_by(self.chunk)
    }

    /// A dispatch of a transform over some quads of `map`, and the chunk that starts with tile `first`.
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
