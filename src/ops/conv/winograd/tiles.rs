//! Winograd products in register tiles read from textures (`winograd_tiles.wgsl`): the texture family.

use super::chunks::TileChunks;
use super::memory::Memory;
use super::tile::{BLOCK, TEXEL, WinogradTile};
use super::weights::weights;
use crate::gpu::Profile;
use crate::ops::conv::filter::{Filter, Packing};
use crate::ops::conv::tiles;
use crate::ops::{Dispatch, MapLayout, TEXTURE_WIDTH};
use std::sync::Arc;

/// Largest size in bytes of the transformed values of one chunk, unless the smallest chunk is larger. Small enough for
/// the caches of a CPU (a chunk is written once and read a few times).
const CHUNK_BYTES: usize = 8 << 20;
/// Output channels per block for maps with few channels; 32 for others.
const SMALL_BLOCK: usize = 4;

/// Block sizes for one map on one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    lanes: usize,
    /// Runs of lanes per invocation.
    vectors: usize,
    channels: usize,
}

impl Tiles {
    pub fn choose(
        tile: WinogradTile,
        input: MapLayout,
        output: MapLayout,
        device: &Profile,
    ) -> Option<(Self, TileChunks)> {
        tiles::Tiles::choose(output, input.texels(), device)?;
        let lanes = device.lanes? as usize;
        // With few tiles, fewer runs per invocation, so that none are idle.
        let vectors = match TileChunks::count(tile, output).div_ceil(lanes) {
            0..=2 => 2,
            3..=4 => 4,
            _ => 8,
        };
        let quads = input.quads().max(output.quads());
        let chunks = TileChunks::cut(tile, output, quads, (vectors * lanes, true), CHUNK_BYTES, device)?;
        let rows = chunks.bytes(input).max(chunks.bytes(output)) / (TEXEL as u64 * u64::from(TEXTURE_WIDTH));
        let channels = if output.channels <= SMALL_BLOCK { SMALL_BLOCK } else { 32 };
        (rows < u64::from(device.max_texture_side)).then_some((Self { lanes, vectors, channels }, chunks))
    }

    /// True if the direct convolution should be preferred. With one quad of input the products are too little work for
    /// the transforms (lavapipe, 3 to 64 channels at 256 x 256: 21 ms with Winograd, 8 ms without). With two quads, or
    /// up to four in blocks of four output channels, lavapipe 22.3 recompiles the products in each dispatch, because it
    /// unrolls such short loops, and never frees the compiled code: 0.7 to 1 MB per iteration.
    pub fn after_direct(input: MapLayout, output: MapLayout) -> bool {
        input.quads() <= if output.channels <= SMALL_BLOCK { 4 } else { 2 }
    }

    /// Dispatch of a chunk's products; `maps` are input and output.
    pub fn products(
        &self,
        chunks: &TileChunks,
        filter: &Arc<Filter>,
        maps: [MapLayout; 2],
        adjoint: bool,
    ) -> Dispatch {
        let [input, output] = maps;
        Dispatch::new("winograd_tiles", "forward")
            .consts(&[
                ("LANES", self.lanes as u32),
                ("VECTORS", self.vectors as u32),
                ("CHANNELS", self.channels as u32),
                ("WEIGHT_QUADS", (self.channels / 4).div_ceil(self.lanes) as u32),
            ])
            .bind("input", Memory::Textures.transformed(chunks.bytes(input)))
            .bind("weights", weights(chunks.tile, filter, Packing::Texture))
            .bind("output", Memory::Textures.products(chunks.bytes(output)))
            .size("in_quads", input.quads())
            .size("out_quads", output.quads())
            .size("chunk", chunks.chunk)
            .size("input_stride", chunks.stride(input.quads()))
            .size("output_stride", chunks.stride(output.quads()))
            .size("weight_blocks", filter.out_channels.div_ceil(BLOCK))
            .size("weight_quads", filter.in_channels.div_ceil(4))
            .size("adjoint", usize::from(adjoint))
            .groups([
                chunks.chunk / (self.vectors * self.lanes),
                output.channels.div_ceil(self.channels),
                chunks.tile.positions(),
            ])
    }
}
