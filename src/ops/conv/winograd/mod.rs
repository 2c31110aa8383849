//! Winograd convolution (Lavin and Gray 2015): 3x3 kernels that keep the size, and their adjoint with the
//! same transformed weights.
//!
//! `winograd.wgsl` has the transforms: of the filter (the op in `weights`), of the input and of the output
//! (`passes`). Between the latter come the products, `winograd_tiles.wgsl` in the texture family (`tiles`)
//! and `winograd_blocks.wgsl` in the buffer family (`blocks`).

mod blocks;
mod kernel;
mod passes;
mod tile;
mod tiles;
mod weights;

pub(super) use kernel::Winograd;
pub(super) use passes::Finish;
pub use tile::WinogradTile;
pub use weights::WinogradWeights;
pub(in crate::ops) use weights::cases;
