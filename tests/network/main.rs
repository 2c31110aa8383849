//! Whole networks: a tiny one against PyTorch, the balance of the default one, tiling and recomputation.

mod agreement;
mod balance;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod goldens;
mod half;
mod large;
mod recompute;
mod tiles;
