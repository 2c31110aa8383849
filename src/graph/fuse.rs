//! Fusion: last steps of a gradient (its sum with another one, a ReLU's mask) move into the node that
//! computes it, so that no pass of their own reads and writes the whole map again.

use super::ir::{Graph, Node, TensorId};
use crate::ops::LastStep;
use std::collections::HashSet;

impl Graph {
    /// Fuses what can be fused. The values of `kept` tensors, and of all goals that are not gradients of
    /// maps, stay what they were; other tensors may hold more steps than before, or be made no more.
    pub fn fuse(&mut self, kept: &HashSet<TensorId>) {
        while self.fuse_one_sum(kept) {}
        while self.fuse_one_mask(kept) {}
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
        let adjoint_of = node.adjoint_of;
        self.replace(maker, Node { op: absorbed.op, inputs, output, adjoint_of });
        true
    }
}
