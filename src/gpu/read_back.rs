//! Reading from the device: staging buffers that are used again, and values on their way.

use super::Context;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// At most so many staging buffers of one size. What is read often goes through these: no allocation for
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
    /// [`Error::Gpu`] if all of them are in use, [`Error::OutOfMemory`] if a new one can't be had.
    pub fn copy(
        &self,
        context: &Context,
        encoder: &mut wgpu::CommandEncoder,
        buffer: &wgpu::Buffer,
    ) -> Result<Copy> {
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
    ) -> Result<Copy> {
        let free = {
            let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
            let free = home.free.pop();
            if free.is_none() {
                if home.made == self.most {
                    return Err(Error::Gpu {
                        what: self.label.clone(),
                        message: format!("all {} staging buffers are in use", self.most),
                    });
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
        Ok(Copy { lease, bytes: self.bytes as usize, label: self.label.clone() })
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
pub struct Copy {
    lease: Lease,
    bytes: usize,
    label: String,
}

impl Copy {
    /// Asks for the values, once the copy was submitted. Nothing waits until [`ReadBack::finish`].
    pub fn read(self, submission: &wgpu::SubmissionIndex) -> ReadBack {
        let Self { lease, bytes, label } = self;
        let (sender, receiver) = mpsc::channel();
        lease.staging.slice(..).map_async(wgpu::MapMode::Read, move |outcome| {
            // The receiver is gone only if the read-back was dropped: then nobody wants the answer.
            drop(sender.send(outcome));
        });
        ReadBack { lease, bytes, submission: submission.clone(), receiver, label }
    }
}

/// Values on their way from the device.
#[derive(Debug)]
pub struct ReadBack {
    lease: Lease,
    bytes: usize,
    submission: wgpu::SubmissionIndex,
    receiver: mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>,
    label: String,
}

impl ReadBack {
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
    /// As [`ReadBack::finish`].
    pub fn finish_as<T: bytemuck::Pod>(self, context: &Context) -> Result<Vec<T>> {
        let _span = context.trace().map(|trace| trace.host("reading back", &self.label));
        let answer = match self.receiver.try_recv() {
            Err(mpsc::TryRecvError::Empty) => {
                context.wait(&self.submission, &self.label)?;
                self.receiver.try_recv()
            }
            arrived => arrived,
        };
        let refused = |message: String| Error::Gpu { what: self.label.clone(), message };
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(error) => return Err(refused(format!("the mapping did not complete: {error}"))),
        }
        let view =
            self.lease.staging.slice(..).get_mapped_range().map_err(|error| refused(error.to_string()))?;
        let bytes = view.get(..self.bytes).ok_or_else(|| refused("short read".to_owned()))?;
        Ok(bytemuck::pod_collect_to_vec(bytes))
    }
}

impl Drop for ReadBack {
    /// Ends the mapping, also one that was not waited for, so that the buffer can be used again.
    fn drop(&mut self) {
        self.lease.staging.unmap();
    }
}

impl Context {
    /// Starts reading `bytes` from the start of `buffer`; the copy is queued after all work submitted so far
    /// and nothing waits until [`ReadBack::finish`].
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn read_back(&self, buffer: &wgpu::Buffer, bytes: u64, label: &str) -> Result<ReadBack> {
        let mut encoder =
            self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        let copy = StagingPool::new(label, bytes, 1).copy(self, &mut encoder, buffer)?;
        let submission = self.submit(encoder, label)?;
        Ok(copy.read(&submission))
    }

    /// Reads `count` f32 values from the start of `buffer`, waiting for them.
    ///
    /// # Errors
    /// As [`ReadBack::finish`].
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
