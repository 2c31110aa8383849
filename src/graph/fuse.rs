//! Fusion: last steps (of a gradient its sum with another one and a ReLU's mask, of a convolution the max pool
//! behind it) move into the node that computes the map, so that no pass of their own reads and writes it again.

use super::ir::{Graph, Node, TensorId};
use crate::ops::{LastStep, Op};
use std::collections::HashSet;
use std::sync::Arc;

impl Graph {
    /// Fuses what can be fused. The values of `kept` tensors, and of all goals that are not gradients of
    /// maps, stay what they were; other tensors may hold more steps than before, or be made no more.
    pub fn fuse(&mut self, kept: &HashSet<TensorId>) {
        while self.fuse_one_sum(kept) {}
        while self.fuse_one_mask(kept) {}
        // Last: as long as an adjoint masks its gradient itself, it needs the map that a pool would leave out.
        while self.fuse_one_pool(kept) {}
    }

    /// A sum of two tensors becomes part of the node that makes one of them, if nobody else reads that.
    fn fuse_one_sum(&mut self, kept: &HashSet<TensorId>) -> bool {
        for at in 0..self.nodes().len() {
            let node = self.nodes()[at].clone();
            if node.op.name() != "add" {
                continue;
            }
            for (part, other) in [(node.inputs[1], node.inputs[0]), (node.inputs[0], node.inputs[1])] {
                // The other summand must be there when the part is computed.
                let Some(maker) = self.sole_maker(part, kept) else { continue };
                if self.tensor(other).producer.is_some_and(|other| other >= maker) {
                    continue;
                }
                if self.absorb(maker, LastStep::Add, other, node.output) {
                    self.remove(at);
                    return true;
                }
            }
        }
        false
    }

    /// An adjoint that masks its upstream gradient first leaves that to the node that makes the gradient.
    fn fuse_one_mask(&mut self, kept: &HashSet<TensorId>) -> bool {
        for at in 0..self.nodes().len() {
            let node = self.nodes()[at].clone();
            let Some(op) = node.op.unmasked() else { continue };
            let (mask, upstream) = (node.inputs[0], node.inputs[1]);
            let Some(maker) = self.sole_maker(upstream, kept) else { continue };
            if self.absorb(maker, LastStep::Mask, mask, upstream) {
                let inputs = [&[upstream], &node.inputs[1..]].concat();
                self.replace(at, Node { op, inputs, ..node });
                return true;
            }
        }
        false
    }

    /// A max pool becomes part of the node that makes its map, if nothing else reads the map but the pool's way
    /// back, and that makes a gradient for the node's adjoint alone: then pool indices take the place of the map.
    fn fuse_one_pool(&mut self, kept: &HashSet<TensorId>) -> bool {
        for at in 0..self.nodes().len() {
            let Some(step @ LastStep::Halve) = self.nodes()[at].op.as_step() else { continue };
            let (map, pooled) = (self.nodes()[at].inputs[0], self.nodes()[at].output);
            // One way back for each gradient that there is (of a factor, of the whole).
            let ways = (0..self.nodes().len())
                .filter(|other| *other != at && self.nodes()[*other].inputs.contains(&map))
                .map(|way| self.way_back(way, map, kept).map(|back| (way, back)));
            let Some(ways) = ways.collect::<Option<Vec<_>>>() else { continue };
            let Some(maker) = self.tensor(map).producer.filter(|_| !kept.contains(&map)) else { continue };
            let Some(absorbed) = self.nodes()[maker].op.absorb(step, None) else { continue };
            let Node { inputs, adjoint_of, .. } = self.nodes()[maker].clone();
            let Some(shape) = absorbed.op.saved(&self.shapes(&inputs)) else { continue };
            let indices = self.add_saved(pooled, shape);
            for (way, (adjoint, routed)) in &ways {
                let node = self.nodes()[*adjoint].clone();
                let upstream = self.nodes()[*way].inputs[1];
                let inputs = [&[indices, upstream], &node.inputs[2..]].concat();
                let adjoint_of = Some(pooled);
                self.replace(*adjoint, Node { op: routed.clone(), inputs, adjoint_of, ..node });
            }
            let node = Node { op: absorbed.op, inputs, output: pooled, saved: Some(indices), adjoint_of };
            self.replace(maker, node);
            let mut gone: Vec<usize> = ways.iter().map(|(way, _)| *way).chain([at]).collect();
            gone.sort_unstable();
            // The last first, so that the others stay where they are.
            gone.into_iter().rev().for_each(|gone| self.remove(gone));
            return true;
        }
        false
    }

    /// If node `way` is a pool's way back to `map` and only an adjoint that can route reads what it makes: that
    /// adjoint, and its op with the routing.
    fn way_back(&self, way: usize, map: TensorId, kept: &HashSet<TensorId>) -> Option<(usize, Arc<dyn Op>)> {
        let node = &self.nodes()[way];
        if !node.op.is_way_back() || node.inputs[0] != map || node.inputs[1] == map {
            return None;
        }
        self.sole_maker(node.output, kept)?;
        let adjoint = self.nodes().iter().position(|reader| reader.inputs.contains(&node.output))?;
        let reader = &self.nodes()[adjoint];
        let (first, more) = reader.inputs.split_at_checked(2)?;
        let alone = first.iter().all(|input| *input == node.output) && !more.contains(&node.output);
        let of_map = reader.adjoint_of == Some(map);
        reader.op.routed().filter(|_| alone && of_map).map(|routed| (adjoint, routed))
    }

    /// The node that makes a tensor, if just one other node reads that and it is not kept.
    fn sole_maker(&self, tensor: TensorId, kept: &HashSet<TensorId>) -> Option<usize> {
        let readers = self.nodes().iter().filter(|node| node.inputs.contains(&tensor)).count();
        self.tensor(tensor).producer.filter(|_| readers == 1 && !kept.contains(&tensor))
    }

    /// Lets a node do a last step with `operand`, its result then being `output`.
    fn absorb(&mut self, maker: usize, step: LastStep, operand: TensorId, output: TensorId) -> bool {
        let node = &self.nodes()[maker];
        let same_as = node.inputs.iter().position(|input| *input == operand);
        let Some(absorbed) = node.op.absorb(step, same_as) else { return false };
        let mut inputs = node.inputs.clone();
        if absorbed.takes_operand {
            inputs.push(operand);
        }
        let (saved, adjoint_of) = (node.saved, node.adjoint_of);
        self.replace(maker, Node { op: absorbed.op, inputs, output, saved, adjoint_of });
        true
    }
}
