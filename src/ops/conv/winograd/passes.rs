//! What is around the products of a Winograd convolution, in both families: the cut into tiles and chunks, and
//! the transforms of input and output (`winograd.wgsl`).

use super::tile::{GROUP, TEXEL, WinogradTile};
use crate::gpu::Profile;
use crate::ops::conv::pool_indices::PoolIndices;
use crate::ops::conv::tiles;
use crate::ops::{Dispatch, MapLayout, Operand, window};
use std::ops::Range;

/// Texels between the positions of the transformed tiles.
const STRIDE_PADDING: usize = 16;

/// What is done to each value before it is stored, or as it is loaded.
#[derive(Debug, Clone, Default)]
pub(in crate::ops::conv) struct Finish {
    /// One value per output channel.
    pub bias: Option<Operand>,
    /// Rectify.
    pub relu: bool,
    /// Add the result to what the output holds ([`crate::ops::Op::overwrites`]).
    pub add: bool,
    /// Where this map is not positive, the result is zero; after the addition.
    pub mask: Option<Operand>,
    /// Of the rectified result the maxima of 2x2 windows are stored, and their pool indices in the saved output. There is
    /// no addition and no mask then.
    pub pool: bool,
    /// Pool indices by which the input is routed, which then is the gradient of a pooled map.
    pub pool_indices: Option<Operand>,
}

/// Where the transformed values lie between the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// In staging textures: the input map, its transformed tiles, their products.
    Textures {
        /// The map's.
        map: usize,
        /// The tiles'.
        transformed: usize,
        /// The products'.
        products: usize,
        /// The pool indices'.
        pool_indices: usize,
    },
    /// In the kernel's scratch buffers: transformed tiles, products. The map is read where it is.
    Buffers,
}

impl Memory {
    /// The operand of the transformed tiles, of so many bytes.
    pub fn transformed(self, bytes: u64) -> Operand {
        match self {
            Self::Textures { transformed, .. } => Operand::Texture { slot: transformed, bytes },
            Self::Buffers => Operand::Scratch(0),
        }
    }

    /// The operand of the products, of so many bytes.
    pub fn products(self, bytes: u64) -> Operand {
        match self {
            Self::Textures { products, .. } => Operand::Texture { slot: products, bytes },
            Self::Buffers => Operand::Scratch(1),
        }
    }
}

/// A map cut into tiles, and these into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passes {
    pub tile: WinogradTile,
    /// Tiles along both axes.
    tiles: [usize; 2],
    /// Tiles of a chunk.
    pub chunk: usize,
    /// Tiles of which the transformed values of one quad lie together; a chunk is whole runs.
    run: usize,
}

impl Passes {
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

    /// A dispatch of one of the passes over some quads of a map, of which `stored` is bound, and the chunk that
    /// starts with tile `first`.
    fn pass(
        &self,
        entry: &'static str,
        map: MapLayout,
        stored: MapLayout,
        quads: &Range<usize>,
        first: usize,
    ) -> Dispatch {
        let part = stored.part(quads);
        Dispatch::new("winograd", entry)
            .consts(&self.tile.consts())
            .size("height", map.height)
            .size("width", map.width)
            .size("quads", part.quads())
            .size("first_quad", quads.start)
            .size("stride", self.stride(map.quads()))
            .size("tiles", self.tiles[0] * self.tiles[1])
            .size("tiles_across", self.tiles[1])
            .size("first_tile", first)
            .size("chunk", self.chunk)
            .size("run", self.run)
            .size("texels", part.texels())
    }

    /// All dispatches: for each chunk the transform of the input, the products, and the transform of what
    /// they give; the zeros around the result. Maps in buffers larger than a binding come in windows.
    #[expect(clippy::too_many_arguments, reason = "the operands of a convolution and the two families")]
    pub fn dispatches(
        &self,
        memory: Memory,
        (operand, input): (Operand, MapLayout),
        output: MapLayout,
        products: &Dispatch,
        adjoint: bool,
        finish: &Finish,
        device: &Profile,
    ) -> Vec<Dispatch> {
        // What the passes write, and read: with pool indices, pooled maps.
        let results = if finish.pool {
            let indices = PoolIndices::of(output);
            vec![indices.pooled(), indices.layout()]
        } else {
            vec![output]
        };
        let windows = window::quads(&results, 1, device);
        let indices = PoolIndices::of(input);
        let (read, read_indices) = (indices.pooled(), indices.layout());
        let routed = finish.pool_indices.as_ref();
        let bias = finish.bias.clone().unwrap_or_else(|| tiles::no_bias(output.quads()));
        let mut dispatches = Vec::new();
        for first in (0..self.tiles[0] * self.tiles[1]).step_by(self.chunk) {
            let load = |entry, quads: &Range<usize>| {
                let stored = if routed.is_some() { read } else { input };
                let pass = self.pass(entry, input, stored, quads, first).form(adjoint, false);
                pass.linear(self.chunk * quads.len(), GROUP, device)
            };
            // A map goes to its texture once; the later chunks find it there.
            let texture = |operand: &Operand, map: MapLayout, slot| match first {
                0 => operand.clone().staged_in(slot),
                _ => Operand::Texture { slot, bytes: (map.texels() * TEXEL) as u64 },
            };
            let transformed = memory.transformed(self.bytes(input));
            match memory {
                Memory::Textures { map, pool_indices, .. } => {
                    let all = 0..input.quads();
                    let load = match routed {
                        None => load("input_tiles", &all).bind("input_map", texture(&operand, input, map)),
                        Some(found) => load("routed_tiles", &all)
                            .bind("input_map", texture(&operand, read, map))
                            .bind("codes_map", texture(found, read_indices, pool_indices)),
                    };
                    dispatches.push(load.bind("transformed", transformed));
                }
                Memory::Buffers if let Some(found) = routed => {
                    dispatches.extend(window::quads(&[read, read_indices], 1, device).iter().map(|quads| {
                        load("routed_tiles_buffer", quads)
                            .bind("input_values", operand.clone())
                            .bind("code_values", found.clone())
                            .bind("transformed_values", transformed.clone())
                            .narrow(&[("input_values", read), ("code_values", read_indices)], quads)
                    }));
                }
                Memory::Buffers => {
                    dispatches.extend(window::quads(&[input], 1, device).iter().map(|quads| {
                        load("input_tiles_buffer", quads)
                            .bind("input_values", operand.clone())
                            .bind("transformed_values", transformed.clone())
                            .narrow(&[("input_values", input)], quads)
                    }));
                }
            }
            dispatches.push(products.clone());
            let (entry, pooled_entry, variable) = match memory {
                Memory::Textures { .. } => ("output_tiles", "pooled_tiles", "products"),
                Memory::Buffers => ("output_tiles_buffer", "pooled_tiles_buffer", "product_values"),
            };
            if finish.pool {
                dispatches.extend(windows.iter().map(|quads| {
                    self.pass(pooled_entry, output, results[0], quads, first)
                        .form(adjoint, finish.relu)
                        .bind(variable, memory.products(self.bytes(output)))
                        .bind("output", Operand::Output)
                        .bind("codes", Operand::Saved)
                        .bind("bias", bias.clone())
                        .linear(self.chunk * quads.len(), GROUP, device)
                        .narrow(&[("output", results[0]), ("codes", results[1])], quads)
                }));
                continue;
            }
            dispatches.extend(windows.iter().map(|quads| {
                let maps = [("output", output)]
                    .into_iter()
                    .chain(finish.mask.is_some().then_some(("activation", output)));
                self.pass(entry, output, output, quads, first)
                    .form(adjoint, finish.relu)
                    .consts(&[("MASK", u32::from(finish.mask.is_some())), ("ADD", u32::from(finish.add))])
                    .bind(variable, memory.products(self.bytes(output)))
                    .bind("output", Operand::Output)
                    // What is not used is still part of the entry point: any readable memory will do.
                    .bind("activation", finish.mask.clone().unwrap_or_else(|| bias.clone()))
                    .bind("bias", bias.clone())
                    .linear(self.chunk * quads.len(), GROUP, device)
                    .narrow(&maps.collect::<Vec<_>>(), quads)
            }));
        }
        for (result, operand) in results.iter().zip([Operand::Output, Operand::Saved]) {
            dispatches.extend(windows.iter().map(|quads| {
                let texels = quads.len() * (result.pitch() + result.height) + result.pitch() + 1;
                self.pass("border", *result, *result, quads, 0)
                    .form(adjoint, finish.relu)
                    .bind("output", operand.clone())
                    .linear(texels, GROUP, device)
                    .narrow(&[("output", *result)], quads)
            }));
        }
        dispatches
    }
}

impl Dispatch {
    /// Whether tiles are turned, and what is stored rectified.
    fn form(self, turned: bool, relu: bool) -> Self {
        self.size("turned", usize::from(turned)).size("relu", usize::from(relu))
    }
}
