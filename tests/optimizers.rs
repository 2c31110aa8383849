//! Optimisers as parts: each in a graph of its own, against re-statements in f64 and on functions with known minima.

mod common;
#[path = "common/golden.rs"]
mod golden;
#[allow(dead_code, reason = "shared with other tests of the objective, which use the rest of it")]
#[path = "common/objective.rs"]
mod objective;

#[path = "optimizers/decay.rs"]
mod decay;
#[path = "optimizers/functions.rs"]
mod functions;
#[path = "optimizers/goldens.rs"]
mod goldens;
#[path = "optimizers/lbfgs.rs"]
mod lbfgs;
#[path = "optimizers/stepper.rs"]
mod stepper;
#[path = "optimizers/torch.rs"]
mod torch;
