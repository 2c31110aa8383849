//! Fully connected layers.

mod cpu;
mod layer;
mod matrix;
mod tiles;

pub use layer::{Linear, LinearBackward};
pub(super) use layer::{backward_cases, cases};
pub use matrix::{Matrix, MatrixValues, RowLoader};
