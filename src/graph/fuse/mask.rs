//! Fuses the ReLU mask that a convolution's adjoint applies to its upstream gradient into the store of the node that
//! produces that gradient: another convolution's adjoint, or a pool's.

use super::pattern::{op, sole_producer};
use crate::graph::ir::{Graph, Node, TensorId};
use crate::ops::{Conv, ConvBackward, GradientEpilogue, PoolBackward, PoolKind};
use std::collections::HashSet;
use std::sync::Arc;

/// Rewrites the adjoint at node `at`, if it masks a gradient that nothing else reads; returns whether it did.
pub(super) fn apply(graph: &mut Graph, at: usize, kept: &HashSet<TensorId>) -> bool {
    let reader = graph.nodes()[at].clone();
    let Some(backward) = op::<ConvBackward>(&reader).filter(|op| op.conv.relu && !op.conv.pool) else {
        return false;
    };
    let (activation, upstream) = (reader.inputs[0], reader.inputs[1]);
    let Some(producer) = sole_producer(graph, upstream, kept) else { return false };
    // The activation must exist when the gradient is computed.
    if graph.tensor(activation).producer.is_some_and(|maker| maker >= producer) {
        return false;
    }
    let Some(masked) = masked(&graph.nodes()[producer], activation) else { return false };
    graph.replace(producer, masked);
    let conv = Conv { relu: false, ..backward.conv.clone() };
    let plain = ConvBackward { conv, ..backward.clone() };
    // Without its own mask it reads only the gradient.
    let inputs = [&[upstream], &reader.inputs[1..]].concat();
    graph.replace(at, Node { op: Arc::new(plain), inputs, ..reader });
    true
}

/// Returns the node with the mask fused into its store, if the op supports that.
fn masked(node: &Node, activation: TensorId) -> Option<Node> {
    if let Some(backward) = op::<ConvBackward>(node).filter(|op| !op.epilogue.mask) {
        let fused = ConvBackward {
            epilogue: GradientEpilogue { mask: true, ..backward.epilogue },
            ..backward.clone()
        };
        let inputs = [&node.inputs[..], &[activation]].concat();
        return Some(Node { op: Arc::new(fused), inputs, ..node.clone() });
    }
    let pool = op::<PoolBackward>(node).filter(|op| !op.rectified)?;
    let fused = PoolBackward { rectified: true, ..*pool };
    let inputs = match pool.pool.kind {
        // The op already reads the activation.
        PoolKind::Max if node.inputs[0] == activation => node.inputs.clone(),
        PoolKind::Max => return None,
        PoolKind::Average => vec![activation, node.inputs[0]],
    };
    Some(Node { op: Arc::new(fused), inputs, ..node.clone() })
}
