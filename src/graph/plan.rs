//! The memory plan: the lifetime of each tensor, and which tensors share a buffer.
//!
//! A tensor gets a range of a buffer. Tensors that are not alive at the same time may share a range. Tensors that are
//! may have ranges of the same buffer, unless a node writes one of them while it uses the other: a dispatch can't bind
//! one buffer both for reading and for writing.

use super::ir::{Graph, TensorId};
use crate::ops::Kernel;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

/// Alignment of ranges in bytes: WebGPU's default (and largest allowed) alignment of a binding.
const ALIGNMENT: u64 = 256;

/// One buffer of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Size in bytes: that of its largest tenant.
    pub bytes: u64,
}

/// A position in the planned memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the buffer.
    pub slot: usize,
    /// Offset in the buffer in bytes.
    pub offset: u64,
}

/// A memory plan: the place of each planned tensor.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// All buffers.
    pub slots: Vec<Slot>,
    /// Place of each tensor that is not bound.
    pub tensors: HashMap<TensorId, Place>,
    /// Places of each node's scratch memory.
    pub scratch: Vec<Vec<Place>>,
    /// Lifetime of each tensor: the node that first uses it and the node that last uses it.
    pub lifetimes: HashMap<TensorId, (usize, usize)>,
}

/// Device memory of a program in bytes, known before it is allocated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Activations, gradients and scratch memory, after sharing.
    pub planned: u64,
    /// Activations, gradients and scratch memory, without sharing.
    pub unshared: u64,
    /// Bound tensors: picture, optimiser state, targets.
    pub bound: u64,
    /// Packed weights.
    pub constants: u64,
    /// Textures through which kernels read buffers.
    pub staging: u64,
    /// Peak memory that functions of the CPU device use while they run: scratch memory, which is kept, and heap memory,
    /// which the allocator keeps too.
    pub scratch: u64,
}

impl MemoryUse {
    /// Returns the memory of two programs that run one after the other.
    pub fn with(self, other: Self) -> Self {
        Self { scratch: self.scratch.max(other.scratch), ..self.combined(other, u64::saturating_add) }
    }

    /// Combines each field of both with `with`.
    pub(crate) fn combined(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            planned: with(self.planned, other.planned),
            unshared: with(self.unshared, other.unshared),
            bound: with(self.bound, other.bound),
            constants: with(self.constants, other.constants),
            staging: with(self.staging, other.staging),
            scratch: with(self.scratch, other.scratch),
        }
    }

    /// Total memory, without [`Self::unshared`].
    pub fn total(&self) -> u64 {
        self.planned + self.bound + self.constants + self.staging + self.scratch
    }
}

/// Memory needed from one node to another.
struct Demand {
    bytes: u64,
    /// The tensors stored in it: more than one if each overwrites the one before.
    tensors: Vec<TensorId>,
    /// Or, for scratch memory, the node and the index among its scratch buffers.
    scratch: Option<(usize, usize)>,
    /// The nodes that use it, in order, and whether each of them writes to it.
    uses: Vec<(usize, bool)>,
}

impl Demand {
    fn made_by(node: usize, bytes: u64) -> Self {
        Self { bytes, tensors: Vec::new(), scratch: None, uses: vec![(node, true)] }
    }

    /// Returns the first and the last node that use it.
    fn lifetime(&self) -> (usize, usize) {
        let at = |use_of: Option<&(usize, bool)>| use_of.map_or(0, |(node, _)| *node);
        (at(self.uses.first()), at(self.uses.last()))
    }

    fn alive_with(&self, other: &Self) -> bool {
        let ((made, read), (other_made, other_read)) = (self.lifetime(), other.lifetime());
        made <= other_read && other_made <= read
    }

    /// True if a node uses both and writes to at least one of them.
    fn apart_from(&self, other: &Self) -> bool {
        let mut pairs = self.uses.iter().flat_map(|mine| other.uses.iter().map(move |its| (mine, its)));
        pairs.any(|((node, writes), (other_node, other_writes))| {
            node == other_node && (*writes || *other_writes)
        })
    }

    /// Returns the lowest offset at which this fits into a buffer of `bytes` bytes with these tenants.
    fn room(&self, bytes: u64, tenants: &[(&Self, u64)]) -> Option<u64> {
        let mut busy = Vec::new();
        for (tenant, offset) in tenants.iter().filter(|(tenant, _)| tenant.alive_with(self)) {
            if tenant.apart_from(self) {
                return None;
            }
            busy.push(*offset..offset + tenant.bytes);
        }
        busy.sort_by_key(|range| range.start);
        let mut offset: u64 = 0;
        for range in busy {
            if range.start >= offset + self.bytes {
                break;
            }
            offset = offset.max(range.end.next_multiple_of(ALIGNMENT));
        }
        (offset + self.bytes <= bytes).then_some(offset)
    }
}

impl Plan {
    /// Plans a graph. `bound` is true for tensors with buffers of their own; `kernels` defines the scratch memory of
    /// each node. With `share` off, every tensor gets its own buffer.
    pub fn new(graph: &Graph, bound: impl Fn(TensorId) -> bool, kernels: &[Kernel], share: bool) -> Self {
        let mut plan = Self::default();
        for (index, node) in graph.nodes().iter().enumerate() {
            let tensors = node.inputs.iter().chain([&node.output]).chain(&node.saved);
            for tensor in tensors.filter(|tensor| !bound(**tensor)) {
                plan.lifetimes.entry(*tensor).or_insert((index, index)).1 = index;
            }
        }
        let mut wanted = plan.wanted(graph, bound, kernels, share);
        // Largest first: a slot has the size of its first tenant, and later tenants cost nothing.
        wanted.sort_by_key(|wanted| Reverse(wanted.bytes));
        let mut tenants: Vec<Vec<(&Demand, u64)>> = Vec::new();
        plan.scratch =
            kernels.iter().map(|kernel| vec![Place { slot: 0, offset: 0 }; kernel.scratch.len()]).collect();
        for wanted in &wanted {
            let room = |slot: usize| {
                let offset = wanted.room(plan.slots[slot].bytes, &tenants[slot])?;
                Some(Place { slot, offset })
            };
            // The newest slot is the smallest, so take the newest with room.
            let place = (0..tenants.len()).rev().filter(|_| share).find_map(room);
            let place = place.unwrap_or_else(|| {
                tenants.push(Vec::new());
                plan.slots.push(Slot { bytes: wanted.bytes });
                Place { slot: tenants.len() - 1, offset: 0 }
            });
            tenants[place.slot].push((wanted, place.offset));
            plan.tensors.extend(wanted.tensors.iter().map(|tensor| (*tensor, place)));
            if let Some((node, position)) = wanted.scratch {
                plan.scratch[node][position] = place;
            }
        }
        plan
    }

    /// Plans a graph without the kernels' scratch memory. Kept tensors, and those without a producer, have buffers of
    /// their own.
    pub(super) fn of_tensors(graph: &Graph, kept: &HashSet<TensorId>) -> Self {
        let kernels = vec![Kernel::of("", Vec::new()); graph.nodes().len()];
        let bound = |tensor| kept.contains(&tensor) || graph.tensor(tensor).producer.is_none();
        Self::new(graph, bound, &kernels, true)
    }

    /// Lists all demands for memory. With `share`, a tensor that overwrites a planned one takes over its memory if
    /// nothing reads that one later.
    fn wanted(
        &self,
        graph: &Graph,
        bound: impl Fn(TensorId) -> bool,
        kernels: &[Kernel],
        share: bool,
    ) -> Vec<Demand> {
        let mut wanted: Vec<Demand> = Vec::new();
        let mut memory_of: HashMap<TensorId, usize> = HashMap::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            let over = node.op.overwrites().map(|input| node.inputs[input]).filter(|over| {
                let once = node.inputs.iter().filter(|input| *input == over).count() == 1;
                let last = self.lifetimes.get(over).is_some_and(|(_, read)| *read == index);
                share && once && last && graph.shape(*over) == graph.shape(node.output)
            });
            for input in &node.inputs {
                if let Some(memory) = memory_of.get(input) {
                    wanted[*memory].uses.push((index, over == Some(*input)));
                }
            }
            for made in [Some(node.output), node.saved].into_iter().flatten().filter(|made| !bound(*made)) {
                let over = over.filter(|_| made == node.output);
                let memory = over.and_then(|over| memory_of.get(&over).copied()).unwrap_or_else(|| {
                    wanted.push(Demand::made_by(index, graph.shape(made).bytes()));
                    wanted.len() - 1
                });
                wanted[memory].tensors.push(made);
                memory_of.insert(made, memory);
            }
            for (position, bytes) in kernels[index].scratch.iter().enumerate() {
                let scratch = Some((index, position));
                wanted.push(Demand { scratch, ..Demand::made_by(index, *bytes) });
            }
        }
        wanted
    }

    /// Total bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }
}
