//! What programs on one device share: pipelines, packed weights, memory.

use super::choices::Choices;
use super::kernels::Selection;
use super::memory::{Memory, Packed};
use super::options::PrepareOptions;
use crate::error::Result;
use crate::gpu::{Context, DeviceOptions, Fence, PipelineCache};
use crate::ops::{Constant, Kernel, Shape, Storage, TEXTURE_WIDTH};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// While constants are made, the host runs ahead of the device by at most this many bytes of inputs and copies.
const CONSTANTS_AHEAD: u64 = 16 << 20;

/// A device with its pipelines and constants.
#[derive(Debug)]
pub struct Engine {
    /// The device.
    pub context: Context,
    /// Compiled pipelines.
    pub pipelines: PipelineCache,
    constants: Mutex<HashMap<(String, Storage), Packed>>,
    /// Bytes of inputs and copies that the device may still need.
    constants_ahead: AtomicU64,
    choices: OnceLock<Choices>,
    outdated: AtomicUsize,
}

impl Engine {
    /// Opens a device.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn open(options: &DeviceOptions) -> Result<Arc<Self>> {
        Ok(Self::new(Context::open(options)?))
    }

    /// An engine on an opened device.
    pub fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            context,
            pipelines: PipelineCache::default(),
            constants: Mutex::default(),
            constants_ahead: AtomicU64::new(0),
            choices: OnceLock::new(),
            outdated: AtomicUsize::new(0),
        })
    }

    /// From now on programs use these kernels, where there is one for a use, in place of the ops' own
    /// preference. Only the first call has an effect.
    pub fn use_choices(&self, choices: Choices) {
        // A second one has no effect, as documented.
        let _ = self.choices.set(choices);
    }

    /// How many choices were found to be of other kernels than there are now, and so were not used.
    pub fn outdated_choices(&self) -> usize {
        self.outdated.load(Ordering::Relaxed)
    }

    /// True if there are choices by measurement.
    pub(super) fn has_choices(&self) -> bool {
        self.choices.get().is_some()
    }

    /// How programs on this device choose their kernels.
    pub(super) fn selection<'a>(
        &'a self,
        pick: &'a dyn Fn(&[Kernel]) -> usize,
        options: PrepareOptions,
    ) -> Selection<'a> {
        let measured = self.choices.get().map(|choices| (choices, &self.outdated));
        Selection { profile: self.context.profile(), options, pick, measured }
    }

    /// Releases packed weights that no program uses; they are made again when needed.
    pub fn forget_constants(&self) {
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Device memory for a tensor, zero-filled.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn tensor(&self, label: &str, shape: Shape) -> Result<Memory> {
        Ok(Memory::new(self.context.storage_buffer(label, shape.bytes())?))
    }

    /// Device memory for a tensor with these values, given in logical order.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn tensor_with(&self, label: &str, shape: Shape, values: &[f32]) -> Result<Memory> {
        let memory = self.tensor(label, shape)?;
        self.write(&memory, shape, values)?;
        Ok(memory)
    }

    /// Overwrites a tensor with values in logical order.
    ///
    /// # Errors
    /// As [`Context::upload`].
    pub fn write(&self, memory: &Memory, shape: Shape, values: &[f32]) -> Result<()> {
        self.context.upload(memory.buffer(), 0, bytemuck::cast_slice(&shape.pack(values)))
    }

    /// Reads a tensor's values in logical order, waiting for all work before it.
    ///
    /// # Errors
    /// As [`crate::gpu::ReadBack::finish`].
    pub fn read(&self, memory: &Memory, shape: Shape, label: &str) -> Result<Vec<f32>> {
        Ok(shape.unpack(&self.read_stored(memory, shape.stored(), label)?))
    }

    /// Reads the first `count` values as they are stored, the borders of maps included; waits as [`Engine::read`].
    ///
    /// # Errors
    /// As [`crate::gpu::ReadBack::finish`].
    pub fn read_stored(&self, memory: &Memory, count: usize, label: &str) -> Result<Vec<f32>> {
        self.context.read_f32(memory.buffer(), count, label)
    }

    /// The memory of a constant, if it was made.
    pub(super) fn constant(&self, constant: &Constant) -> Option<Packed> {
        let key = (constant.key.clone(), constant.storage);
        self.constants.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Keeps the memory of a constant, unless another one was kept meanwhile; the answer is what is kept.
    pub(super) fn keep_constant(&self, constant: &Constant, memory: Packed) -> Packed {
        let key = (constant.key.clone(), constant.storage);
        let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        constants.entry(key).or_insert(memory).clone()
    }

    /// Notes that a submission keeps this many bytes alive for making constants, and waits for it if they have become
    /// too many: the peak of memory should be that of the run, not of its start.
    pub(super) fn ahead(&self, bytes: u64, fence: &Fence, label: &str) -> Result<()> {
        let ahead = self.constants_ahead.fetch_add(bytes, Ordering::Relaxed);
        if ahead + bytes > CONSTANTS_AHEAD {
            self.context.wait(fence, label)?;
            self.constants_ahead.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A linear texture for this many texels.
    pub(super) fn staging_texture(&self, label: &str, texels: u64) -> Result<wgpu::Texture> {
        let rows = texels.div_ceil(u64::from(TEXTURE_WIDTH)).max(1) as u32;
        self.context.storage_texture(label, TEXTURE_WIDTH, rows)
    }
}
