//! Winograd convolution (Lavin and Gray 2015): size-preserving 3x3 kernels, and their adjoint with the same transformed
//! weights.
//!
//! The filter is transformed once, on the device (`weights`, `winograd_filter.wgsl`). A convolution then runs, for each
//! chunk of tiles, the transform of the input, the products, and the transform of the products (`transforms`). The
//! products are `winograd_tiles.wgsl` in the texture family (`tiles`), `winograd_blocks.wgsl` in the buffer family
//! (`blocks`), and for GPUs with cooperative matrices also `coop_products.wgsl` (`coop_matrix`).

mod blocks;
mod chunks;
mod coop_matrix;
mod kernel;
mod memory;
mod tile;
mod tiles;
mod transforms;
mod weights;

pub(super) use kernel::Winograd;
pub use tile::WinogradTile;
pub(super) use transforms::Finish;
pub use weights::WinogradWeights;
pub(in crate::ops) use weights::cases;
