//! Fusion: rewrite rules that move a step into the node that computes its operand, which saves a separate pass over
//! the map. Each rule is a file: it searches for nodes with matching ops and tensors and replaces them by fused nodes.

mod mask;
mod pattern;
mod pool;
mod sum;

use super::ir::{Graph, TensorId};
pub(super) use pattern::op;
use std::collections::HashSet;

impl Graph {
    /// Applies each rule until it no longer matches. The values of `kept` tensors, and of all goals that are not
    /// gradients of maps, stay the same. Other tensors may include the results of fused steps, or disappear.
    pub fn fuse(&mut self, kept: &HashSet<TensorId>) {
        // Pools last: while a convolution's adjoint masks its gradient itself, it needs the map, which a fused pool
        // does not store.
        for rule in [sum::apply, mask::apply, pool::apply] {
            while (0..self.nodes().len()).any(|at| rule(self, at, kept)) {}
        }
    }
}
