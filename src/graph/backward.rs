//! The gradient graph. Ops state their own adjoints, so nothing here knows any op but the sum.

use super::ir::{Graph, TensorId};
use crate::error::{Error, Result};
use crate::ops::{Add, Source};
use std::collections::HashMap;

/// Appends the gradient of `sum_i upstream_i * seed_i` with respect to `wrt`, and returns it; `None` if
/// no seed depends on it.
///
/// `seeds` pairs a tensor with the tensor that holds the gradient flowing into it (for a loss: its
/// weight).
///
/// # Errors
/// If an op's adjoint does not fit its operands, which is a fault of that op.
pub fn gradient(
    graph: &mut Graph,
    seeds: &[(TensorId, TensorId)],
    wrt: TensorId,
) -> Result<Option<TensorId>> {
    let depends = dependents(graph, wrt);
    let mut upstream: HashMap<TensorId, TensorId> = HashMap::new();
    for (tensor, gradient) in seeds {
        if depends[tensor.0] {
            accumulate(graph, &mut upstream, *tensor, *gradient)?;
        }
    }
    for index in (0..graph.nodes().len()).rev() {
        let node = graph.nodes()[index].clone();
        let Some(&arriving) = upstream.get(&node.output) else { continue };
        let shapes = graph.shapes(&node.inputs);
        for (position, input) in node.inputs.iter().enumerate() {
            if !depends[input.0] {
                continue;
            }
            let Some(adjoint) = node.op.adjoint(position, &shapes) else { continue };
            let operand = |source: &Source| match *source {
                Source::Input(input) => Some(node.inputs[input]),
                Source::Output => Some(node.output),
                Source::Side => node.side,
                Source::Upstream => Some(arriving),
            };
            let operands: Option<Vec<TensorId>> = adjoint.operands.iter().map(operand).collect();
            let operands = operands.ok_or_else(|| Error::Gpu {
                what: format!("the adjoint of {}", node.op.name()),
                message: "it reads a second output, and there is none".to_owned(),
            })?;
            let label = format!("d {} by {}", graph.tensor(*input).label, graph.tensor(node.output).label);
            let contribution = graph.apply_shared(adjoint.op, &operands, label)?;
            graph.mark_adjoint(contribution, node.output);
            accumulate(graph, &mut upstream, *input, contribution)?;
        }
    }
    Ok(upstream.get(&wrt).copied())
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

fn accumulate(
    graph: &mut Graph,
    upstream: &mut HashMap<TensorId, TensorId>,
    tensor: TensorId,
    contribution: TensorId,
) -> Result<()> {
    let sum = match upstream.get(&tensor) {
        None => contribution,
        Some(&earlier) => {
            let label = format!("d {}", graph.tensor(tensor).label);
            let sum = graph.apply(Add, &[earlier, contribution], label)?;
            graph.mark_adjoint(sum, tensor);
            sum
        }
    };
    upstream.insert(tensor, sum);
    Ok(())
}
