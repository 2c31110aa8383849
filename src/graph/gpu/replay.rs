//! A lowered program on a wgpu device: its memory and the commands that each submission records.

use super::super::goals::When;
use super::super::lowered::{self, Action, Binding, Entry, Location, Lowered, Origin, PreparedNode, Step};
use super::super::memory::{Bindings, Memory, Workspace};
use super::device::{GpuDevice, Packed};
use super::reader::Reader;
use super::split::{Splitter, StepRanges};
use super::steps::{Work, record};
use super::traced;
use crate::error::{Error, Result};
use crate::gpu::{Fence, PendingRead, Pipeline, PipelineKey, Stopwatch};
use crate::shader::{Resource, ResourceKind};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

/// Steps and read-backs of a program, ready to record.
#[derive(Debug)]
pub struct Replay {
    device: Arc<GpuDevice>,
    /// Work of each step; `None` for a copy of memory to itself.
    work: Vec<Option<Work>>,
    readers: Vec<Reader>,
    splitter: Splitter,
}

/// Returns the pipelines of these entries, in order.
///
/// # Errors
/// As [`crate::gpu::PipelineCache::get`].
pub fn pipelines(device: &GpuDevice, entries: &[Entry]) -> Result<Vec<Arc<Pipeline>>> {
    let key = |entry: &Entry| {
        let (resources, _) = entry.text.interface.entry(entry.entry)?;
        Ok(PipelineKey {
            label: format!("{}/{}", entry.shader, entry.entry),
            source: entry.text.source.clone(),
            built_in: entry.text.built_in,
            entry: entry.entry,
            layout: resources.into_iter().map(layout_entry).collect(),
        })
    };
    let keys = entries.iter().map(key).collect::<Result<Vec<_>>>()?;
    device.pipelines.get(&device.context, &keys)
}

/// Returns the bind group layout entry of a shader's resource.
fn layout_entry(resource: &Resource) -> wgpu::BindGroupLayoutEntry {
    let buffer = |ty, size| wgpu::BindingType::Buffer {
        ty,
        has_dynamic_offset: false,
        min_binding_size: NonZeroU64::new(size),
    };
    let ty = match resource.kind {
        ResourceKind::Storage { read_only } => buffer(wgpu::BufferBindingType::Storage { read_only }, 0),
        ResourceKind::Uniform { size } => buffer(wgpu::BufferBindingType::Uniform, u64::from(size)),
        ResourceKind::Texture { read_only } => wgpu::BindingType::StorageTexture {
            access: match read_only {
                true => wgpu::StorageTextureAccess::ReadOnly,
                false => wgpu::StorageTextureAccess::WriteOnly,
            },
            format: wgpu::TextureFormat::Rgba32Float,
            view_dimension: wgpu::TextureViewDimension::D2,
        },
    };
    let visibility = wgpu::ShaderStages::COMPUTE;
    wgpu::BindGroupLayoutEntry { binding: resource.binding, visibility, ty, count: None }
}

/// Memory of a program by index.
struct Resources {
    buffers: Vec<wgpu::Buffer>,
    textures: Vec<wgpu::Texture>,
    views: Vec<wgpu::TextureView>,
    params: wgpu::Buffer,
}

impl Resources {
    fn allocate(
        device: &GpuDevice,
        program: &Lowered,
        (bound, workspace): (&Bindings, &mut Workspace),
        constants: &[Packed],
    ) -> Result<Self> {
        let mut own = 0..;
        let mut buffer = |buffer: &lowered::Buffer| match buffer.origin {
            Origin::Own => {
                let (label, bytes) = (buffer.label.as_str(), buffer.bytes);
                let make = || device.context.storage_buffer(label, bytes).map(Memory::on_gpu);
                workspace.take(own.next().unwrap_or_default(), bytes, make)?.gpu(label).cloned()
            }
            Origin::Bound(tensor) => match bound.get(&tensor) {
                Some(memory) if memory.bytes() >= buffer.bytes => memory.gpu(&buffer.label).cloned(),
                Some(memory) => {
                    let message = format!("is bound to {} bytes, but needs {}", memory.bytes(), buffer.bytes);
                    Err(Error::internal(&buffer.label, message))
                }
                None => Err(Error::internal(&buffer.label, "is not bound")),
            },
            Origin::Constant(index) => match constants.get(index) {
                Some(Packed::Buffer(buffer)) => Ok(buffer.clone()),
                _ => Err(Error::internal(&buffer.label, "the constant is not in a buffer")),
            },
        };
        let texture = |texture: &lowered::Texture| match texture.origin {
            Origin::Constant(index) => match constants.get(index) {
                Some(Packed::Texture(texture)) => Ok(texture.clone()),
                _ => Err(Error::internal(&texture.label, "the constant is not in a texture")),
            },
            Origin::Own | Origin::Bound(_) => device.staging_texture(&texture.label, texture.texels),
        };
        let textures = program.textures.iter().map(texture).collect::<Result<Vec<wgpu::Texture>>>()?;
        let view = |(texture, lowered): (&wgpu::Texture, &lowered::Texture)| {
            let label = Some(lowered.label.as_str());
            texture.create_view(&wgpu::TextureViewDescriptor { label, ..Default::default() })
        };
        Ok(Self {
            buffers: program.buffers.iter().map(&mut buffer).collect::<Result<_>>()?,
            views: textures.iter().zip(&program.textures).map(view).collect(),
            textures,
            params: device.context.uniform_buffer("parameters", &program.params)?,
        })
    }

    fn at(&self, Location { buffer, offset }: Location) -> (wgpu::Buffer, u64) {
        (self.buffers[buffer].clone(), offset)
    }

    fn bind(
        &self,
        device: &GpuDevice,
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
        let group = device.context.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        device.context.check(label)?;
        Ok(group)
    }
}

impl Replay {
    /// Allocates the program's memory, except for bound tensors, constants and buffers of the workspace, and binds
    /// everything.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Internal`] if a tensor is bound to too little memory.
    pub(super) fn new(
        device: &Arc<GpuDevice>,
        program: &Lowered,
        pipelines: &[Arc<Pipeline>],
        bound: (&Bindings, &mut Workspace),
        constants: &[Packed],
    ) -> Result<Self> {
        let resources = Resources::allocate(device, program, bound, constants)?;
        let work = |step: &Step| {
            Ok(Some(match &step.action {
                Action::Dispatch { entry, bindings, groups } => {
                    let pipeline = pipelines[*entry].clone();
                    let bind_group = resources.bind(device, &step.label, &pipeline, bindings)?;
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
                        return Ok(None);
                    }
                    Work::Copy { from, to, bytes: *bytes }
                }
                Action::Call { .. } => {
                    return Err(Error::internal(&step.label, "is a CPU function, not a shader"));
                }
            }))
        };
        let work = program.steps.iter().map(work).collect::<Result<_>>()?;
        let reader = |read| Reader::new(device, read, &resources.buffers);
        let readers = program.readbacks.iter().map(reader).collect();
        let splitter = Splitter::new(device.context.submission_limit(), operations(program));
        Ok(Self { device: device.clone(), work, readers, splitter })
    }

    /// Submits the steps for which `wanted` is true and the read-backs with these indices. On a device that limits the
    /// duration of submissions, the steps are split into several, one after the other.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::submit`]; [`Error::Internal`] if too many reads of one name are in flight.
    pub fn submit(
        &self,
        program: &Lowered,
        wanted: impl Fn(&Step) -> bool,
        reads: &[usize],
        label: &str,
    ) -> Result<(Fence, Vec<(usize, PendingRead)>)> {
        let context = &self.device.context;
        let steps: Vec<usize> =
            (0..program.steps.len()).filter(|step| wanted(&program.steps[*step])).collect();
        let StepRanges { ranges, timed } = self.splitter.ranges(&steps);
        if timed {
            context.flush(label)?;
        }
        let mut copies = Vec::new();
        let mut copy = |when: &[When], encoder: &mut wgpu::CommandEncoder| {
            let due = |read: &usize| when.contains(&program.readbacks[*read].when);
            for read in reads.iter().copied().filter(due) {
                copies.push((read, self.readers[read].copy(&self.device, encoder)?));
            }
            Ok::<_, Error>(())
        };
        let mut last = None;
        for (index, range) in ranges.iter().enumerate() {
            let mut encoder = self.device.encoder(label);
            if index == 0 {
                copy(&[When::Before], &mut encoder)?;
            }
            let steps = &steps[range.clone()];
            self.record_steps(program, &mut encoder, steps.iter().copied());
            if index + 1 == ranges.len() {
                copy(&[When::After, When::AfterOnce], &mut encoder)?;
            }
            let begin = Instant::now();
            let fence = context.submit(encoder, label)?;
            if timed {
                context.wait(&fence, label)?;
                self.splitter.measured(steps, begin.elapsed().as_secs_f64());
            }
            last = Some(fence);
        }
        let fence = last.ok_or_else(|| Error::internal(label, "has no part to submit"))?;
        let values = copies.into_iter().map(|(read, copy)| (read, copy.read(&fence))).collect();
        Ok((fence, values))
    }

    /// Times all steps of the program like [`Context::time`](crate::gpu::Context::time).
    ///
    /// # Errors
    /// As [`Context::time`](crate::gpu::Context::time).
    pub fn time(
        &self,
        program: &Lowered,
        runs: usize,
        watch: Option<&Stopwatch>,
    ) -> Result<(f64, Option<f64>)> {
        self.device.context.time(runs, watch, |encoder| self.record(program, encoder))
    }

    /// Returns the device.
    pub fn device(&self) -> &Arc<GpuDevice> {
        &self.device
    }

    /// Number of staging buffers created for read-backs so far.
    pub fn staging_buffers(&self) -> usize {
        self.readers.iter().map(Reader::staging_buffers).sum()
    }

    /// Records all steps of the program.
    pub(super) fn record(&self, program: &Lowered, encoder: &mut wgpu::CommandEncoder) {
        self.record_steps(program, encoder, 0..program.steps.len());
    }

    fn record_steps(
        &self,
        program: &Lowered,
        encoder: &mut wgpu::CommandEncoder,
        steps: impl Iterator<Item = usize>,
    ) {
        let steps =
            steps.filter_map(|step| Some((program.steps[step].label.as_str(), self.work[step].as_ref()?)));
        match self.device.context.trace() {
            Some(trace) => traced::record(&self.device.context, trace, encoder, steps),
            None => record(encoder, steps),
        }
    }
}

/// Returns the operations of each step of a program: the node's operations, divided evenly among its steps. Each value
/// read or written counts as one operation.
fn operations(program: &Lowered) -> Vec<f64> {
    let mut steps = vec![0_u32; program.nodes.len()];
    program.steps.iter().for_each(|step| steps[step.node] += 1);
    let of_step = |step: &Step| {
        let PreparedNode { op, signature, .. } = &program.nodes[step.node];
        let values =
            signature.inputs.iter().chain([&signature.output]).map(|shape| shape.elements()).sum::<usize>();
        (op.flops(signature) as f64 + values as f64) / f64::from(steps[step.node])
    };
    program.steps.iter().map(of_step).collect()
}
