//! Whole networks: a tiny one against PyTorch, the default one's balance.

mod agreement;
mod balance;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod goldens;
mod large;
mod recompute;
mod tiles;
