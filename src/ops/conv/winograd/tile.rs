//! Sizes of Winograd tiles, and constants shared by the method's shaders.

/// Output channels per block of the transformed weights; as in the shaders.
pub(super) const BLOCK: usize = 32;
/// Bytes of a texel.
pub(super) const TEXEL: usize = 16;
/// Invocations per workgroup of the transforms; as in the shader.
pub(super) const GROUP: usize = 64;

/// Tile size of the output: F(4x4, 3x3) or F(2x2, 3x3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WinogradTile {
    /// 36 products per tile instead of 144.
    Four,
    /// 16 products per tile instead of 36; as accurate as the direct sum.
    Two,
}

impl WinogradTile {
    pub(super) fn side(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Two => 2,
        }
    }

    /// Number of positions of a transformed tile.
    pub(super) fn positions(self) -> usize {
        (self.side() + 2) * (self.side() + 2)
    }

    /// True if the transforms can pool a tile and route the gradient of a pooled tile.
    pub(super) fn pools(self) -> bool {
        self == Self::Four
    }

    pub(super) fn consts(self) -> [(&'static str, u32); 2] {
        [("TILE", self.side() as u32), ("SIDE", self.side() as u32 + 2)]
    }
}
