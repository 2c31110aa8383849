//! The products on cooperative matrices (`matrix_products.wgsl`), for GPUs that have them. Between the transforms tiles are
//! columns of matrices: the transformed ones in f16, the products in f32.

use super::blocks::chunk_bytes;
use super::memory::Memory;
use super::passes::Passes;
use super::tile::WinogradTile;
use super::weights::{column_weights, row_bytes};
use crate::gpu::Profile;
use crate::ops::conv::filter::Filter;
use crate::ops::matrices::{Block, Product, is_whole};
use crate::ops::{Dispatch, MapLayout};
use std::sync::Arc;

/// The block, and the cut of the map, where a device has matrices that fit both maps' channels.
pub(super) fn choose(
    tile: WinogradTile,
    filter: &Filter,
    input: MapLayout,
    output: MapLayout,
    device: &Profile,
) -> Option<(Block, Passes)> {
    let block = Block::choose(device, Passes::count(tile, output), input.channels, output.channels)?;
    let quads = input.quads().max(output.quads());
    let passes = Passes::cut(tile, output, quads, (block.height(), false), chunk_bytes(device), device)?;
    let fits = row_bytes(tile, filter) <= device.max_binding
        && block.fits(&product(&passes, [input, output], false), device)
        && is_whole(input, device)
        && is_whole(output, device);
    fits.then_some((block, passes))
}

fn product(passes: &Passes, [input, output]: [MapLayout; 2], adjoint: bool) -> Product {
    Product {
        rows: passes.chunk,
        input_rows: passes.chunk,
        channels: [input.channels, output.channels],
        taps: 1,
        pitch: 0,
        positions: passes.tile.positions(),
        strides: [input, output].map(|map| passes.stride(map.quads()) * 4),
        adjoint,
    }
}

/// The products of a chunk; `maps` are input and output.
pub(super) fn products(
    block: Block,
    passes: &Passes,
    filter: &Arc<Filter>,
    maps: [MapLayout; 2],
    adjoint: bool,
) -> Dispatch {
    let memory = Memory::Rows { side: block.side() };
    let operands = [
        memory.transformed(passes.bytes(maps[0])),
        column_weights(passes.tile, filter, block.side()),
        memory.products(passes.bytes(maps[1])),
    ];
    block.products(&product(passes, maps, adjoint), operands)
}
