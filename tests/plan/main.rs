//! Compiling graphs to programs: memory, fusion, lowering, sections and read-backs. Also the layering of `src/`.

#[path = "../common/mod.rs"]
mod common;
mod dependencies;
mod fusion;
mod layers;
mod lowered;
mod memory;
mod readbacks;
mod shaders;
mod submissions;
