//! Execution of a run on the device.

use super::memory::Memory;
use super::plan::{ResultSpec, RunPlan};
use super::shader::{Bound, Variable};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::gpu::{Context, Stopwatch};
use crate::workbench::Array;
use crate::workbench::measure::{Samples, measure_work};

/// Pattern that memory is filled with before a kernel writes it: a NaN as f16; repeated, also as f32 and f64.
const POISON: [u8; 2] = 0x7ffbu16.to_le_bytes();
/// Number of bytes after the memory of a variable that a kernel must not write.
const GUARD: usize = 256;
/// Alignment in bytes of a texture's rows when copied to a buffer.
const ROW: usize = wgpu::COPY_BYTES_PER_ROW_ALIGNMENT as usize;

/// Outcome of a run.
#[derive(Debug, Clone)]
pub struct ShaderRun {
    /// Values read back, in the order of [`RunPlan::results`].
    pub results: Vec<RunResult>,
    /// Names of the variables that were written past their end.
    pub overruns: Vec<String>,
    /// Times, if requested.
    pub samples: Option<Samples>,
    /// Bytes of all bound inputs and outputs, each counted once.
    pub bytes: u64,
}

/// Values of one variable after the first run.
#[derive(Debug, Clone)]
pub struct RunResult {
    /// Name of the variable.
    pub name: String,
    /// Values of the variable.
    pub array: Array,
    /// Number of values that were never written; 0 if the memory was filled from an input.
    pub unwritten: usize,
    /// Index of the first value that was never written.
    pub first_unwritten: Option<usize>,
}

/// Memory on the device.
enum Resource {
    Buffer {
        buffer: wgpu::Buffer,
        bound: u64,
    },
    Texture(wgpu::Texture),
    /// Immediates, which are part of the commands.
    Immediate,
}

struct Ready<'a> {
    plan: &'a RunPlan,
    context: &'a Context,
    resources: Vec<Resource>,
    pipeline: wgpu::ComputePipeline,
    groups: Vec<(u32, wgpu::BindGroup)>,
}

impl RunPlan {
    /// Runs the shader once and reads its results; with a number of samples, runs it again to time it. Memory that is
    /// both input and output, and memory with atomics, is filled again before each timed run.
    ///
    /// # Errors
    /// [`Error::Usage`] if the device can't run the shader or its call; [`Error::Shader`] if the device is lost or does
    /// not respond.
    pub fn run(&self, context: &Context, repeat: Option<usize>) -> Result<ShaderRun> {
        self.shader.check_features(context.device().features(), &context.describe())?;
        self.check_limits(&context.device().limits())?;
        self.execute(context, repeat).map_err(|error| self.explained(error))
    }

    /// Replaces the remedies of these errors, which are about pictures.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::OutOfMemory { what, needed, .. } => Error::OutOfMemory {
                what,
                needed,
                remedy: "Use smaller inputs and outputs, or another --adapter".to_owned(),
            },
            Error::DeviceLost(message) => Error::Shader {
                name: self.shader.entry.clone(),
                message: format!(
                    "the device was lost: {message}. The usual cause is a loop that does not end or takes longer than the driver allows"
                ),
            },
            Error::Timeout { seconds, .. } => Error::shader(
                &self.shader.entry,
                format!("no answer within {seconds} s. Is there a loop that does not end?"),
            ),
            error => error,
        }
    }

    fn execute(&self, context: &Context, repeat: Option<usize>) -> Result<ShaderRun> {
        let ready = Ready::new(self, context)?;
        ready.fill(|_, _| true)?;
        let label = self.shader.entry.as_str();
        let mut encoder =
            context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        ready.record(&mut encoder);
        let submission = context.submit(encoder, label)?;
        context.wait(&submission, label)?;
        let (results, overruns) = ready.results()?;
        let samples = repeat.map(|repeat| ready.measure(repeat)).transpose()?;
        let data = self.shader.variables.iter().zip(&self.memory).filter(|(variable, _)| variable.is_data());
        let bytes = data.map(|(_, memory)| memory.length as u64).sum();
        Ok(ShaderRun { results, overruns, samples, bytes })
    }

    /// Checks the device's limits. wgpu checks neither workgroup sizes set by overrides nor the sum of workgroup
    /// memory, and these messages include a remedy.
    fn check_limits(&self, limits: &wgpu::Limits) -> Result<()> {
        let usage = |message: String| Err(Error::usage(message));
        let most = limits.max_compute_workgroups_per_dimension;
        if let Some(groups) = self.workgroups.iter().find(|groups| **groups > most) {
            return usage(format!(
                "--workgroups: {groups} workgroups along one axis; the device allows {most}: spread them over x, y and z"
            ));
        }
        let shader = &self.shader;
        let [x, y, z] = shader.workgroup;
        let sides = [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ];
        let all = u64::from(x) * u64::from(y) * u64::from(z);
        if shader.workgroup.iter().zip(sides).any(|(size, most)| *size > most)
            || all > limits.max_compute_invocations_per_workgroup.into()
        {
            return usage(format!(
                "`{}` has workgroups of {x}x{y}x{z} invocations; the device allows {} in total and {}x{}x{} per axis: reduce @workgroup_size",
                shader.entry, limits.max_compute_invocations_per_workgroup, sides[0], sides[1], sides[2]
            ));
        }
        if shader.workgroup_bytes > limits.max_compute_workgroup_storage_size {
            return usage(format!(
                "`{}` uses {} bytes of workgroup memory; the device has {}",
                shader.entry, shader.workgroup_bytes, limits.max_compute_workgroup_storage_size
            ));
        }
        let count = |kind: fn(&Bound) -> bool| shader.variables.iter().filter(|one| kind(&one.bound)).count();
        for (what, count, most) in [
            (
                "storage buffers",
                count(|bound| matches!(bound, Bound::Storage { .. })),
                limits.max_storage_buffers_per_shader_stage,
            ),
            (
                "uniforms",
                count(|bound| *bound == Bound::Uniform),
                limits.max_uniform_buffers_per_shader_stage,
            ),
            (
                "storage textures",
                count(|bound| matches!(bound, Bound::Texture { .. })),
                limits.max_storage_textures_per_shader_stage,
            ),
        ] {
            if count > most as usize {
                return usage(format!("`{}` uses {count} {what}; the device allows {most}", shader.entry));
            }
        }
        let binding =
            limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).saturating_sub(GUARD as u64);
        for (variable, memory) in shader.variables.iter().zip(&self.memory) {
            let name = &variable.name;
            match variable.bound {
                Bound::Storage { .. } if memory.length as u64 > binding => {
                    return usage(format!(
                        "`{name}` would take {} bytes; the device binds at most {binding}: use a smaller input or output, or another --adapter",
                        memory.length
                    ));
                }
                Bound::Texture { .. } => {
                    let most = limits.max_texture_dimension_2d;
                    let [height, width] = memory.extent;
                    if height > most || width > most {
                        return usage(format!(
                            "`{name}` would be a texture of {height} rows of {width} texels; the device allows {most} per side"
                        ));
                    }
                }
                Bound::Immediate if memory.length as u64 > limits.max_immediate_size.into() => {
                    return usage(format!(
                        "`{name}` has {} bytes of immediates; the device allows {}",
                        memory.length, limits.max_immediate_size
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns the bytes of a texture's row.
fn row_bytes(variable: &Variable, memory: &Memory) -> usize {
    match variable.bound {
        Bound::Texture { channels, .. } => memory.extent[1] as usize * channels * variable.element().size(),
        _ => 0,
    }
}

fn extent(memory: &Memory) -> wgpu::Extent3d {
    let [height, width] = memory.extent;
    wgpu::Extent3d { width, height, depth_or_array_layers: 1 }
}

/// Returns `bytes` bytes of a pattern that no kernel writes by chance.
fn poison(bytes: usize) -> Vec<u8> {
    POISON.iter().copied().cycle().take(bytes).collect()
}

impl<'a> Ready<'a> {
    fn new(plan: &'a RunPlan, context: &'a Context) -> Result<Self> {
        let shader = &plan.shader;
        let device = context.device();
        let label = Some(shader.entry.as_str());
        let constants: Vec<(&str, f64)> =
            shader.overrides.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(shader.source.as_ref().into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: label,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                ..Default::default()
            },
            cache: None,
        });
        plan.refused(context.check("compiling the shader"))?;
        let resources = shader.variables.iter().zip(&plan.memory);
        let resources: Vec<Resource> =
            resources.map(|(variable, memory)| resource(context, variable, memory)).collect::<Result<_>>()?;
        let mut numbers: Vec<u32> = Vec::new();
        for variable in shader.variables.iter().filter(|variable| variable.bound != Bound::Immediate) {
            if !numbers.contains(&variable.group) {
                numbers.push(variable.group);
            }
        }
        let groups = numbers
            .into_iter()
            .map(|group| {
                let entries: Vec<(u32, Option<wgpu::TextureView>, &Resource)> = shader
                    .variables
                    .iter()
                    .zip(&resources)
                    .filter(|(variable, _)| variable.group == group && variable.bound != Bound::Immediate)
                    .map(|(variable, resource)| {
                        let view = match resource {
                            Resource::Texture(texture) => {
                                let label = Some(variable.name.as_str());
                                let descriptor = wgpu::TextureViewDescriptor { label, ..Default::default() };
                                Some(texture.create_view(&descriptor))
                            }
                            _ => None,
                        };
                        (variable.binding, view, resource)
                    })
                    .collect();
                let entries: Vec<wgpu::BindGroupEntry<'_>> = entries
                    .iter()
                    .filter_map(|(binding, view, resource)| {
                        let resource = match (resource, view) {
                            (Resource::Buffer { buffer, bound }, _) => {
                                wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                                    buffer,
                                    offset: 0,
                                    size: std::num::NonZeroU64::new(*bound),
                                })
                            }
                            (Resource::Texture(_), Some(view)) => wgpu::BindingResource::TextureView(view),
                            _ => return None,
                        };
                        Some(wgpu::BindGroupEntry { binding: *binding, resource })
                    })
                    .collect();
                let layout = pipeline.get_bind_group_layout(group);
                let bound = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label,
                    layout: &layout,
                    entries: &entries,
                });
                (group, bound)
            })
            .collect();
        plan.refused(context.check("binding the shader's variables"))?;
        Ok(Self { plan, context, resources, pipeline, groups })
    }

    /// Writes the initial contents of the `wanted` variables. Does not wait.
    fn fill(&self, wanted: impl Fn(&Variable, &Memory) -> bool) -> Result<()> {
        let variables = self.plan.shader.variables.iter().zip(&self.plan.memory);
        for ((variable, memory), resource) in variables.zip(&self.resources) {
            if !wanted(variable, memory) {
                continue;
            }
            match resource {
                Resource::Buffer { .. } if variable.bound == Bound::Uniform => {}
                Resource::Buffer { buffer, .. } => {
                    let mut bytes = memory.bytes.clone();
                    let start = bytes.len().min(memory.length);
                    bytes.truncate(start);
                    let rest = poison(buffer.size() as usize);
                    // At the same position in the pattern, which an odd number of bytes would shift.
                    bytes.extend_from_slice(&rest[start..]);
                    self.context.upload(buffer, 0, &bytes)?;
                }
                Resource::Texture(texture) => {
                    let bytes = if memory.is_filled() { memory.bytes.clone() } else { poison(memory.length) };
                    self.context.queue().write_texture(
                        texture.as_image_copy(),
                        &bytes,
                        wgpu::TexelCopyBufferLayout {
                            offset: 0,
                            bytes_per_row: Some(row_bytes(variable, memory) as u32),
                            rows_per_image: None,
                        },
                        extent(memory),
                    );
                    self.context.check("filling a texture")?;
                }
                Resource::Immediate => {}
            }
        }
        Ok(())
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(&self.plan.shader.entry),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.pipeline);
        for (number, group) in &self.groups {
            pass.set_bind_group(*number, group, &[]);
        }
        for (memory, resource) in self.plan.memory.iter().zip(&self.resources) {
            if matches!(resource, Resource::Immediate) {
                pass.set_immediates(0, &memory.bytes);
            }
        }
        let [x, y, z] = self.plan.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }

    fn measure(&self, rounds: usize) -> Result<Samples> {
        let stale = |variable: &Variable, memory: &Memory| {
            variable.writable() && (memory.is_filled() || variable.atomic)
        };
        let variables = self.plan.shader.variables.iter().zip(&self.plan.memory);
        let any = variables.into_iter().any(|(variable, memory)| stale(variable, memory));
        let restore = || {
            self.fill(stale)?;
            self.context.flush("filling the inputs again")
        };
        let watch = Stopwatch::new(self.context, 2)?;
        let time = |runs| self.context.time(runs, watch.as_ref(), |encoder| self.record(encoder));
        measure_work(self.context.profile(), rounds, &time, any.then_some(&restore))
    }

    /// Reads the results, and the names of the variables whose guard zone was written.
    fn results(&self) -> Result<(Vec<RunResult>, Vec<String>)> {
        let mut overruns = Vec::new();
        let mut found: Vec<Vec<u8>> = vec![Vec::new(); self.resources.len()];
        for (index, resource) in self.resources.iter().enumerate() {
            let (variable, memory) = (&self.plan.shader.variables[index], &self.plan.memory[index]);
            if !variable.writable() {
                continue;
            }
            match resource {
                Resource::Buffer { buffer, .. } => {
                    let size = buffer.size();
                    let read = self.context.read_back(buffer, size, &variable.name)?;
                    let mut bytes: Vec<u8> = read.finish_as(self.context)?;
                    let guard = poison(bytes.len());
                    if bytes[memory.length..] != guard[memory.length..] {
                        overruns.push(variable.name.clone());
                    }
                    bytes.truncate(memory.length);
                    found[index] = bytes;
                }
                Resource::Texture(texture) => found[index] = self.read_texture(texture, variable, memory)?,
                Resource::Immediate => {}
            }
        }
        let results = self.plan.results.iter().map(|wanted| self.result(wanted, &found[wanted.variable]));
        Ok((results.collect(), overruns))
    }

    fn result(&self, wanted: &ResultSpec, bytes: &[u8]) -> RunResult {
        let variable = &self.plan.shader.variables[wanted.variable];
        let memory = &self.plan.memory[wanted.variable];
        let element = variable.element();
        let size = element.size();
        let (mut packed, mut unwritten, mut first_unwritten) = (Vec::new(), 0, None);
        let mut look = |offset: usize, width: usize| {
            let Some(number) = bytes.get(offset..offset + width) else { return };
            if !memory.is_filled() && number.chunks(POISON.len()).all(|half| half == POISON) {
                unwritten += 1;
                let place = if wanted.packed { packed.len() } else { offset };
                first_unwritten.get_or_insert(place / size);
            }
            if wanted.packed {
                packed.extend_from_slice(number);
            }
        };
        match variable.bound {
            Bound::Texture { .. } => (0..bytes.len() / size).for_each(|index| look(index * size, size)),
            _ => variable.form.visit(bytes.len(), &mut |offset, element| look(offset, element.size())),
        }
        let bytes = if wanted.packed { packed } else { bytes.to_vec() };
        let array = Array { element, shape: wanted.shape.clone(), bytes };
        RunResult { name: variable.name.clone(), array, unwritten, first_unwritten }
    }

    fn read_texture(&self, texture: &wgpu::Texture, variable: &Variable, memory: &Memory) -> Result<Vec<u8>> {
        let row = row_bytes(variable, memory);
        let stride = row.next_multiple_of(ROW);
        let rows = memory.extent[0] as usize;
        let label = variable.name.as_str();
        let buffer = self.context.storage_buffer(label, (stride * rows) as u64)?;
        let mut encoder = self
            .context
            .device()
            .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        encoder.copy_texture_to_buffer(
            texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &buffer,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(stride as u32),
                    rows_per_image: None,
                },
            },
            extent(memory),
        );
        self.context.submit(encoder, label)?;
        let read = self.context.read_back(&buffer, (stride * rows) as u64, label)?;
        let bytes: Vec<u8> = read.finish_as(self.context)?;
        Ok(bytes.chunks(stride).flat_map(|line| &line[..row.min(line.len())]).copied().collect())
    }
}

impl RunPlan {
    /// Turns the API's errors about a user's shader into usage errors.
    fn refused(&self, outcome: Result<()>) -> Result<()> {
        outcome.map_err(|error| match error {
            Error::Gpu { what, message } => Error::usage(format!(
                "{}: the device rejects it while {what}. Change the shader or its call, or choose another --adapter:\n{}",
                shown(&self.shader.path),
                message.trim_end()
            )),
            error => error,
        })
    }
}

fn resource(context: &Context, variable: &Variable, memory: &Memory) -> Result<Resource> {
    let label = variable.name.as_str();
    match variable.bound {
        Bound::Immediate => Ok(Resource::Immediate),
        Bound::Uniform => {
            let buffer = context.uniform_buffer(label, &memory.bytes)?;
            let bound = buffer.size();
            Ok(Resource::Buffer { buffer, bound })
        }
        Bound::Storage { writable, measured } => {
            // A runtime-sized array ends with its binding. If the shader queries its length, that must be correct;
            // otherwise the guard zone is bound too, so an index beyond the end is not clamped to the end.
            let length = memory.length.next_multiple_of(4).max(variable.form.size().next_multiple_of(4));
            let guard = if writable { GUARD } else { 0 };
            let buffer = context.storage_buffer(label, (length + guard) as u64)?;
            let bound = if measured { length } else { length + guard };
            Ok(Resource::Buffer { buffer, bound: bound as u64 })
        }
        Bound::Texture { format, .. } => {
            let copies = wgpu::TextureUsages::COPY_DST | wgpu::TextureUsages::COPY_SRC;
            let texture = context.device().create_texture(&wgpu::TextureDescriptor {
                label: Some(label),
                size: extent(memory),
                mip_level_count: 1,
                sample_count: 1,
                dimension: wgpu::TextureDimension::D2,
                format,
                usage: copies | wgpu::TextureUsages::STORAGE_BINDING,
                view_formats: &[],
            });
            context.check(label)?;
            Ok(Resource::Texture(texture))
        }
    }
}
