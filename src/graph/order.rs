//! The order of running. `backward` puts the gradients of all losses first, where a sum with the gradient of the
//! next layer can be fused; run there, each would wait in memory for the way back to reach its layer.

use super::ir::{Graph, TensorId};

impl Graph {
    /// The same graph with each node as late as the first reader of what it makes allows, if that frees more memory
    /// than what the node reads would then hold. No node passes one that changes its inputs in place.
    pub(super) fn deferred(&self) -> Self {
        let mut graph = self.clone();
        // From the last node, so that a reader stands where it will before what it reads follows it.
        for index in (0..self.nodes().len()).rev() {
            if let Some(later) = graph.later(index) {
                graph.move_node(index, later);
            }
        }
        graph
    }

    /// Where node `index` had better stand, if elsewhere.
    fn later(&self, index: usize) -> Option<usize> {
        let node = &self.nodes()[index];
        let made = [Some(node.output), node.side];
        let reads = |reader: usize, tensor: TensorId| self.nodes()[reader].inputs.contains(&tensor);
        let behind = index + 1..self.nodes().len();
        let reader = behind.clone().find(|reader| made.iter().flatten().any(|made| reads(*reader, *made)))?;
        let barrier = behind.clone().find(|other| !self.nodes()[*other].op.mutates().is_empty());
        let later = reader.min(barrier.unwrap_or(reader)) - 1;
        let freed: u64 = made.iter().flatten().map(|made| self.shape(*made).bytes()).sum();
        // What the node is the last to read would live on with it; what comes from outside does anyway.
        let held = |tensor: &&TensorId| {
            self.tensor(**tensor).producer.is_some()
                && !behind.clone().any(|reader| reader > later && reads(reader, **tensor))
        };
        let held: u64 = node.inputs.iter().filter(held).map(|tensor| self.shape(*tensor).bytes()).sum();
        (later > index && node.op.mutates().is_empty() && held < freed).then_some(later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Adam, Add, Dot, Relu, Shape};

    fn order(graph: &Graph) -> Vec<&str> {
        let deferred = graph.deferred();
        deferred.nodes().iter().map(|node| graph.tensor(node.output).label.as_str()).collect()
    }

    #[test]
    fn what_is_large_is_made_when_it_is_needed() {
        let mut graph = Graph::new();
        let x = graph.external("x", Shape::Vector(1000));
        let early = graph.apply(Relu, &[x], "early").unwrap();
        let chain = graph.apply(Relu, &[x], "chain").unwrap();
        let chain = graph.apply(Relu, &[chain], "chain 2").unwrap();
        let sum = graph.apply(Add, &[early, chain], "sum").unwrap();
        // Small, and the last to read something large: stays.
        let number = graph.apply(Dot, &[chain, chain], "number").unwrap();
        graph.apply(Relu, &[sum], "last").unwrap();
        graph.apply(Relu, &[number], "of the number").unwrap();
        let expected = ["chain", "chain 2", "early", "sum", "number", "last", "of the number"];
        assert_eq!(order(&graph), expected);
    }

    #[test]
    fn nothing_passes_a_change_in_place() {
        let mut graph = Graph::new();
        let shape = Shape::map(3, 4, 4);
        let [picture, slope, first, second] =
            ["picture", "slope", "first", "second"].map(|label| graph.external(label, shape));
        let [state, control] = ["state", "control"].map(|label| graph.external(label, Shape::Vector(4)));
        let before = graph.apply(Relu, &[picture], "before").unwrap();
        let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp: false };
        graph.apply(adam, &[picture, slope, first, second, state, control], "step").unwrap();
        graph.apply(Relu, &[before], "after").unwrap();
        assert_eq!(order(&graph), ["before", "step", "after"]);
    }
}
