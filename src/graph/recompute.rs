//! Gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): the backward pass
//! recomputes activations block by block, which needs less memory.

use super::backward::{Seeds, Segment, append, dependents, segments};
use super::ir::{Graph, TensorId};
use super::plan::Plan;
use crate::error::Result;
use std::cmp::Reverse;
use std::collections::HashSet;

/// A block is recomputed only if the plan would otherwise exceed the least memory by more than 1/`WORTH`.
const WORTH: u64 = 32;

/// A graph with its gradients and the memory that its plan needs.
struct Attempt {
    bytes: u64,
    graph: Graph,
    gradients: Vec<Vec<Option<TensorId>>>,
}

/// Appends gradients like [`gradients`](super::gradients), with less memory. A block is the layers between two places
/// where maps shrink. Before the backward pass enters a block, the activations inside it are recomputed from the
/// block's first one. Only blocks for which this lowers the plan's peak memory are recomputed. The ops and their inputs
/// are the same, so the gradients are identical bit for bit.
///
/// `kept` are the tensors that will be passed to [`Graph::fuse`], as far as they are known.
///
/// # Errors
/// As [`gradients`](super::gradients).
pub fn gradients_recomputing(
    graph: &mut Graph,
    sums: &[(&str, &Seeds)],
    wrt: &[TensorId],
    kept: &HashSet<TensorId>,
) -> Result<Vec<Vec<Option<TensorId>>>> {
    let depends = dependents(graph, wrt);
    let segments = segments(graph, &depends);
    let attempt = |again: &[bool]| -> Result<Attempt> {
        let mut longer = graph.clone();
        let marked = segments.iter().zip(again.iter().copied());
        let gradients = append(&mut longer, sums, wrt, &depends, marked)?;
        let losses = sums.iter().flat_map(|(_, seeds)| seeds.iter()).map(|(loss, _)| *loss);
        let goals: Vec<TensorId> = losses.chain(gradients.iter().flatten().flatten().copied()).collect();
        Ok(Attempt { bytes: planned(&longer, &goals, kept), graph: longer, gradients })
    };
    let mut again = vec![false; segments.len()];
    let none = attempt(&again)?;
    again.fill(true);
    let all = attempt(&again)?;
    let least = none.bytes.min(all.bytes);
    let enough = least + least / WORTH;
    let mut best = none;
    if best.bytes > enough {
        best = all;
        // Slowest blocks first.
        let mut order: Vec<usize> = (0..segments.len()).collect();
        order.sort_by_key(|segment| Reverse(flops(graph, &segments[*segment])));
        for segment in order {
            again[segment] = false;
            let found = attempt(&again)?;
            if found.bytes <= enough {
                best = found;
            } else {
                again[segment] = true;
            }
        }
    }
    *graph = best.graph;
    Ok(best.gradients)
}

/// Bytes that the plan of a graph needs for these goals, without the kernels' scratch memory.
fn planned(graph: &Graph, goals: &[TensorId], kept: &HashSet<TensorId>) -> u64 {
    let mut graph = graph.clone();
    graph.fuse(&kept.iter().chain(goals).copied().collect());
    let mut needed = graph.needed_for(goals).into_iter();
    graph.retain_nodes(|_| needed.next() == Some(true));
    Plan::of_tensors(&graph, kept).bytes()
}

fn flops(graph: &Graph, segment: &Segment) -> u64 {
    let nodes = segment.trunk.iter().map(|index| &graph.nodes()[*index]);
    nodes.map(|node| node.op.flops(&graph.signature(node))).sum()
}
