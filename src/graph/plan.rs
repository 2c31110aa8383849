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

/// What takes a slot.
enum Tenant {
    Tensor(TensorId),
    /// Of a node, its n-th scratch buffer.
    Scratch(usize, usize),
}

/// Memory that is needed between two nodes.
struct Wanted {
    what: Tenant,
    bytes: u64,
    lifetime: (usize, usize),
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
        let heirs = if share { plan.heirs(graph) } else { HashMap::new() };
        let mut wanted = Vec::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            let made = [Some(node.output), node.side].into_iter().flatten();
            for made in made.filter(|made| !bound(*made) && !heirs.contains_key(made)) {
                let mut lifetime = plan.lifetimes[&made];
                let last = heirs.iter().filter(|(_, first)| **first == made);
                lifetime.1 = last.map(|(heir, _)| plan.lifetimes[heir].1).fold(lifetime.1, usize::max);
                wanted.push(Wanted {
                    what: Tenant::Tensor(made),
                    bytes: graph.shape(made).bytes(),
                    lifetime,
                });
            }
            for (position, bytes) in kernels[index].scratch.iter().enumerate() {
                let what = Tenant::Scratch(index, position);
                wanted.push(Wanted { what, bytes: *bytes, lifetime: (index, index) });
            }
            plan.scratch.push(vec![0; kernels[index].scratch.len()]);
        }
        // The largest first: so a slot is as large as its first tenant, and the others cost nothing.
        wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.bytes));
        let mut tenants: Vec<Vec<(usize, usize)>> = Vec::new();
        for Wanted { what, bytes, lifetime } in wanted {
            let vacant = |tenants: &[(usize, usize)]| {
                tenants.iter().all(|(made, read)| lifetime.1 < *made || *read < lifetime.0)
            };
            // Of the vacant slots the smallest, which is the latest.
            let slot = (0..tenants.len()).rev().find(|slot| share && vacant(&tenants[*slot]));
            let slot = slot.unwrap_or_else(|| {
                tenants.push(Vec::new());
                plan.slots.push(Slot { bytes });
                tenants.len() - 1
            });
            tenants[slot].push(lifetime);
            match what {
                Tenant::Tensor(tensor) => drop(plan.tensors.insert(tensor, slot)),
                Tenant::Scratch(node, position) => plan.scratch[node][position] = slot,
            }
        }
        for (heir, first) in heirs {
            plan.tensors.insert(heir, plan.tensors[&first]);
        }
        plan
    }

    /// The planned tensors that are written over another planned one, which nothing reads later: each with the
    /// first of its line, whose buffer all of them have.
    fn heirs(&self, graph: &Graph) -> HashMap<TensorId, TensorId> {
        let mut heirs = HashMap::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            let Some(over) = node.op.overwrites() else { continue };
            let over_id = node.inputs[over];
            let planned = |tensor: TensorId| self.lifetimes.contains_key(&tensor);
            let made = graph.tensor(over_id).producer.is_some();
            let read_once = node.inputs.iter().filter(|input| **input == over_id).count() == 1;
            let last = self.lifetimes.get(&over_id).is_some_and(|(_, read)| *read == index);
            let alike = graph.shape(over_id) == graph.shape(node.output);
            if planned(node.output) && made && read_once && last && alike {
                let first = heirs.get(&over_id).copied().unwrap_or(over_id);
                heirs.insert(node.output, first);
            }
        }
        heirs
    }

    /// Bytes of all slots together.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }
}
