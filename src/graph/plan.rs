//! The memory plan: which tensors live when, and which share a buffer.

use super::ir::{Graph, TensorId};
use crate::ops::Kernel;
use std::collections::HashMap;

/// One buffer of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its size in bytes: the largest of its tenants.
    pub bytes: u64,
}

/// Where each planned tensor lives.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// All buffers.
    pub slots: Vec<Slot>,
    /// Buffer of each tensor that is not bound from outside.
    pub tensors: HashMap<TensorId, usize>,
    /// Buffers of each node's scratch memory.
    pub scratch: Vec<Vec<usize>>,
    /// Nodes between which a tensor is alive: made by the first, last read by the second.
    pub lifetimes: HashMap<TensorId, (usize, usize)>,
}

/// Device memory of a program, in bytes, known before it is allocated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Activations, gradients and scratch memory, after sharing.
    pub planned: u64,
    /// The same if nothing were shared.
    pub unshared: u64,
    /// Tensors bound from outside: picture, optimiser state, targets.
    pub bound: u64,
    /// Packed weights.
    pub constants: u64,
    /// Textures through which kernels read buffers.
    pub staging: u64,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.planned + self.bound + self.constants + self.staging
    }
}

impl Plan {
    /// Plans a graph. `bound` tells which tensors have buffers of their own; `kernels` gives the scratch
    /// needs of each node. With `share` off every tensor gets its own buffer.
    pub fn new(graph: &Graph, bound: impl Fn(TensorId) -> bool, kernels: &[Kernel], share: bool) -> Self {
        let mut plan = Self::default();
        for (index, node) in graph.nodes().iter().enumerate() {
            let tensors = node.inputs.iter().chain([&node.output]).chain(&node.side);
            for tensor in tensors.filter(|tensor| !bound(**tensor)) {
                plan.lifetimes.entry(*tensor).or_insert((index, index)).1 = index;
            }
        }
        let mut free: Vec<usize> = Vec::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            for made in [Some(node.output), node.side].into_iter().flatten().filter(|made| !bound(*made)) {
                let slot = plan.take(&mut free, graph.shape(made).bytes(), share);
                plan.tensors.insert(made, slot);
            }
            let scratch: Vec<usize> =
                kernels[index].scratch.iter().map(|bytes| plan.take(&mut free, *bytes, share)).collect();
            free.extend(&scratch);
            plan.scratch.push(scratch);
            for tensor in node.inputs.iter().chain([&node.output]).chain(&node.side) {
                let ends = plan.lifetimes.get(tensor).is_some_and(|(_, last)| *last == index);
                if let Some(slot) = plan.tensors.get(tensor)
                    && ends
                    && !free.contains(slot)
                {
                    free.push(*slot);
                }
            }
        }
        plan
    }

    /// The free slot whose size is nearest (growing it if it is too small), else a new one.
    fn take(&mut self, free: &mut Vec<usize>, bytes: u64, share: bool) -> usize {
        let nearest = (0..free.len()).filter(|_| share).min_by_key(|position| {
            let size = self.slots[free[*position]].bytes;
            // Slack is cheaper than growth: growth adds to the peak.
            if size >= bytes { size - bytes } else { (bytes - size).saturating_mul(2) }
        });
        match nearest {
            Some(position) => {
                let slot = free.swap_remove(position);
                self.slots[slot].bytes = self.slots[slot].bytes.max(bytes);
                slot
            }
            None => {
                self.slots.push(Slot { bytes });
                self.slots.len() - 1
            }
        }
    }

    /// Bytes of all slots together.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }
}
