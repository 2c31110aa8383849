//! Graphs of ops: description ([`Graph`]), gradients, memory plan ([`Plan`]) and prepared replay
//! ([`Program`]). A graph is lowered to a program as plain data, which one of two executors runs: `gpu` or `cpu`.

mod backward;
mod choices;
mod counting;
mod cpu;
mod engine;
mod fuse;
mod goals;
mod gpu;
mod halve;
mod ir;
mod kernels;
mod ledger;
mod lower;
pub mod lowered;
mod memory;
mod options;
mod peaks;
mod plan;
mod program;
mod recompute;
mod single;
mod submission;
mod warm_up;

pub use backward::{Seeds, gradient, gradients};
pub use choices::{Choice, Choices, KernelUse, candidates, content};
pub use cpu::{Processor, return_freed_memory};
pub use engine::Engine;
pub use goals::{Goals, Readback, When};
pub use ir::{Graph, Node, Tensor, TensorId};
pub use kernels::Selection;
pub use ledger::Counted;
pub use lower::lower;
pub use lowered::{Lowered, PreparedNode};
pub use memory::{Bindings, Memory, Workspace};
pub use options::PrepareOptions;
pub use peaks::Peaks;
pub use plan::{MemoryUse, Place, Plan, Slot};
pub use program::Program;
pub use recompute::gradients_recomputing;
pub use single::{SingleOp, SingleRun};
pub use submission::{Pending, Submission, Values};
pub use warm_up::{WARM_UP_IDLE, WARM_UP_PAUSED, warm_up};
