//! Reading from the device: staging buffers that are used again, and values on their way.

use super::Context;
use super::wait::{Answer, Fence};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// A limited number of staging buffers of one size. What is read often goes through these: no allocation for
/// each read, and no more memory than was planned.
#[derive(Debug)]
pub struct StagingPool {
    label: String,
    bytes: u64,
    most: usize,
    home: Arc<Mutex<Home>>,
}

#[derive(Debug, Default)]
struct Home {
    free: Vec<wgpu::Buffer>,
    made: usize,
}

impl StagingPool {
    /// A pool of at most `most` buffers of `bytes`, none of them made yet.
    pub fn new(label: &str, bytes: u64, most: usize) -> Self {
        Self { label: label.to_owned(), bytes, most, home: Arc::default() }
    }

    /// Records a copy of the start of `buffer` into a free staging buffer.
    ///
    /// # Errors
    /// [`Error::Gpu`] if all of them are in use, [`Error::OutOfMemory`] if a new one can't be allocated.
    pub fn copy(
        &self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        buffer: &wgpu::Buffer,
    ) -> Result<RecordedCopy> {
        self.copy_parts(context, encoder, &[(buffer.clone(), 0, self.bytes.min(buffer.size()))])
    }

    /// Records copies of parts of several buffers (buffer, offset and bytes, multiples of 4), one after the other.
    ///
    /// # Errors
    /// As [`StagingPool::copy`].
    pub fn copy_parts(
        &self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        parts: &[(wgpu::Buffer, u64, u64)],
    ) -> Result<RecordedCopy> {
        let free = {
            let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
            let free = home.free.pop();
            if free.is_none() {
                if home.made == self.most {
                    return Err(Error::gpu(
                        self.label.clone(),
                        format!("all {} staging buffers are in use", self.most),
                    ));
                }
                home.made += 1;
            }
            free
        };
        let staging = match free {
            Some(staging) => staging,
            None => context.staging_buffer(&self.label, self.bytes)?,
        };
        let mut offset = 0;
        for (buffer, start, bytes) in parts {
            encoder.copy_buffer_to_buffer(buffer, *start, &staging, offset, *bytes);
            offset += bytes;
        }
        let lease = Lease { staging, home: self.home.clone() };
        Ok(RecordedCopy { lease, bytes: self.bytes as usize, label: self.label.clone() })
    }

    /// How many buffers were made so far.
    pub fn made(&self) -> usize {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).made
    }
}

/// A staging buffer that goes back to its pool.
#[derive(Debug)]
struct Lease {
    staging: wgpu::Buffer,
    home: Arc<Mutex<Home>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.staging.clone());
    }
}

/// A recorded copy that waits for its submission.
#[derive(Debug)]
pub struct RecordedCopy {
    lease: Lease,
    bytes: usize,
    label: String,
}

impl RecordedCopy {
    /// Asks for the values, once the copy was submitted. Nothing waits until [`PendingRead::finish`].
    pub fn read(self, fence: &Fence) -> PendingRead {
        let Self { lease, bytes, label } = self;
        let mapped = Answer::pending();
        let deliver = mapped.clone();
        lease.staging.slice(..).map_async(wgpu::MapMode::Read, move |outcome| {
            deliver.deliver(outcome.map_err(|error| error.to_string()));
        });
        PendingRead { lease, bytes, fence: fence.clone(), mapped, label }
    }
}

/// Values on their way from the device.
#[derive(Debug)]
pub struct PendingRead {
    lease: Lease,
    bytes: usize,
    fence: Fence,
    /// Whether the staging buffer can be read, or why not.
    mapped: Answer<Result<(), String>>,
    label: String,
}

impl PendingRead {
    /// Waits for the copy, unless it has arrived, and returns the values.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::DeviceLost`] or [`Error::Gpu`].
    pub fn finish(self, context: &Context) -> Result<Vec<f32>> {
        self.finish_as(context)
    }

    /// The same for other values than f32.
    ///
    /// # Errors
    /// As [`PendingRead::finish`].
    pub fn finish_as<T: bytemuck::Pod>(self, context: &Context) -> Result<Vec<T>> {
        let _span = context.trace().map(|trace| trace.host("reading back", &self.label));
        if !self.mapped.has_come() {
            return context.block_on(&self.fence, &self.label, self.values())?;
        }
        // Why the values can't be read: a lost device refuses them, too.
        self.copy_out().or_else(|error| context.check(&self.label).and(Err(error)))
    }

    /// The values, once they are there.
    ///
    /// # Errors
    /// [`Error::Gpu`].
    pub async fn values<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        self.mapped.clone().await.map_err(|message| self.refused(message))?;
        self.copy_out()
    }

    fn copy_out<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        let slice = self.lease.staging.slice(..);
        let view = slice.get_mapped_range().map_err(|error| self.refused(error.to_string()))?;
        let bytes = view.get(..self.bytes).ok_or_else(|| self.refused("short read".to_owned()))?;
        Ok(bytemuck::pod_collect_to_vec(bytes))
    }

    fn refused(&self, message: String) -> Error {
        Error::gpu(self.label.clone(), message)
    }
}

impl Drop for PendingRead {
    /// Ends the mapping, also one that was not waited for, so that the buffer can be used again.
    fn drop(&mut self) {
        self.lease.staging.unmap();
    }
}

impl Context {
    /// Starts reading `bytes` from the start of `buffer`; the copy is queued after all work submitted so far
    /// and nothing waits until [`PendingRead::finish`].
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn read_back(&self, buffer: &wgpu::Buffer, bytes: u64, label: &str) -> Result<PendingRead> {
        let mut encoder =
            self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        let copy = StagingPool::new(label, bytes, 1).copy(self, &mut encoder, buffer)?;
        Ok(copy.read(&self.submit(encoder, label)?))
    }

    /// Reads `count` f32 values from the start of `buffer`, waiting for them.
    ///
    /// # Errors
    /// As [`PendingRead::finish`].
    pub fn read_f32(&self, buffer: &wgpu::Buffer, count: usize, label: &str) -> Result<Vec<f32>> {
        self.read_back(buffer, count as u64 * 4, label)?.finish(self)
    }

    /// A buffer that the host can read, of at least `bytes` (rounded up to 16).
    fn staging_buffer(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        let staging = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.check_allocation(label, size)?;
        Ok(staging)
    }
}
