//! Where the maps and the transformed values lie, which is what the families differ in around the products.

use super::tile::TEXEL;
use crate::ops::coop_matrix::SCALE_BYTES;
use crate::ops::{MapLayout, Operand};

/// Where the transformed values lie between the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// In staging textures, into which the maps that are read are copied.
    Textures,
    /// In the kernel's scratch buffers. The maps are read where they are.
    Buffers,
    /// The same, as columns of cooperative matrices of this side, the transformed values in f16; two more scratch buffers
    /// are for their scale.
    Rows { side: usize },
}

/// Staging textures of [`Memory::Textures`].
const MAP: usize = 0;
const TRANSFORMED: usize = 1;
const PRODUCTS: usize = 2;
const POOL_INDICES: usize = 3;

impl Memory {
    /// The scratch buffers for the scale of `Rows`; the second holds it.
    pub const SCALE: [usize; 2] = [2, 3];

    /// The constants that say so to the shaders.
    pub fn consts(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Textures => vec![("TEXTURES", 1)],
            Self::Buffers => vec![("TEXTURES", 0)],
            Self::Rows { side } => vec![("TEXTURES", 0), ("ROWS", 1), ("ROW_QUADS", side as u32 / 4)],
        }
    }

    /// Of a variable's two forms in the shaders the name of the one that is bound.
    pub fn name(self, texture: &'static str, buffer: &'static str) -> &'static str {
        match self {
            Self::Textures => texture,
            Self::Buffers | Self::Rows { .. } => buffer,
        }
    }

    /// The operand of the transformed tiles, of this many bytes.
    pub fn transformed(self, bytes: u64) -> Operand {
        self.between(TRANSFORMED, 0, bytes)
    }

    /// The operand of the products, of this many bytes.
    pub fn products(self, bytes: u64) -> Operand {
        self.between(PRODUCTS, 1, bytes)
    }

    /// Bytes of the scratch buffers for these two, if they take so many in f32, and for the scale.
    pub fn scratch(self, [transformed, products]: [u64; 2]) -> Vec<u64> {
        match self {
            Self::Textures => Vec::new(),
            Self::Buffers => vec![transformed, products],
            Self::Rows { .. } => [transformed / 2, products].into_iter().chain(SCALE_BYTES).collect(),
        }
    }

    fn between(self, slot: usize, scratch: usize, bytes: u64) -> Operand {
        match self {
            Self::Textures => Operand::Texture { slot, bytes },
            Self::Buffers | Self::Rows { .. } => Operand::Scratch(scratch),
        }
    }

    /// A map that is read, `again` in chunks after the first.
    pub fn map(self, operand: &Operand, map: MapLayout, again: bool) -> Operand {
        self.read(operand, map, MAP, again)
    }

    /// The pool indices that are read, `again` in chunks after the first.
    pub fn pool_indices(self, operand: &Operand, map: MapLayout, again: bool) -> Operand {
        self.read(operand, map, POOL_INDICES, again)
    }

    /// A map goes to its texture once; the later chunks find it there.
    fn read(self, operand: &Operand, map: MapLayout, slot: usize, again: bool) -> Operand {
        match self {
            Self::Buffers | Self::Rows { .. } => operand.clone(),
            Self::Textures if again => Operand::Texture { slot, bytes: (map.texels() * TEXEL) as u64 },
            Self::Textures => operand.clone().staged_in(slot),
        }
    }
}
