//! Winograd products in shared-memory blocks read from buffers (`winograd_blocks.wgsl`): the buffer family.

use super::chunks::TileChunks;
use super::memory::Memory;
use super::tile::{BLOCK, TEXEL, WinogradTile};
use super::weights::{WinogradWeights, weights};
use crate::gpu::{Family, Profile};
use crate::ops::conv::filter::{Filter, Packing};
use crate::ops::{Dispatch, MapLayout};
use std::sync::Arc;

/// Bytes of the transformed values of one chunk of tiles. On a GPU each dispatch should fill the device: with 32 MiB
/// the products take about a thousand workgroups at any number of channels. A larger chunk would only cost more memory,
/// twice its size (input and output).
const CHUNK_BYTES: usize = 32 << 20;
/// The same on a CPU, equal to the texture family's.
const SOFTWARE_CHUNK_BYTES: usize = 8 << 20;

/// Bytes of a chunk on this device.
pub(super) fn chunk_bytes(device: &Profile) -> usize {
    if device.software { SOFTWARE_CHUNK_BYTES } else { CHUNK_BYTES }
}

/// A chunk is a multiple of this many tiles.
const UNIT: usize = 16;
/// With fewer tiles the direct convolution is preferred. Each transformed weight is then used so few times that reading
/// the weights (four times the bytes of the filter) takes longer than the multiplications that Winograd saves: at 20 to
/// 30 operations per byte, typical of GPUs, the two break even at 16 to 24 tiles. Calculated, not measured.
const ENOUGH_TILES: usize = 24;

/// Block sizes of a workgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    tiles: usize,
    channels: usize,
    /// Tiles and quads of channels per invocation.
    each: [usize; 2],
    /// Input quads per step.
    step: usize,
}

/// 64 sums per invocation, 12 KiB with two buffers.
const LARGE: Blocks = Blocks { tiles: 128, channels: 64, each: [8, 2], step: 2 };
/// For maps of few tiles or channels.
const SMALL: Blocks = Blocks { tiles: 64, channels: 32, each: [8, 1], step: 4 };
/// For the deepest maps, with hundreds of channels and a handful of tiles.
const FLAT: Blocks = Blocks { tiles: 16, channels: 128, each: [2, 2], step: 2 };
/// Number of shared-memory buffers.
const BUFFERS: usize = 2;

impl Blocks {
    pub fn choose(
        tile: WinogradTile,
        filter: &Filter,
        input: MapLayout,
        output: MapLayout,
        device: &Profile,
    ) -> Option<(Self, TileChunks)> {
        if !device.prefers(Family::Buffer) {
            return None;
        }
        let blocks = match (TileChunks::count(tile, output), output.channels) {
            (0..=32, 65..) => FLAT,
            (0..=64, _) | (_, 0..=32) => SMALL,
            _ => LARGE,
        };
        let quads = input.quads().max(output.quads());
        let chunks = TileChunks::cut(tile, output, quads, (UNIT, false), chunk_bytes(device), device)?;
        let op = WinogradWeights { tile, out_channels: filter.out_channels, in_channels: filter.in_channels };
        let groups = chunks.chunk.div_ceil(blocks.tiles).max(output.channels.div_ceil(blocks.channels));
        let fits = Packing::buffer(device).bytes(op.texels()) <= device.max_binding
            && groups <= device.max_groups as usize
            && blocks.invocations() <= device.max_invocations as usize
            && blocks.workgroup_bytes() <= device.max_workgroup_storage as usize;
        fits.then_some((blocks, chunks))
    }

    /// With one quad of input or output the products are too little work for the transforms; see also [`ENOUGH_TILES`].
    pub fn after_direct(chunks: &TileChunks, input: MapLayout, output: MapLayout) -> bool {
        input.quads().min(output.quads()) == 1 || TileChunks::count(chunks.tile, output) < ENOUGH_TILES
    }

    fn invocations(self) -> usize {
        self.tiles / self.each[0] * (self.channels / 4 / self.each[1])
    }

    fn workgroup_bytes(self) -> usize {
        BUFFERS * self.step * (self.tiles + self.channels) * TEXEL
    }

    /// Values and weights that an invocation loads per step.
    fn loads(self) -> [usize; 2] {
        [self.tiles, self.channels].map(|size| (self.step * size).div_ceil(self.invocations()))
    }

    /// Dispatch of a chunk's products; `maps` are input and output.
    pub fn products(
        &self,
        chunks: &TileChunks,
        filter: &Arc<Filter>,
        maps: [MapLayout; 2],
        adjoint: bool,
        device: &Profile,
    ) -> Dispatch {
        let [input, output] = maps;
        let [value_loads, weight_loads] = self.loads();
        Dispatch::new("winograd_blocks", "forward")
            .consts(&[
                ("TILES", self.tiles as u32),
                ("CHANNELS", self.channels as u32),
                ("EACH", self.each[0] as u32),
                ("QUADS", self.each[1] as u32),
                ("STEP", self.step as u32),
                ("BUFFERS", BUFFERS as u32),
                ("VALUE_LOADS", value_loads as u32),
                ("WEIGHT_LOADS", weight_loads as u32),
                ("ADJOINT", u32::from(adjoint)),
                ("HALF", u32::from(device.half_weights())),
            ])
            .bind("input", Memory::Buffers.transformed(chunks.bytes(input)))
            .bind("weights", weights(chunks.tile, filter, Packing::buffer(device)))
            .bind("output", Memory::Buffers.products(chunks.bytes(output)))
            .size("in_quads", input.quads())
            .size("out_quads", output.quads())
            .size("chunk", chunks.chunk)
            .size("input_stride", chunks.stride(input.quads()))
            .size("output_stride", chunks.stride(output.quads()))
            .size("weight_blocks", filter.out_channels.div_ceil(BLOCK))
            .size("weight_quads", filter.in_channels.div_ceil(4))
            .groups([
                chunks.chunk.div_ceil(self.tiles),
                output.channels.div_ceil(self.channels),
                chunks.tile.positions(),
            ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_fits_default_limits() {
        for blocks in [LARGE, SMALL, FLAT] {
            assert!(blocks.workgroup_bytes() <= 16 << 10, "{blocks:?}");
            assert!(blocks.invocations() <= 256 && blocks.invocations().is_multiple_of(32), "{blocks:?}");
            // All invocations load the same number of weights.
            assert!((blocks.step * blocks.channels).is_multiple_of(blocks.invocations()), "{blocks:?}");
        }
    }
}
