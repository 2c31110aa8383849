//! Runs single optimiser steps on the device, with loss and gradient evaluated on the host in f64.

use neural_mirage::graph::{Bindings, Engine, Goals, Graph, Program, Readback, TensorId, Values, When};
use neural_mirage::mirage::optimizer::{Optimizer, StateTensor, StepInputs};
use neural_mirage::ops::Shape;
use std::sync::Arc;

/// Computes a loss and its gradient at a picture, in logical order.
pub type Function<'a> = &'a dyn Fn(&[f64]) -> (f64, Vec<f64>);

/// An optimiser on the device.
pub struct Stepper {
    engine: Arc<Engine>,
    optimizer: Arc<dyn Optimizer>,
    shape: Shape,
    program: Program,
    bound: Bindings,
    inputs: StepInputs,
    state: Vec<(StateTensor, TensorId)>,
    done: u32,
    /// Picture and state after the last step or change.
    seen: Values,
}

impl Stepper {
    pub fn new(engine: &Arc<Engine>, optimizer: Arc<dyn Optimizer>, shape: Shape, start: &[f32]) -> Self {
        let mut graph = Graph::new();
        let mut bound = Bindings::new();
        let mut external = |label: &str, shape: Shape| {
            let id = graph.external(label, shape);
            bound.insert(id, engine.tensor(label, shape).unwrap());
            id
        };
        let inputs = StepInputs {
            picture: external("picture", shape),
            gradient: external("gradient", shape),
            loss: optimizer.needs_loss().then(|| external("loss", Shape::Vector(1))),
            control: external("control", Shape::Vector(4)),
        };
        let state: Vec<_> = optimizer
            .state(shape)
            .into_iter()
            .map(|tensor| (tensor, external(tensor.name, tensor.shape)))
            .collect();
        let ids: Vec<TensorId> = state.iter().map(|(_, id)| *id).collect();
        let goals = optimizer.step(&mut graph, &inputs, &ids).unwrap();
        // All but the large history buffers, which no test reads.
        let small = state.iter().filter(|(tensor, _)| !["steps", "gradient_changes"].contains(&tensor.name));
        let mut tensors: Vec<(String, TensorId)> =
            small.map(|(tensor, id)| (tensor.name.to_owned(), *id)).collect();
        tensors.push(("picture".to_owned(), inputs.picture));
        let readback = Readback { name: "seen".to_owned(), tensors, when: When::After, in_flight: 1 };
        let goals = Goals::all(goals).section("nothing", []).readback(readback);
        let program = Program::prepare(engine, &graph, &bound, &goals, |_| 0).unwrap();
        let mut stepper = Self {
            engine: engine.clone(),
            optimizer,
            shape,
            program,
            bound,
            inputs,
            state,
            done: 0,
            seen: Values::default(),
        };
        stepper.write(inputs.picture, shape, start);
        if let Some(shown) = stepper.optimizer.shown() {
            stepper.write(stepper.id(shown), shape, start);
        }
        stepper.submit("nothing");
        stepper
    }

    fn id(&self, name: &str) -> TensorId {
        self.state.iter().find(|(tensor, _)| tensor.name == name).expect("a state tensor").1
    }

    fn write(&self, id: TensorId, shape: Shape, values: &[f32]) {
        self.engine.write(&self.bound[&id], shape, values).unwrap();
    }

    /// Runs a section and reads back picture and state.
    fn submit(&mut self, section: &str) {
        let pending = self.program.submit(&[section], &["seen"], section).unwrap().take("seen").unwrap();
        self.seen = pending.finish().unwrap();
    }

    /// Returns the picture to evaluate next.
    pub fn picture(&self) -> Vec<f32> {
        self.state("picture")
    }

    pub fn set_picture(&mut self, values: &[f32]) {
        self.write(self.inputs.picture, self.shape, values);
        self.submit("nothing");
    }

    /// Returns a state tensor.
    pub fn state(&self, name: &str) -> Vec<f32> {
        self.seen.get(name).expect("a state tensor").to_vec()
    }

    /// Returns the shown picture, which may be a state tensor.
    pub fn shown(&self) -> Vec<f32> {
        self.optimizer.shown().map_or_else(|| self.picture(), |name| self.state(name))
    }

    /// Returns to the shown picture and clears state that depends on the weights, as the loop does after measuring
    /// them.
    pub fn restart(&mut self) {
        self.write(self.inputs.picture, self.shape, &self.shown());
        for (tensor, id) in self.state.iter().filter(|(tensor, _)| tensor.depends_on_weights) {
            self.write(*id, tensor.shape, &vec![0.0; tensor.shape.elements()]);
        }
        self.submit("nothing");
    }

    /// Evaluates `function` at the picture and makes one step. Returns the loss.
    pub fn step(&mut self, function: Function<'_>) -> f64 {
        let at: Vec<f64> = self.picture().iter().map(|x| f64::from(*x)).collect();
        let (loss, gradient) = function(&at);
        self.step_with(loss as f32, &gradient.iter().map(|g| *g as f32).collect::<Vec<_>>());
        loss
    }

    /// Makes one step with this loss and gradient.
    pub fn step_with(&mut self, loss: f32, gradient: &[f32]) {
        self.write(self.inputs.gradient, self.shape, gradient);
        if let Some(id) = self.inputs.loss {
            self.write(id, Shape::Vector(1), &[loss]);
        }
        self.write(self.inputs.control, Shape::Vector(4), &self.optimizer.control(self.done));
        self.submit(Goals::ALL);
        self.done += 1;
    }
}
