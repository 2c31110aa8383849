//! Graphs become programs: memory, fusion, the lowered program, its sections and read-backs; and the layers of `src/`.

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
