//! Read-backs: copies of tensors into staging buffers.

use super::super::lowered::LoweredReadback;
use super::device::GpuDevice;
use crate::error::Result;
use crate::gpu::{RecordedCopy, StagingPool};

/// A prepared read-back.
#[derive(Debug)]
pub(super) struct Reader {
    /// Buffer, offset in bytes and size in bytes of each value.
    sources: Vec<(wgpu::Buffer, u64, u64)>,
    pool: StagingPool,
}

impl Reader {
    /// Prepares a read-back from these buffers.
    pub fn new(device: &GpuDevice, read: &LoweredReadback, buffers: &[wgpu::Buffer]) -> Self {
        let sources = read.values.iter();
        let sources: Vec<_> =
            sources.map(|(_, shape, at)| (buffers[at.buffer].clone(), at.offset, shape.bytes())).collect();
        let bytes = sources.iter().map(|(_, _, bytes)| bytes).sum();
        Self { sources, pool: StagingPool::new(&device.context, &read.name, bytes, read.in_flight) }
    }

    /// Records the copy of the tensors into staging buffers.
    ///
    /// # Errors
    /// As [`StagingPool::copy_parts`].
    pub fn copy(&self, device: &GpuDevice, encoder: &mut wgpu::CommandEncoder) -> Result<RecordedCopy> {
        self.pool.copy_parts(&device.context, encoder, &self.sources)
    }

    /// Number of staging buffers created so far.
    pub fn staging_buffers(&self) -> usize {
        self.pool.made()
    }
}
