//! VGG-shaped networks: what a weights file holds, and the topology derived from it.
//!
//! [`Network::open`] reads a safetensors file, recognises how its tensors are named ([`KeyLayout`]),
//! derives the list of [`Layer`]s from names and shapes alone, and checks every shape before it
//! returns. Weights stay in the file until a layer is asked for them, so opening a network
//! costs milliseconds whatever its size.
//!
//! Beside it: [`labels`] (class names and top-k), [`locate`] (which file to use when none is named)
//! and [`fetch`] (downloading the published full-size networks).

mod builder;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod labels;
mod layer;
mod layout;
pub mod locate;
mod network;
mod preprocessing;
mod published;
mod summary;
mod tensor;

pub use layer::{Conv, Layer, LayerKind, Linear, Matrix};
pub use layout::KeyLayout;
pub use network::Network;
pub use preprocessing::{Affine, Preprocessing, PreprocessingSource};
pub use tensor::{DType, Tensor};
