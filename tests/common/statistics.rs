//! Loss and gradient of a single statistic, as f64 references and on the device.

use neural_mirage::Result;
use neural_mirage::graph::{Bindings, Engine, Goals, Graph, Program, TensorId, gradient};
use neural_mirage::mirage::statistic::{Domain, Statistic};
use neural_mirage::ops::{AdaptivePool, MeanSquaredError, PoolKind, Relu, Shape};
use std::collections::HashMap;
use std::sync::Arc;

/// The graph of a statistic: summary of an activation, distance from a target, and gradient with respect to the
/// activation.
pub struct Built {
    graph: Graph,
    activation: TensorId,
    /// The target's activation, if it is an input of the graph.
    target: Option<TensorId>,
    /// Tensors with fixed values: the upstream gradient, and the target's summary if given.
    given: Vec<(TensorId, Vec<f32>)>,
    loss: TensorId,
    gradient: TensorId,
}

impl Built {
    /// Builds the graph with a target activation of the same shape, if the statistic has a target.
    pub fn new(statistic: &dyn Statistic, shape: Shape) -> Self {
        let mut graph = Graph::new();
        let target = statistic.has_target().then(|| graph.external("target", shape));
        let summary =
            target.map(|target| statistic.summary(&mut graph, target, "target").unwrap()).unwrap_or_default();
        Self::finish(statistic, graph, shape, target, &summary, Vec::new())
    }

    /// Builds the graph with a given target summary, which may be blended.
    pub fn of_summary(statistic: &dyn Statistic, shape: Shape, summary: Vec<Vec<f32>>) -> Self {
        // The shapes of the summary come from the statistic.
        let mut graph = Graph::new();
        let activation = graph.external("activation", shape);
        let tensors = statistic.summary(&mut graph, activation, "shapes").unwrap();
        let shapes = graph.shapes(&tensors);
        let mut graph = Graph::new();
        let mut given = Vec::new();
        for (shape, values) in shapes.into_iter().zip(summary) {
            assert_eq!(shape.elements(), values.len());
            given.push((graph.external("target's summary", shape), values));
        }
        let summary: Vec<TensorId> = given.iter().map(|(id, _)| *id).collect();
        Self::finish(statistic, graph, shape, None, &summary, given)
    }

    fn finish(
        statistic: &dyn Statistic,
        mut graph: Graph,
        shape: Shape,
        target: Option<TensorId>,
        summary: &[TensorId],
        mut given: Vec<(TensorId, Vec<f32>)>,
    ) -> Self {
        let prepared = if statistic.has_target() {
            statistic.target(&mut graph, summary, "target").unwrap()
        } else {
            Vec::new()
        };
        let activation = graph.external("activation", shape);
        let own = statistic.summary(&mut graph, activation, "activation").unwrap();
        let loss = statistic.distance(&mut graph, &own, &prepared, "activation").unwrap();
        assert_eq!(graph.shape(loss), Shape::Vector(1));
        let upstream = graph.external("weight", Shape::Vector(1));
        given.push((upstream, vec![1.0]));
        let by = gradient(&mut graph, &[(loss, upstream)], activation).unwrap();
        let gradient = by.expect("the loss depends on the activation");
        Self { graph, activation, target, given, loss, gradient }
    }

    /// Blends the summaries of several activations, each with a weight.
    pub fn blend(statistic: &dyn Statistic, targets: &[(f32, Shape, Vec<f32>)]) -> Vec<Vec<f32>> {
        let summary = |(weight, shape, values): &(f32, Shape, Vec<f32>)| {
            let mut graph = Graph::new();
            let target = graph.external("target", *shape);
            let summary = statistic.summary(&mut graph, target, "target").unwrap();
            let wide = values.iter().map(|value| f64::from(*value)).collect();
            let computed = evaluate(&graph, HashMap::from([(target, wide)]));
            let narrow = |id: &TensorId| computed[id].iter().map(|value| *value as f32).collect();
            (*weight, summary.iter().map(narrow).collect())
        };
        statistic.blend(&targets.iter().map(summary).collect::<Vec<_>>()).unwrap()
    }

    /// Computes loss and gradient in f64.
    pub fn reference(&self, activation: &[f64], target: &[f64]) -> (f64, Vec<f64>) {
        let mut values = HashMap::from([(self.activation, activation.to_vec())]);
        values.extend(self.target.map(|id| (id, target.to_vec())));
        for (id, given) in &self.given {
            values.insert(*id, given.iter().map(|value| f64::from(*value)).collect());
        }
        let mut values = evaluate(&self.graph, values);
        (values[&self.loss][0], values.remove(&self.gradient).unwrap())
    }

    /// Computes loss and gradient on the device.
    pub fn device(&self, engine: &Arc<Engine>, activation: &[f32], target: &[f32]) -> (f32, Vec<f32>) {
        let mut bound = Bindings::new();
        let mut bind = |id: TensorId, values: &[f32]| {
            bound.insert(id, engine.tensor_with("given", self.graph.shape(id), values).unwrap());
        };
        bind(self.activation, activation);
        self.target.into_iter().for_each(|id| bind(id, target));
        self.given.iter().for_each(|(id, values)| bind(*id, values));
        for id in [self.loss, self.gradient] {
            let shape = self.graph.shape(id);
            let poison = vec![f32::NAN; shape.elements()];
            bound.insert(id, engine.tensor_with("computed", shape, &poison).unwrap());
        }
        let goals = Goals::all([self.loss, self.gradient]);
        let program = Program::prepare(engine, &self.graph, &bound, &goals, |_| 0).unwrap();
        program.submit(&[Goals::ALL], &[], "statistic").unwrap().wait().unwrap();
        let read = |id: TensorId| engine.read(&bound[&id], self.graph.shape(id), "computed").unwrap();
        (read(self.loss)[0], read(self.gradient))
    }
}

/// Computes all tensors of a graph with the references of its ops.
fn evaluate(graph: &Graph, mut values: HashMap<TensorId, Vec<f64>>) -> HashMap<TensorId, Vec<f64>> {
    for node in graph.nodes() {
        let shapes = graph.shapes(&node.inputs);
        let inputs: Vec<&[f64]> = node.inputs.iter().map(|id| values[id].as_slice()).collect();
        let saved = node.saved.and_then(|id| Some((id, node.op.reference_saved(&inputs, &shapes)?)));
        let output = node.op.reference(&inputs, &shapes);
        values.insert(node.output, output);
        values.extend(saved);
    }
    values
}

/// A statistic as a user of the library could define it: the rectified activation averaged over quarters of the map (a
/// coarse layout), compared by mean squared error.
#[derive(Debug, Clone, Copy)]
pub struct Quarters;

impl Statistic for Quarters {
    fn name(&self) -> &'static str {
        "quarters"
    }

    fn domain(&self) -> Domain {
        Domain::Maps
    }

    fn summary(&self, graph: &mut Graph, activation: TensorId, label: &str) -> Result<Vec<TensorId>> {
        let positive = graph.apply(Relu, &[activation], format!("positive {label}"))?;
        let pool = AdaptivePool { kind: PoolKind::Average, size: [2, 2] };
        Ok(vec![graph.apply(pool, &[positive], format!("quarters {label}"))?])
    }

    fn distance(
        &self,
        graph: &mut Graph,
        summary: &[TensorId],
        target: &[TensorId],
        label: &str,
    ) -> Result<TensorId> {
        graph.apply(MeanSquaredError, &[summary[0], target[0]], format!("{label} quarters loss"))
    }
}
