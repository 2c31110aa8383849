//! Device memory: allocation with typed errors, uploads in chunks.

use super::Context;
use crate::error::Result;

/// Size in bytes of the chunks of an upload: passing 256 MB to the queue at once peaked at three times that in host
/// memory.
pub const UPLOAD_CHUNK: usize = 8 << 20;

/// Buffer usages of every tensor: kernels read and write it, copies move it.
const TENSOR_USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

impl Context {
    /// Creates a zero-filled storage buffer of `bytes` bytes, rounded up to a multiple of 16.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if it exceeds the device's limit or its memory.
    pub fn storage_buffer(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        self.profile().check_buffer(label, size)?;
        let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: TENSOR_USAGE,
            mapped_at_creation: false,
        });
        self.check_allocation(label, size)?;
        Ok(buffer)
    }

    /// Creates a uniform buffer holding `bytes`.
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn uniform_buffer(&self, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
        let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: (bytes.len() as u64).max(16).next_multiple_of(16),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.check_allocation(label, bytes.len() as u64)?;
        self.upload(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// Writes `bytes` (length a multiple of 4) at `offset`, in chunks.
    ///
    /// # Errors
    /// As [`Context::check`].
    pub fn upload(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        for (index, chunk) in bytes.chunks(UPLOAD_CHUNK).enumerate() {
            self.queue().write_buffer(buffer, offset + (index * UPLOAD_CHUNK) as u64, chunk);
            if bytes.len() > UPLOAD_CHUNK {
                // Flush, so the staging memory of this chunk is free before the next one needs it.
                self.flush("uploading")?;
            }
        }
        self.check("uploading")
    }

    /// Creates a texture of four-component f32 texels that kernels read: `rows` rows of `width` texels.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if the device has too little memory.
    pub fn storage_texture(&self, label: &str, width: u32, rows: u32) -> Result<wgpu::Texture> {
        let texture = self.device().create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size: wgpu::Extent3d { width, height: rows, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        self.check_allocation(label, u64::from(width) * u64::from(rows) * 16)?;
        Ok(texture)
    }
}
