//! Gradients: the adjoint of every op and the gradient of every statistic, against finite differences and PyTorch.

mod adjoints;
#[path = "../common/mod.rs"]
mod common;
mod statistics;
