//! The graph as data: tensors and the nodes that produce them, in an order that can be run.

use crate::error::Result;
use crate::ops::{Op, Shape, Signature};
use std::sync::Arc;

/// Index of a tensor in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(super) usize);

/// A tensor: its label and its shape.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name for labels and dumps, e.g. `relu4_2` or `d relu4_2`.
    pub label: String,
    /// Shape of the tensor.
    pub shape: Shape,
    /// Index of the node that produces it; `None` for external tensors.
    pub producer: Option<usize>,
}

/// One use of an op.
#[derive(Debug, Clone)]
pub struct Node {
    /// The op that the node applies.
    pub op: Arc<dyn Op>,
    /// Tensors that the op reads, or changes in place if it declares so.
    pub inputs: Vec<TensorId>,
    /// Tensor that the op produces.
    pub output: TensorId,
    /// Saved output of ops that have one.
    pub saved: Option<TensorId>,
    /// For a node of the backward pass: the output of the forward node that it differentiates.
    pub adjoint_of: Option<TensorId>,
}

/// Tensors and nodes. A node reads only tensors produced by earlier nodes, so the order of nodes is a valid schedule.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
}

impl Graph {
    /// Creates an empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor that the caller provides: the picture, a target, a loss weight or optimiser state.
    pub fn external(&mut self, label: impl Into<String>, shape: Shape) -> TensorId {
        self.tensors.push(Tensor { label: label.into(), shape, producer: None });
        TensorId(self.tensors.len() - 1)
    }

    /// Adds a node and returns its output.
    ///
    /// # Errors
    /// If the op does not accept inputs of these shapes.
    pub fn apply(
        &mut self,
        op: impl Op + 'static,
        inputs: &[TensorId],
        label: impl Into<String>,
    ) -> Result<TensorId> {
        self.apply_shared(Arc::new(op), inputs, label)
    }

    /// Adds a node like [`Graph::apply`], for a shared op.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_shared(
        &mut self,
        op: Arc<dyn Op>,
        inputs: &[TensorId],
        label: impl Into<String>,
    ) -> Result<TensorId> {
        let shapes = self.shapes(inputs);
        let shape = op.output(&shapes)?;
        let output = self.external(label, shape);
        let saved = op.saved(&shapes).map(|shape| self.add_saved(output, shape));
        self.nodes.push(Node { op, inputs: inputs.to_vec(), output, saved, adjoint_of: None });
        self.number(self.nodes.len() - 1);
        Ok(output)
    }

    /// Builds the graph of one op on external inputs of these shapes. Returns the graph, its inputs and its output.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub(super) fn single(op: &Arc<dyn Op>, shapes: &[Shape]) -> Result<(Self, Vec<TensorId>, TensorId)> {
        let mut graph = Self::new();
        let external = |(index, shape): (usize, &Shape)| graph.external(format!("input {index}"), *shape);
        let inputs: Vec<TensorId> = shapes.iter().enumerate().map(external).collect();
        let output = graph.apply_shared(op.clone(), &inputs, op.name())?;
        Ok((graph, inputs, output))
    }

    /// Adds a tensor for the saved output of the node that produces `output`.
    pub(super) fn add_saved(&mut self, output: TensorId, shape: Shape) -> TensorId {
        self.external(format!("{} saved", self.tensor(output).label), shape)
    }

    /// Records node `index` as the producer of its outputs.
    fn number(&mut self, index: usize) {
        let Node { output, saved, .. } = self.nodes[index];
        [Some(output), saved]
            .into_iter()
            .flatten()
            .for_each(|made| self.tensors[made.0].producer = Some(index));
    }

    /// Returns all nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns all tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Returns the ids of all tensors.
    pub(super) fn ids(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.tensors.len()).map(TensorId)
    }

    /// Returns a tensor.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Returns the shape of a tensor.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.tensors[id.0].shape
    }

    /// Returns the shapes of several tensors.
    pub fn shapes(&self, ids: &[TensorId]) -> Vec<Shape> {
        ids.iter().map(|id| self.shape(*id)).collect()
    }

    /// Returns the shapes of a node's inputs and output.
    pub fn signature(&self, node: &Node) -> Signature {
        Signature { inputs: self.shapes(&node.inputs), output: self.shape(node.output) }
    }

    /// Returns, for each node, whether one of `goals` is its output or saved output, or depends on one of these.
    /// In-place changes do not count: a node that makes one is needed only for its own output (as the optimiser step
    /// is).
    pub fn needed_for(&self, goals: &[TensorId]) -> Vec<bool> {
        let mut wanted = vec![false; self.tensors.len()];
        goals.iter().for_each(|goal| wanted[goal.0] = true);
        let mut needed = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if wanted[node.output.0] || node.saved.is_some_and(|saved| wanted[saved.0]) {
                needed[index] = true;
                node.inputs.iter().for_each(|input| wanted[input.0] = true);
            }
        }
        needed
    }

    /// Removes the nodes for which `keep` is false. Tensor ids stay valid.
    pub(super) fn retain_nodes(&mut self, keep: impl FnMut(&Node) -> bool) {
        self.nodes.retain(keep);
        self.tensors.iter_mut().for_each(|tensor| tensor.producer = None);
        (0..self.nodes.len()).for_each(|index| self.number(index));
    }

    /// Marks the node that produces `tensor` as part of the backward pass through the node that produces `forward`.
    pub(super) fn mark_adjoint(&mut self, tensor: TensorId, forward: TensorId) {
        if let Some(node) = self.tensor(tensor).producer {
            self.nodes[node].adjoint_of = Some(forward);
        }
    }

    /// Replaces the node at `index`.
    pub(super) fn replace(&mut self, index: usize, node: Node) {
        self.nodes[index] = node;
        self.retain_nodes(|_| true);
    }

    /// Replaces all nodes.
    pub(super) fn set_nodes(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
        self.retain_nodes(|_| true);
    }

    /// Removes the node at `index`.
    pub(super) fn remove(&mut self, index: usize) {
        self.nodes.remove(index);
        self.retain_nodes(|_| true);
    }
}
