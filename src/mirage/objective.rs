//! The objective: losses, their gradient with respect to the picture, and the optimiser's step, as one
//! prepared program.
//!
//! Definitions (neural-style, Johnson 2015, and neural-mirage, Töyrylä 2016), with `F` the activations
//! of a layer, `T` those of the photo, `N` pixels, `C` channels:
//! - spatial and abstract: `weight * factor * mean((F - T)^2)`;
//! - style: `weight * factor * mean over C^2 of (G - A)^2`, `G = F F^T / (C N)`;
//! - total variation: `weight / 2 * sum(dx^2 + dy^2)` of the RGB picture in [0, 1].

use super::build::Build;
use super::capture::{Wanted, planar};
use super::network_graph;
use super::readout::probability_layer;
use super::request::{FactorKind, Request};
use super::targets::{Captured, targets};
use crate::error::{Error, Result};
use crate::graph::{
    Bindings, Engine, Goals, Graph, Memory, Pending, Program, Readback, Submission, TensorId, Values, When,
};
use crate::image_io::Picture;
use crate::ops::{
    Adam, Gram, Interleave, MeanSquaredError, Reduce, ReduceKind, Shape, TotalVariation, VariationKind,
};
use crate::vgg::Network;
use std::collections::HashMap;
use std::sync::Arc;

/// Section of the program that computes losses, classes and the count of non-finite values.
pub(super) const LOSSES: &str = "losses";
/// Section that computes the gradient and its norm.
pub(super) const GRADIENT: &str = "gradient";
/// Section that makes one step of the optimiser; includes the gradient.
pub(super) const STEP: &str = "step";
/// Section that copies the picture into the snapshot tensor.
pub(super) const SNAPSHOT: &str = "snapshot";
/// Section that computes the gradient of each of the three factors, by itself and unweighted, and its norm.
pub(super) const FACTORS: &str = "factors";
/// Section that makes the optimiser's step along the weighted sum of the gradients that [`FACTORS`] left, which
/// must be of the present picture: to rounding the same step as [`STEP`], without another way there and back.
/// There is none without shares.
pub(super) const STEP_OF_FACTORS: &str = "step of factors";

/// One loss.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub kind: FactorKind,
    /// Name of the layer; `picture` for the total variation.
    pub layer: String,
    /// The layer's own factor.
    pub factor: f32,
}

/// Values on the device that the loop reads or writes.
#[derive(Debug)]
pub(super) struct Objective {
    engine: Arc<Engine>,
    pub program: Program,
    pub terms: Vec<Term>,
    pub shape: Shape,
    pub picture: Memory,
    pub gradient: Memory,
    weights: Vec<Memory>,
    /// With a balance: weights of what [`STEP_OF_FACTORS`] sums up, and whose gradients these are, in order.
    summands: Option<(Memory, Vec<FactorKind>)>,
    control: Memory,
    /// Adam's moments and counters.
    optimiser: [Memory; 3],
    /// Class probabilities of the photo.
    pub photo_probabilities: Vec<f32>,
}

/// Numbers of one report.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    /// Unweighted loss of each term.
    pub losses: Vec<f32>,
    /// Number of NaN and infinite values in the picture.
    pub non_finite: f32,
    /// Class probabilities; empty without fc layers.
    pub probabilities: Vec<f32>,
    /// Mean absolute gradient of each of the three factors at weight 1, as far as active and when [`FACTORS`]
    /// ran last.
    pub norms: [f32; 3],
}

/// Sections on their way through the device.
#[derive(Debug)]
pub(super) struct Submitted {
    pub submission: Submission,
    /// Numbers of the report, if asked for.
    pub report: Option<Pending>,
    /// The picture, with [`SNAPSHOT`].
    pub snapshot: Option<Pending>,
    /// Picture and optimiser before the step, if asked for; see [`Objective::state`].
    pub state: Option<Pending>,
}

/// What to read of a submission, besides the snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanting {
    /// The numbers of [`LOSSES`] and [`FACTORS`], of the submitted sections or of earlier ones.
    pub report: bool,
    /// Picture and optimiser before the step.
    pub state: bool,
}

/// Adam's counters.
const OPTIMISER: Shape = Shape::Vector(4);

/// Read-backs of one kind that may be on their way at once: as many as the loop has iterations in flight,
/// with that about to be submitted.
const READ_BACKS: usize = super::session::AHEAD + 1;

/// The layers of a request, with what to capture of them, checked against a network.
///
/// # Errors
/// [`Error::Usage`] for an unknown layer, an abstract layer that holds layout, a spatial or style layer
/// that holds none.
pub(super) fn terms(network: &Network, request: &Request) -> Result<Vec<(Term, Wanted)>> {
    let mut terms = Vec::new();
    for kind in FactorKind::THREE {
        if !request.is_present(kind) {
            continue;
        }
        let Some(factor) = request.factor(kind) else { continue };
        for item in factor.layers.iter().filter(|item| item.factor > 0.0) {
            if kind == FactorKind::Abstract && !network.has_head() {
                return Err(Error::usage(format!(
                    "the abstract factor needs fully connected layers, and {} has none: use --abstract none, or a weights file with fc layers",
                    network.path.display()
                )));
            }
            let layer = network.index_of(&item.layer)?;
            let connected = network.layers[..=layer]
                .iter()
                .any(|layer| matches!(layer.kind, crate::vgg::LayerKind::Linear(_)));
            if connected != (kind == FactorKind::Abstract) {
                let wanted = if kind == FactorKind::Abstract {
                    "fully connected layers, such as fc8"
                } else {
                    "layers of the conv part, such as relu4_2"
                };
                return Err(Error::usage(format!(
                    "the {kind} factor takes {wanted}; `{}` is not one",
                    item.layer
                )));
            }
            let term = Term { kind, layer: item.layer.clone(), factor: item.factor };
            terms.push((term, Wanted { layer, gram: kind == FactorKind::Style }));
        }
    }
    Ok(terms)
}

impl Objective {
    /// Captures the targets of a request, as far as `captured` lacks them, and prepares the program that follows
    /// them.
    ///
    /// # Errors
    /// As [`terms`], and if the device fails or has too little memory.
    pub fn new(
        engine: &Arc<Engine>,
        network: &Network,
        request: &Request,
        captured: &mut Captured,
    ) -> Result<Self> {
        let layers = terms(network, request)?;
        let targets = targets(engine, network, request, &layers, captured)?;
        let shape = Shape::map(3, request.photo.height, request.photo.width);
        let mut build = Build { engine, graph: Graph::new(), bound: Bindings::new() };

        let (picture, picture_buffer) = build.external("picture", shape)?;
        let class_layer = probability_layer(network).filter(|_| targets.classes.is_some());
        let mut wanted: Vec<usize> = layers.iter().map(|(_, wanted)| wanted.layer).collect();
        wanted.extend(class_layer);
        let activations =
            network_graph::forward(&mut build.graph, network, picture, &wanted, request.pooling)?;

        let mut terms = Vec::new();
        let mut seeds = Vec::new();
        let mut weights = Vec::new();
        let mut parts = Vec::new();
        let mut grams: HashMap<usize, TensorId> = HashMap::new();
        for ((term, wanted), target) in layers.into_iter().zip(targets.terms) {
            let mut value = activations[&wanted.layer];
            if wanted.gram {
                value = match grams.get(&wanted.layer) {
                    Some(gram) => *gram,
                    None => build.graph.apply(Gram, &[value], format!("Gram {}", term.layer))?,
                };
                grams.insert(wanted.layer, value);
            }
            let goal = build.graph.external(format!("target {}", term.layer), target.shape);
            build.bound.insert(goal, target.buffer);
            let loss = build.graph.apply(
                MeanSquaredError,
                &[value, goal],
                format!("{} loss {}", term.kind, term.layer),
            )?;
            build.term(term, loss, &mut terms, &mut seeds, &mut weights, &mut parts)?;
        }
        if request.tv_weight > 0.0 {
            let loss = build.graph.apply(
                TotalVariation { kind: VariationKind::Squared },
                &[picture],
                "total variation",
            )?;
            let term = Term { kind: FactorKind::Smooth, layer: "picture".to_owned(), factor: 1.0 };
            build.term(term, loss, &mut terms, &mut seeds, &mut weights, &mut parts)?;
        }
        let mut report_goals: Vec<TensorId> = seeds.iter().map(|(loss, _)| *loss).collect();
        let non_finite =
            build.graph.apply(Reduce { kind: ReduceKind::NonFinite }, &[picture], "non-finite values")?;
        parts.push(("non-finite".to_owned(), non_finite));
        report_goals.push(non_finite);
        if let Some(layer) = class_layer {
            let tensor = activations[&layer];
            parts.push(("classes".to_owned(), tensor));
            report_goals.push(tensor);
        }

        let slopes = build.slopes(&terms, &seeds, picture)?;
        let (slope, gradient) = (slopes.all, build.keep(slopes.all)?);
        let norm = build.graph.apply(Reduce { kind: ReduceKind::L1 }, &[slope], "gradient norm")?;
        build.keep(norm)?;
        let mut factor_norms = Vec::new();
        for kind in FactorKind::THREE {
            if let Some((_, slope)) = slopes.factors.iter().find(|(other, _)| *other == kind) {
                let label = format!("{kind} gradient norm");
                let norm = build.graph.apply(Reduce { kind: ReduceKind::L1 }, &[*slope], label.clone())?;
                factor_norms.push(norm);
                parts.push((label, norm));
            }
        }
        let (first, first_buffer) = build.external("first moment", shape)?;
        let (second, second_buffer) = build.external("second moment", shape)?;
        let (state, state_buffer) = build.external("optimiser state", OPTIMISER)?;
        let (control, control_buffer) = build.external("control", Shape::Vector(4))?;
        // Before the step: the snapshot of a submission is of the picture that its losses are of.
        let interleaved = build.graph.apply(Interleave { clamp: request.clamp }, &[picture], "snapshot")?;
        let adam = Adam {
            beta1: request.adam.beta1,
            beta2: request.adam.beta2,
            epsilon: request.adam.epsilon,
            clamp: request.clamp,
        };
        let step = build.graph.apply(adam, &[picture, slope, first, second, state, control], "step")?;
        // Only for a balance, factors are measured where a step follows at once.
        let (mut summands, mut steps_of_factors) = (None, Vec::new());
        if request.sums_factors() {
            let (sum, weights, kinds) = build.sum_of_factors(&slopes)?;
            let inputs = [picture, sum, first, second, state, control];
            steps_of_factors.push(build.graph.apply(adam, &inputs, "step of factors")?);
            summands = Some((weights, kinds));
        }

        // What somebody reads, or what comes from outside, must keep its meaning.
        let kept = build.bound.keys().copied().chain(parts.iter().map(|(_, tensor)| *tensor));
        build.graph.fuse(&kept.chain([interleaved]).collect());
        let read = |name: &str, tensors: Vec<(String, TensorId)>, when| Readback {
            name: name.to_owned(),
            tensors,
            when,
            in_flight: READ_BACKS,
        };
        let named = |tensors: &[(&str, TensorId)]| {
            tensors.iter().map(|(name, tensor)| ((*name).to_owned(), *tensor)).collect()
        };
        let state_parts = [("picture", picture), ("first", first), ("second", second), ("counters", state)];
        let goals = Goals::default()
            .section(LOSSES, report_goals)
            .section(GRADIENT, [norm])
            .section(STEP, [step])
            .section(SNAPSHOT, [interleaved])
            .section(FACTORS, factor_norms)
            .section(STEP_OF_FACTORS, steps_of_factors)
            .readback(read("report", parts, When::After))
            .readback(read("snapshot", named(&[("picture", interleaved)]), When::After))
            .readback(read("state", named(&state_parts), When::Before));
        // While the device makes the targets. Memory is taken when what they needed is free.
        Program::compile(engine, &build.graph, &goals)?;
        if let Some(submission) = &targets.submission {
            submission.wait()?;
        }
        let photo_probabilities = match &targets.classes {
            Some(target) => engine.read(&target.buffer, target.shape, "classes of the photo")?,
            None => Vec::new(),
        };
        let program = Program::prepare(engine, &build.graph, &build.bound, &goals, |_| 0)?;

        let objective = Self {
            engine: engine.clone(),
            program,
            terms,
            shape,
            picture: picture_buffer,
            gradient,
            weights,
            summands,
            control: control_buffer,
            optimiser: [first_buffer, second_buffer, state_buffer],
            photo_probabilities,
        };
        objective.set_learning_rate(request.adam.learning_rate)?;
        Ok(objective)
    }

    /// Sets the picture, and the optimiser to its beginning.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_picture(&self, picture: &Picture) -> Result<()> {
        let nothing = vec![0.0; self.shape.elements()];
        self.set_state(&planar(picture), [&nothing, &nothing], [0.0; 4])
    }

    /// Sets picture, first and second moment and the optimiser's counters, in logical order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_state(&self, picture: &[f32], moments: [&[f32]; 2], counters: [f32; 4]) -> Result<()> {
        let [first, second, state] = &self.optimiser;
        self.engine.write(&self.picture, self.shape, picture)?;
        self.engine.write(first, self.shape, moments[0])?;
        self.engine.write(second, self.shape, moments[1])?;
        self.engine.write(state, OPTIMISER, &counters)
    }

    /// Picture, first and second moment and the optimiser's counters from a state that was read.
    pub fn state(&self, mut values: Values) -> ([Vec<f32>; 3], [f32; 4]) {
        let counters = values.get("counters").and_then(|values| values.first_chunk::<4>()).copied();
        let tensors = ["picture", "first", "second"].map(|name| values.take(name).unwrap_or_default());
        (tensors, counters.unwrap_or([f32::NAN; 4]))
    }

    /// True if there is [`STEP_OF_FACTORS`].
    pub fn sums_factors(&self) -> bool {
        self.summands.is_some()
    }

    /// Sets the learning rate of the steps to come.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_learning_rate(&self, rate: f32) -> Result<()> {
        self.engine.write(&self.control, Shape::Vector(4), &[rate, 0.0, 0.0, 0.0])
    }

    /// Sets the weight of each factor in the gradient; a term's is that times the layer's factor.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_weights(&self, weight: impl Fn(FactorKind) -> f32) -> Result<()> {
        for (term, buffer) in self.terms.iter().zip(&self.weights) {
            self.engine.write(buffer, Shape::Vector(1), &[weight(term.kind) * term.factor])?;
        }
        let Some((buffer, kinds)) = &self.summands else { return Ok(()) };
        // The gradient of the total variation has its weight in it already.
        let of_sum = |kind: &FactorKind| if *kind == FactorKind::Smooth { 1.0 } else { weight(*kind) };
        let weights: Vec<f32> = kinds.iter().map(of_sum).collect();
        self.engine.write(buffer, Shape::Vector(weights.len()), &weights)
    }

    /// Measures the three factors' gradient norms at the present picture, at weight 1, and waits for them. The
    /// losses are computed along with them, and the gradients stay for [`STEP_OF_FACTORS`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&self) -> Result<[f32; 3]> {
        match self.run(&[LOSSES, FACTORS], Wanting { report: true, state: false })?.report {
            Some(report) => Ok(self.numbers(&report.finish()?).norms),
            None => Ok([f32::NAN; 3]),
        }
    }

    /// Submits sections, and starts reading what they make: the snapshot with [`SNAPSHOT`], and what is wanted
    /// besides. Waits for nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&self, sections: &[&str], wanting: Wanting) -> Result<Submitted> {
        let wanted = [
            ("state", wanting.state),
            ("report", wanting.report),
            ("snapshot", sections.contains(&SNAPSHOT)),
        ];
        let wanted: Vec<&str> = wanted.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
        let mut submission = self.program.submit(sections, &wanted, "iteration")?;
        Ok(Submitted {
            report: submission.take("report"),
            snapshot: submission.take("snapshot"),
            state: submission.take("state"),
            submission,
        })
    }

    /// The numbers of a report that was read.
    pub fn numbers(&self, values: &Values) -> Numbers {
        let number = |name: &str| values.get(name).and_then(|values| values.first()).copied();
        let loss = |index| number(&format!("loss {index}")).unwrap_or(f32::NAN);
        let norm = |kind| {
            let sum = number(&format!("{kind} gradient norm")).unwrap_or(0.0);
            sum / self.shape.elements() as f32
        };
        Numbers {
            losses: (0..self.terms.len()).map(loss).collect(),
            non_finite: number("non-finite").unwrap_or(f32::NAN),
            probabilities: values.get("classes").unwrap_or_default().to_vec(),
            norms: FactorKind::THREE.map(norm),
        }
    }

    /// Staging buffers made for reports, snapshots and states.
    pub fn staging_buffers(&self) -> usize {
        self.program.staging_buffers()
    }
}
