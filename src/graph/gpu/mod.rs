//! The executor of lowered programs on a graphics device: pipelines, bind groups, recorded commands.

mod device;
mod prepare;
mod reader;
mod replay;
mod split;
mod steps;
mod traced;

pub(super) use device::GpuDevice;
pub(super) use prepare::prepare;
pub(super) use replay::{Replay, pipelines};
