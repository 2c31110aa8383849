//! What a prepared program is made of: copies and dispatches, and how they are recorded.

use super::engine::copy_to_texture;
use crate::gpu::Pipeline;
use crate::ops::TexelCopy;
use std::sync::Arc;

/// A set of sections, one bit each.
pub(super) type Sections = u64;

/// One copy or dispatch.
#[derive(Debug)]
pub(super) struct Step {
    pub sections: Sections,
    /// The node that it is of.
    pub node: usize,
    pub label: String,
    pub action: Action,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Action {
    Dispatch {
        pipeline: Arc<Pipeline>,
        bind_group: wgpu::BindGroup,
        groups: [u32; 3],
    },
    /// Copies texels of a buffer into a linear texture.
    Stage {
        buffer: wgpu::Buffer,
        texture: wgpu::Texture,
        copy: TexelCopy,
    },
    /// Copies so many bytes.
    Copy {
        from: Part,
        to: Part,
        bytes: u64,
    },
}

/// A buffer from this offset on.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
}

impl Action {
    /// Records the action if it is a copy, and returns whether it is.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder) -> bool {
        match self {
            Self::Stage { buffer, texture, copy } => copy_to_texture(encoder, buffer, texture, *copy),
            Self::Copy { from, to, bytes } => {
                encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, *bytes);
            }
            Self::Dispatch { .. } => return false,
        }
        true
    }
}

/// Records steps in order.
pub(super) fn record<'a>(encoder: &mut wgpu::CommandEncoder, steps: impl Iterator<Item = &'a Step>) {
    let mut steps = steps.peekable();
    while let Some(step) = steps.peek() {
        if step.action.copy(encoder) {
            steps.next();
            continue;
        }
        // One pass for all dispatches up to the next copy.
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&step.label),
            timestamp_writes: None,
        });
        while let Some(Step { action: Action::Dispatch { pipeline, bind_group, groups }, .. }) = steps.peek()
        {
            pass.set_pipeline(&pipeline.compute);
            pass.set_bind_group(0, bind_group, &[]);
            let [x, y, z] = *groups;
            pass.dispatch_workgroups(x, y, z);
            steps.next();
        }
    }
}
