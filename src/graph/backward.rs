//! The gradient graph. Ops state their own adjoints, so nothing here knows any op but the sum.

use super::ir::{Graph, TensorId};
use crate::error::{Error, Result};
use crate::ops::{Add, AdjointOperand};
use std::collections::HashMap;

/// Pairs of a tensor and the tensor that holds the gradient flowing into it (for a loss: its weight).
pub type Seeds = [(TensorId, TensorId)];

/// Appends the gradient of `sum_i upstream_i * seed_i` with respect to `wrt`, and returns it; `None` if
/// no seed depends on it.
///
/// # Errors
/// If an op's adjoint does not fit its operands, which is a fault of that op.
pub fn gradient(graph: &mut Graph, seeds: &Seeds, wrt: TensorId) -> Result<Option<TensorId>> {
    let mut found = gradients(graph, &[("", seeds)], &[wrt])?;
    Ok(found.pop().and_then(|mut of_sum| of_sum.pop()).flatten())
}

/// Appends the gradients of several such sums, each with a prefix for its labels, with respect to each of `wrt`, and
/// returns them in that order: for each sum a list. All of them read the same forward pass.
///
/// Their backward passes take turns, from one place where the forward pass makes its maps smaller to the next: the
/// gradients that have to be kept there are small, and activations that all passes have read are free.
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
/// activations inside it are computed again, from the one that it starts with; the backward pass reads these.
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
            // Each for itself: the activations are free again before the next one begins.
            let copies = if again { segment.compute_again(graph)? } else { HashMap::new() };
            for index in &segment.nodes {
                upstream.pass(graph, *index, depends, &copies)?;
            }
        }
    }
    let found = |upstream: &Upstream<'_>| wrt.iter().map(|wrt| upstream.arriving.get(wrt).copied()).collect();
    Ok(upstreams.iter().map(found).collect())
}

/// A part of the backward pass.
pub(super) struct Segment {
    /// Its nodes, in the order of the backward pass.
    nodes: Vec<usize>,
    /// Those of them that are on no side branch, in the order of the forward pass. The last one makes its input smaller.
    pub trunk: Vec<usize>,
}

impl Segment {
    /// Appends the nodes of the trunk once more, and returns what takes the place of each tensor inside the segment. What
    /// the last one makes stays as it is: the next segment starts with it. It is repeated all the same, because it may
    /// be fused with the one before it; if it is not, nothing needs it.
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

/// What takes the place of a tensor, if anything does.
fn copied(copies: &HashMap<TensorId, TensorId>, tensor: TensorId) -> TensorId {
    copies.get(&tensor).copied().unwrap_or(tensor)
}

/// The nodes that a gradient passes through, in the order of the backward pass, cut before each node that makes its input
/// smaller in the forward pass.
///
/// A side branch (a loss, and the Gram matrix that it is of) comes right before the backward pass reaches the layer
/// that it hangs on, not with the last losses at the start: its gradient is as large as the layer's map.
pub(super) fn segments(graph: &Graph, depends: &[bool]) -> Vec<Segment> {
    let nodes = graph.nodes();
    let mut first_reader: HashMap<TensorId, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            first_reader.entry(*input).or_insert(index);
        }
    }
    // A node's anchor: itself, or on a side branch the node beside which the branch begins.
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
        // A node that makes a map smaller begins a segment: the gradient that arrives there is that of the smaller map.
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
    /// The gradient that has arrived at each tensor so far.
    arriving: HashMap<TensorId, TensorId>,
}

impl Upstream<'_> {
    /// The backward pass through one node. It reads `copies` instead of their originals.
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
                    "it reads a saved output, and there is none",
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

/// For each tensor, whether it depends on one of `wrt`.
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
