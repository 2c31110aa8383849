//! A lowered program on a wgpu device: its memory, and what is recorded again and again.

use super::engine::Engine;
use super::lowered;
use super::lowered::{Action, Binding, Entry, Location, Lowered, Origin, Sections};
use super::memory::{Bindings, Packed};
use super::steps::{DeviceStep, Work, record};
use super::submission::Reader;
use super::traced;
use crate::error::{Error, Result};
use crate::gpu::{Pipeline, PipelineKey};
use std::sync::Arc;

/// Steps and read-backs of a program, ready to be recorded.
#[derive(Debug)]
pub(super) struct Replay {
    pub steps: Vec<DeviceStep>,
    pub readers: Vec<Reader>,
}

/// The pipelines of entries, in order.
///
/// # Errors
/// As [`crate::gpu::PipelineCache::get`].
pub(super) fn pipelines(engine: &Engine, entries: &[Entry]) -> Result<Vec<Arc<Pipeline>>> {
    let key = |entry: &Entry| {
        let (resources, _) = entry.text.interface.entry(entry.entry)?;
        Ok(PipelineKey {
            label: format!("{}/{}", entry.shader, entry.entry),
            source: entry.text.source.clone(),
            entry: entry.entry,
            layout: resources.iter().map(|resource| resource.layout_entry()).collect(),
        })
    };
    let keys = entries.iter().map(key).collect::<Result<Vec<_>>>()?;
    engine.pipelines.get(&engine.context, &keys)
}

/// Memory of a program by index.
struct Resources {
    buffers: Vec<wgpu::Buffer>,
    textures: Vec<wgpu::Texture>,
    views: Vec<wgpu::TextureView>,
    params: wgpu::Buffer,
}

impl Resources {
    fn allocate(engine: &Engine, program: &Lowered, bound: &Bindings, constants: &[Packed]) -> Result<Self> {
        let buffer = |buffer: &lowered::Buffer| match buffer.origin {
            Origin::Own => engine.context.storage_buffer(&buffer.label, buffer.bytes),
            Origin::Bound(tensor) => match bound.get(&tensor) {
                Some(memory) if memory.bytes() >= buffer.bytes => Ok(memory.buffer().clone()),
                Some(memory) => {
                    let message = format!("is bound to {} bytes and takes {}", memory.bytes(), buffer.bytes);
                    Err(fault(&buffer.label, message))
                }
                None => Err(fault(&buffer.label, "is not bound".to_owned())),
            },
            Origin::Constant(index) => match constants.get(index) {
                Some(Packed::Buffer(buffer)) => Ok(buffer.clone()),
                _ => Err(fault(&buffer.label, "the constant is not in a buffer".to_owned())),
            },
        };
        let texture = |texture: &lowered::Texture| match texture.origin {
            Origin::Constant(index) => match constants.get(index) {
                Some(Packed::Texture(texture)) => Ok(texture.clone()),
                _ => Err(fault(&texture.label, "the constant is not in a texture".to_owned())),
            },
            Origin::Own | Origin::Bound(_) => engine.staging_texture(&texture.label, texture.texels),
        };
        let textures = program.textures.iter().map(texture).collect::<Result<Vec<wgpu::Texture>>>()?;
        let view = |(texture, lowered): (&wgpu::Texture, &lowered::Texture)| {
            let label = Some(lowered.label.as_str());
            texture.create_view(&wgpu::TextureViewDescriptor { label, ..Default::default() })
        };
        Ok(Self {
            buffers: program.buffers.iter().map(buffer).collect::<Result<_>>()?,
            views: textures.iter().zip(&program.textures).map(view).collect(),
            textures,
            params: engine.context.uniform_buffer("parameters", &program.params)?,
        })
    }

    fn at(&self, Location { buffer, offset }: Location) -> (wgpu::Buffer, u64) {
        (self.buffers[buffer].clone(), offset)
    }

    fn bind(
        &self,
        engine: &Engine,
        label: &str,
        pipeline: &Pipeline,
        bindings: &[(u32, Binding)],
    ) -> Result<wgpu::BindGroup> {
        let part = |buffer, offset, bytes| {
            let size = std::num::NonZeroU64::new(bytes);
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
        };
        let entry = |(binding, bound): &(u32, Binding)| wgpu::BindGroupEntry {
            binding: *binding,
            resource: match bound {
                Binding::Buffer(at, bytes) => part(&self.buffers[at.buffer], at.offset, *bytes),
                Binding::Params { offset, bytes } => part(&self.params, *offset, *bytes),
                Binding::Texture(texture) => wgpu::BindingResource::TextureView(&self.views[*texture]),
            },
        };
        let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings.iter().map(entry).collect();
        let group = engine.context.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        engine.context.check(label)?;
        Ok(group)
    }
}

impl Replay {
    /// Allocates a program's memory, but for what is bound and the constants, and binds all of it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and [`Error::Gpu`] if something is bound to too little memory.
    pub fn new(
        engine: &Engine,
        program: &Lowered,
        pipelines: &[Arc<Pipeline>],
        bound: &Bindings,
        constants: &[Packed],
    ) -> Result<Self> {
        let resources = Resources::allocate(engine, program, bound, constants)?;
        let mut steps = Vec::new();
        for step in &program.steps {
            let work = match &step.action {
                Action::Dispatch { entry, bindings, groups } => {
                    let pipeline = pipelines[*entry].clone();
                    let bind_group = resources.bind(engine, &step.label, &pipeline, bindings)?;
                    Work::Dispatch { pipeline, bind_group, groups: *groups }
                }
                Action::Stage { buffer, texture, copy } => Work::Stage {
                    buffer: resources.buffers[*buffer].clone(),
                    texture: resources.textures[*texture].clone(),
                    copy: *copy,
                },
                Action::Copy { from, to, bytes } => {
                    let (from, to) = (resources.at(*from), resources.at(*to));
                    // Two tensors may be bound to the same memory.
                    if from == to {
                        continue;
                    }
                    Work::Copy { from, to, bytes: *bytes }
                }
            };
            steps.push(DeviceStep {
                sections: step.sections,
                node: step.node,
                label: step.label.clone(),
                work,
            });
        }
        let readers = program.readbacks.iter().map(|read| Reader::new(read, &resources.buffers)).collect();
        Ok(Self { steps, readers })
    }

    /// Records all steps of these sections.
    pub fn record(&self, engine: &Engine, encoder: &mut wgpu::CommandEncoder, sections: Sections) {
        let steps = self.steps.iter().filter(|step| step.sections & sections != 0);
        match engine.context.trace() {
            Some(trace) => traced::record(&engine.context, trace, encoder, steps),
            None => record(encoder, steps),
        }
    }
}

fn fault(what: &str, message: String) -> Error {
    Error::Gpu { what: what.to_owned(), message }
}
