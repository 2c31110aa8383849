//! A Winograd convolution as a kernel: choice of tile sizes and families per device.

use super::blocks::Blocks;
use super::chunks::TileChunks;
use super::coop_matrix;
use super::memory::Memory;
use super::tile::{TEXEL, WinogradTile};
use super::tiles::Tiles;
use super::transforms::{Finish, Transforms};
use super::weights::WinogradWeights;
use crate::gpu::Profile;
use crate::ops::conv::filter::Filter;
use crate::ops::coop_matrix::Block;
use crate::ops::{Kernel, MapLayout, Operand};
use std::sync::Arc;

/// A Winograd convolution of one map on one device.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::conv) struct Winograd {
    chunks: TileChunks,
    products: Products,
}

/// Kernel for the products between the transforms.
#[derive(Debug, Clone, Copy)]
enum Products {
    Tiles(Tiles),
    Blocks(Blocks),
    CoopMatrix(Block),
}

impl Winograd {
    /// Candidates for a 3x3 convolution from `input` to `output` (maps of the same size) on this device, the preferred
    /// first. Empty if exactness is requested or the device prefers neither family. Cooperative-matrix candidates come
    /// last.
    pub fn choices(filter: &Filter, input: MapLayout, output: MapLayout, device: &Profile) -> Vec<Self> {
        if device.exact {
            return Vec::new();
        }
        let choose = |tile| {
            let op =
                WinogradWeights { tile, out_channels: filter.out_channels, in_channels: filter.in_channels };
            // The device makes the weights in a buffer and then copies them to a texture.
            let made = (op.texels() * TEXEL) as u64 <= device.max_binding;
            let textures = || made.then(|| Tiles::choose(tile, input, output, device)).flatten();
            let blocks = || Blocks::choose(tile, filter, input, output, device);
            textures().map(|(tiles, chunks)| Self { chunks, products: Products::Tiles(tiles) }).or_else(
                || blocks().map(|(blocks, chunks)| Self { chunks, products: Products::Blocks(blocks) }),
            )
        };
        let tiles = [WinogradTile::Four, WinogradTile::Two];
        let mut choices: Vec<Self> = tiles.into_iter().filter_map(choose).collect();
        // Never the preferred kernels: only tuning selects them.
        if !choices.is_empty() {
            choices.extend(tiles.into_iter().filter_map(|tile| {
                let (block, chunks) = coop_matrix::choose(tile, filter, input, output, device)?;
                Some(Self { chunks, products: Products::CoopMatrix(block) })
            }));
        }
        choices
    }

    /// True if the direct convolution should be preferred.
    pub fn after_direct(&self, input: MapLayout, output: MapLayout) -> bool {
        match self.products {
            Products::Tiles(_) => Tiles::after_direct(input, output),
            Products::Blocks(_) => Blocks::after_direct(&self.chunks, input, output),
            Products::CoopMatrix(_) => true,
        }
    }

    /// True if the kernel can pool its output and route the gradient of a pooled map ([`Finish::pool`],
    /// [`Finish::pool_indices`]).
    pub fn pools(&self) -> bool {
        self.chunks.tile.pools()
    }

    /// Number of scratch buffers of the kernel.
    pub fn scratch(&self) -> usize {
        self.memory().scratch([0; 2]).len()
    }

    fn memory(&self) -> Memory {
        match self.products {
            Products::Tiles(_) => Memory::Textures,
            Products::Blocks(_) => Memory::Buffers,
            Products::CoopMatrix(block) => Memory::Rows { side: block.side() },
        }
    }

    /// Kernel of `output = filter * input`, or with `adjoint` of the transposed filter. Both maps are those of the
    /// convolution itself, before any pool.
    pub fn kernel(
        &self,
        filter: &Arc<Filter>,
        input: (Operand, MapLayout),
        output: MapLayout,
        adjoint: bool,
        finish: &Finish,
        device: &Profile,
    ) -> Kernel {
        let Self { chunks, products } = *self;
        let maps = [input.1, output];
        let variant = match (products, chunks.tile) {
            (Products::Tiles(_), WinogradTile::Four) => "texture_winograd4",
            (Products::Tiles(_), WinogradTile::Two) => "texture_winograd2",
            (Products::Blocks(_), WinogradTile::Four) => "buffer_winograd4",
            (Products::Blocks(_), WinogradTile::Two) => "buffer_winograd2",
            (Products::CoopMatrix(_), WinogradTile::Four) => "buffer_winograd4_coop",
            (Products::CoopMatrix(_), WinogradTile::Two) => "buffer_winograd2_coop",
        };
        let products = match products {
            Products::Tiles(tiles) => tiles.products(&chunks, filter, maps, adjoint),
            Products::Blocks(blocks) => blocks.products(&chunks, filter, maps, adjoint, device),
            Products::CoopMatrix(block) => coop_matrix::products(block, &chunks, filter, maps, adjoint),
        };
        let scratch = self.memory().scratch(maps.map(|map| chunks.bytes(map)));
        let transforms = Transforms { chunks, memory: self.memory(), input, output, turned: adjoint, finish };
        Kernel { variant, dispatches: transforms.around(&products, device), scratch }
    }
}
