//! Winograd products on cooperative matrices (`coop_products.wgsl`), for GPUs that support them. Between the
//! transforms, tiles are columns of matrices: the transformed input in f16, the products in f32.

use super::blocks::chunk_bytes;
use super::chunks::TileChunks;
use super::memory::Memory;
use super::tile::WinogradTile;
use super::weights::{column_weights, row_bytes};
use crate::gpu::Profile;
use crate::ops::conv::filter::Filter;
use crate::ops::coop_matrix::{Block, Product, is_whole};
use crate::ops::{Dispatch, MapLayout};
use std::sync::Arc;

/// Chooses the block and the cut of the map, or `None` if the device has no matrices that fit both maps' channels.
pub(super) fn choose(
    tile: WinogradTile,
    filter: &Filter,
    input: MapLayout,
    output: MapLayout,
    device: &Profile,
) -> Option<(Block, TileChunks)> {
    let block = Block::choose(device, TileChunks::count(tile, output), input.channels, output.channels)?;
    let quads = input.quads().max(output.quads());
    let chunks = TileChunks::cut(tile, output, quads, (block.height(), false), chunk_bytes(device), device)?;
    let fits = row_bytes(tile, filter) <= device.max_binding
        && block.fits(&product(&chunks, [input, output], false), device)
        && is_whole(input, device)
        && is_whole(output, device);
    fits.then_some((block, chunks))
}

fn product(chunks: &TileChunks, [input, output]: [MapLayout; 2], adjoint: bool) -> Product {
    Product {
        rows: chunks.chunk,
        input_rows: chunks.chunk,
        channels: [input.channels, output.channels],
        taps: 1,
        pitch: 0,
        positions: chunks.tile.positions(),
        strides: [input, output].map(|map| chunks.stride(map.quads()) * 4),
        adjoint,
    }
}

/// Dispatch of a chunk's products; `maps` are input and output.
pub(super) fn products(
    block: Block,
    chunks: &TileChunks,
    filter: &Arc<Filter>,
    maps: [MapLayout; 2],
    adjoint: bool,
) -> Dispatch {
    let memory = Memory::Rows { side: block.side() };
    let operands = [
        memory.transformed(chunks.bytes(maps[0])),
        column_weights(chunks.tile, filter, block.side()),
        memory.products(chunks.bytes(maps[1])),
    ];
    block.products(&product(chunks, maps, adjoint), operands)
}
