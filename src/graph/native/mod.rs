//! The executor of lowered programs on the CPU: each node is a function, run on a pool of threads.

mod buffer;
mod device;
mod processor;
mod replay;

pub(super) use buffer::HostBuffer;
pub(super) use device::NativeDevice;
pub use processor::Processor;
pub(super) use replay::Replay;
