//! Convolution with constant weights, bias, optional ReLU and optional max pool, and its adjoint with respect to the
//! input.

mod backward;
mod blocks;
mod border;
mod cases;
mod convolution;
mod coop_matrix;
mod cpu;
mod edges;
mod filter;
mod forward;
mod pool_indices;
pub(super) mod tiles;
pub(super) mod winograd;

pub use backward::ConvBackward;
pub(super) use cases::{backward_cases, cases};
pub use convolution::{Conv, GradientEpilogue, Padding};
pub use filter::Filter;
pub use winograd::{WinogradTile, WinogradWeights};
