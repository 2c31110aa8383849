//! Fully connected layers.

mod layer;
mod matrix;
mod native;
mod tiles;

pub use layer::{Linear, LinearBackward};
pub(super) use layer::{backward_cases, cases};
pub use matrix::{Matrix, MatrixValues, RowLoader};
