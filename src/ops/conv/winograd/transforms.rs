//! Transforms of the input and of the products (`winograd_input.wgsl`, `winograd_output.wgsl`), in both families.

use super::chunks::TileChunks;
use super::memory::Memory;
use super::tile::GROUP;
use crate::gpu::Profile;
use crate::ops::conv::pool_indices::PoolIndices;
use crate::ops::conv::{border, tiles};
use crate::ops::{Dispatch, MapLayout, Operand, coop_matrix, window};
use std::ops::Range;

/// Epilogue, and routing of the input.
#[derive(Debug, Clone, Default)]
pub(in crate::ops::conv) struct Finish {
    /// One value per output channel.
    pub bias: Option<Operand>,
    /// True to apply a ReLU.
    pub relu: bool,
    /// True to add the output's previous values ([`crate::ops::Op::overwrites`]).
    pub add: bool,
    /// Map that zeroes the result where it is not positive; applied after the addition.
    pub mask: Option<Operand>,
    /// True to store the maxima of 2x2 windows of the rectified result, and their pool indices in the saved output.
    /// Excludes `add` and `mask`.
    pub pool: bool,
    /// Pool indices to route the input by; the input is then the gradient of a pooled map.
    pub pool_indices: Option<Operand>,
}

/// One convolution, or its adjoint, for the transforms.
pub(super) struct Transforms<'a> {
    pub chunks: TileChunks,
    pub memory: Memory,
    /// Operand and layout of the transformed map. With pool indices, the operand is the gradient of the pooled map.
    pub input: (Operand, MapLayout),
    /// The resulting map, before a pool.
    pub output: MapLayout,
    /// True for the adjoint.
    pub turned: bool,
    pub finish: &'a Finish,
}

impl Transforms<'_> {
    /// All dispatches: for each chunk the transform of the input, the products, and the transform of the products; then
    /// the zero border of the result.
    pub fn around(&self, products: &Dispatch, device: &Profile) -> Vec<Dispatch> {
        let mut dispatches = Vec::new();
        if matches!(self.memory, Memory::Rows { .. }) {
            dispatches.extend(coop_matrix::scale(self.read(), &self.input.0, Memory::SCALE, device));
        }
        for first in self.chunks.chunks() {
            dispatches.extend(self.load(first, device));
            dispatches.push(products.clone());
            dispatches.extend(self.store(first, device));
        }
        let results = self.results().into_iter().zip([Operand::Output, Operand::Saved]);
        dispatches.extend(results.flat_map(|(map, operand)| border::clear(map, &operand, device)));
        dispatches
    }

    /// Layout of the map that is read: the input, or the gradient of the pooled map.
    fn read(&self) -> MapLayout {
        let input = self.input.1;
        if self.finish.pool_indices.is_some() { PoolIndices::of(input).pooled() } else { input }
    }

    /// Layouts of the maps that are written: the output, or the pooled map and its indices.
    fn results(&self) -> Vec<MapLayout> {
        let indices = PoolIndices::of(self.output);
        if self.finish.pool { vec![indices.pooled(), indices.layout()] } else { vec![self.output] }
    }

    /// Transforms one chunk of the input, in windows for buffers larger than a binding.
    fn load(&self, first: usize, device: &Profile) -> Vec<Dispatch> {
        let Self { chunks, memory, .. } = self;
        let (operand, input) = &self.input;
        let indices = PoolIndices::of(*input);
        let routed = self.finish.pool_indices.as_ref();
        let entry = if routed.is_some() { "transform_routed" } else { "transform" };
        let map = self.read();
        let mut maps = vec![("map_buffer", map)];
        maps.extend(routed.map(|_| ("indices_buffer", indices.layout())));
        let layouts: Vec<MapLayout> = maps.iter().map(|(_, layout)| *layout).collect();
        let windows = match memory {
            Memory::Textures => std::iter::once(0..input.quads()).collect(),
            Memory::Buffers | Memory::Rows { .. } => window::quads(&layouts, 1, device),
        };
        let part = |quads: Range<usize>| {
            let dispatch = chunks
                .transform("winograd_input", entry, *input, &quads, first)
                .consts(&memory.consts())
                .size("run", chunks.run)
                .size("texels", map.part(&quads).texels())
                .size("turned", usize::from(self.turned))
                .bind(memory.name("map_texture", "map_buffer"), memory.map(operand, map, first > 0))
                .bind(
                    match memory {
                        Memory::Rows { .. } => "transformed_rows",
                        _ => memory.name("transformed_texture", "transformed_buffer"),
                    },
                    memory.transformed(chunks.bytes(*input)),
                );
            let dispatch = self.scaled(dispatch);
            let dispatch = match routed {
                None => dispatch,
                Some(found) => dispatch.bind(
                    memory.name("indices_texture", "indices_buffer"),
                    memory.pool_indices(found, indices.layout(), first > 0),
                ),
            };
            dispatch.linear(chunks.chunk * quads.len(), GROUP, device).narrow(&maps, &quads)
        };
        windows.into_iter().map(part).collect()
    }

    /// Binds the scale if the transformed values are f16 rows.
    fn scaled(&self, dispatch: Dispatch) -> Dispatch {
        match self.memory {
            Memory::Rows { .. } => dispatch.bind("scales", Operand::Scratch(Memory::SCALE[1])),
            Memory::Textures | Memory::Buffers => dispatch,
        }
    }

    /// Transforms one chunk of products.
    fn store(&self, first: usize, device: &Profile) -> Vec<Dispatch> {
        let Self { chunks, memory, output, finish, .. } = self;
        let results = self.results();
        let entry = if finish.pool { "transform_pooled" } else { "transform" };
        let bias = finish.bias.clone().unwrap_or_else(|| tiles::no_bias(output.quads()));
        let mut maps = vec![("output", results[0]), ("activation", *output)];
        maps.extend(results.get(1).map(|indices| ("indices", *indices)));
        let part = |quads: Range<usize>| {
            let mut dispatch = chunks
                .transform("winograd_output", entry, *output, &quads, first)
                .consts(&memory.consts())
                .size("turned", usize::from(self.turned))
                .size("relu", usize::from(finish.relu))
                .bind(
                    memory.name("products_texture", "products_buffer"),
                    memory.products(chunks.bytes(*output)),
                )
                .bind("bias", bias.clone())
                .bind("output", Operand::Output);
            dispatch = self.scaled(dispatch);
            if finish.pool {
                dispatch = dispatch.bind("indices", Operand::Saved);
            } else {
                dispatch = dispatch
                    .consts(&[("MASK", u32::from(finish.mask.is_some())), ("ADD", u32::from(finish.add))]);
            }
            if let Some(mask) = &finish.mask {
                dispatch = dispatch.bind("activation", mask.clone());
            }
            dispatch.linear(chunks.chunk * quads.len(), GROUP, device).narrow(&maps, &quads)
        };
        window::quads(&results, 1, device).into_iter().map(part).collect()
    }
}
