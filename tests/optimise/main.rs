//! Optimisers, each in a graph of its own, and whole runs: against PyTorch, over scales, paused, saved and resumed.

mod adam;
#[path = "../common/mod.rs"]
mod common;
mod decay;
mod functions;
mod goldens;
mod lbfgs;
mod scales;
mod setbacks;
mod steering;
mod stepper;
mod torch;
mod trajectory;
mod weights;
