//! Device memory as the layers above hold it.

use super::ir::TensorId;
use std::collections::HashMap;

/// Memory of the tensors that are not planned: those from outside, and those with memory of their own.
pub type Bindings = HashMap<TensorId, Memory>;

/// Memory of a tensor on the device. Cloning shares it; two handles are equal if they name the same memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    buffer: wgpu::Buffer,
}

impl Memory {
    pub(super) fn new(buffer: wgpu::Buffer) -> Self {
        Self { buffer }
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Its size in bytes: that of the tensor as stored, rounded up to 16.
    pub fn bytes(&self) -> u64 {
        self.buffer.size()
    }
}

/// Memory of a constant.
#[derive(Debug, Clone)]
pub(super) enum Packed {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture),
}
