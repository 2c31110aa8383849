//! Graphs of ops: description ([`Graph`]), gradients, memory plan ([`Plan`]) and prepared replay
//! ([`Program`]).

mod backward;
mod engine;
mod exec;
mod fuse;
mod ir;
mod plan;
mod profile;
mod single;

pub use backward::gradient;
pub use engine::Engine;
pub use exec::{Bindings, Options, Program, Sections};
pub use ir::{Graph, Node, Tensor, TensorId};
pub use plan::{MemoryUse, Plan, Slot};
pub use profile::PreparedNode;
pub use single::{Outcome, SingleOp};
