//! The gradient graph. Ops state their own adjoints, so nothing here knows any op but the sum.

use super::ir::{Graph, TensorId};
use crate::error::{Error, Result};
use crate::ops::{Add, Source};
use std::collections::HashMap;

/// Pairs of a tensor and the tensor that holds the gradient flowing into it (for a loss: its weight).
pub type Seeds = [(TensorId, TensorId)];

/// Appends the gradient of `sum_i upstream_i * seed_i` with respect to `wrt`, and returns it; `None` if
/// no seed depends on it.
///
/// # Errors
/// If an op's adjoint does not fit its operands, which is a fault of that op.
pub fn gradient(graph: &mut Graph, seeds: &Seeds, wrt: TensorId) -> Result<Option<TensorId>> {
    Ok(gradients(graph, &[("", seeds)], wrt)?.pop().flatten())
}

/// Appends the gradients of several such sums with respect to `wrt`, each with a prefix for its labels, and returns
/// them in that order. All of them read the same forward pass.
///
/// Their backward passes take turns, from one place where the forward pass makes its maps smaller to the next: the
/// gradients that have to be kept there are small, and activations that all passes have read are free.
///
/// # Errors
/// As [`gradient`].
pub fn gradients(graph: &mut Graph, sums: &[(&str, &Seeds)], wrt: TensorId) -> Result<Vec<Option<TensorId>>> {
    let depends = dependents(graph, wrt);
    let backward = segments(graph, &depends);
    let mut upstreams = Vec::new();
    for (prefix, seeds) in sums {
        let mut upstream = Upstream { prefix, arriving: HashMap::new() };
        for (tensor, gradient) in seeds.iter().filter(|(tensor, _)| depends[tensor.0]) {
            upstream.accumulate(graph, *tensor, *gradient)?;
        }
        upstreams.push(upstream);
    }
    for segment in backward {
        for upstream in &mut upstreams {
            for index in &segment {
                upstream.pass(graph, *index, &depends)?;
            }
        }
    }
    Ok(upstreams.iter().map(|upstream| upstream.arriving.get(&wrt).copied()).collect())
}

/// The nodes whose output depends on `wrt`, in the order of the backward pass, cut before each node that makes its
/// input smaller in the forward pass.
///
/// A side branch (a loss, and the Gram matrix that it is of) comes right before the backward pass reaches the layer
/// that it hangs on, not with the last losses at the start: its gradient is as large as the layer's map.
fn segments(graph: &Graph, depends: &[bool]) -> Vec<Vec<usize>> {
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
    segments
}

/// One gradient during its backward pass.
struct Upstream<'a> {
    prefix: &'a str,
    /// The gradient that has arrived at each tensor so far.
    arriving: HashMap<TensorId, TensorId>,
}

impl Upstream<'_> {
    /// The backward pass through one node.
    fn pass(&mut self, graph: &mut Graph, index: usize, depends: &[bool]) -> Result<()> {
        let node = graph.nodes()[index].clone();
        let Some(&arriving) = self.arriving.get(&node.output) else { return Ok(()) };
        let shapes = graph.shapes(&node.inputs);
        for (position, input) in node.inputs.iter().enumerate() {
            if !depends[input.0] {
                continue;
            }
            let Some(adjoint) = node.op.adjoint(position, &shapes) else { continue };
            let operand = |source: &Source| match *source {
                Source::Input(input) => Some(node.inputs[input]),
                Source::Output => Some(node.output),
                Source::Saved => node.saved,
                Source::Upstream => Some(arriving),
            };
            let operands: Option<Vec<TensorId>> = adjoint.operands.iter().map(operand).collect();
            let operands = operands.ok_or_else(|| {
                Error::gpu(
                    format!("the adjoint of {}", node.op.name()),
                    "it reads a saved output, and there is none",
                )
            })?;
            let (of, by) = (&graph.tensor(*input).label, &graph.tensor(node.output).label);
            let label = format!("{}d {of} by {by}", self.prefix);
            let contribution = graph.apply_shared(adjoint.op, &operands, label)?;
            graph.mark_adjoint(contribution, node.output);
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

/// For each tensor, whether it depends on `wrt`.
fn dependents(graph: &Graph, wrt: TensorId) -> Vec<bool> {
    let mut depends = vec![false; graph.tensors().len()];
    depends[wrt.0] = true;
    for node in graph.nodes() {
        if node.inputs.iter().any(|input| depends[input.0]) {
            depends[node.output.0] = true;
        }
    }
    depends
}
