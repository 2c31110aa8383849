//! Memory of the maps and the transformed values, which is where the families differ apart from the products.

use super::tile::TEXEL;
use crate::ops::coop_matrix::SCALE_BYTES;
use crate::ops::{MapLayout, Operand};

/// Memory of the transformed values between the dispatches of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Staging textures; input maps are copied to textures too.
    Textures,
    /// The kernel's scratch buffers; input maps are read in place.
    Buffers,
    /// Scratch buffers with columns of cooperative matrices of this side, the transformed values in f16; two more
    /// scratch buffers hold their scale.
    Rows { side: usize },
}

/// Slots of the staging textures of [`Memory::Textures`].
const MAP: usize = 0;
const TRANSFORMED: usize = 1;
const PRODUCTS: usize = 2;
const POOL_INDICES: usize = 3;

impl Memory {
    /// Scratch buffers for the scale of `Rows`; the result is in the second.
    pub const SCALE: [usize; 2] = [2, 3];

    /// Shader constants for this memory.
    pub fn consts(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Textures => vec![("TEXTURES", 1)],
            Self::Buffers => vec![("TEXTURES", 0)],
            Self::Rows { side } => vec![("TEXTURES", 0), ("ROWS", 1), ("ROW_QUADS", side as u32 / 4)],
        }
    }

    /// Name of the shader variable to bind, of its texture and buffer forms.
    pub fn name(self, texture: &'static str, buffer: &'static str) -> &'static str {
        match self {
            Self::Textures => texture,
            Self::Buffers | Self::Rows { .. } => buffer,
        }
    }

    /// Operand of the transformed tiles, `bytes` long.
    pub fn transformed(self, bytes: u64) -> Operand {
        self.between(TRANSFORMED, 0, bytes)
    }

    /// Operand of the products, `bytes` long.
    pub fn products(self, bytes: u64) -> Operand {
        self.between(PRODUCTS, 1, bytes)
    }

    /// Bytes of the scratch buffers: for the transformed tiles and the products, given their sizes in f32, and for the
    /// scale.
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

    /// Operand of an input map; `again` for the chunks after the first.
    pub fn map(self, operand: &Operand, map: MapLayout, again: bool) -> Operand {
        self.read(operand, map, MAP, again)
    }

    /// Operand of the pool indices; `again` for the chunks after the first.
    pub fn pool_indices(self, operand: &Operand, map: MapLayout, again: bool) -> Operand {
        self.read(operand, map, POOL_INDICES, again)
    }

    /// A map is copied to its texture once, and later chunks reuse it.
    fn read(self, operand: &Operand, map: MapLayout, slot: usize, again: bool) -> Operand {
        match self {
            Self::Buffers | Self::Rows { .. } => operand.clone(),
            Self::Textures if again => Operand::Texture { slot, bytes: (map.texels() * TEXEL) as u64 },
            Self::Textures => operand.clone().staged_in(slot),
        }
    }
}
