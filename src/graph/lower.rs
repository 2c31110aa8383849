//! Lowering: turns a graph into a program as plain data. Needs no device, only its profile.

use super::goals::Goals;
use super::ir::{Graph, Node, TensorId};
use super::kernels::{Entries, Selection};
use super::lowered::{
    Action, Binding, Buffer, Location, Lowered, LoweredConstant, LoweredReadback, Operands, Origin,
    PartProgram, PreparedNode, Sections, Step, Texture,
};
use super::options::PrepareOptions;
use super::plan::{MemoryUse, Plan};
use crate::error::{Error, Result};
use crate::gpu::Profile;
use crate::ops::{
    Constant, CpuKernel, Dispatch, Initializer, Kernel, Operand, Shape, Storage, TexelCopy, scratch_of,
};
use crate::shader::{ResourceKind, Shader};
use std::collections::HashMap;

/// Alignment in bytes of a dispatch's parameters: WebGPU's default (and largest allowed) alignment.
const PARAMS_ALIGNMENT: usize = 256;

/// Lowers a graph for these goals. The caller binds the tensors for which `bound` is true. Nodes that no section needs
/// are left out.
///
/// # Errors
/// [`Error::OutOfMemory`] if a tensor exceeds the device's largest binding; [`Error::Shader`] if a kernel and its
/// dispatch do not match; [`Error::Internal`] if the goals contradict themselves or the graph.
pub fn lower(
    graph: &Graph,
    bound: impl Fn(TensorId) -> bool,
    goals: &Goals,
    selection: &Selection<'_>,
) -> Result<Lowered> {
    check_names(goals)?;
    let mut sections: Vec<Sections> = vec![0; graph.nodes().len()];
    for (index, (_, tensors)) in goals.sections.iter().enumerate() {
        for (section, needed) in sections.iter_mut().zip(graph.needed_for(tensors)) {
            *section |= Sections::from(needed) << index;
        }
    }
    let pruned = prune(graph, &sections);
    sections.retain(|section| *section != 0);
    let choose = |node: &Node| selection.choose(node, &pruned.signature(node));
    let kernels = pruned.nodes().iter().map(choose).collect::<Result<Vec<Kernel>>>()?;
    let kept: Vec<TensorId> = goals.read().filter(|tensor| !bound(*tensor)).collect();
    if let Some(tensor) = kept.iter().find(|tensor| pruned.tensor(**tensor).producer.is_none()) {
        let message = "it is to be read back, but is neither bound nor computed";
        return Err(Error::internal(&pruned.tensor(*tensor).label, message));
    }
    let plan = Plan::new(
        &pruned,
        |tensor| bound(tensor) || kept.contains(&tensor),
        &kernels,
        selection.options.share,
    );
    let mut lowering = Lowering {
        graph: &pruned,
        bound: &bound,
        plan: &plan,
        selection,
        buffers: Vec::new(),
        textures: Vec::new(),
        constants: Vec::new(),
        params: Vec::new(),
        entries: Entries::default(),
        functions: Vec::new(),
        outside: HashMap::new(),
        packed: HashMap::new(),
        memory: MemoryUse { planned: plan.bytes(), ..Default::default() },
    };
    lowering.account(&kernels)?;
    lowering.program(&kernels, &sections, goals)
}

/// Collects the entry points that a graph needs: the first step of [`lower`] alone.
///
/// # Errors
/// As [`lower`].
pub(super) fn entries(graph: &Graph, goals: &Goals, selection: &Selection<'_>) -> Result<Entries> {
    let mut entries = Entries::default();
    let needed = graph.needed_for(&goals.tensors());
    for (node, _) in graph.nodes().iter().zip(needed).filter(|(_, needed)| *needed) {
        for dispatch in &selection.choose(node, &graph.signature(node))?.dispatches {
            entries.of(dispatch, selection.options.unroll)?;
        }
    }
    Ok(entries)
}

/// Rejects duplicate names, and more sections than [`Sections`] can hold.
fn check_names(goals: &Goals) -> Result<()> {
    let check = |names: &[&String]| {
        let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
        twice.map_or(Ok(()), |(_, name)| Err(Error::internal(*name, "the name is used twice")))
    };
    if goals.sections.len() > Sections::BITS as usize {
        return Err(Error::internal("a program", format!("has at most {} sections", Sections::BITS)));
    }
    check(&goals.sections.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    check(&goals.readbacks.iter().map(|read| &read.name).collect::<Vec<_>>())?;
    for read in &goals.readbacks {
        check(&read.tensors.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Returns the graph without the nodes that no section needs. Tensor ids stay valid.
fn prune(graph: &Graph, sections: &[Sections]) -> Graph {
    let mut pruned = graph.clone();
    let mut index = 0;
    pruned.retain_nodes(|_| {
        index += 1;
        sections[index - 1] != 0
    });
    pruned
}

/// Rounds a buffer size up to a multiple of 16.
fn rounded(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

/// A program while it is being lowered.
struct Lowering<'a> {
    graph: &'a Graph,
    bound: &'a dyn Fn(TensorId) -> bool,
    plan: &'a Plan,
    selection: &'a Selection<'a>,
    /// Buffers, starting with the slots of the plan.
    buffers: Vec<Buffer>,
    /// Textures, starting with the staging textures by position within a dispatch, each as large as its largest use.
    textures: Vec<Texture>,
    constants: Vec<LoweredConstant>,
    params: Vec<u8>,
    entries: Entries,
    functions: Vec<CpuKernel>,
    /// Buffers of tensors that are not planned.
    outside: HashMap<TensorId, usize>,
    /// Buffer or texture of each constant.
    packed: HashMap<(String, Storage), usize>,
    memory: MemoryUse,
}

impl Lowering<'_> {
    /// Sums up the memory, and adds the slots and the staging textures.
    fn account(&mut self, kernels: &[Kernel]) -> Result<()> {
        for (index, slot) in self.plan.slots.iter().enumerate() {
            let label = format!("slot {index}");
            self.buffers.push(Buffer { label, bytes: rounded(slot.bytes), origin: Origin::Own });
        }
        for (node, kernel) in self.graph.nodes().iter().zip(kernels) {
            let saved = node.saved.map_or(0, |saved| self.graph.shape(saved).bytes());
            self.memory.unshared +=
                self.graph.shape(node.output).bytes() + saved + kernel.scratch.iter().sum::<u64>();
            for (name, operand) in kernel.dispatches.iter().flat_map(|dispatch| &dispatch.bindings) {
                let bytes = self.bytes(node, kernel, operand);
                if let Some(slot) = operand.slot() {
                    while self.textures.len() <= slot {
                        let label = format!("staging {}", self.textures.len());
                        self.textures.push(Texture { label, texels: 0, origin: Origin::Own });
                    }
                    self.textures[slot].texels = self.textures[slot].texels.max(bytes / 16);
                } else if !matches!(operand, Operand::Constant(Constant { storage: Storage::Texture, .. })) {
                    self.check_binding(node, name, operand, bytes)?;
                }
            }
        }
        self.memory.staging = self.textures.iter().map(|texture| texture.texels * 16).sum();
        Ok(())
    }

    /// Rejects an operand that exceeds the adapter's largest binding.
    fn check_binding(&self, node: &Node, name: &str, operand: &Operand, bytes: u64) -> Result<()> {
        let limit = self.selection.profile.max_binding;
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
            remedy: "Use a smaller --size, tiles (--tile) or another --adapter".to_owned(),
        })
    }

    fn program(mut self, kernels: &[Kernel], sections: &[Sections], goals: &Goals) -> Result<Lowered> {
        let graph = self.graph;
        let (mut steps, mut nodes, mut operands) = (Vec::new(), Vec::new(), Vec::new());
        for (index, ((node, kernel), sections)) in
            graph.nodes().iter().zip(kernels).zip(sections.iter().copied()).enumerate()
        {
            let label = &graph.tensor(node.output).label;
            let placed = self.operands(node, sections)?;
            let mut push = |label: String, action| steps.push(Step { sections, node: index, label, action });
            if let Some(from) = node.op.overwrites().map(|input| placed.inputs[input])
                && from != placed.output
            {
                // The output has memory of its own, so the overwritten input is copied there first.
                let bytes = graph.shape(node.output).bytes();
                push(format!("{label} (copy)"), Action::Copy { from, to: placed.output, bytes });
            }
            let prepared = self.node(node, kernel);
            if self.selection.profile.cpu {
                self.functions.push(node.op.cpu(&prepared.signature, self.selection.profile)?);
                push(format!("{label}: {}", node.op.name()), Action::Call { function: index });
            }
            nodes.push(prepared);
            operands.push(placed);
            for dispatch in &kernel.dispatches {
                let (staged, action) = self.dispatch(index, kernel, dispatch)?;
                staged.into_iter().for_each(|action| push(format!("{label} (stage)"), action));
                push(format!("{label}: {}/{} {}", dispatch.shader, dispatch.entry, kernel.variant), action);
            }
        }
        // A binding's size is rounded up to 16, so it may reach past the last struct.
        self.params.resize(self.params.len() + PARAMS_ALIGNMENT, 0);
        let mut readbacks = Vec::new();
        for read in &goals.readbacks {
            let value = |(name, tensor): &(String, TensorId)| {
                Ok((name.clone(), graph.shape(*tensor), self.tensor(*tensor)?))
            };
            let values = read.tensors.iter().map(value).collect::<Result<_>>()?;
            let (name, when, in_flight) = (read.name.clone(), read.when, read.in_flight);
            readbacks.push(LoweredReadback { name, values, when, in_flight });
        }
        let outside = graph.ids().filter(|tensor| (self.bound)(*tensor) || self.outside.contains_key(tensor));
        self.memory.bound = outside.map(|tensor| rounded(graph.shape(tensor).bytes())).sum();
        self.memory.constants = self.constants.iter().map(|constant| constant.constant.bytes).sum();
        let constants = self.functions.iter().flat_map(|function| &function.constants);
        let constants: HashMap<&str, u64> =
            constants.map(|constant| (constant.key.as_str(), constant.bytes)).collect();
        self.memory.constants += constants.values().sum::<u64>();
        let temporary = self.functions.iter().map(|function| function.temporary).max().unwrap_or(0);
        self.memory.scratch = scratch_of(&self.functions) + temporary;
        Ok(Lowered {
            buffers: self.buffers,
            textures: self.textures,
            constants: self.constants,
            params: self.params,
            entries: self.entries.list,
            functions: self.functions,
            steps,
            sections: goals.sections.iter().map(|(name, _)| name.clone()).collect(),
            readbacks,
            nodes,
            operands,
            memory: self.memory,
        })
    }

    fn node(&self, node: &Node, kernel: &Kernel) -> PreparedNode {
        let label = |tensor| self.graph.tensor(tensor).label.clone();
        PreparedNode {
            label: label(node.output),
            adjoint_of: node.adjoint_of.map(label),
            op: node.op.clone(),
            signature: self.graph.signature(node),
            variant: kernel.variant,
        }
    }

    fn operands(&mut self, node: &Node, sections: Sections) -> Result<Operands> {
        Ok(Operands {
            sections,
            inputs: node.inputs.iter().map(|input| self.tensor(*input)).collect::<Result<_>>()?,
            output: self.tensor(node.output)?,
            saved: node.saved.map(|saved| self.tensor(saved)).transpose()?,
        })
    }

    /// Lowers one dispatch. Returns its staging copies and the dispatch itself.
    fn dispatch(
        &mut self,
        index: usize,
        kernel: &Kernel,
        dispatch: &Dispatch,
    ) -> Result<(Vec<Action>, Action)> {
        let entry = self.entries.of(dispatch, self.selection.options.unroll)?;
        let text = self.entries.list[entry].text.clone();
        check_groups(dispatch, &text, self.selection.profile)?;
        let start = self.params.len().next_multiple_of(PARAMS_ALIGNMENT);
        self.params.resize(start, 0);
        self.params.extend(dispatch.uniform(&text.interface)?);
        let node = &self.graph.nodes()[index];
        let (mut staged, mut bindings) = (Vec::new(), Vec::new());
        for resource in text.interface.entry(dispatch.entry)?.0 {
            let binding = if let ResourceKind::Uniform { size } = resource.kind {
                Binding::Params { offset: start as u64, bytes: u64::from(size) }
            } else {
                match dispatch.operand(&resource.name)? {
                    Operand::Texture { slot, .. } => Binding::Texture(*slot),
                    Operand::Staged { inner, slot } => {
                        let texels = self.bytes(node, kernel, inner) / 16;
                        let Location { buffer, offset } = self.location(index, inner)?;
                        let copy = TexelCopy { from: offset / 16, to: 0, texels };
                        staged.push(Action::Stage { buffer, texture: *slot, copy });
                        Binding::Texture(*slot)
                    }
                    Operand::Constant(constant @ Constant { storage: Storage::Texture, .. }) => {
                        Binding::Texture(self.constant(constant)?)
                    }
                    operand => {
                        Binding::Buffer(self.location(index, operand)?, self.bytes(node, kernel, operand))
                    }
                }
            };
            bindings.push((resource.binding, binding));
        }
        Ok((staged, Action::Dispatch { entry, bindings, groups: dispatch.groups }))
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

    /// Returns the location of an operand that is in a buffer.
    fn location(&mut self, index: usize, operand: &Operand) -> Result<Location> {
        let node = &self.graph.nodes()[index];
        match operand {
            Operand::Input(input) => self.tensor(node.inputs[*input]),
            Operand::Output => self.tensor(node.output),
            Operand::Saved => {
                let saved =
                    node.saved.ok_or_else(|| Error::internal(node.op.name(), "it has no saved output"));
                self.tensor(saved?)
            }
            Operand::Scratch(scratch) => {
                let place = self.plan.scratch[index][*scratch];
                Ok(Location { buffer: place.slot, offset: place.offset })
            }
            Operand::Constant(constant) if constant.storage == Storage::Buffer => {
                Ok(Location { buffer: self.constant(constant)?, offset: 0 })
            }
            Operand::Window { inner, offset, .. } => {
                let Location { buffer, offset: start } = self.location(index, inner)?;
                Ok(Location { buffer, offset: start + offset })
            }
            Operand::Constant(_) | Operand::Staged { .. } | Operand::Texture { .. } => {
                Err(Error::internal("a texture", "can't be bound as a buffer or staged"))
            }
        }
    }

    fn tensor(&mut self, tensor: TensorId) -> Result<Location> {
        if let Some(place) = self.plan.tensors.get(&tensor) {
            return Ok(Location { buffer: place.slot, offset: place.offset });
        }
        let described = self.graph.tensor(tensor);
        let bound = (self.bound)(tensor);
        if !bound && described.producer.is_none() {
            return Err(Error::internal(&described.label, "is neither produced by a node nor bound"));
        }
        let buffers = &mut self.buffers;
        let buffer = *self.outside.entry(tensor).or_insert_with(|| {
            let origin = if bound { Origin::Bound(tensor) } else { Origin::Own };
            let bytes = rounded(described.shape.bytes());
            buffers.push(Buffer { label: described.label.clone(), bytes, origin });
            buffers.len() - 1
        });
        Ok(Location { buffer, offset: 0 })
    }

    /// Returns the index of a constant's buffer or texture, which is added on first use.
    fn constant(&mut self, constant: &Constant) -> Result<usize> {
        let key = (constant.key.clone(), constant.storage);
        if let Some(index) = self.packed.get(&key) {
            return Ok(*index);
        }
        let parts = match &constant.initializer {
            Initializer::Host(_) => Vec::new(),
            Initializer::Device { parts, .. } => {
                let options = PrepareOptions { tuned: false, ..PrepareOptions::default() };
                let selection = Selection { options, ..Selection::preferred(self.selection.profile) };
                let program = |part: &crate::ops::ConstantPart| {
                    let input = Shape::Vector(part.values.len());
                    let (graph, inputs, output) = Graph::single(&part.op, &[input])?;
                    let program = lower(
                        &graph,
                        |tensor| tensor == output || inputs.contains(&tensor),
                        &Goals::all([output]),
                        &selection,
                    )?;
                    Ok(PartProgram { program, input: inputs[0], output })
                };
                parts.iter().map(program).collect::<Result<_>>()?
            }
        };
        let origin = Origin::Constant(self.constants.len());
        self.constants.push(LoweredConstant { constant: constant.clone(), parts });
        let label = constant.key.clone();
        let index = match constant.storage {
            Storage::Buffer => {
                self.buffers.push(Buffer { label, bytes: rounded(constant.bytes), origin });
                self.buffers.len() - 1
            }
            Storage::Texture => {
                self.textures.push(Texture { label, texels: constant.bytes / 16, origin });
                self.textures.len() - 1
            }
        };
        self.packed.insert(key, index);
        Ok(index)
    }
}

fn check_groups(dispatch: &Dispatch, shader: &Shader, profile: &Profile) -> Result<()> {
    let name = format!("{}/{}", dispatch.shader, dispatch.entry);
    if let Some(limit) = profile.loop_limit.filter(|limit| dispatch.loops > *limit as usize) {
        let message = format!(
            "its loops run up to {} iterations; this driver silently drops all beyond {limit}",
            dispatch.loops
        );
        return Err(Error::shader(name, message));
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
    Err(Error::shader(
        name,
        format!("{groups:?} groups of {size:?} with {shared} B exceed the device's limits"),
    ))
}
