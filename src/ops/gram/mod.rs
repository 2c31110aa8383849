//! Gram matrix of a feature map, and its adjoint.

mod coop_matrix;
mod op;
mod panel;
mod work;

pub use op::{Gram, GramBackward};
pub(super) use op::{backward_cases, cases};
