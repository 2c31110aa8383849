//! The gradient graph. Each op defines its own adjoint, so this module needs no op but the sum.

use super::ir::{Graph, TensorId};
use crate::error::{Error, Result};
use crate::ops::{Add, AdjointOperand};
use std::collections::HashMap;

/// Pairs of a tensor and the tensor with its upstream gradient (for a loss: its weight).
pub type Seeds = [(TensorId, TensorId)];

/// Appends the gradient of `sum_i upstream_i * seed_i` with respect to `wrt` and returns it; `None` if no seed depends
/// on `wrt`.
///
/// # Errors
/// If an op's adjoint does not accept its operands, which is a bug in that op.
pub fn gradient(graph: &mut Graph, seeds: &Seeds, wrt: TensorId) -> Result<Option<TensorId>> {
    let mut found = gradients(graph, &[("", seeds)], &[wrt])?;
    Ok(found.pop().and_then(|mut of_sum| of_sum.pop()).flatten())
}

/// Appends the gradients of several such sums, each with a prefix for its labels, with respect to each of `wrt`.
/// Returns one list per sum, in the order of `wrt`. All backward passes read the same forward pass.
///
/// The backward passes are interleaved segment by segment; a segment ends where the forward pass makes its maps
/// smaller. The gradients kept there are small, and activations that all passes have read can be freed.
///
/// # Errors
/// As [`gradient`].
pub fn gradients(
    graph: &mut Graph,
    sums: &[(&str, &Seeds)],
    wrt: &[TensorId],
) -> Result<Vec<Vec<Option<TensorId>>>> {
    let depends = dependents(graph, wrt);
    let segments = segments(graph, &depends);
    append(graph, sums, wrt, &depends, segments.iter().map(|segment| (segment, false)))
}

/// Appends the gradients, segment by segment. Before each backward pass through a segment marked with true, the
/// activations inside it are recomputed from its first one, and the backward pass reads the copies.
///
/// # Errors
/// As [`gradients`].
pub(super) fn append<'a>(
    graph: &mut Graph,
    sums: &[(&str, &Seeds)],
    wrt: &[TensorId],
    depends: &[bool],
    segments: impl Iterator<Item = (&'a Segment, bool)>,
) -> Result<Vec<Vec<Option<TensorId>>>> {
    let mut upstreams = Vec::new();
    for (prefix, seeds) in sums {
        let mut upstream = Upstream { prefix, arriving: HashMap::new() };
        for (tensor, gradient) in seeds.iter().filter(|(tensor, _)| depends[tensor.0]) {
            upstream.accumulate(graph, *tensor, *gradient)?;
        }
        upstreams.push(upstream);
    }
    for (segment, again) in segments {
        for upstream in &mut upstreams {
            // Recomputed for each gradient separately, so the copies can be freed before the next backward pass.
            let copies = if again { segment.compute_again(graph)? } else { HashMap::new() };
            for index in &segment.nodes {
                upstream.pass(graph, *index, depends, &copies)?;
            }
        }
    }
    let found = |upstream: &Upstream<'_>| wrt.iter().map(|wrt| upstream.arriving.get(wrt).copied()).collect();
    Ok(upstreams.iter().map(found).collect())
}

/// A segment of the backward pass.
pub(super) struct Segment {
    /// Nodes in the order of the backward pass.
    nodes: Vec<usize>,
    /// The nodes that are on no side branch, in the order of the forward pass. The last one shrinks its input.
    pub trunk: Vec<usize>,
}

impl Segment {
    /// Appends copies of the trunk's nodes, and returns the copy of each tensor inside the segment. The last node's
    /// output is not replaced, because the next segment starts with it. That node is copied all the same, because it
    /// may be fused with the one before it; otherwise nothing needs the copy.
    fn compute_again(&self, graph: &mut Graph) -> Result<HashMap<TensorId, TensorId>> {
        let mut copies = HashMap::new();
        for index in &self.trunk {
            let node = graph.nodes()[*index].clone();
            let inputs: Vec<TensorId> = node.inputs.iter().map(|input| copied(&copies, *input)).collect();
            let label = graph.tensor(node.output).label.clone();
            let output = graph.apply_shared(node.op, &inputs, label)?;
            let saved = graph.nodes().last().and_then(|copy| copy.saved);
            copies.extend(node.saved.zip(saved));
            copies.insert(node.output, output);
        }
        if let Some(last) = self.trunk.last() {
            copies.remove(&graph.nodes()[*last].output);
        }
        Ok(copies)
    }
}

/// Returns the copy of a tensor, or the tensor itself if it has none.
fn copied(copies: &HashMap<TensorId, TensorId>, tensor: TensorId) -> TensorId {
    copies.get(&tensor).copied().unwrap_or(tensor)
}

/// Returns the nodes that a gradient passes through, in the order of the backward pass, split before each node that
/// shrinks its input in the forward pass.
///
/// A side branch (a loss and its Gram matrix) comes right before the backward pass reaches the layer that it branches
/// off, not with the last losses at the start: its gradient is as large as the layer's map.
pub(super) fn segments(graph: &Graph, depends: &[bool]) -> Vec<Segment> {
    let nodes = graph.nodes();
    let mut first_reader: HashMap<TensorId, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            first_reader.entry(*input).or_insert(index);
        }
    }
    // A node's anchor: the node itself, or on a side branch the trunk node at which the branch begins.
    let mut anchors: Vec<usize> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let anchor_by = |input: &TensorId| {
            let first = first_reader.get(input).copied().unwrap_or(index);
            if first < index {
                return anchors[first];
            }
            match graph.tensor(*input).producer {
                Some(maker) if anchors[maker] != maker => anchors[maker],
                _ => index,
            }
        };
        let anchor = node.inputs.iter().filter(|input| depends[input.0]).map(anchor_by).max();
        anchors.push(anchor.unwrap_or(index));
    }
    let mut order: Vec<usize> = (0..nodes.len()).filter(|index| depends[nodes[*index].output.0]).collect();
    order.sort_by_key(|index| std::cmp::Reverse((anchors[*index], *index)));
    let shrinks = |index: usize| {
        let size = |tensor: &TensorId| graph.shape(*tensor).elements();
        anchors[index] == index
            && nodes[index]
                .inputs
                .iter()
                .filter(|input| depends[input.0])
                .any(|input| size(input) > size(&nodes[index].output))
    };
    let mut segments: Vec<Vec<usize>> = Vec::new();
    let mut cut = true;
    for index in order {
        // A node that shrinks a map begins a segment, because the gradient that reaches it has the smaller size.
        if cut || shrinks(index) {
            segments.push(Vec::new());
        }
        cut = false;
        if let Some(segment) = segments.last_mut() {
            segment.push(index);
        }
    }
    let with_trunk = |nodes: Vec<usize>| {
        let trunk = nodes.iter().rev().copied().filter(|index| anchors[*index] == *index).collect();
        Segment { nodes, trunk }
    };
    segments.into_iter().map(with_trunk).collect()
}

/// One gradient during its backward pass.
struct Upstream<'a> {
    prefix: &'a str,
    /// Sum of the gradients that have reached each tensor so far.
    arriving: HashMap<TensorId, TensorId>,
}

impl Upstream<'_> {
    /// Appends the backward pass through one node. It reads `copies` instead of the original tensors.
    fn pass(
        &mut self,
        graph: &mut Graph,
        index: usize,
        depends: &[bool],
        copies: &HashMap<TensorId, TensorId>,
    ) -> Result<()> {
        let node = graph.nodes()[index].clone();
        let Some(&arriving) = self.arriving.get(&node.output) else { return Ok(()) };
        let shapes = graph.shapes(&node.inputs);
        for (position, input) in node.inputs.iter().enumerate() {
            if !depends[input.0] {
                continue;
            }
            let Some(adjoint) = node.op.adjoint(position, &shapes) else { continue };
            let operand = |operand: &AdjointOperand| match *operand {
                AdjointOperand::Input(input) => Some(copied(copies, node.inputs[input])),
                AdjointOperand::Output => Some(copied(copies, node.output)),
                AdjointOperand::Saved => node.saved.map(|saved| copied(copies, saved)),
                AdjointOperand::Upstream => Some(arriving),
            };
            let operands: Option<Vec<TensorId>> = adjoint.operands.iter().map(operand).collect();
            let operands = operands.ok_or_else(|| {
                Error::internal(
                    format!("the adjoint of {}", node.op.name()),
                    "it reads a saved output that does not exist",
                )
            })?;
            let (of, by) = (&graph.tensor(*input).label, &graph.tensor(node.output).label);
            let label = format!("{}d {of} by {by}", self.prefix);
            let contribution = graph.apply_shared(adjoint.op, &operands, label)?;
            graph.mark_adjoint(contribution, copied(copies, node.output));
            self.accumulate(graph, *input, contribution)?;
        }
        Ok(())
    }

    fn accumulate(&mut self, graph: &mut Graph, tensor: TensorId, contribution: TensorId) -> Result<()> {
        let sum = match self.arriving.get(&tensor) {
            None => contribution,
            Some(&earlier) => {
                let label = format!("{}d {}", self.prefix, graph.tensor(tensor).label);
                let sum = graph.apply(Add, &[earlier, contribution], label)?;
                graph.mark_adjoint(sum, tensor);
                sum
            }
        };
        self.arriving.insert(tensor, sum);
        Ok(())
    }
}

/// Returns, for each tensor, whether it depends on one of `wrt`.
pub(super) fn dependents(graph: &Graph, wrt: &[TensorId]) -> Vec<bool> {
    let mut depends = vec![false; graph.tensors().len()];
    wrt.iter().for_each(|wrt| depends[wrt.0] = true);
    for node in graph.nodes() {
        if node.inputs.iter().any(|input| depends[input.0]) {
            depends[node.output.0] = true;
        }
    }
    depends
}
