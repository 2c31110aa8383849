//! The objective at one size: losses, their gradient with respect to the picture, the optimiser's step and the average
//! of the pictures. Prepared as one program, or as several in the tiled case.

pub(in crate::mirage) mod build;
pub(in crate::mirage) mod capture;
pub(in crate::mirage) mod gradients;
pub(in crate::mirage) mod kept_picture;
pub(in crate::mirage) mod layer_statistic;
pub(in crate::mirage) mod non_finite;
pub(in crate::mirage) mod prepare;
pub(in crate::mirage) mod readout;
pub(in crate::mirage) mod sections;
pub(in crate::mirage) mod sources;
mod state;
pub(in crate::mirage) mod step;
pub(in crate::mirage) mod targets;
pub(in crate::mirage) mod tiling;

use super::loss::{Group, Loss, Strength};
use super::optimizer::Optimizer;
use super::request::Request;
use super::setback::Fault;
use super::weighting::Weights;
use crate::error::{Error, Result};
use crate::graph::{Engine, Goals, Memory, MemoryUse, Program, Submission, TensorId, Values, When};
use crate::image_io::Picture;
use crate::ops::Shape;
use crate::vgg::Network;
use build::Build;
use gradients::{GradientGoals, GradientPath, norm_name};
use kept_picture::KeptPicture;
use layer_statistic::LayerStatistic;
use prepare::{AHEAD, Location, ObjectiveBuilder, Prepared, readback};
use sections::{GRADIENT, GROUPS, LOSSES, NON_FINITE, PICTURE, REPORT};
use sources::Sources;
use std::cell::Cell;
use std::sync::Arc;
use step::{CONTROL, STATE_PICTURE, StatePart};
use targets::{Cache, classes, targets};
use tiling::bands::NeighborLoss;
use tiling::graph::TileContext;
use tiling::tiled_objective::TiledGroup;

/// A loss of the objective.
#[derive(Debug, Clone)]
pub(super) struct Term {
    /// Name of the group.
    pub group: String,
    /// Name of the layer, or `picture`.
    pub source: String,
    /// Weight within the group.
    pub weight: f32,
}

/// A prepared objective.
#[derive(Debug)]
pub(super) struct Objective {
    engine: Arc<Engine>,
    /// Losses, gradient and step. In the tiled case only losses, and gradients with respect to the sums over tiles.
    pub program: Program,
    location: Location,
    /// Side of the tiles, if the picture is tiled.
    pub tile: Option<usize>,
    /// Groups of the objective.
    pub groups: Vec<Group>,
    /// Whether the gradient of each group is measured.
    measured: Vec<bool>,
    pub terms: Vec<Term>,
    pub shape: Shape,
    optimizer: Arc<dyn Optimizer>,
    loss_weights: Vec<Memory>,
    /// Weights of the gradients that `SUM` adds, and the group of each; `None` for the gradient of all other losses.
    summands: Option<(Memory, Vec<Option<String>>)>,
    /// Control values last written for the optimiser.
    control_values: Cell<Option<[f32; 4]>>,
    pub state: Vec<StatePart>,
    /// Class probabilities of the photo.
    pub photo_probabilities: Vec<f32>,
    /// Peak memory up to the capture of the targets, on a counting engine.
    pub capturing: Option<MemoryUse>,
}

/// Values of one report.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    /// Unweighted loss of each term.
    pub losses: Vec<f32>,
    /// Class probabilities; empty without fc layers.
    pub probabilities: Vec<f32>,
    /// Mean absolute gradient of each group at weight 1, from the last run of [`GROUPS`]; NaN if not measured.
    pub norms: Vec<f32>,
}

/// Returns the losses of these groups with a weight above 0, and the layer and statistic of each.
///
/// # Errors
/// If the network lacks a layer.
pub(super) fn losses<'a>(
    network: &Network,
    groups: &'a [Group],
) -> Result<Vec<(&'a Group, &'a Loss, LayerStatistic)>> {
    let mut found = Vec::new();
    for group in groups {
        for loss in group.counting() {
            found.push((group, loss, LayerStatistic::new(network, &loss.source, &loss.statistic)?));
        }
    }
    Ok(found)
}

/// Returns the layer of the class probabilities, if they are requested and available at this size.
pub(super) fn class_layer(network: &Network, request: &Request, size: [usize; 2]) -> Option<usize> {
    classes(network, request, size)?.layer
}

/// Returns the layers that losses and classes need.
pub(super) fn layers(losses: &[(&Group, &Loss, LayerStatistic)], class_layer: Option<usize>) -> Vec<usize> {
    losses.iter().filter_map(|(_, _, item)| item.layer).chain(class_layer).collect()
}

impl Objective {
    /// Captures the targets of a request at one size, except those in `cache`, and prepares the program.
    ///
    /// # Errors
    /// If a layer doesn't exist, the picture is too small, or the device fails or has too little memory.
    pub fn new(
        engine: &Arc<Engine>,
        network: &Network,
        request: &Request,
        size: [usize; 2],
        cache: &mut Cache,
    ) -> Result<Self> {
        let mut sides = request.tiling.sides(size).into_iter().peekable();
        loop {
            let side = sides.next().flatten();
            match Self::prepare(engine, network, request, (size, side), cache) {
                Err(Error::OutOfMemory { .. }) if sides.peek().is_some() => {}
                done => return done,
            }
        }
    }

    fn prepare(
        engine: &Arc<Engine>,
        network: &Network,
        request: &Request,
        (size, tile): ([usize; 2], Option<usize>),
        cache: &mut Cache,
    ) -> Result<Self> {
        let groups = request.present();
        let losses = losses(network, &groups)?;
        let captured: Vec<(&Loss, LayerStatistic)> =
            losses.iter().map(|(_, loss, item)| (*loss, item.clone())).collect();
        let mut targets = targets(engine, network, request, (size, tile), &captured, cache)?;
        let capturing = engine.counted().map(|counted| counted.peak);
        let shape = Shape::map(3, size[0], size[1]);
        let mut build = Build::new(engine);
        let picture = build.graph.external(STATE_PICTURE, shape);
        let class_layer = class_layer(network, request, size);
        let layers = layers(&losses, class_layer);
        let view = request.view();
        let mut sources = Sources::new(&mut build, network, view, picture, &layers, tile)?;
        if sources.assembly.is_none() {
            build.keep(picture)?;
        }

        let mut terms = Vec::new();
        for ((group, loss, item), target) in losses.iter().zip(std::mem::take(&mut targets.losses)) {
            let label = format!("{} {}", group.name, item.label(network));
            let distance = sources.distance(&mut build, item, target, &label)?;
            build.term(&label, distance, loss.weight)?;
            terms.push(Term {
                group: group.name.clone(),
                source: loss.source.to_string(),
                weight: loss.weight,
            });
        }

        let mut parts: Vec<(String, TensorId)> =
            build.losses().enumerate().map(|(index, loss)| (loss_name(index), loss)).collect();
        let classes = class_layer.and_then(|layer| sources.activation(layer));
        parts.extend(classes.map(|classes| (CLASSES.to_owned(), classes)));
        let loss_goals: Vec<TensorId> = parts.iter().map(|(_, tensor)| *tensor).collect();

        let measured: Vec<bool> = groups.iter().map(is_measured).collect();
        let of_term =
            |term: &Term| groups.iter().position(|group| group.name == term.group && is_measured(group));
        let group_of: Vec<Option<usize>> = terms.iter().map(of_term).collect();
        let gradients = GradientGoals::append(&mut build, &sources, (&groups, &group_of), picture, request)?;
        parts.extend(gradients.norms);
        let mut goals = Goals::default().section(LOSSES, loss_goals);
        for (name, tensors) in gradients.sections {
            goals = goals.section(name, tensors);
        }
        goals = goals.readback(readback(REPORT, parts, When::After));
        let builder = ObjectiveBuilder { engine, build, goals, targets, request, size };
        let mut summands = None;
        let Prepared { program, location, state, build, photo_probabilities } = match gradients.path {
            GradientPath::Tiles { gradients, groups } => {
                let context = TileContext { engine, network, view };
                builder.in_tiles(sources, context, gradients, tiled_groups(groups, &terms))?
            }
            GradientPath::Whole { gradient, sum } => {
                let tensor = sum.as_ref().map(|sum| sum.tensor);
                summands = sum.map(|sum| (sum.weights, sum.groups));
                builder.whole(picture, gradient, tensor)?
            }
        };
        let is_tiled = matches!(location, Location::Host(_));
        let loss_weights = build.loss_weights();
        Ok(Self {
            engine: engine.clone(),
            program,
            location,
            tile: tile.filter(|_| is_tiled),
            groups,
            measured,
            terms,
            shape,
            optimizer: request.optimizer.clone(),
            loss_weights,
            summands,
            control_values: Cell::new(None),
            state,
            photo_probabilities,
            capturing,
        })
    }

    /// Copies the shares, weights and learning rate of another request for the same objective.
    pub fn take_settings(&mut self, request: &Request) {
        self.optimizer = request.optimizer.clone();
        for group in &mut self.groups {
            if let Some(other) = request.groups.iter().find(|other| other.name == group.name) {
                group.strength = other.strength;
            }
        }
    }

    /// Writes the optimiser's control values for the step after `done` steps at this scale, with the step size halved
    /// `halvings` times.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_control(&self, done: u32, halvings: u32) -> Result<()> {
        let mut values = self.optimizer.control(done);
        values[0] *= 0.5_f32.powi(halvings.min(1000) as i32);
        if self.control_values.get() != Some(values) {
            if let Some(memory) = self.kept().get(CONTROL) {
                self.engine.write(memory, Shape::Vector(4), &values)?;
            }
            self.control_values.set(Some(values));
        }
        Ok(())
    }

    /// Sets the weight of each group in the gradient; a loss is weighted by its group's weight times its own. With
    /// `reset_optimizer`, state of the optimiser that depends on the old weights is zeroed.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_weights(&self, weights: &Weights, reset_optimizer: bool) -> Result<()> {
        let of_term = |term: &Term| weights.of(&term.group) * term.weight;
        let of_terms: Vec<f32> = self.terms.iter().map(of_term).collect();
        for (weight, memory) in of_terms.iter().zip(&self.loss_weights) {
            self.engine.write(memory, Shape::Vector(1), &[*weight])?;
        }
        if let Location::Host(tiled) = &self.location {
            tiled.set_weights(&of_terms);
        }
        let depends = |part: &&StatePart| part.optimizer.is_some_and(|tensor| tensor.depends_on_weights);
        for part in self.state.iter().filter(depends).filter(|_| reset_optimizer) {
            self.write(part, vec![0.0; part.shape.elements()])?;
        }
        let Some((memory, groups)) = &self.summands else { return Ok(()) };
        // The gradient of groups that are not measured is already weighted.
        let of_sum = |group: &Option<String>| group.as_ref().map_or(1.0, |group| weights.of(group));
        let of_sum: Vec<f32> = groups.iter().map(of_sum).collect();
        self.engine.write(memory, Shape::Vector(of_sum.len()), &of_sum)
    }

    /// Measures the groups' gradient norms at the current picture, at weight 1, and waits for them. Also computes the
    /// losses, and leaves the gradients for `SUM`. If the optimiser shows another picture, because the current one is
    /// only a trial, that picture replaces it first.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&self) -> Result<Numbers> {
        self.return_to_shown()?;
        match self.submit(&[LOSSES, GROUPS], &[REPORT])?.take(REPORT) {
            Some(report) => Ok(self.numbers(report.finish()?)),
            None => Ok(Numbers::default()),
        }
    }

    /// Sets the picture to the shown one, in case the optimiser is trying another.
    ///
    /// # Errors
    /// If the device fails.
    pub fn return_to_shown(&self) -> Result<()> {
        let picture = self.state.iter().find(|part| part.name == STATE_PICTURE);
        match (picture, self.state.iter().find(|part| self.is_shown(part))) {
            (Some(picture), Some(shown)) => self.write(picture, self.read(shown)?),
            _ => Ok(()),
        }
    }

    /// Returns the values of a report, and the gradient in channel, row, column order, for a picture and these weights.
    /// Waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn evaluate(&self, picture: &Picture, weights: &Weights) -> Result<(Numbers, Vec<f32>)> {
        self.set_picture(picture)?;
        self.set_weights(weights, true)?;
        let numbers = match self.submit(&[LOSSES, GRADIENT], &[REPORT])?.take(REPORT) {
            Some(report) => self.numbers(report.finish()?),
            None => Numbers::default(),
        };
        let gradient = match &self.location {
            Location::Device { gradient, .. } => self.engine.read(gradient, self.shape, "gradient")?,
            Location::Host(tiled) => tiled.take_gradient(),
        };
        Ok((numbers, gradient))
    }

    /// Submits sections and read-backs. Does not wait for them, except in the tiled case.
    ///
    /// # Errors
    /// If the device fails.
    pub fn submit(&self, sections: &[&str], readbacks: &[&str]) -> Result<Submission> {
        match &self.location {
            Location::Device { .. } => self.program.submit(sections, readbacks, "iteration"),
            Location::Host(tiled) => tiled.submit(&self.program, &self.state, sections, readbacks),
        }
    }

    /// Returns the picture copied by `SNAPSHOT`, from the read-back [`PICTURE`] of its submission, if any.
    pub fn snapshot(&self, values: Option<Values>) -> Option<KeptPicture> {
        if let Location::Host(tiled) = &self.location {
            return tiled.take_snapshot();
        }
        let [height, width] = self.shape.layout().map(|map| [map.height, map.width])?;
        let rgb = values?.take(PICTURE)?;
        Some(KeptPicture::Whole(Arc::new(Picture { width, height, rgb })))
    }

    /// True if the picture is computed in tiles.
    pub fn is_tiled(&self) -> bool {
        matches!(self.location, Location::Host(_))
    }

    /// Returns the number of iterations that may be submitted before the oldest is reported.
    pub fn ahead(&self) -> usize {
        match &self.location {
            Location::Device { .. } => AHEAD,
            // Each one is complete when its submission returns.
            Location::Host(_) => 0,
        }
    }

    /// Returns the device memory in use.
    pub fn memory(&self) -> MemoryUse {
        let program = self.program.memory();
        match &self.location {
            Location::Device { .. } => program,
            Location::Host(tiled) => program.with(tiled.memory()),
        }
    }

    /// Reads the first fault of the steps so far, and waits for it; see [`Objective::health`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn read_health(&self) -> Result<Option<(u32, Fault)>> {
        match self.submit(&[], &[NON_FINITE])?.take(NON_FINITE) {
            Some(health) => Ok(self.health(&health.finish()?)),
            None => Ok(None),
        }
    }

    /// Returns the first fault recorded by [`NON_FINITE`], and its distance in steps from the last one.
    pub fn health(&self, values: &Values) -> Option<(u32, Fault)> {
        match &self.location {
            Location::Device { watch, .. } => watch.fault(values, 1),
            Location::Host(tiled) => tiled.fault(values),
        }
    }

    /// True if the optimiser rejects pictures whose loss or gradient is not finite, or whose loss rises.
    pub fn rejects(&self) -> bool {
        self.optimizer.shown().is_some()
    }

    /// True if the section `SUM` is not empty.
    pub fn has_sum(&self) -> bool {
        self.summands.is_some()
    }

    /// True if this group's gradient is measured.
    pub fn measures(&self, group: &str) -> bool {
        self.groups.iter().zip(&self.measured).any(|(other, measured)| *measured && other.name == group)
    }

    /// Extracts the values of a report.
    pub fn numbers(&self, mut values: Values) -> Numbers {
        let one = |values: &Values, name: &str| {
            values.get(name).and_then(|values| values.first()).copied().unwrap_or(f32::NAN)
        };
        let norm = |group: &Group| one(&values, &norm_name(&group.name)) / self.shape.elements() as f32;
        Numbers {
            losses: (0..self.terms.len()).map(|index| one(&values, &loss_name(index))).collect(),
            norms: self.groups.iter().map(norm).collect(),
            probabilities: values.take(CLASSES).unwrap_or_default(),
        }
    }
}

/// Builds the measured groups, each with its section and its weights of the neighbour losses.
fn tiled_groups(
    groups: Vec<[String; 2]>,
    terms: &[Term],
) -> impl FnOnce(&[NeighborLoss]) -> Vec<TiledGroup> + use<'_> {
    |of_neighbors| {
        let group = |[section, name]: [String; 2]| {
            let weight = |loss: &NeighborLoss| match terms.get(loss.term) {
                Some(term) if term.group == name => term.weight,
                _ => 0.0,
            };
            let of_neighbors = of_neighbors.iter().map(weight).collect();
            TiledGroup { name, section, of_neighbors }
        };
        groups.into_iter().map(group).collect()
    }
}

/// True for a group whose gradient is measured separately: one with a share, or one with targets, since reports list
/// its share of the gradient.
pub(super) fn is_measured(group: &Group) -> bool {
    matches!(group.strength, Strength::Share(_)) || group.counting().any(|loss| loss.statistic.has_target())
}

const CLASSES: &str = "classes";

fn loss_name(index: usize) -> String {
    format!("loss {index}")
}
