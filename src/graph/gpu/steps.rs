//! Recording of copies and dispatches.

use crate::gpu::Pipeline;
use crate::ops::{TEXTURE_WIDTH, TexelCopy};
use std::sync::Arc;

/// The work of a step.
#[derive(Debug)]
pub(super) enum Work {
    Dispatch { pipeline: Arc<Pipeline>, bind_group: wgpu::BindGroup, groups: [u32; 3] },
    Stage { buffer: wgpu::Buffer, texture: wgpu::Texture, copy: TexelCopy },
    Copy { from: (wgpu::Buffer, u64), to: (wgpu::Buffer, u64), bytes: u64 },
}

impl Work {
    /// Records the work if it is a copy. Returns whether it is.
    pub fn copy(&self, encoder: &mut wgpu::CommandEncoder) -> bool {
        match self {
            Self::Stage { buffer, texture, copy } => copy_to_texture(encoder, buffer, texture, *copy),
            Self::Copy { from, to, bytes } => {
                encoder.copy_buffer_to_buffer(&from.0, from.1, &to.0, to.1, *bytes);
            }
            Self::Dispatch { .. } => return false,
        }
        true
    }
}

/// Records steps in order, each given by its label and work.
pub(super) fn record<'a>(
    encoder: &mut wgpu::CommandEncoder,
    steps: impl Iterator<Item = (&'a str, &'a Work)>,
) {
    let mut steps = steps.peekable();
    while let Some((label, work)) = steps.peek() {
        if work.copy(encoder) {
            steps.next();
            continue;
        }
        // One pass for all dispatches up to the next copy.
        let mut pass = encoder
            .begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None });
        while let Some((_, Work::Dispatch { pipeline, bind_group, groups })) = steps.peek() {
            pass.set_pipeline(&pipeline.compute);
            pass.set_bind_group(0, bind_group, &[]);
            let [x, y, z] = *groups;
            pass.dispatch_workgroups(x, y, z);
            steps.next();
        }
    }
}

/// Copies texels of a buffer into a linear texture: the rest of a row, whole rows, then the start of a row.
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
