//! The objective at one size: losses, their gradient with respect to the picture, the optimiser's step and the average
//! of the pictures, as one prepared program.

use super::build::Build;
use super::capture::planar;
use super::layer_statistic::LayerStatistic;
use super::loss::{Group, Loss, Strength};
use super::optimizer::{Optimizer, StateTensor, StepInputs};
pub(super) use super::passes::{GRADIENT, GROUPS, LOSSES};
use super::passes::{Passes, TiledPasses, norm_name};
use super::readout::probabilities;
use super::request::Request;
use super::setback::Fault;
use super::sources::Sources;
use super::step_watch::{HEALTH, StepWatch};
use super::targets::{Cache, targets};
use super::tiles::Subject;
use super::weighting::Weights;
use crate::error::{Error, Result};
use crate::graph::{Engine, Goals, Memory, MemoryUse, Program, Readback, Submission, TensorId, Values, When};
use crate::image_io::Picture;
use crate::ops::{Average, Interleave, Shape};
use crate::vgg::Network;
use std::cell::Cell;
use std::sync::Arc;

/// Section that makes the gradient the weighted sum of those that [`GROUPS`] left, which must be of the present
/// picture: to rounding the same as [`GRADIENT`], without another forward and backward pass. Empty without shares.
pub(super) const SUM: &str = "sum";
/// Section that makes one step of the optimiser along the gradient that [`GRADIENT`] or [`SUM`] left, and notes on the
/// device whether anything became NaN or infinite.
pub(super) const STEP: &str = "step";
/// Section that copies the picture that is shown.
pub(super) const SNAPSHOT: &str = "snapshot";

/// Read-back of the numbers of [`LOSSES`] and [`GROUPS`].
pub(super) const REPORT: &str = "report";
/// Read-back of what [`SNAPSHOT`] copied.
pub(super) const PICTURE: &str = "picture";
/// Read-back of picture, average and optimiser before the step.
pub(super) const STATE: &str = "state";

/// Name of the picture among the tensors of a state.
pub(super) const STATE_PICTURE: &str = "picture";
/// Name of the average.
pub(super) const STATE_AVERAGE: &str = "average";
/// Name of the average's counters.
pub(super) const STATE_AVERAGE_COUNTERS: &str = "average_counters";

/// Iterations submitted ahead of the device: enough to keep it busy, few enough that a stop is prompt.
pub(super) const AHEAD: usize = 2;
/// Read-backs of one kind that may be in flight at once: one for each iteration ahead, and one for the next.
const READ_BACKS: usize = AHEAD + 1;

/// One loss.
#[derive(Debug, Clone)]
pub(super) struct Term {
    /// Name of its group.
    pub group: String,
    /// Name of its layer, or `picture`.
    pub source: String,
    /// Its weight within the group.
    pub weight: f32,
}

/// A tensor that the next iteration depends on.
#[derive(Debug, Clone)]
pub(super) struct StatePart {
    pub name: String,
    pub shape: Shape,
    pub memory: Memory,
    /// For a tensor of the optimiser.
    pub optimizer: Option<StateTensor>,
}

/// A prepared objective.
#[derive(Debug)]
pub(super) struct Objective {
    engine: Arc<Engine>,
    pub program: Program,
    /// Passes over the tiles of a picture that is not computed as a whole.
    tiled: Option<TiledPasses>,
    /// Side of the tiles.
    pub tile: Option<usize>,
    /// The groups in it.
    pub groups: Vec<Group>,
    /// For each group whether its gradient is measured.
    measured: Vec<bool>,
    pub terms: Vec<Term>,
    pub shape: Shape,
    pub gradient: Memory,
    optimizer: Arc<dyn Optimizer>,
    loss_weights: Vec<Memory>,
    /// Weights of the gradients that [`SUM`] adds, and the group of each; `None` for the gradient of all other losses.
    summands: Option<(Memory, Vec<Option<String>>)>,
    control: Memory,
    /// What `control` holds.
    control_values: Cell<Option<[f32; 4]>>,
    /// What [`STEP`] notes.
    watch: StepWatch,
    pub state: Vec<StatePart>,
    /// Class probabilities of the photo.
    pub photo_probabilities: Vec<f32>,
    /// The most that was taken until the targets were captured, on an engine that counts.
    pub capturing: Option<MemoryUse>,
}

/// Numbers of one report.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    /// Unweighted loss of each term.
    pub losses: Vec<f32>,
    /// Class probabilities; empty without fc layers.
    pub probabilities: Vec<f32>,
    /// Mean absolute gradient of each group at weight 1, as [`GROUPS`] measured it last; NaN where it is not measured.
    pub norms: Vec<f32>,
}

/// The losses of these groups that count, with what to capture for each.
///
/// # Errors
/// If the network has no such layer.
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

impl Objective {
    /// Captures the targets of a request at one size, where `cache` lacks them, and prepares the program.
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
        let targets = targets(engine, network, request, (size, tile), &captured, cache)?;
        let capturing = engine.counted().map(|counted| counted.peak);
        let shape = Shape::map(3, size[0], size[1]);
        let mut build = Build::new(engine);
        let (picture, picture_memory) = build.external("picture", shape)?;
        let class_layer =
            probabilities(network).and_then(|item| item.layer).filter(|_| targets.classes.is_some());
        let mut layers: Vec<usize> = losses.iter().filter_map(|(_, _, item)| item.layer).collect();
        layers.extend(class_layer);
        let view = request.view();
        let mut sources = Sources::new(&mut build, network, view, picture, &layers, tile)?;

        let mut terms = Vec::new();
        for ((group, loss, item), target) in losses.iter().zip(targets.losses) {
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
        let passes = Passes::append(&mut build, &sources, (&groups, &group_of), picture, request)?;
        parts.extend(passes.norms.iter().cloned());
        let (gradient, sum) = (passes.gradient.clone(), passes.sum.clone());

        let optimizer = request.optimizer.clone();
        let mut state = vec![StatePart {
            name: STATE_PICTURE.to_owned(),
            shape,
            memory: picture_memory,
            optimizer: None,
        }];
        let mut state_tensors = vec![(STATE_PICTURE.to_owned(), picture)];
        let mut add = |build: &mut Build<'_>, name: String, shape, optimizer| -> Result<TensorId> {
            let (tensor, memory) = build.external(&name, shape)?;
            state_tensors.push((name.clone(), tensor));
            state.push(StatePart { name, shape, memory, optimizer });
            Ok(tensor)
        };
        let mut optimizer_state = Vec::new();
        let mut shown = picture;
        for tensor in optimizer.state(shape) {
            let name = format!("{}:{}", optimizer.name(), tensor.name);
            let id = add(&mut build, name, tensor.shape, Some(tensor))?;
            optimizer_state.push(id);
            shown = if optimizer.shown() == Some(tensor.name) { id } else { shown };
        }
        let (stepped, mut average) = (shown, None);
        if request.average_decay > 0.0 {
            let mean = add(&mut build, STATE_AVERAGE.to_owned(), shape, None)?;
            let counters = add(&mut build, STATE_AVERAGE_COUNTERS.to_owned(), Shape::Vector(4), None)?;
            average = Some((mean, counters));
            shown = mean;
        }

        // Before the step: the snapshot of a submission is of the iteration that its losses are of.
        let clamp = optimizer.clamps();
        let snapshot = build.graph.apply(Interleave { clamp }, &[shown], "snapshot")?;
        let loss = if optimizer.needs_loss() { Some(build.total()?) } else { None };
        let along = build.alias("gradient", &gradient, shape);
        let (control, control_memory) = build.external("control", Shape::Vector(4))?;
        let inputs = StepInputs { picture, gradient: along, loss, control };
        let mut steps = optimizer.step(&mut build.graph, &inputs, &optimizer_state)?;
        if let Some((mean, counters)) = average {
            let op = Average { decay: f64::from(request.average_decay) };
            steps.push(build.graph.apply(op, &[stepped, mean, counters], "average")?);
        }
        // After the step, before any clamp: a clamped picture hides what was infinite. An optimiser that rejects pictures
        // may meet any gradient.
        let gradient_counts = optimizer.shown().is_none().then(|| (GRADIENT.to_owned(), along));
        let of_state = optimizer.state(shape).into_iter().zip(&optimizer_state);
        let of_state = of_state.filter(|(tensor, _)| optimizer.watched().contains(&tensor.name));
        let of_state = of_state.map(|(tensor, id)| (tensor.name.to_owned(), *id));
        let watched =
            gradient_counts.into_iter().chain(of_state).chain([(STATE_PICTURE.to_owned(), picture)]);
        let (watch, watches) = StepWatch::new(&mut build, watched.collect())?;
        steps.push(watches);

        // Fusion must not change what is read back or comes from outside.
        let read = parts.iter().map(|(_, tensor)| *tensor).chain([snapshot]);
        let kept = build.bound.keys().copied().chain(read).collect();
        build.graph.fuse(&kept);
        let readback = |name: &str, tensors, when| Readback {
            name: name.to_owned(),
            tensors,
            when,
            in_flight: READ_BACKS,
        };
        let gradients = passes.sections.iter().cloned();
        let goals = gradients.fold(Goals::default(), |goals, (name, tensors)| goals.section(name, tensors));
        let goals = goals
            .section(LOSSES, loss_goals)
            .section(SUM, sum.iter().map(|(sum, ..)| *sum).collect::<Vec<_>>())
            .section(SNAPSHOT, [snapshot])
            .section(STEP, steps)
            .readback(readback(REPORT, parts, When::After))
            .readback(readback(PICTURE, vec![(PICTURE.to_owned(), snapshot)], When::AfterOnce))
            .readback(readback(HEALTH, vec![(HEALTH.to_owned(), watch.record)], When::After))
            .readback(readback(STATE, state_tensors, When::Before));
        // Compiles while the device computes the targets. Memory is allocated once theirs is free again.
        Program::compile(engine, &build.graph, &goals)?;
        if let Some(submission) = &targets.submission {
            submission.wait()?;
        }
        let photo_probabilities = match &targets.classes {
            Some(target) => engine.read(&target.memory, target.shape, "classes of the photo")?,
            None => Vec::new(),
        };
        let program = Program::prepare(engine, &build.graph, &build.bound, &goals, |_| 0)?;
        let tiled = passes.tiled(&sources, Subject { engine, network, view, picture: &state[0].memory })?;
        let loss_weights = build.loss_weights();
        Ok(Self {
            engine: engine.clone(),
            program,
            tile: tile.filter(|_| tiled.is_some()),
            tiled,
            groups,
            measured,
            terms,
            shape,
            gradient,
            optimizer,
            loss_weights,
            summands: sum.map(|(_, weights, groups)| (weights, groups)),
            control: control_memory,
            control_values: Cell::new(None),
            watch,
            state,
            photo_probabilities,
            capturing,
        })
    }

    /// Takes over the shares, weights and learning rate of another request for the same objective.
    pub fn take_settings(&mut self, request: &Request) {
        self.optimizer = request.optimizer.clone();
        for group in &mut self.groups {
            if let Some(other) = request.groups.iter().find(|other| other.name == group.name) {
                group.strength = other.strength;
            }
        }
    }

    /// Sets the picture, and resets all other state.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_picture(&self, picture: &Picture) -> Result<()> {
        self.set_state(&[(STATE_PICTURE.to_owned(), planar(picture))])
    }

    /// Sets the state from tensors by name, in logical order. Tensors that are not among them are reset: those that are
    /// shown as the picture become the picture, the others zeros. What was noted of earlier steps is forgotten.
    ///
    /// # Errors
    /// If the device fails, or a tensor has another size.
    pub fn set_state(&self, tensors: &[(String, Vec<f32>)]) -> Result<()> {
        let find = |name: &str| tensors.iter().find(|(other, _)| other == name).map(|(_, values)| values);
        self.set_state_from(|part| {
            let picture = || find(STATE_PICTURE).filter(|_| self.shows(part));
            let Some(values) = find(&part.name).or_else(picture) else { return Ok(false) };
            if values.len() != part.shape.elements() {
                return Err(Error::usage(format!(
                    "the state's {} has {} values in place of {}",
                    part.name,
                    values.len(),
                    part.shape.elements()
                )));
            }
            self.engine.write(&part.memory, part.shape, values).map(|()| true)
        })
    }

    /// The same from what `set` writes into each tensor's memory, the picture's first; it returns false for a tensor that
    /// it leaves to be reset.
    ///
    /// # Errors
    /// If the device fails, or as `set`.
    pub fn set_state_from(&self, mut set: impl FnMut(&StatePart) -> Result<bool>) -> Result<()> {
        for part in &self.state {
            if set(part)? {
                continue;
            }
            let picture = self.state.iter().find(|part| part.name == STATE_PICTURE);
            let picture = picture.filter(|_| self.shows(part));
            let values = match picture {
                Some(picture) => self.engine.read(&picture.memory, picture.shape, "picture")?,
                None => vec![0.0; part.shape.elements()],
            };
            self.engine.write(&part.memory, part.shape, &values)?;
        }
        self.watch.reset(&self.engine)
    }

    /// True for the tensors that begin as the picture: the average, and what is shown in its place.
    fn shows(&self, part: &StatePart) -> bool {
        part.name == STATE_AVERAGE || self.is_shown(part)
    }

    /// True for the tensor of the optimiser that is shown in place of the picture.
    pub fn is_shown(&self, part: &StatePart) -> bool {
        part.optimizer.is_some_and(|tensor| self.optimizer.shown() == Some(tensor.name))
    }

    /// Sets what the optimiser reads for the step after `done` steps at this scale, halved this often.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_control(&self, done: u32, halvings: u32) -> Result<()> {
        let mut values = self.optimizer.control(done);
        values[0] *= 0.5_f32.powi(halvings.min(1000) as i32);
        if self.control_values.get() != Some(values) {
            self.engine.write(&self.control, Shape::Vector(4), &values)?;
            self.control_values.set(Some(values));
        }
        Ok(())
    }

    /// Sets the weight of each group in the gradient; a loss is weighted by its group's weight times its own. With
    /// `anew` the optimiser forgets what it knows of the objective with the old weights.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_weights(&self, weights: &Weights, anew: bool) -> Result<()> {
        for (term, memory) in self.terms.iter().zip(&self.loss_weights) {
            self.engine.write(memory, Shape::Vector(1), &[weights.of(&term.group) * term.weight])?;
        }
        let depends = |part: &&StatePart| part.optimizer.is_some_and(|tensor| tensor.depends_on_weights);
        for part in self.state.iter().filter(depends).filter(|_| anew) {
            self.engine.write(&part.memory, part.shape, &vec![0.0; part.shape.elements()])?;
        }
        let Some((memory, groups)) = &self.summands else { return Ok(()) };
        // The gradient of the groups that are not measured is weighted already.
        let of_sum = |group: &Option<String>| group.as_ref().map_or(1.0, |group| weights.of(group));
        let of_sum: Vec<f32> = groups.iter().map(of_sum).collect();
        self.engine.write(memory, Shape::Vector(of_sum.len()), &of_sum)
    }

    /// Measures the groups' gradient norms at the present picture, at weight 1, and waits for them. Losses are computed
    /// too, and the gradients stay for [`SUM`]. If the optimiser shows another picture, because the present one is only
    /// being tried, that other picture first replaces it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn measure(&self) -> Result<Numbers> {
        let picture = self.state.iter().find(|part| part.name == STATE_PICTURE);
        if let (Some(picture), Some(shown)) = (picture, self.state.iter().find(|part| self.is_shown(part))) {
            let values = self.engine.read(&shown.memory, shown.shape, "the picture shown")?;
            self.engine.write(&picture.memory, picture.shape, &values)?;
        }
        match self.submit(&[LOSSES, GROUPS], &[REPORT])?.take(REPORT) {
            Some(report) => Ok(self.numbers(report.finish()?)),
            None => Ok(Numbers::default()),
        }
    }

    /// The numbers of a report, and the gradient in channel, row, column order, at a picture and with these weights;
    /// waited for.
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
        Ok((numbers, self.engine.read(&self.gradient, self.shape, "gradient")?))
    }

    /// Submits sections and read-backs. Waits for nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn submit(&self, sections: &[&str], readbacks: &[&str]) -> Result<Submission> {
        let Some(tiled) = &self.tiled else { return self.program.submit(sections, readbacks, "iteration") };
        let rest = tiled.submit(&self.program, sections)?;
        self.program.submit(&rest, readbacks, "iteration")
    }

    /// Device memory in use.
    pub fn memory(&self) -> MemoryUse {
        let whole = self.program.memory();
        self.tiled.as_ref().map_or(whole, |tiled| whole.with(tiled.memory()))
    }

    /// What went wrong in the steps so far, waited for; see [`Objective::health`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn read_health(&self) -> Result<Option<(u32, Fault)>> {
        match self.submit(&[], &[HEALTH])?.take(HEALTH) {
            Some(health) => Ok(self.health(&health.finish()?)),
            None => Ok(None),
        }
    }

    /// What [`HEALTH`] says went wrong, and how many steps before the last one.
    pub fn health(&self, values: &Values) -> Option<(u32, Fault)> {
        self.watch.fault(values)
    }

    /// True if the optimiser rejects pictures whose loss or gradient is not finite, or whose loss rises.
    pub fn rejects(&self) -> bool {
        self.optimizer.shown().is_some()
    }

    /// True if there is [`SUM`].
    pub fn has_sum(&self) -> bool {
        self.summands.is_some()
    }

    /// True if this group's gradient is measured.
    pub fn measures(&self, group: &str) -> bool {
        self.groups.iter().zip(&self.measured).any(|(other, measured)| *measured && other.name == group)
    }

    /// The numbers of a report that was read.
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

/// Values of a read-back with their names.
pub(super) fn named(values: &Values) -> Vec<(String, Vec<f32>)> {
    values.iter().map(|(name, values)| (name.to_owned(), values.to_vec())).collect()
}

/// True for a group whose gradient is measured by itself: one with a share, and one that steers the picture, since
/// reports have its share.
fn is_measured(group: &Group) -> bool {
    matches!(group.strength, Strength::Share(_)) || group.counting().any(|loss| loss.statistic.has_target())
}

const CLASSES: &str = "classes";

fn loss_name(index: usize) -> String {
    format!("loss {index}")
}
