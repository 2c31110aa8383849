//! Single optimisers and whole runs: against PyTorch, over several scales, paused, saved and resumed.

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
