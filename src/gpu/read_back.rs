//! Read-backs from the device: reusable staging buffers, and values in transit.

use super::Context;
use super::wait::{Answer, Fence};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// Staging buffers for a limited number of reads of one size. Frequent reads reuse them, which saves an allocation per
/// read and bounds the memory.
///
/// A read that exceeds the device's largest buffer (an optimiser state may) uses several staging buffers, filled one
/// after the other.
#[derive(Debug)]
pub struct StagingPool {
    label: String,
    bytes: u64,
    /// Size in bytes of each buffer of a read.
    sizes: Vec<u64>,
    /// Maximum number of reads at once.
    most: usize,
    home: Arc<Mutex<Home>>,
}

#[derive(Debug, Default)]
struct Home {
    /// Free staging buffers, grouped by read.
    free: Vec<Vec<wgpu::Buffer>>,
    /// Number of reads that buffers were created for.
    made: usize,
}

impl StagingPool {
    /// Creates a pool for at most `most` reads of `bytes` bytes at once. Buffers are created when needed.
    pub fn new(context: &Context, label: &str, bytes: u64, most: usize) -> Self {
        let sizes = staging_sizes(bytes, context.profile().max_buffer);
        Self { label: label.to_owned(), bytes, sizes, most, home: Arc::default() }
    }

    /// Records a copy of the start of `buffer` into free staging buffers.
    ///
    /// # Errors
    /// [`Error::Internal`] if all of them are in use or too small, [`Error::OutOfMemory`] if a new one can't be
    /// allocated.
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
        let lengths = parts.iter().map(|(_, _, bytes)| *bytes);
        if lengths.clone().sum::<u64>() > self.bytes {
            return Err(Error::internal(self.label.clone(), "the values exceed the staging buffers"));
        }
        let lease = Lease { staging: self.free_or_new(context)?, home: self.home.clone() };
        for Piece { source, start, staging, offset, bytes } in pieces(lengths, self.sizes[0]) {
            let (from, first, _) = &parts[source];
            encoder.copy_buffer_to_buffer(from, first + start, &lease.staging[staging], offset, bytes);
        }
        Ok(RecordedCopy { lease, bytes: self.bytes as usize, label: self.label.clone() })
    }

    /// Returns the buffers for a read.
    fn free_or_new(&self, context: &Context) -> Result<Vec<wgpu::Buffer>> {
        {
            let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(free) = home.free.pop() {
                return Ok(free);
            }
            if home.made == self.most {
                let all = self.most * self.sizes.len();
                return Err(Error::internal(
                    self.label.clone(),
                    format!("all {all} staging buffers are in use"),
                ));
            }
            home.made += 1;
        }
        self.sizes.iter().map(|bytes| context.staging_buffer(&self.label, *bytes)).collect()
    }

    /// Number of buffers created so far.
    pub fn made(&self) -> usize {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).made * self.sizes.len()
    }
}

/// Returns the sizes of the staging buffers for a read. All but the last have the largest multiple of 16 allowed.
/// Buffers are rounded up to 16, so together they take no more memory than one buffer would.
fn staging_sizes(bytes: u64, largest: u64) -> Vec<u64> {
    let full = (largest / 16 * 16).max(16);
    (0..bytes.div_ceil(full).max(1)).map(|index| full.min(bytes - index * full)).collect()
}

/// A copy from one source into one staging buffer.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    source: usize,
    /// Offset in the bytes to read from the source.
    start: u64,
    staging: usize,
    offset: u64,
    bytes: u64,
}

/// Splits sources of these lengths, concatenated, into staging buffers of `size` bytes.
fn pieces(lengths: impl Iterator<Item = u64>, size: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    // Position in the concatenation.
    let mut position = 0;
    for (source, length) in lengths.enumerate() {
        let mut start = 0;
        while start < length {
            let (staging, offset) = ((position / size) as usize, position % size);
            let bytes = (length - start).min(size - offset);
            pieces.push(Piece { source, start, staging, offset, bytes });
            start += bytes;
            position += bytes;
        }
    }
    pieces
}

/// Staging buffers of a read. They return to their pool on drop.
#[derive(Debug)]
struct Lease {
    staging: Vec<wgpu::Buffer>,
    home: Arc<Mutex<Home>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).free.push(std::mem::take(&mut self.staging));
    }
}

/// A recorded copy that is not yet submitted.
#[derive(Debug)]
pub struct RecordedCopy {
    lease: Lease,
    bytes: usize,
    label: String,
}

impl RecordedCopy {
    /// Requests the values after the copy was submitted. Does not wait; [`PendingRead::finish`] does.
    pub fn read(self, fence: &Fence) -> PendingRead {
        let Self { lease, bytes, label } = self;
        let map = |staging: &wgpu::Buffer| {
            let mapped = Answer::pending();
            let deliver = mapped.clone();
            staging.slice(..).map_async(wgpu::MapMode::Read, move |outcome| {
                deliver.deliver(outcome.map_err(|error| error.to_string()));
            });
            mapped
        };
        let mapped = lease.staging.iter().map(map).collect();
        PendingRead { lease, bytes, fence: fence.clone(), mapped, label }
    }
}

/// Values in transit from the device.
#[derive(Debug)]
pub struct PendingRead {
    lease: Lease,
    bytes: usize,
    fence: Fence,
    /// Outcome of mapping each staging buffer.
    mapped: Vec<Answer<Result<(), String>>>,
    label: String,
}

impl PendingRead {
    /// Waits for the copy, if it has not arrived yet, and returns the values.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::DeviceLost`] or [`Error::Gpu`].
    pub fn finish(self, context: &Context) -> Result<Vec<f32>> {
        self.finish_as(context)
    }

    /// Waits like [`PendingRead::finish`] and returns values of any plain type.
    ///
    /// # Errors
    /// As [`PendingRead::finish`].
    pub fn finish_as<T: bytemuck::Pod>(self, context: &Context) -> Result<Vec<T>> {
        let _span = context.trace().map(|trace| trace.host("reading back", &self.label));
        if !self.mapped.iter().all(Answer::has_come) {
            return context.block_on(&self.fence, &self.label, self.values())?;
        }
        // If the values can't be read, report a lost device as the cause.
        self.copy_out().or_else(|error| context.check(&self.label).and(Err(error)))
    }

    /// Returns the values once they have arrived.
    ///
    /// # Errors
    /// [`Error::Gpu`].
    pub async fn values<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        for mapped in &self.mapped {
            mapped.clone().await.map_err(|message| self.refused(message))?;
        }
        self.copy_out()
    }

    fn copy_out<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.bytes.div_ceil(size_of::<T>())];
        let (mut rest, _) = bytemuck::cast_slice_mut(&mut values).split_at_mut(self.bytes);
        for staging in &self.lease.staging {
            let slice = staging.slice(..);
            let view = slice.get_mapped_range().map_err(|error| self.refused(error.to_string()))?;
            // In the last buffer, padding follows the values.
            let count = rest.len().min(view.len());
            let (here, behind) = rest.split_at_mut(count);
            here.copy_from_slice(&view[..count]);
            rest = behind;
        }
        if rest.is_empty() { Ok(values) } else { Err(self.refused("short read".to_owned())) }
    }

    fn refused(&self, message: String) -> Error {
        Error::gpu(self.label.clone(), message)
    }
}

impl Drop for PendingRead {
    /// Unmaps the buffers, even if they were not waited for, so they can be reused.
    fn drop(&mut self) {
        self.lease.staging.iter().for_each(wgpu::Buffer::unmap);
    }
}

impl Context {
    /// Starts reading `bytes` bytes from the start of `buffer`. The copy is queued after all work submitted so far.
    /// Does not wait; [`PendingRead::finish`] does.
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn read_back(&self, buffer: &wgpu::Buffer, bytes: u64, label: &str) -> Result<PendingRead> {
        let mut encoder =
            self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        let copy = StagingPool::new(self, label, bytes, 1).copy(self, &mut encoder, buffer)?;
        Ok(copy.read(&self.submit(encoder, label)?))
    }

    /// Reads `count` f32 values from the start of `buffer` and waits for them.
    ///
    /// # Errors
    /// As [`PendingRead::finish`].
    pub fn read_f32(&self, buffer: &wgpu::Buffer, count: usize, label: &str) -> Result<Vec<f32>> {
        self.read_back(buffer, count as u64 * 4, label)?.finish(self)
    }

    /// Creates a buffer of `bytes` bytes (rounded up to a multiple of 16) that the host can read.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the sizes of the staging buffers, and source, start, staging buffer, offset and bytes of each piece.
    /// Checks that no buffer exceeds the limit and that each is filled without gaps.
    fn split(lengths: &[u64], largest: u64) -> (Vec<u64>, Vec<[u64; 5]>) {
        let bytes: u64 = lengths.iter().sum();
        let sizes = staging_sizes(bytes, largest);
        assert!(sizes.iter().sum::<u64>() == bytes && sizes.iter().all(|size| *size <= largest));
        let pieces = pieces(lengths.iter().copied(), sizes[0]);
        let mut filled = vec![0; sizes.len()];
        for piece in &pieces {
            assert_eq!(piece.offset, filled[piece.staging], "{piece:?}");
            filled[piece.staging] += piece.bytes;
        }
        assert_eq!(filled, sizes);
        let numbers = |piece: Piece| {
            [piece.source as u64, piece.start, piece.staging as u64, piece.offset, piece.bytes]
        };
        (sizes, pieces.into_iter().map(numbers).collect())
    }

    #[test]
    fn small_readback_uses_one_buffer() {
        assert_eq!(
            split(&[32, 4, 16], 64),
            (vec![52], vec![[0, 0, 0, 0, 32], [1, 0, 0, 32, 4], [2, 0, 0, 36, 16]])
        );
        assert_eq!(split(&[48, 16], 64).0, [64]);
        assert_eq!(split(&[52], u64::MAX).0, [52]);
    }

    #[test]
    fn large_readback_is_split_by_bytes() {
        // The second alone is larger than a buffer.
        let (sizes, pieces) = split(&[48, 100, 12], 64);
        assert_eq!(sizes, [64, 64, 32]);
        let expected =
            [[0, 0, 0, 0, 48], [1, 0, 0, 48, 16], [1, 16, 1, 0, 64], [1, 80, 2, 0, 20], [2, 0, 2, 20, 12]];
        assert_eq!(pieces, expected);
        // Sources that end with a buffer are not split.
        let (sizes, pieces) = split(&[64, 32, 32], 64);
        assert_eq!(
            (sizes, pieces),
            (vec![64, 64], vec![[0, 0, 0, 0, 64], [1, 0, 1, 0, 32], [2, 0, 1, 32, 32]])
        );
        // A limit that is not a multiple of 16, as on Vulkan.
        assert_eq!(split(&[2_319_411_904], i32::MAX as u64).0, [2_147_483_632, 171_928_272]);
    }

    #[test]
    fn empty_tensors_are_not_copied() {
        assert_eq!(split(&[0, 80, 0], 64), (vec![64, 16], vec![[1, 0, 0, 0, 64], [1, 64, 1, 0, 16]]));
        assert_eq!(split(&[0, 0], 64), (vec![0], vec![]));
        assert_eq!(split(&[], 64), (vec![0], vec![]));
    }
}
