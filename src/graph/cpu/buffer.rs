//! Memory of the CPU device.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Number of floats that a thread copies at a time.
const COPIED_AT_ONCE: usize = 1 << 16;

/// Memory of tensors as floats. Clones share it; two are equal if they are the same memory.
#[derive(Debug, Clone)]
pub struct HostBuffer {
    values: Arc<RwLock<Vec<f32>>>,
    length: usize,
}

impl PartialEq for HostBuffer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.values, &other.values)
    }
}

impl Eq for HostBuffer {}

impl HostBuffer {
    /// Allocates zeros: `bytes` bytes, rounded up to a multiple of 16. The system provides pages when they are first
    /// written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros(label: &str, bytes: u64) -> Result<Self> {
        let bytes = bytes.max(16).next_multiple_of(16);
        let values = usize::try_from(bytes / 4).ok().and_then(|length| bytemuck::try_zeroed_vec(length).ok());
        let values = values.ok_or_else(|| Error::out_of_host_memory(label, bytes))?;
        Ok(Self { length: values.len(), values: Arc::new(RwLock::new(values)) })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.length as u64 * 4
    }

    /// Number of floats.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Copies floats from another buffer, on all threads of the current pool.
    pub fn copy_from(&self, start: usize, from: &Self, range: Range<usize>) {
        let mut target = self.write();
        let target = target[start..start + range.len()].par_chunks_mut(COPIED_AT_ONCE);
        let source = from.read();
        let pairs = target.zip(source[range].par_chunks(COPIED_AT_ONCE));
        pairs.for_each(|(target, source)| target.copy_from_slice(source));
    }

    /// Moves the values out and leaves zeros; `None` if allocating the zeros fails.
    pub fn take(&self) -> Option<Vec<f32>> {
        let zeros = bytemuck::try_zeroed_vec(self.length).ok()?;
        Some(std::mem::replace(&mut *self.write(), zeros))
    }

    /// Locks the values for reading. A panic of another thread leaves them no worse than a wrong kernel would.
    pub fn read(&self) -> RwLockReadGuard<'_, Vec<f32>> {
        self.values.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the values for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, Vec<f32>> {
        self.values.write().unwrap_or_else(PoisonError::into_inner)
    }
}
