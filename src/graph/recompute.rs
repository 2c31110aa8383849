//! Gradients that compute activations again in the backward pass, block by block, so that less memory is needed:
//! gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").

use super::backward::{Seeds, Segment, append, dependents, segments};
use super::ir::{Graph, TensorId};
use super::plan::Plan;
use crate::error::Result;
use crate::ops::Kernel;
use std::cmp::Reverse;
use std::collections::HashSet;

/// A block is computed again only if all others without it need more memory by one part in so many.
const WORTH: u64 = 32;

/// A graph with its gradients, and the memory that its plan needs.
struct Attempt {
    bytes: u64,
    graph: Graph,
    gradients: Vec<Vec<Option<TensorId>>>,
}

/// As [`gradients`](super::gradients), with less memory: before the backward pass reaches a block of layers, from one
/// place where maps get smaller to the next, the activations inside it are computed again from the one that the block
/// starts with. That is done only for those blocks for which it lowers the memory that the plan needs at once. The ops
/// and their inputs are the same, and so is every bit of the gradients.
///
/// `kept` are the tensors that [`Graph::fuse`] will be given, as far as they are known.
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
        // The blocks that take longest first.
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

/// Bytes that the plan of a graph needs for these goals, without what kernels need besides.
fn planned(graph: &Graph, goals: &[TensorId], kept: &HashSet<TensorId>) -> u64 {
    let mut graph = graph.clone();
    graph.fuse(&kept.iter().chain(goals).copied().collect());
    let mut needed = graph.needed_for(goals).into_iter();
    graph.retain_nodes(|_| needed.next() == Some(true));
    let kernels = vec![Kernel::of("", Vec::new()); graph.nodes().len()];
    let bound = |tensor| kept.contains(&tensor) || graph.tensor(tensor).producer.is_none();
    Plan::new(&graph, bound, &kernels, true).bytes()
}

fn flops(graph: &Graph, segment: &Segment) -> u64 {
    let nodes = segment.trunk.iter().map(|index| &graph.nodes()[*index]);
    nodes.map(|node| node.op.flops(&graph.signature(node))).sum()
}
