//! VGG-shaped networks: weights files and the topology derived from them.
//!
//! [`Network::open`] reads a safetensors file, recognises its naming scheme ([`KeyLayout`]), derives the
//! list of [`Layer`]s from names and shapes alone, and checks every shape. Weights stay in the file until a
//! layer's weights are read, so opening a network takes milliseconds whatever its size.
//!
//! Related modules: [`labels`] (class names and top-k), [`locate`] (finding the default network and downloaded
//! ones) and [`fetch`] (downloading the published full-size networks).

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
