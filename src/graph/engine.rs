//! What programs on one device share: pipelines, packed weights, memory.

use super::choices::{Choices, Verdict, look_up};
use super::goals::Goals;
use super::memory::Memory;
use super::single::SingleOp;
use crate::error::Result;
use crate::gpu::{Context, DeviceOptions, PipelineCache};
use crate::ops::{
    Constant, ConstantPart, Initializer, Kernel, Op, Shape, Signature, Storage, TEXTURE_WIDTH, TexelCopy,
};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Constants are made ahead of the device until their inputs and copies take so many bytes.
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

/// A buffer or a texture on the device.
#[derive(Debug, Clone)]
pub(super) enum Packed {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture),
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

    /// From now on programs use these kernels, where they say something of a use, in place of the ops' own
    /// preference. The first call counts.
    pub fn use_choices(&self, choices: Choices) {
        // A second one has no effect, as documented.
        let _ = self.choices.set(choices);
    }

    /// How many choices were found to be of other kernels than there are now, and so were not used.
    pub fn outdated_choices(&self) -> usize {
        self.outdated.load(Ordering::Relaxed)
    }

    /// The kernel that measurement chose for this use, if any.
    pub(super) fn chosen(&self, op: &dyn Op, signature: &Signature) -> Result<Option<Kernel>> {
        let Some(choices) = self.choices.get() else { return Ok(None) };
        match look_up(choices, op, signature, self.context.profile())? {
            Verdict::Chosen(kernel) => return Ok(Some(kernel)),
            Verdict::Outdated => drop(self.outdated.fetch_add(1, Ordering::Relaxed)),
            Verdict::Unknown => {}
        }
        Ok(None)
    }

    /// Lets go of packed weights that no program uses; they are made anew when needed.
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

    /// The constant on the device, uploaded on first use.
    pub(super) fn constant(self: &Arc<Self>, constant: &Constant) -> Result<Packed> {
        let key = (constant.key.clone(), constant.storage);
        if let Some(memory) = self.constants.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(memory.clone());
        }
        let memory = match constant.storage {
            Storage::Buffer => Packed::Buffer(self.context.storage_buffer(&constant.key, constant.bytes)?),
            Storage::Texture => Packed::Texture(self.staging_texture(&constant.key, constant.bytes / 16)?),
        };
        match (&constant.initializer, &memory) {
            (Initializer::Host(make), Packed::Buffer(buffer)) => self.context.upload(buffer, 0, &make()?)?,
            (Initializer::Host(make), Packed::Texture(_)) => {
                // Through a buffer, in the same way as activations.
                let bytes = make()?;
                let buffer = self.context.storage_buffer(&constant.key, bytes.len() as u64)?;
                self.context.upload(&buffer, 0, &bytes)?;
                let all = TexelCopy { from: 0, to: 0, texels: bytes.len() as u64 / 16 };
                self.place(&buffer, &[all], &memory)?;
            }
            (Initializer::Device { parts, values }, _) => {
                let values = values()?;
                for ConstantPart { op, values: range, copies } in parts {
                    let part = values.get(range.clone()).unwrap_or_default();
                    let buffer = self.compute(&constant.key, op, part.to_vec())?;
                    self.place(&buffer, copies, &memory)?;
                }
            }
        }
        let mut constants = self.constants.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(constants.entry(key).or_insert(memory).clone())
    }

    /// Has a buffer's texels copied to their places in a constant.
    fn place(&self, buffer: &wgpu::Buffer, copies: &[TexelCopy], memory: &Packed) -> Result<()> {
        let label = "uploading weights";
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
        let mut encoder = self.context.device().create_command_encoder(&descriptor);
        for copy in copies {
            match memory {
                Packed::Texture(texture) => copy_to_texture(&mut encoder, buffer, texture, *copy),
                Packed::Buffer(to) => {
                    encoder.copy_buffer_to_buffer(buffer, copy.from * 16, to, copy.to * 16, copy.texels * 16)
                }
            }
        }
        let submission = self.context.submit(encoder, label)?;
        // The buffer lives until the device has copied it. Only so much of that at once: the peak of memory
        // should be that of the run, not of its start.
        let bytes = buffer.size();
        let ahead = self.constants_ahead.fetch_add(bytes, Ordering::Relaxed);
        if ahead + bytes > CONSTANTS_AHEAD {
            self.context.wait(&submission, label)?;
            self.constants_ahead.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The output of an op on one vector.
    fn compute(self: &Arc<Self>, label: &str, op: &Arc<dyn Op>, values: Vec<f32>) -> Result<wgpu::Buffer> {
        let single = SingleOp::new(self, op.clone(), &[Shape::Vector(values.len())])?;
        let buffer = self.tensor(label, single.signature().output)?;
        let (program, _) = single.program(0, &[values], buffer.clone())?;
        program.submit(&[Goals::ALL], &[], label)?;
        Ok(buffer.buffer().clone())
    }

    /// A linear texture for so many texels.
    pub(super) fn staging_texture(&self, label: &str, texels: u64) -> Result<wgpu::Texture> {
        let rows = texels.div_ceil(u64::from(TEXTURE_WIDTH)).max(1) as u32;
        self.context.storage_texture(label, TEXTURE_WIDTH, rows)
    }
}

/// Copies texels of a buffer into a linear texture: what is left of a row, whole rows, what is left.
pub(super) fn copy_to_texture(
    encoder: &mut wgpu::CommandEncoder,
    buffer: &wgpu::Buffer,
    texture: &wgpu::Texture,
    TexelCopy { mut from, mut to, mut texels }: TexelCopy,
) {
    let width = u64::from(TEXTURE_WIDTH);
    while texels > 0 {
        let column = to % width;
        let rows = if column == 0 { texels / width } else { 0 };
        let (across, down) = if rows > 0 { (width, rows) } else { (texels.min(width - column), 1) };
        encoder.copy_buffer_to_texture(
            wgpu::TexelCopyBufferInfo {
                buffer,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: from * 16,
                    bytes_per_row: Some(TEXTURE_WIDTH * 16),
                    rows_per_image: None,
                },
            },
            wgpu::TexelCopyTextureInfo {
                texture,
                mip_level: 0,
                origin: wgpu::Origin3d { x: column as u32, y: (to / width) as u32, z: 0 },
                aspect: wgpu::TextureAspect::All,
            },
            wgpu::Extent3d { width: across as u32, height: down as u32, depth_or_array_layers: 1 },
        );
        let copied = across * down;
        (from, to, texels) = (from + copied, to + copied, texels - copied);
    }
}
