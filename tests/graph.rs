//! Prepared programs: as plain data, their sections and read-backs.

mod common;
#[path = "graph/layers.rs"]
mod layers;
#[path = "graph/lowered.rs"]
mod lowered;
#[path = "graph/readbacks.rs"]
mod readbacks;
