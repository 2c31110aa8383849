//! Handles of device memory for the layers above.

use super::cpu::HostBuffer;
use super::ir::TensorId;
use super::ledger::Claim;
use crate::error::{Error, Result};
use crate::gpu::Buffer;
use std::collections::HashMap;
use std::sync::Arc;

/// Memory of the tensors that are not planned: external tensors and tensors with memory of their own.
pub type Bindings = HashMap<TensorId, Memory>;

/// Memory of a tensor on the device. Clones share it; two handles are equal if they refer to the same memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Gpu(Buffer),
    Cpu(HostBuffer),
    Counted(Counted),
}

/// Memory that is only counted.
#[derive(Debug, Clone)]
struct Counted(Arc<Claim>);

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Counted {}

impl Memory {
    pub(super) fn on_gpu(buffer: Buffer) -> Self {
        Self { place: Place::Gpu(buffer) }
    }

    pub(super) fn on_cpu(buffer: HostBuffer) -> Self {
        Self { place: Place::Cpu(buffer) }
    }

    pub(super) fn counted(claim: Claim) -> Self {
        Self { place: Place::Counted(Counted(Arc::new(claim))) }
    }

    /// Returns the buffer of a graphics device; `label` names the tensor.
    ///
    /// # Errors
    /// [`Error::Internal`] if the memory is on another device.
    pub(super) fn gpu(&self, label: &str) -> Result<&Buffer> {
        match &self.place {
            Place::Gpu(buffer) => Ok(buffer),
            Place::Cpu(_) | Place::Counted(_) => Err(elsewhere(label)),
        }
    }

    /// Returns the buffer of the CPU device; `label` names the tensor.
    ///
    /// # Errors
    /// [`Error::Internal`] if the memory is on another device.
    pub(super) fn host(&self, label: &str) -> Result<&HostBuffer> {
        match &self.place {
            Place::Cpu(buffer) => Ok(buffer),
            Place::Gpu(_) | Place::Counted(_) => Err(elsewhere(label)),
        }
    }

    /// Size in bytes: that of the stored tensor, rounded up to a multiple of 16.
    pub fn bytes(&self) -> u64 {
        match &self.place {
            Place::Gpu(buffer) => buffer.size(),
            Place::Cpu(buffer) => buffer.bytes(),
            Place::Counted(counted) => counted.0.bytes(),
        }
    }
}

/// Memory shared by programs that never run at the same time. Each program reuses the buffers that are large enough, so
/// the largest program is best prepared first.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Vec<Memory>,
}

impl Workspace {
    /// Returns the buffer at `index` if it has at least this size. Otherwise makes a new one and drops those from
    /// `index` on.
    pub(super) fn take(
        &mut self,
        index: usize,
        bytes: u64,
        make: impl FnOnce() -> Result<Memory>,
    ) -> Result<Memory> {
        if let Some(known) = self.buffers.get(index).filter(|known| known.bytes() >= bytes) {
            return Ok(known.clone());
        }
        let made = make()?;
        self.buffers.truncate(index);
        self.buffers.push(made.clone());
        Ok(made)
    }
}

fn elsewhere(label: &str) -> Error {
    Error::internal(label, "its memory is on another device")
}
