//! Kernels on their own: the comparator, shader variants, the ops' f64 references, and every kernel against them.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod comparator;
mod coop_matrix;
mod half_weights;
mod linear_chunks;
mod lost;
mod not_a_number;
mod quirks;
mod references;
mod tuning;
mod variants;
