//! State that programs on one graphics device share: pipelines, packed weights.

use super::super::counting::CONSTANTS_AHEAD;
use crate::error::Result;
use crate::gpu::{Context, Fence, PipelineCache};
use crate::ops::{Constant, Storage, TEXTURE_WIDTH};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Key and storage of a constant.
pub type ConstantKey = (String, Storage);

/// A graphics device with its pipelines and constants.
#[derive(Debug)]
pub struct GpuDevice {
    pub context: Context,
    pub pipelines: PipelineCache,
    constants: Mutex<HashMap<ConstantKey, Packed>>,
    /// Bytes of inputs and copies that the device may still be using.
    constants_ahead: AtomicU64,
}

/// Memory of a constant.
#[derive(Debug, Clone)]
pub(super) enum Packed {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture),
}

impl GpuDevice {
    /// Wraps an open device.
    pub fn new(context: Context) -> Self {
        Self {
            context,
            pipelines: PipelineCache::default(),
            constants: Mutex::default(),
            constants_ahead: AtomicU64::new(0),
        }
    }

    /// Releases all constants. Programs keep those that they use; others are created again when needed.
    pub fn forget_constants(&self) {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns the keys of all constants.
    pub fn constant_keys(&self) -> HashSet<ConstantKey> {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Releases all constants except those with these keys.
    pub fn keep_constants(&self, keys: &HashSet<ConstantKey>) {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| keys.contains(key));
    }

    /// Returns the memory of a constant, if it exists.
    pub(super) fn constant(&self, constant: &Constant) -> Option<Packed> {
        let key = (constant.key.clone(), constant.storage);
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Stores the memory of a constant, unless it was stored in the meantime. Returns the stored memory.
    pub(super) fn keep_constant(&self, constant: &Constant, memory: Packed) -> Packed {
        let key = (constant.key.clone(), constant.storage);
        let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        constants.entry(key).or_insert(memory).clone()
    }

    /// Adds the bytes that a submission keeps alive to create constants, and waits for it if the sum is too large: peak
    /// memory should be determined by the run, not by its start.
    pub(super) fn ahead(&self, bytes: u64, fence: &Fence, label: &str) -> Result<()> {
        let ahead = self.constants_ahead.fetch_add(bytes, Ordering::Relaxed);
        if ahead + bytes > CONSTANTS_AHEAD {
            self.context.wait(fence, label)?;
            self.constants_ahead.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies a buffer to another of the same size `runs` times. Returns the seconds per copy.
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub fn time_copies(&self, from: &wgpu::Buffer, to: &wgpu::Buffer, runs: usize) -> Result<f64> {
        let copy =
            |encoder: &mut wgpu::CommandEncoder| encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        Ok(self.context.time(runs, None, copy)?.0)
    }

    /// Creates a linear texture for this many texels.
    pub(super) fn staging_texture(&self, label: &str, texels: u64) -> Result<wgpu::Texture> {
        let rows = texels.div_ceil(u64::from(TEXTURE_WIDTH)).max(1) as u32;
        self.context.storage_texture(label, TEXTURE_WIDTH, rows)
    }

    /// Creates a command encoder.
    pub(super) fn encoder(&self, label: &str) -> wgpu::CommandEncoder {
        self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) })
    }
}
