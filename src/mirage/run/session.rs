//! A prepared run: its objective at the current scale, and measurements on it. The loop is in `main_loop`.

use super::controls::Controls;
use super::event::{ScaleStarted, Started, TermLoss};
use super::start;
use super::state::{MOST_SECONDS, State, check_done};
use crate::error::{Error, Result};
use crate::graph::{Engine, MemoryUse, PreparedNode, return_freed_memory};
use crate::image_io::Picture;
use crate::mirage::layer_times::{LayerTime, by_layer};
use crate::mirage::loss::{Source, Target};
use crate::mirage::network_graph;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::objective::sections::{GRADIENT, STEP};
use crate::mirage::objective::targets::{Cache, image_at};
use crate::mirage::objective::{Objective, Term, losses};
use crate::mirage::request::{Init, Request, Tiling};
use crate::mirage::scales::Scale;
use crate::mirage::setback::LossTrend;
use crate::mirage::statistic::Domain;
use crate::mirage::weighting::Weights;
use crate::vgg::labels::top_k;
use crate::vgg::{LayerKind, Network};
use std::sync::Arc;
use std::time::Instant;

/// Checks layers and sizes of a request against a network. Needs no device.
///
/// # Errors
/// [`Error::Usage`] for an unknown layer, a statistic that does not apply to its layer, a picture that is too small, or
/// a number out of range.
pub fn check_request(network: &Network, request: &Request) -> Result<()> {
    request.check()?;
    let groups = request.present();
    let losses = losses(network, &groups)?;
    for (group, loss, item) in &losses {
        let before = item.layer.map_or(&[][..], |layer| &network.layers[..=layer]);
        let connected = before.iter().any(|layer| matches!(layer.kind, LayerKind::Linear(_)));
        let suits = match loss.statistic.domain() {
            Domain::Any => true,
            Domain::Maps => !connected,
            Domain::Vectors => connected,
        };
        let (name, statistic, source) = (&group.name, loss.statistic.name(), &loss.source);
        if !suits {
            let kind = if connected { "is not a feature map" } else { "is a feature map" };
            return Err(Error::usage(format!(
                "the {name} group applies the statistic {statistic} to {source}, which {kind}: choose another layer or statistic"
            )));
        }
        if let (Target::Classes(classes), Source::Layer(_)) = (&loss.target, source) {
            let count = network.classes().unwrap_or(0);
            if !loss.statistic.takes_classes() {
                return Err(Error::usage(format!(
                    "the statistic {statistic} of {name} can't be compared with classes: use the statistic classes"
                )));
            }
            if let Some((class, _)) = classes.iter().find(|(class, _)| *class >= count) {
                return Err(Error::usage(format!("there is no class {class}: the network has {count}")));
            }
        }
    }
    let deepest = |of_images: bool| {
        let counts = |target: &Target| !of_images || matches!(target, Target::Images(_));
        losses.iter().filter(|(_, loss, _)| counts(&loss.target)).filter_map(|(_, _, item)| item.layer).max()
    };
    for scale in request.sizes(network)? {
        if let Some(deepest) = deepest(false) {
            network_graph::check_size(network, deepest, scale.size[0], scale.size[1])?;
        }
        if let Some(deepest) = deepest(true) {
            for image in request.images() {
                let image = image_at(request, image, scale.size)?;
                network_graph::check_size(network, deepest, image.height, image.width)?;
            }
        }
    }
    Ok(())
}

/// A run, from its preparation to the result.
#[derive(Debug)]
pub struct Session {
    pub(in crate::mirage) engine: Arc<Engine>,
    pub(in crate::mirage) network: Arc<Network>,
    pub(in crate::mirage) request: Request,
    pub(in crate::mirage) scales: Vec<Scale>,
    /// Index of the current scale.
    pub(in crate::mirage) scale: usize,
    /// `None` only while it is replaced by the next one.
    objective: Option<Objective>,
    pub(in crate::mirage) started: Started,
    pub(in crate::mirage) weights: Weights,
    pub(in crate::mirage) controls: Controls,
    /// State that the run starts from; `None` for the start picture.
    pub(in crate::mirage) resumed: Option<State>,
    /// True if weights must be measured before the next step, because shares or the scale changed.
    pub(in crate::mirage) measure: bool,
    /// True if they must be measured because the resumed run measured them at this very picture.
    pub(in crate::mirage) measure_again: bool,
    /// The latest good picture, and its number of iterations. In the tiled case the one with the least loss, while
    /// another one is being checked.
    pub(in crate::mirage) last_good: Option<(u32, KeptPicture)>,
    /// Picture with the least loss since the objective last changed: iterations, loss, picture.
    pub(in crate::mirage) best: Option<(u32, f64, KeptPicture)>,
    /// Trend of the loss since then.
    pub(in crate::mirage) trend: LossTrend,
    /// Loss at the iteration where the run was resumed, until it has been computed again.
    pub(in crate::mirage) loss_before: Option<f64>,
    /// Iteration at which the run began, if it has no earlier losses: its loss counts, whatever the schedule.
    pub(in crate::mirage) counted_first: Option<u32>,
    /// Hash of the picture that the current scale started from, for an optimiser that may reject all later ones.
    pub(in crate::mirage) start_hash: Option<u64>,
    /// True once the optimiser has accepted another picture than that.
    pub(in crate::mirage) has_moved: bool,
    /// Number of times the step size has been halved.
    pub(in crate::mirage) halvings: u32,
    /// Iteration at which the run was resumed, if the optimiser had accepted its picture.
    pub(in crate::mirage) accepted_before: Option<u32>,
    /// Iteration and values of the last picture that the change was measured from.
    pub(in crate::mirage) last_look: Option<(u32, Vec<f32>)>,
    pub(in crate::mirage) change: Option<f32>,
    /// Seconds of the run before the clock was started.
    pub(in crate::mirage) earlier: f64,
    /// `None` while the run is paused.
    pub(in crate::mirage) clock: Option<Instant>,
    pub(in crate::mirage) most_in_flight: usize,
    cache: Cache,
}

impl Session {
    /// Captures the targets and prepares the first scale.
    ///
    /// # Errors
    /// Same as [`check_request`], or if the device fails or has too little memory.
    pub fn new(engine: &Arc<Engine>, network: &Arc<Network>, request: Request) -> Result<Self> {
        let begin = Begun::now(engine);
        check_request(network, &request)?;
        let scales = request.plan(network)?;
        let mut cache = Cache::default();
        let objective = Objective::new(engine, network, &request, scales[0].size, &mut cache)?;
        return_freed_memory();
        Ok(Self {
            engine: engine.clone(),
            network: network.clone(),
            weights: Weights::given(&objective.groups),
            started: started(engine, &request, &scales, &objective, begin),
            request,
            scales,
            scale: 0,
            objective: Some(objective),
            controls: Controls::new(),
            resumed: None,
            measure: false,
            measure_again: false,
            last_good: None,
            best: None,
            trend: LossTrend::default(),
            loss_before: None,
            counted_first: None,
            start_hash: None,
            has_moved: false,
            halvings: 0,
            accepted_before: None,
            last_look: None,
            change: None,
            earlier: 0.0,
            clock: None,
            most_in_flight: 0,
            cache,
        })
    }

    /// Changes this session to another request with as little work as possible. If only weights, shares, seeds, steps
    /// or reports differ ([`Request::shares_objective`]), everything prepared is reused; otherwise the targets that
    /// both requests have in common.
    ///
    /// # Errors
    /// Same as [`Session::new`]. After an error the session has to be restarted before it runs again.
    pub fn restart(&mut self, request: Request) -> Result<()> {
        let begin = Begun::now(&self.engine);
        check_request(&self.network, &request)?;
        let scales = request.plan(&self.network)?;
        let kept =
            self.objective.as_mut().filter(|_| self.scale == 0 && self.request.shares_objective(&request));
        if let Some(objective) = kept {
            objective.take_settings(&request);
        } else {
            let size = scales[0].size;
            // Frees the memory of the old objective, and of a failed run's pictures, before that of the new one is
            // allocated.
            (self.best, self.last_good, self.last_look) = (None, None, None);
            self.leave();
            self.objective =
                Some(Objective::new(&self.engine, &self.network, &request, size, &mut self.cache)?);
        }
        self.started = started(&self.engine, &request, &scales, self.objective()?, begin);
        (self.request, self.scales, self.scale, self.resumed) = (request, scales, 0, None);
        Ok(())
    }

    /// Makes the next [`Session::run`] continue from a state instead of the start picture. The state's weights are kept
    /// if they were measured for the same shares; otherwise they are measured again, or the request's fixed weights are
    /// used.
    ///
    /// # Errors
    /// [`Error::Usage`] if the state has another size, is damaged, or is beyond the request's iterations; otherwise if
    /// its scale can't be prepared.
    pub fn resume(&mut self, state: State) -> Result<()> {
        let end = self.iterations();
        check_done(state.iteration, end)?;
        state.check(state.scale_of(&self.scales)?.size)?;
        self.enter(state.scale)?;
        self.resumed = Some(state);
        Ok(())
    }

    /// Prepares a scale, unless it is the current one.
    pub(in crate::mirage) fn enter(&mut self, scale: usize) -> Result<()> {
        if scale == self.scale && self.objective.is_some() {
            return Ok(());
        }
        // Frees the old objective's memory before that of the new one is allocated.
        self.leave();
        let size = self.scales[scale].size;
        self.objective =
            Some(Objective::new(&self.engine, &self.network, &self.request, size, &mut self.cache)?);
        self.scale = scale;
        self.engine.forget_unused_constants();
        return_freed_memory();
        Ok(())
    }

    /// Frees the memory of the current scale.
    pub(in crate::mirage) fn leave(&mut self) {
        self.objective = None;
        return_freed_memory();
    }

    pub(in crate::mirage) fn objective(&self) -> Result<&Objective> {
        self.objective.as_ref().ok_or_else(unprepared)
    }

    pub(in crate::mirage) fn objective_mut(&mut self) -> Result<&mut Objective> {
        self.objective.as_mut().ok_or_else(unprepared)
    }

    /// Returns the seconds of the run so far, without pauses.
    pub(in crate::mirage) fn seconds(&self) -> f64 {
        let seconds = self.earlier + self.clock.map_or(0.0, |clock| clock.elapsed().as_secs_f64());
        // The earlier seconds come from a checkpoint, and may already be the maximum.
        seconds.min(MOST_SECONDS)
    }

    /// Sets the controls whose commands the run applies.
    pub fn set_controls(&mut self, controls: &Controls) {
        self.controls = controls.clone();
    }

    /// Returns the number of iterations of the whole run.
    pub fn iterations(&self) -> u32 {
        self.scales.last().map_or(0, |scale| scale.end)
    }

    /// Returns the picture to save if [`Session::run`] fails, with its iteration: the latest good one, or after a
    /// divergence the one with the least loss.
    pub fn last_good(&self) -> Option<(u32, Arc<Picture>)> {
        self.last_good.as_ref().map(|(iteration, kept)| (*iteration, kept.picture()))
    }

    /// Returns the bytes of the targets captured so far, at all sizes: on the device, and in host memory.
    pub(in crate::mirage) fn target_bytes(&self) -> [u64; 2] {
        self.cache.bytes()
    }

    /// Returns the device memory at the current scale.
    pub fn memory(&self) -> MemoryUse {
        self.objective.as_ref().map(Objective::memory).unwrap_or_default()
    }

    /// Describes the current scale.
    pub(in crate::mirage) fn scale_started(&self) -> ScaleStarted {
        ScaleStarted {
            index: self.scale,
            count: self.scales.len(),
            scale: self.scales[self.scale],
            memory: self.memory(),
        }
    }

    /// Times each copy and dispatch of the gradient, run one by one. Returns labels and seconds.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step_times(&self) -> Result<Vec<(String, f64)>> {
        self.objective()?.program.time_steps(&[GRADIENT])
    }

    /// Returns the nodes of an iteration and its reports, for tuning.
    pub fn nodes(&self) -> &[PreparedNode] {
        self.objective.as_ref().map_or(&[], |objective| objective.program.nodes())
    }

    /// Times each layer in an iteration. Nodes run one by one: once for warm-up and twice timed, of which the smaller
    /// time counts, so about three iterations in total. The optimiser's step and nodes that only reports need are left
    /// out.
    ///
    /// # Errors
    /// If the device fails.
    pub fn layer_times(&self) -> Result<Vec<LayerTime>> {
        let program = &self.objective()?.program;
        program.time_nodes(&[GRADIENT])?;
        let first = program.time_nodes(&[GRADIENT])?;
        let second = program.time_nodes(&[GRADIENT])?;
        Ok(by_layer(first.into_iter().zip(second).map(|((node, one), (_, other))| (node, one.min(other)))))
    }

    /// Times `count` iterations (gradient and step) from the start picture with the current weights, in seconds, and
    /// waits for each one; for benchmarks.
    ///
    /// # Errors
    /// If the device fails.
    pub fn time_iterations(&mut self, count: usize) -> Result<Vec<f64>> {
        let objective = self.objective()?;
        objective.set_picture(&start::picture(&self.request, self.scales[self.scale].size)?)?;
        objective.set_weights(&self.weights, true)?;
        objective.set_control(0, 0)?;
        let mut times = Vec::new();
        for _ in 0..count {
            let begin = Instant::now();
            objective.submit(&[GRADIENT, STEP], &[])?.wait()?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(times)
    }

    /// Sets the start picture, measures the weights, and runs the first iteration with its report and picture; for
    /// benchmarks. Waits for the device.
    ///
    /// # Errors
    /// Same as [`Session::run`].
    pub fn first_iteration(&mut self) -> Result<()> {
        self.one_iteration()
    }

    /// Computes each weighted loss, and the gradient in channel, row, column order, at one picture with the request's
    /// fixed weights (1 for groups with a share), without a step; for checks against other implementations.
    ///
    /// # Errors
    /// If the device fails.
    pub fn evaluate(&mut self, picture: &Picture) -> Result<(Vec<TermLoss>, Vec<f32>)> {
        let weights = Weights::given(&self.objective()?.groups);
        let objective = self.objective()?;
        let (numbers, gradient) = objective.evaluate(picture, &weights)?;
        let losses = weighted(&objective.terms, &numbers.losses, &weights);
        self.weights = weights;
        Ok((losses, gradient))
    }

    /// Returns the largest number of iterations in flight at once in the last run, and the number of staging buffers
    /// that the current scale has created for reports and snapshots.
    pub fn in_flight(&self) -> (usize, usize) {
        let made = self.objective.as_ref().map_or(0, |objective| objective.program.staging_buffers());
        (self.most_in_flight, made)
    }
}

/// Multiplies losses by their weights.
pub(in crate::mirage) fn weighted(terms: &[Term], losses: &[f32], weights: &Weights) -> Vec<TermLoss> {
    let weigh = |(term, loss): (&Term, &f32)| TermLoss {
        group: term.group.clone(),
        source: term.source.clone(),
        loss: f64::from(*loss) * f64::from(weights.of(&term.group)) * f64::from(term.weight),
    };
    terms.iter().zip(losses).map(weigh).collect()
}

/// Start time of a preparation, and the number of outdated kernel choices that the engine had found before.
struct Begun {
    at: Instant,
    outdated: usize,
}

impl Begun {
    fn now(engine: &Engine) -> Self {
        Self { at: Instant::now(), outdated: engine.outdated_choices() }
    }
}

/// Collects the data of the event that starts a run.
fn started(
    engine: &Engine,
    request: &Request,
    scales: &[Scale],
    objective: &Objective,
    begin: Begun,
) -> Started {
    let mut notes = Vec::new();
    let own_targets = || {
        let losses =
            request.groups.iter().filter(|group| group.is_active()).flat_map(|group| group.counting());
        losses.filter(|loss| loss.statistic.has_target()).all(|loss| loss.target == Target::Photo)
    };
    if request.init == Init::Photo && own_targets() {
        notes.push(
            "the photo already meets its own targets, so starting from it leaves almost no gradient: start from noise, or use another picture as a target".to_owned(),
        );
    }
    if let Some(tile) = objective.tile.filter(|_| request.tiling == Tiling::Auto) {
        notes.push(format!(
            "the feature maps of the whole picture do not fit on the device: the picture is computed in tiles of {tile} pixels a side, which takes longer"
        ));
    }
    let outdated = engine.outdated_choices() - begin.outdated;
    if outdated > 0 {
        notes.push(format!(
            "{outdated} entries of the tuning cache were measured with other kernels and are ignored: run `mirage tune` to measure again"
        ));
    }
    let nodes = objective.program.nodes().iter();
    Started {
        device: engine.describe(),
        memory: objective.memory(),
        size: request.size(),
        scales: scales.to_vec(),
        groups: request.present(),
        prepared_in: begin.at.elapsed().as_secs_f64(),
        photo_classes: top_k(&objective.photo_probabilities, request.top_classes),
        notes,
        variants: nodes.map(|node| (node.label.clone(), node.variant)).collect(),
    }
}

fn unprepared() -> Error {
    Error::internal("the session", "its objective could not be prepared, so it can't run")
}
