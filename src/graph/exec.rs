//! Prepared replay: a graph turned into pipelines, bind groups and copies, recorded again and again.

use super::engine::{Engine, Packed};
use super::goals::{Goals, When};
use super::ir::{Graph, Node, TensorId};
use super::kernels::{choose, shaders};
use super::memory::Memory;
use super::options::Options;
use super::plan::{MemoryUse, Place, Plan};
use super::profile::PreparedNode;
use super::steps::{Action, Part, Sections, Step, record};
use super::submission::{Reader, Submission};
use super::traced;
use crate::error::{Error, Result};
use crate::ops::{Constant, Dispatch, Kernel, Operand, Storage, TexelCopy};
use crate::shader::{ResourceKind, Shader};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Memory of the tensors that are not planned: those from outside, and those that are read by their memory.
pub type Bindings = HashMap<TensorId, Memory>;

/// Uniform offsets are aligned to this, WebGPU's default (and largest allowed) alignment.
const UNIFORM_ALIGNMENT: usize = 256;

/// A graph, ready to run.
#[derive(Debug)]
pub struct Program {
    pub(super) engine: Arc<Engine>,
    pub(super) steps: Vec<Step>,
    sections: Vec<String>,
    readers: Vec<Reader>,
    memory: MemoryUse,
    pub(super) nodes: Vec<PreparedNode>,
}

impl Program {
    /// Prepares a graph for these goals; nodes that no section needs are left out. `pick` chooses among a node's
    /// kernels, usually the first.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the plan exceeds a limit of the device or the device's memory,
    /// [`Error::Gpu`] if a kernel and its call do not fit together, or the goals contradict themselves or the graph.
    pub fn prepare(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        pick: impl Fn(&[Kernel]) -> usize,
    ) -> Result<Self> {
        Self::prepare_with(engine, graph, bound, goals, pick, Options::default())
    }

    /// As [`Program::prepare`], in another way than usual.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn prepare_with(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        pick: impl Fn(&[Kernel]) -> usize,
        options: Options,
    ) -> Result<Self> {
        let mut tuned = false;
        match Self::attempt(engine, graph, bound, goals, &pick, options, &mut tuned) {
            // What was measured at one size may not fit at another one in the same bucket.
            Err(Error::Gpu { .. } | Error::OutOfMemory { .. }) if tuned => {
                let options = Options { tuned: false, ..options };
                Self::attempt(engine, graph, bound, goals, &pick, options, &mut tuned)
            }
            done => done,
        }
    }

    /// Compiles what [`Program::prepare`] will need, and allocates nothing: for host time while the device is
    /// busy with something else.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn compile(engine: &Arc<Engine>, graph: &Graph, goals: &Goals) -> Result<()> {
        let needed = graph.needed_for(&goals.tensors());
        let mut kernels = Vec::new();
        for (node, _) in graph.nodes().iter().zip(needed).filter(|(_, needed)| *needed) {
            kernels.push(choose(engine, node, &graph.signature(node), &|_| 0, Options::default())?.0);
        }
        let (keys, _) = shaders(&kernels, Options::default().unroll)?;
        engine.pipelines.get(&engine.context, &keys).map(drop)
    }

    /// Prepares a graph; `tuned` becomes true if a choice by measurement was used.
    fn attempt(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        pick: &impl Fn(&[Kernel]) -> usize,
        options: Options,
        tuned: &mut bool,
    ) -> Result<Self> {
        check_names(goals)?;
        let mut sections: Vec<Sections> = vec![0; graph.nodes().len()];
        for (index, (_, tensors)) in goals.sections.iter().enumerate() {
            for (section, needed) in sections.iter_mut().zip(graph.needed_for(tensors)) {
                *section |= Sections::from(needed) << index;
            }
        }
        let pruned = prune(graph, &sections);
        sections.retain(|section| *section != 0);
        let mut kernels = Vec::new();
        for node in pruned.nodes() {
            let (kernel, measured) = choose(engine, node, &pruned.signature(node), pick, options)?;
            *tuned |= measured;
            kernels.push(kernel);
        }
        let mut kept: Vec<TensorId> = goals.read().filter(|tensor| !bound.contains_key(tensor)).collect();
        kept.sort();
        kept.dedup();
        let outside = |tensor| bound.contains_key(&tensor) || kept.contains(&tensor);
        let plan = Plan::new(&pruned, outside, &kernels, options.share);
        let mut builder = Builder {
            engine,
            graph: &pruned,
            bound: bound.clone(),
            kept,
            plan: &plan,
            unroll: options.unroll,
            slots: Vec::new(),
            staging: Vec::new(),
        };
        let memory = builder.account(&kernels)?;
        builder.allocate()?;
        let steps = builder.steps(&kernels, &sections)?;
        let readers = builder.readers(goals)?;
        let label = |tensor| pruned.tensor(tensor).label.clone();
        let prepared = |(node, kernel): (&Node, &Kernel)| PreparedNode {
            label: label(node.output),
            adjoint_of: node.adjoint_of.map(label),
            op: node.op.clone(),
            signature: pruned.signature(node),
            variant: kernel.variant,
        };
        let nodes = pruned.nodes().iter().zip(&kernels).map(prepared).collect();
        let sections = goals.sections.iter().map(|(name, _)| name.clone()).collect();
        Ok(Self { engine: engine.clone(), steps, sections, readers, memory, nodes })
    }

    /// Records all steps of all sections.
    pub(crate) fn record_all(&self, encoder: &mut wgpu::CommandEncoder) {
        self.record(encoder, Sections::MAX);
    }

    /// The set of these sections.
    pub(super) fn bits(&self, names: &[&str]) -> Result<Sections> {
        names.iter().try_fold(0, |bits, name| {
            let index = self.sections.iter().position(|section| section == name);
            Ok(bits | 1 << index.ok_or_else(|| fault(name, "the program has no section of this name"))?)
        })
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, sections: Sections) {
        let steps = self.steps.iter().filter(|step| step.sections & sections != 0);
        match self.engine.context.trace() {
            Some(trace) => traced::record(&self.engine.context, trace, encoder, steps),
            None => record(encoder, steps),
        }
    }

    /// Runs these sections once, in one submission, and starts these read-backs. Waits for nothing.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::submit`]; [`Error::Gpu`] if there is no section or read-back of a name, or too many
    /// reads of one name are in flight.
    pub fn submit(&self, sections: &[&str], readbacks: &[&str], label: &str) -> Result<Submission> {
        let sections = self.bits(sections)?;
        let mut readers = Vec::new();
        for name in readbacks {
            let reader = self.readers.iter().find(|reader| reader.name == *name);
            readers.push(reader.ok_or_else(|| fault(name, "the program has no read-back of this name"))?);
        }
        let context = &self.engine.context;
        let mut encoder =
            context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
        let mut copies = Vec::new();
        for reader in readers.iter().filter(|reader| reader.before) {
            copies.push((reader, reader.copy(&self.engine, &mut encoder)?));
        }
        self.record(&mut encoder, sections);
        for reader in readers.iter().filter(|reader| !reader.before) {
            copies.push((reader, reader.copy(&self.engine, &mut encoder)?));
        }
        let index = context.submit(encoder, label)?;
        let pending =
            |(reader, copy): (&&Reader, _)| (reader.name.clone(), reader.pending(&self.engine, copy, &index));
        let pending = copies.into_iter().map(pending).collect();
        Ok(Submission { engine: self.engine.clone(), label: label.to_owned(), index, pending })
    }

    /// Staging buffers made for read-backs so far.
    pub fn staging_buffers(&self) -> usize {
        self.readers.iter().map(Reader::staging_buffers).sum()
    }

    /// Device memory in use.
    pub fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// The nodes in running order, each with the kernel chosen for it.
    pub fn nodes(&self) -> &[PreparedNode] {
        &self.nodes
    }

    /// Runs the steps one by one, waiting for each, and returns label and seconds; for reports, not for work.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_steps(&self, sections: &[&str]) -> Result<Vec<(String, f64)>> {
        let sections = self.bits(sections)?;
        let context = &self.engine.context;
        let mut times = Vec::new();
        for step in self.steps.iter().filter(|step| step.sections & sections != 0) {
            let start = std::time::Instant::now();
            let mut encoder = context
                .device()
                .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(&step.label) });
            record(&mut encoder, std::iter::once(step));
            let submission = context.submit(encoder, &step.label)?;
            context.wait(&submission, &step.label)?;
            times.push((step.label.clone(), start.elapsed().as_secs_f64()));
        }
        Ok(times)
    }
}

/// Refuses names that are used twice, and more sections than a set can hold.
fn check_names(goals: &Goals) -> Result<()> {
    let check = |names: &[&String]| {
        let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
        twice.map_or(Ok(()), |(_, name)| Err(fault(name, "the name is used twice")))
    };
    if goals.sections.len() > Sections::BITS as usize {
        return Err(fault("a program", &format!("has at most {} sections", Sections::BITS)));
    }
    check(&goals.sections.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    check(&goals.readbacks.iter().map(|read| &read.name).collect::<Vec<_>>())?;
    for read in &goals.readbacks {
        check(&read.tensors.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The graph without the nodes that no section needs; tensor ids stay.
fn prune(graph: &Graph, sections: &[Sections]) -> Graph {
    let mut pruned = graph.clone();
    let mut index = 0;
    pruned.retain_nodes(|_| {
        index += 1;
        sections[index - 1] != 0
    });
    pruned
}

struct Builder<'a> {
    engine: &'a Arc<Engine>,
    graph: &'a Graph,
    bound: Bindings,
    /// Tensors of read-backs that are not bound from outside: they get memory of their own.
    kept: Vec<TensorId>,
    plan: &'a Plan,
    unroll: bool,
    slots: Vec<wgpu::Buffer>,
    /// Staging textures by position within a dispatch, each as large as its largest use.
    staging: Vec<(u64, Option<wgpu::Texture>)>,
}

impl Builder<'_> {
    /// Sums up the memory and sizes the staging textures, before anything is allocated.
    fn account(&mut self, kernels: &[Kernel]) -> Result<MemoryUse> {
        let mut memory = MemoryUse { planned: self.plan.bytes(), ..Default::default() };
        let mut constants = HashSet::new();
        for (node, kernel) in self.graph.nodes().iter().zip(kernels) {
            let saved = node.saved.map_or(0, |saved| self.graph.shape(saved).bytes());
            memory.unshared +=
                self.graph.shape(node.output).bytes() + saved + kernel.scratch.iter().sum::<u64>();
            for dispatch in &kernel.dispatches {
                for (name, operand) in &dispatch.bindings {
                    if let Operand::Constant(constant) = operand
                        && constants.insert((constant.key.clone(), constant.storage))
                    {
                        memory.constants += constant.bytes;
                    }
                    let texture = match operand {
                        Operand::Constant(constant) => constant.storage == Storage::Texture,
                        other => other.slot().is_some(),
                    };
                    if !texture {
                        self.check_binding(node, name, operand, self.bytes(node, kernel, operand))?;
                    }
                }
                for (_, operand) in &dispatch.bindings {
                    if let Some(slot) = operand.slot() {
                        let texels = self.bytes(node, kernel, operand) / 16;
                        if self.staging.len() <= slot {
                            self.staging.resize(slot + 1, (0, None));
                        }
                        self.staging[slot].0 = texels.max(self.staging[slot].0);
                    }
                }
            }
        }
        memory.bound = self.bound.values().map(Memory::bytes).sum::<u64>()
            + self.kept.iter().map(|tensor| self.graph.shape(*tensor).bytes()).sum::<u64>();
        memory.staging = self.staging.iter().map(|(texels, _)| texels * 16).sum();
        Ok(memory)
    }

    /// Refuses what the adapter can't bind at once.
    fn check_binding(&self, node: &Node, name: &str, operand: &Operand, bytes: u64) -> Result<()> {
        let limit = self.engine.context.profile().max_binding;
        if bytes <= limit {
            return Ok(());
        }
        let label = &self.graph.tensor(node.output).label;
        let what = match operand {
            Operand::Output => format!("{label} ({})", self.graph.shape(node.output)),
            Operand::Input(input) => {
                let tensor = self.graph.tensor(node.inputs[*input]);
                format!("{} ({})", tensor.label, tensor.shape)
            }
            _ => format!("{name} of {label}"),
        };
        Err(Error::OutOfMemory {
            what: format!(
                "{what}, bound by {}: this adapter binds at most {} MiB at once",
                node.op.name(),
                limit >> 20
            ),
            needed: bytes,
            remedy: "Use a smaller --size or another --adapter".to_owned(),
        })
    }

    fn allocate(&mut self) -> Result<()> {
        for id in &self.kept {
            let tensor = self.graph.tensor(*id);
            if tensor.producer.is_none() {
                return Err(fault(&tensor.label, "it is to be read back, and is neither bound nor computed"));
            }
            self.bound.insert(*id, self.engine.tensor(&tensor.label, tensor.shape)?);
        }
        for (index, slot) in self.plan.slots.iter().enumerate() {
            self.slots.push(self.engine.context.storage_buffer(&format!("slot {index}"), slot.bytes)?);
        }
        for (index, (texels, texture)) in self.staging.iter_mut().enumerate() {
            *texture = Some(self.engine.staging_texture(&format!("staging {index}"), *texels)?);
        }
        Ok(())
    }

    fn steps(&self, kernels: &[Kernel], sections: &[Sections]) -> Result<Vec<Step>> {
        let (keys, shaders) = shaders(kernels, self.unroll)?;
        let mut uniforms: Vec<u8> = Vec::new();
        let mut offsets = Vec::new();
        for (dispatch, shader) in kernels.iter().flat_map(|kernel| &kernel.dispatches).zip(&shaders) {
            self.check_groups(dispatch, shader)?;
            let start = uniforms.len().next_multiple_of(UNIFORM_ALIGNMENT);
            uniforms.resize(start, 0);
            uniforms.extend(dispatch.uniform(&shader.interface)?);
            offsets.push(start);
        }
        let pipelines = self.engine.pipelines.get(&self.engine.context, &keys)?;
        // A binding may reach past the last struct, up to its size rounded to 16.
        uniforms.resize(uniforms.len() + UNIFORM_ALIGNMENT, 0);
        let uniform_buffer = self.engine.context.uniform_buffer("parameters", &uniforms)?;

        let mut steps = Vec::new();
        let mut next = pipelines.into_iter().zip(shaders.into_iter().zip(offsets));
        for ((index, kernel), section) in kernels.iter().enumerate().zip(sections) {
            let label = &self.graph.tensor(self.graph.nodes()[index].output).label;
            if let Some(action) = self.take_over(&self.graph.nodes()[index])? {
                let label = format!("{label} (copy)");
                steps.push(Step { sections: *section, node: index, label, action });
            }
            for dispatch in &kernel.dispatches {
                let Some((pipeline, (shader, offset))) = next.next() else { break };
                let (resources, _) = shader.interface.entry(dispatch.entry)?;
                let mut held = Vec::new();
                for resource in &resources {
                    if let ResourceKind::Uniform { size } = resource.kind {
                        held.push((resource.binding, Held::Uniform(offset as u64, u64::from(size))));
                        continue;
                    }
                    let operand = dispatch.operand(&resource.name)?;
                    if let Some(slot) = operand.slot() {
                        let texture = self.staging[slot].1.clone();
                        let texture =
                            texture.ok_or_else(|| fault(&resource.name, "nothing is staged for it"))?;
                        if let Operand::Staged { inner, .. } = operand {
                            let texels = self.bytes(&self.graph.nodes()[index], kernel, inner) / 16;
                            let Part { buffer, offset } = self.part(index, inner)?;
                            let copy = TexelCopy { from: offset / 16, to: 0, texels };
                            let action = Action::Stage { buffer, texture: texture.clone(), copy };
                            let label = format!("{label} (stage)");
                            steps.push(Step { sections: *section, node: index, label, action });
                        }
                        held.push((resource.binding, Held::View(view(&texture))));
                    } else {
                        held.push((resource.binding, self.hold(index, kernel, operand)?));
                    }
                }
                let entries: Vec<wgpu::BindGroupEntry<'_>> = held
                    .iter()
                    .map(|(binding, held)| wgpu::BindGroupEntry {
                        binding: *binding,
                        resource: held.resource(&uniform_buffer),
                    })
                    .collect();
                let step_label =
                    format!("{label}: {}/{} {}", dispatch.shader, dispatch.entry, kernel.variant);
                let bind_group = self.engine.context.device().create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&step_label),
                    layout: &pipeline.layout,
                    entries: &entries,
                });
                self.engine.context.check(&step_label)?;
                let action = Action::Dispatch { pipeline, bind_group, groups: dispatch.groups };
                steps.push(Step { sections: *section, node: index, label: step_label, action });
            }
        }
        Ok(steps)
    }

    fn readers(&self, goals: &Goals) -> Result<Vec<Reader>> {
        let mut readers = Vec::new();
        for read in &goals.readbacks {
            let mut parts = Vec::new();
            for (name, tensor) in &read.tensors {
                let Part { buffer, offset } = self.tensor(*tensor)?;
                parts.push((name.clone(), self.graph.shape(*tensor), buffer, offset));
            }
            readers.push(Reader::new(&read.name, read.when == When::Before, read.in_flight, parts));
        }
        Ok(readers)
    }

    /// The copy of the input that a node writes over, where the output has memory of its own.
    fn take_over(&self, node: &Node) -> Result<Option<Action>> {
        let Some(input) = node.op.overwrites() else { return Ok(None) };
        let (from, to) = (self.tensor(node.inputs[input])?, self.tensor(node.output)?);
        let bytes = self.graph.shape(node.output).bytes();
        Ok((from != to).then_some(Action::Copy { from, to, bytes }))
    }

    fn check_groups(&self, dispatch: &Dispatch, shader: &Shader) -> Result<()> {
        let profile = self.engine.context.profile();
        let name = format!("{}/{}", dispatch.shader, dispatch.entry);
        if let Some(limit) = profile.loop_limit.filter(|limit| dispatch.loops > *limit as usize) {
            let message = format!(
                "up to {} iterations of its loops, of which this driver silently drops all beyond {limit}",
                dispatch.loops
            );
            return Err(fault(&name, &message));
        }
        let (_, size) = shader.interface.entry(dispatch.entry)?;
        let shared = shader.interface.workgroup_bytes(dispatch.entry)?;
        let invocations: u32 = size.iter().product();
        if dispatch.groups.iter().all(|count| *count <= profile.max_groups)
            && invocations <= profile.max_invocations
            && shared <= profile.max_workgroup_storage
        {
            return Ok(());
        }
        let groups = dispatch.groups;
        Err(fault(
            &name,
            &format!("{groups:?} groups of {size:?} with {shared} B exceed the device's limits"),
        ))
    }

    /// Exact size in bytes of an operand's data.
    fn bytes(&self, node: &Node, kernel: &Kernel, operand: &Operand) -> u64 {
        match operand {
            Operand::Input(input) => self.graph.shape(node.inputs[*input]).bytes(),
            Operand::Output => self.graph.shape(node.output).bytes(),
            Operand::Saved => node.saved.map_or(0, |saved| self.graph.shape(saved).bytes()),
            Operand::Scratch(scratch) => kernel.scratch[*scratch],
            Operand::Constant(constant) => constant.bytes,
            Operand::Window { bytes, .. } | Operand::Texture { bytes, .. } => *bytes,
            Operand::Staged { inner, .. } => self.bytes(node, kernel, inner),
        }
    }

    /// Where an operand in a buffer starts.
    fn part(&self, index: usize, operand: &Operand) -> Result<Part> {
        let node = &self.graph.nodes()[index];
        Ok(match operand {
            Operand::Input(input) => self.tensor(node.inputs[*input])?,
            Operand::Output => self.tensor(node.output)?,
            Operand::Saved => {
                self.tensor(node.saved.ok_or_else(|| fault(node.op.name(), "it has no saved output"))?)?
            }
            Operand::Scratch(scratch) => self.place(self.plan.scratch[index][*scratch]),
            Operand::Constant(constant) => match self.engine.constant(constant)? {
                Packed::Buffer(buffer) => Part { buffer, offset: 0 },
                Packed::Texture(_) => return Err(fault(&constant.key, "a texture can't be staged")),
            },
            Operand::Window { inner, offset, .. } => {
                let Part { buffer, offset: start } = self.part(index, inner)?;
                Part { buffer, offset: start + offset }
            }
            Operand::Staged { .. } | Operand::Texture { .. } => {
                return Err(fault("a texture", "can't be bound as a buffer or staged"));
            }
        })
    }

    fn tensor(&self, tensor: TensorId) -> Result<Part> {
        if let Some(memory) = self.bound.get(&tensor) {
            return Ok(Part { buffer: memory.buffer().clone(), offset: 0 });
        }
        let place = self.plan.tensors.get(&tensor);
        place.map(|place| self.place(*place)).ok_or_else(|| {
            fault(&self.graph.tensor(tensor).label, "the tensor is neither made by a node nor bound")
        })
    }

    fn place(&self, Place { slot, offset }: Place) -> Part {
        Part { buffer: self.slots[slot].clone(), offset }
    }

    fn hold(&self, index: usize, kernel: &Kernel, operand: &Operand) -> Result<Held> {
        if let Operand::Constant(constant @ Constant { storage: Storage::Texture, .. }) = operand
            && let Packed::Texture(texture) = self.engine.constant(constant)?
        {
            return Ok(Held::View(view(&texture)));
        }
        let bytes = self.bytes(&self.graph.nodes()[index], kernel, operand);
        let Part { buffer, offset } = self.part(index, operand)?;
        Ok(Held::Buffer(buffer, offset, bytes))
    }
}

/// A bound resource, kept alive while its bind group is made.
enum Held {
    /// Buffer, offset, size.
    Buffer(wgpu::Buffer, u64, u64),
    /// Offset and size in the parameter buffer.
    Uniform(u64, u64),
    View(wgpu::TextureView),
}

impl Held {
    fn resource<'a>(&'a self, uniforms: &'a wgpu::Buffer) -> wgpu::BindingResource<'a> {
        let part = |buffer: &'a wgpu::Buffer, offset, bytes| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: std::num::NonZeroU64::new(bytes),
            })
        };
        match self {
            Self::Buffer(buffer, offset, bytes) => part(buffer, *offset, *bytes),
            Self::Uniform(offset, bytes) => part(uniforms, *offset, *bytes),
            Self::View(view) => wgpu::BindingResource::TextureView(view),
        }
    }
}

fn view(texture: &wgpu::Texture) -> wgpu::TextureView {
    texture.create_view(&wgpu::TextureViewDescriptor::default())
}

fn fault(what: &str, message: &str) -> Error {
    Error::Gpu { what: what.to_owned(), message: message.to_owned() }
}
