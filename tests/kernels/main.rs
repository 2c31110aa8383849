//! Tests of single kernels: the comparators, shader variants, the f64 references of the ops, and every kernel against
//! them.

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
