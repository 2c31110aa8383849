//! Keeps activations in half precision between the forward and the backward pass. The forward pass is unchanged; the
//! backward pass reads maps rounded to f16.

use super::fuse::op;
use super::goals::Goals;
use super::ir::{Graph, Node, TensorId};
use super::plan::Plan;
use crate::error::Result;
use crate::ops::{
    AdaptivePoolBackward, ConvBackward, FromHalf, GradientEpilogue, GramBackward, HalfMask, MseBackward, Op,
    PoolBackward, PoolKind, ReluBackward, ToHalf,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Maps are kept in single precision if the plan then exceeds the least memory by at most 1/`WORTH`.
const WORTH: u64 = 32;

/// A map that the backward pass reads.
struct Candidate {
    map: TensorId,
    /// True if the backward pass reads values, not only their signs, which rounding keeps.
    values: bool,
}

impl Graph {
    /// Keeps activations in half precision from their last use in the forward pass on, where that lowers the peak memory
    /// of the plan for these goals. To be called after [`Graph::fuse`], with the same `kept` tensors.
    ///
    /// ReLU masks read the half-precision maps in a pass of their own. They depend only on signs, so they don't change.
    /// The adjoint of a Gram matrix reads rounded values. Other nodes read a temporary copy in single precision. Maps by
    /// which a max pool's adjoint finds the maxima are not converted, because rounding would make values equal. Nor are
    /// maps that are compared with a target, whose difference may be smaller than the rounding.
    ///
    /// # Errors
    /// If an op doesn't accept its operands, which is a bug.
    pub fn keep_in_half(&mut self, kept: &HashSet<TensorId>, goals: &Goals) -> Result<()> {
        let goals = goals.tensors();
        let mut needed = self.needed_for(&goals).into_iter();
        let mut base = self.clone();
        base.retain_nodes(|_| needed.next() == Some(true));
        let mut chosen = candidates(&base, kept);
        let attempt = |chosen: &[Candidate]| -> Result<u64> {
            let mut graph = base.clone();
            graph.halve(chosen)?;
            Ok(Plan::of_tensors(&graph, kept).bytes())
        };
        let single = Plan::of_tensors(&base, kept).bytes();
        let mut bytes = attempt(&chosen)?;
        // First drop maps whose temporary copies cost memory, then those that hardly save any. Rounded values first, then
        // the largest maps, which take the most time.
        let size = |candidate: &Candidate| base.shape(candidate.map).elements();
        chosen.sort_by_key(|candidate| (candidate.values, size(candidate)));
        for is_second in [false, true] {
            let least = bytes.min(single);
            let enough = least + least / WORTH;
            let mut index = chosen.len();
            while index > 0 {
                index -= 1;
                let left = chosen.remove(index);
                let found = attempt(&chosen)?;
                if found < bytes || is_second && found <= enough {
                    bytes = found;
                } else {
                    chosen.insert(index, left);
                }
            }
        }
        if bytes + bytes / WORTH >= single {
            return Ok(());
        }
        self.halve(&chosen)
    }

    /// Keeps these maps in half precision from their last use in the forward pass on.
    fn halve(&mut self, chosen: &[Candidate]) -> Result<()> {
        let chosen: HashSet<TensorId> = chosen.iter().map(|candidate| candidate.map).collect();
        let nodes = self.statistics_early(&chosen);
        // A map is converted after its last reader in the forward pass.
        let mut last: HashMap<TensorId, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.adjoint_of.is_none()) {
            last.extend(node.inputs.iter().filter(|map| chosen.contains(map)).map(|map| (*map, index)));
        }
        let mut rewrite = Rewrite { graph: self, halves: HashMap::new(), nodes: Vec::new() };
        for (index, node) in nodes.into_iter().enumerate() {
            let read = node.inputs.clone();
            rewrite.push(node)?;
            for map in read.into_iter().filter(|map| last.get(map) == Some(&index)) {
                if !rewrite.halves.contains_key(&map) {
                    rewrite.convert(map)?;
                }
            }
        }
        let nodes = rewrite.nodes;
        self.set_nodes(nodes);
        Ok(())
    }

    /// Returns the nodes in another order: statistics of these maps come right after the layer that reads the map, not
    /// after the whole network, so the map's memory in single precision can be freed.
    fn statistics_early(&self, chosen: &HashSet<TensorId>) -> Vec<Node> {
        let nodes = self.nodes();
        let reads_only = |node: &Node, map: TensorId| {
            let is_given = |input: &TensorId| *input == map || self.tensor(*input).producer.is_none();
            node.inputs.contains(&map) && node.inputs.iter().all(is_given)
        };
        let mut order = Vec::with_capacity(nodes.len());
        let mut is_placed = vec![false; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            if std::mem::replace(&mut is_placed[index], true) {
                continue;
            }
            order.push(node.clone());
            for map in node.inputs.iter().filter(|map| node.adjoint_of.is_none() && chosen.contains(map)) {
                for (later, other) in nodes.iter().enumerate().skip(index + 1) {
                    let is_statistic = other.adjoint_of.is_none() && reads_only(other, *map);
                    if is_statistic && !std::mem::replace(&mut is_placed[later], true) {
                        order.push(other.clone());
                    }
                }
            }
        }
        order
    }
}

/// The nodes of the new graph so far.
struct Rewrite<'a> {
    graph: &'a mut Graph,
    /// Half-precision form of each converted map.
    halves: HashMap<TensorId, TensorId>,
    nodes: Vec<Node>,
}

impl Rewrite<'_> {
    /// Appends the conversion of a map to half precision.
    fn convert(&mut self, map: TensorId) -> Result<()> {
        let label = format!("{} in f16", self.graph.tensor(map).label);
        let half = self.append(ToHalf, &[map], label, None)?;
        self.halves.insert(map, half);
        Ok(())
    }

    /// Appends a node with a new output tensor.
    fn append(
        &mut self,
        op: impl Op + 'static,
        inputs: &[TensorId],
        label: String,
        adjoint_of: Option<TensorId>,
    ) -> Result<TensorId> {
        let shape = op.output(&self.graph.shapes(inputs))?;
        let output = self.graph.external(label, shape);
        self.nodes.push(Node { op: Arc::new(op), inputs: inputs.to_vec(), output, saved: None, adjoint_of });
        Ok(output)
    }

    /// Returns the half-precision form of an input, if it has one by now.
    fn half(&self, input: Option<&TensorId>) -> Option<TensorId> {
        input.and_then(|input| self.halves.get(input)).copied()
    }

    /// Appends a node that reads the half-precision form of each map that has one by then.
    fn push(&mut self, mut node: Node) -> Result<()> {
        let label = self.graph.tensor(node.output).label.clone();
        let adjoint_of = node.adjoint_of;
        // The mask before a node's own computation.
        if let (Some(backward), Some(half)) = (op::<ConvBackward>(&node), self.half(node.inputs.first()))
            && masks_its_upstream(backward)
        {
            let mut plain = backward.clone();
            plain.conv.relu = false;
            let masked = self.append(
                HalfMask,
                &[node.inputs[1], half],
                format!("{label} (masked upstream)"),
                adjoint_of,
            )?;
            node.inputs.splice(..2, [masked, masked]);
            node.op = Arc::new(plain);
        }
        let mut mask_after = None;
        if let (Some(backward), Some(half)) = (op::<ConvBackward>(&node), self.half(node.inputs.last()))
            && backward.epilogue.mask
        {
            let epilogue = GradientEpilogue { mask: false, ..backward.epilogue };
            let op = ConvBackward { epilogue, ..backward.clone() };
            node.inputs.pop();
            (node.op, mask_after) = (Arc::new(op), Some(half));
        } else if let (Some(backward), Some(half)) =
            (op::<PoolBackward>(&node), self.half(node.inputs.first()))
            && masks_its_gradient(backward)
        {
            let op = PoolBackward { rectified: false, ..*backward };
            node.inputs.remove(0);
            (node.op, mask_after) = (Arc::new(op), Some(half));
        } else if let (Some(_), Some(half)) = (op::<ReluBackward>(&node), self.half(node.inputs.first())) {
            (node.op, node.inputs) = (Arc::new(HalfMask), vec![node.inputs[1], half]);
        } else if let (Some(_), Some(half)) = (op::<GramBackward>(&node), self.half(node.inputs.first())) {
            node.inputs[0] = half;
        } else {
            for at in 0..node.inputs.len() {
                if let Some(half) = self.half(node.inputs.get(at)) {
                    let label = self.graph.tensor(node.inputs[at]).label.clone();
                    node.inputs[at] = self.append(FromHalf, &[half], label, adjoint_of)?;
                }
            }
        }
        if let Some(half) = mask_after {
            let unmasked = self.graph.external(format!("{label} (unmasked)"), self.graph.shape(node.output));
            let output = std::mem::replace(&mut node.output, unmasked);
            self.nodes.push(node);
            node = Node {
                op: Arc::new(HalfMask),
                inputs: vec![unmasked, half],
                output,
                saved: None,
                adjoint_of,
            };
        }
        self.nodes.push(node);
        Ok(())
    }
}

/// True if a node of the backward pass compares values of a map.
fn finds_maxima(node: &Node) -> bool {
    let pool = op::<PoolBackward>(node).map(|backward| backward.pool.kind);
    let kind = pool.or_else(|| op::<AdaptivePoolBackward>(node).map(|backward| backward.pool.kind));
    kind == Some(PoolKind::Max)
}

/// True if a node of the backward pass reads only the signs of a map.
fn masks(node: &Node) -> bool {
    op::<ConvBackward>(node).is_some()
        || op::<ReluBackward>(node).is_some()
        || op::<PoolBackward>(node).is_some_and(masks_its_gradient)
}

/// True if the adjoint masks its upstream gradient by its first input.
fn masks_its_upstream(backward: &ConvBackward) -> bool {
    backward.conv.relu && !backward.conv.pool
}

/// True if the adjoint masks its result by its first input and reads it for nothing else.
fn masks_its_gradient(backward: &PoolBackward) -> bool {
    backward.rectified && backward.pool.kind == PoolKind::Average
}

/// Maps that may be kept in half precision.
fn candidates(graph: &Graph, kept: &HashSet<TensorId>) -> Vec<Candidate> {
    let of = |map: TensorId| {
        let producer = &graph.nodes()[graph.tensor(map).producer?];
        if producer.adjoint_of.is_some() || kept.contains(&map) || graph.shape(map).layout().is_none() {
            return None;
        }
        let readers = graph.nodes().iter().filter(|node| node.inputs.contains(&map));
        let (backward, forward): (Vec<&Node>, Vec<&Node>) =
            readers.partition(|node| node.adjoint_of.is_some());
        // A map that only the backward pass reads is a gradient that comes from outside.
        let is_activation = !backward.is_empty() && !forward.is_empty();
        let needs_single = |node: &&Node| finds_maxima(node) || op::<MseBackward>(node).is_some();
        let possible = is_activation && !backward.iter().any(needs_single);
        possible.then(|| Candidate { map, values: !backward.iter().all(|reader| masks(reader)) })
    };
    graph.ids().filter_map(of).collect()
}
