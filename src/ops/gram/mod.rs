//! Gram matrix of a feature map, and its adjoint.

mod matrices;
mod op;
mod panel;
mod work;

pub use op::{Gram, GramBackward};
pub(super) use op::{backward_cases, cases};
