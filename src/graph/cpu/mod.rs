//! The executor of lowered programs on the CPU: each node is a function, run on a pool of threads.

mod buffer;
mod device;
mod heap;
mod processor;
mod replay;

pub(super) use buffer::HostBuffer;
pub(super) use device::CpuDevice;
pub use heap::return_freed_memory;
pub use processor::Processor;
pub(super) use replay::Replay;
