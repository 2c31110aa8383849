//! Patterns that the fusion rules match.

use crate::graph::ir::{Graph, Node, TensorId};
use crate::ops::Op;
use std::any::Any;
use std::collections::HashSet;

/// Returns the node's op if it is a `T`.
pub(in crate::graph) fn op<T: Op>(node: &Node) -> Option<&T> {
    let op: &dyn Any = node.op.as_ref();
    op.downcast_ref()
}

/// Returns the node that produces a tensor, if exactly one node reads the tensor and it is not kept.
pub(super) fn sole_producer(graph: &Graph, tensor: TensorId, kept: &HashSet<TensorId>) -> Option<usize> {
    let readers = graph.nodes().iter().filter(|node| node.inputs.contains(&tensor)).count();
    graph.tensor(tensor).producer.filter(|_| readers == 1 && !kept.contains(&tensor))
}
