//! The graph as data: tensors and the nodes that make them, in an order that can be run.

use crate::error::Result;
use crate::ops::{Op, Shape, Signature};
use std::sync::Arc;

/// Index of a tensor in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(super) usize);

/// A tensor: what it is called and its shape.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name for labels and dumps, e.g. `relu4_2` or `d relu4_2`.
    pub label: String,
    /// Its shape.
    pub shape: Shape,
    /// The node that makes it; `None` for tensors that come from outside.
    pub producer: Option<usize>,
}

/// One use of an op.
#[derive(Debug, Clone)]
pub struct Node {
    /// What is done.
    pub op: Arc<dyn Op>,
    /// Tensors read (and, where the op says so, changed in place).
    pub inputs: Vec<TensorId>,
    /// Tensor made.
    pub output: TensorId,
    /// The saved output, of ops that have one.
    pub saved: Option<TensorId>,
    /// For a node of the gradient: the output of the forward node that it belongs to.
    pub adjoint_of: Option<TensorId>,
}

/// Tensors and nodes. Nodes only read tensors made before them, so their order is a valid schedule.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor that comes from outside: the picture, a target, a loss weight, optimiser state.
    pub fn external(&mut self, label: impl Into<String>, shape: Shape) -> TensorId {
        self.tensors.push(Tensor { label: label.into(), shape, producer: None });
        TensorId(self.tensors.len() - 1)
    }

    /// Adds a node and returns its output.
    ///
    /// # Errors
    /// If the op does not take inputs of these shapes.
    pub fn apply(
        &mut self,
        op: impl Op + 'static,
        inputs: &[TensorId],
        label: impl Into<String>,
    ) -> Result<TensorId> {
        self.apply_shared(Arc::new(op), inputs, label)
    }

    /// As [`Graph::apply`] with a shared op.
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

    /// The graph of one op on inputs of these shapes, all from outside; its inputs and its output.
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

    /// A tensor that becomes the saved output of the node that makes `output`.
    pub(super) fn add_saved(&mut self, output: TensorId, shape: Shape) -> TensorId {
        self.external(format!("{} saved", self.tensor(output).label), shape)
    }

    /// Notes what a node makes.
    fn number(&mut self, index: usize) {
        let Node { output, saved, .. } = self.nodes[index];
        [Some(output), saved]
            .into_iter()
            .flatten()
            .for_each(|made| self.tensors[made.0].producer = Some(index));
    }

    /// All nodes in running order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Ids of all tensors.
    pub(super) fn ids(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.tensors.len()).map(TensorId)
    }

    /// One tensor.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Shape of one tensor.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.tensors[id.0].shape
    }

    /// Shapes of several tensors.
    pub fn shapes(&self, ids: &[TensorId]) -> Vec<Shape> {
        ids.iter().map(|id| self.shape(*id)).collect()
    }

    /// Shapes of one node.
    pub fn signature(&self, node: &Node) -> Signature {
        Signature { inputs: self.shapes(&node.inputs), output: self.shape(node.output) }
    }

    /// For each node, whether any of `goals` is its output (or its saved output) or depends on it. Changing a tensor in
    /// place does not count: a node that does so is needed only for its own output (as the optimiser's step is).
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

    /// Drops the nodes for which `keep` is false; tensor ids stay valid.
    pub(super) fn retain_nodes(&mut self, keep: impl FnMut(&Node) -> bool) {
        self.nodes.retain(keep);
        self.tensors.iter_mut().for_each(|tensor| tensor.producer = None);
        (0..self.nodes.len()).for_each(|index| self.number(index));
    }

    /// Notes that the node that made `tensor` belongs to the backward pass through the one that made `forward`.
    pub(super) fn mark_adjoint(&mut self, tensor: TensorId, forward: TensorId) {
        if let Some(node) = self.tensor(tensor).producer {
            self.nodes[node].adjoint_of = Some(forward);
        }
    }

    /// Puts a node in the place of another.
    pub(super) fn replace(&mut self, index: usize, node: Node) {
        self.nodes[index] = node;
        self.retain_nodes(|_| true);
    }

    /// Drops a node.
    pub(super) fn remove(&mut self, index: usize) {
        self.nodes.remove(index);
        self.retain_nodes(|_| true);
    }
}
