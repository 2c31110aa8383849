//! Graphs of ops: description ([`Graph`]), gradients, memory plan ([`Plan`]) and prepared replay
//! ([`Program`]).

mod backward;
mod choices;
mod engine;
mod exec;
mod fuse;
mod goals;
mod ir;
mod kernels;
mod memory;
mod options;
mod peaks;
mod plan;
mod profile;
mod single;
mod steps;
mod submission;
mod traced;

pub use backward::{Seeds, gradient, gradients};
pub use choices::{Choice, Choices, Use, candidates, content};
pub use engine::Engine;
pub use exec::{Bindings, Program};
pub use goals::{Goals, Readback, When};
pub use ir::{Graph, Node, Tensor, TensorId};
pub use memory::Memory;
pub use options::Options;
pub use peaks::Peaks;
pub use plan::{MemoryUse, Place, Plan, Slot};
pub use profile::PreparedNode;
pub use single::{Outcome, SingleOp};
pub use submission::{Pending, Submission, Values};
