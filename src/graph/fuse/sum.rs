//! Fuses the sum of two gradients into the store of the adjoint that produces one of them: a convolution's or a mean's.

use super::pattern::{op, sole_producer};
use crate::graph::ir::{Graph, Node, TensorId};
use crate::ops::{Add, ChannelMeanBackward, ConvBackward, GradientEpilogue, Op};
use std::collections::HashSet;
use std::sync::Arc;

/// Rewrites the sum at node `at`, if nothing else reads one of its summands; returns whether it did.
pub(super) fn apply(graph: &mut Graph, at: usize, kept: &HashSet<TensorId>) -> bool {
    let sum = graph.nodes()[at].clone();
    if op::<Add>(&sum).is_none() {
        return false;
    }
    let (first, second) = (sum.inputs[0], sum.inputs[1]);
    for (part, other) in [(second, first), (first, second)] {
        let Some(producer) = sole_producer(graph, part, kept) else { continue };
        // The other summand must exist when the part is computed.
        if graph.tensor(other).producer.is_some_and(|other| other >= producer) {
            continue;
        }
        let node = graph.nodes()[producer].clone();
        let Some(op) = adding(&node) else { continue };
        let inputs = [&node.inputs[..], &[other]].concat();
        graph.replace(producer, Node { op, inputs, output: sum.output, ..node });
        graph.remove(at);
        return true;
    }
    false
}

/// Returns the node's op with the sum fused into its store, if it supports that.
fn adding(node: &Node) -> Option<Arc<dyn Op>> {
    if let Some(backward) = op::<ConvBackward>(node).filter(|op| op.epilogue == GradientEpilogue::default()) {
        let epilogue = GradientEpilogue { add: true, mask: false };
        return Some(Arc::new(ConvBackward { epilogue, ..backward.clone() }));
    }
    let backward = op::<ChannelMeanBackward>(node).filter(|op| !op.add)?;
    Some(Arc::new(ChannelMeanBackward { add: true, ..*backward }))
}
