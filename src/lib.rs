//! neural-mirage: re-imagines a photograph through a VGG network, on any Vulkan, Metal or DX12
//! device, with hand-written WGSL compute kernels.
#![warn(missing_docs)]

pub mod cli;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod image_io;
pub mod mirage;
pub mod ops;
pub mod shader;
pub mod vgg;

pub use error::{Error, Result};
