//! Fuses a 2x2 max pool into the rectified convolution before it, if only the backward pass through pool and ReLU
//! reads the un-pooled map besides the pool. Pool indices then replace the map, and the convolution's adjoint reads
//! the pooled gradient.

use super::pattern::{op, sole_producer};
use crate::graph::ir::{Graph, Node, TensorId};
use crate::ops::{Conv, ConvBackward, Op, Pool, PoolBackward, PoolKind};
use std::collections::HashSet;
use std::sync::Arc;

const HALVE: Pool = Pool::halve(PoolKind::Max);

/// A pool's adjoint, the convolution's adjoint that follows it, and the fused op that replaces both.
struct Backward {
    pool: usize,
    conv: usize,
    fused: ConvBackward,
}

/// Fuses the pool at node `at` and its adjoints; returns whether it did.
pub(super) fn apply(graph: &mut Graph, at: usize, kept: &HashSet<TensorId>) -> bool {
    if op::<Pool>(&graph.nodes()[at]) != Some(&HALVE) {
        return false;
    }
    let (map, pooled) = (graph.nodes()[at].inputs[0], graph.nodes()[at].output);
    let Some(producer) = graph.tensor(map).producer.filter(|_| !kept.contains(&map)) else { return false };
    let node = graph.nodes()[producer].clone();
    let Some(conv) = op::<Conv>(&node).filter(|conv| conv.relu && !conv.pool) else { return false };
    let conv = Conv { pool: true, ..conv.clone() };
    let Some(shape) = conv.saved(&graph.shapes(&node.inputs)) else { return false };
    // One backward pass for each gradient: of each group of losses, and of the whole objective.
    let readers = (0..graph.nodes().len())
        .filter(|reader| *reader != at && graph.nodes()[*reader].inputs.contains(&map))
        .map(|reader| backward(graph, reader, map, kept));
    let Some(readers) = readers.collect::<Option<Vec<_>>>() else { return false };

    let indices = graph.add_saved(pooled, shape);
    let mut gone = vec![at];
    for Backward { pool, conv, fused } in readers {
        let node = graph.nodes()[conv].clone();
        let upstream = graph.nodes()[pool].inputs[1];
        let inputs = [&[indices, upstream], &node.inputs[2..]].concat();
        graph.replace(conv, Node { op: Arc::new(fused), inputs, adjoint_of: Some(pooled), ..node });
        gone.push(pool);
    }
    graph.replace(producer, Node { op: Arc::new(conv), output: pooled, saved: Some(indices), ..node });
    // Last first, so the indices of the others stay valid.
    gone.sort_unstable();
    gone.into_iter().rev().for_each(|gone| graph.remove(gone));
    true
}

/// Describes node `reader` of the map, if it is a pool's masked adjoint and only the adjoint of the map's convolution
/// reads its output.
fn backward(graph: &Graph, reader: usize, map: TensorId, kept: &HashSet<TensorId>) -> Option<Backward> {
    let node = &graph.nodes()[reader];
    op::<PoolBackward>(node).filter(|op| op.rectified && op.pool == HALVE)?;
    if node.inputs[0] != map || node.inputs[1] == map {
        return None;
    }
    sole_producer(graph, node.output, kept)?;
    let conv = graph.nodes().iter().position(|other| other.inputs.contains(&node.output))?;
    let adjoint = &graph.nodes()[conv];
    let backward = op::<ConvBackward>(adjoint).filter(|op| !op.conv.relu)?;
    let (first, more) = adjoint.inputs.split_at_checked(2)?;
    let alone = first.iter().all(|input| *input == node.output) && !more.contains(&node.output);
    let fused = Conv { relu: true, pool: true, ..backward.conv.clone() };
    (alone && adjoint.adjoint_of == Some(map)).then(|| Backward {
        pool: reader,
        conv,
        fused: ConvBackward { conv: fused, ..backward.clone() },
    })
}
