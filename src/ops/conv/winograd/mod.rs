//! Winograd convolution (Lavin and Gray 2015): 3x3 kernels that keep the size, and their adjoint with the
//! same transformed weights.
//!
//! The filter is transformed once, on the device (`weights`, `winograd_filter.wgsl`). A convolution is then, for one
//! chunk of tiles after the other, the transform of the input, the products, and the transform of what they give
//! (`transforms`). The products are `winograd_tiles.wgsl` in the texture family (`tiles`), `winograd_blocks.wgsl` in
//! the buffer family (`blocks`), and there, on GPUs with cooperative matrices, `coop_products.wgsl` too (`matrices`).

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
