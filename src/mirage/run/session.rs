//! A prepared run: its objective at the present scale, and measurements on it. The loop is in `run`.

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

/// Checks layers and sizes of a request against a network; needs no device.
///
/// # Errors
/// [`Error::Usage`]: an unknown layer, a statistic that does not suit its layer, a picture too small, a number out of
/// range.
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
            let kind = if connected { "holds no layout" } else { "holds a layout" };
            return Err(Error::usage(format!(
                "the {name} group takes the statistic {statistic} of {source}, which {kind}: choose another layer or statistic"
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

/// A run from start picture to result.
#[derive(Debug)]
pub struct Session {
    pub(in crate::mirage) engine: Arc<Engine>,
    pub(in crate::mirage) network: Arc<Network>,
    pub(in crate::mirage) request: Request,
    pub(in crate::mirage) scales: Vec<Scale>,
    /// The present scale.
    pub(in crate::mirage) scale: usize,
    /// None only while one is replaced by the next.
    objective: Option<Objective>,
    pub(in crate::mirage) started: Started,
    pub(in crate::mirage) weights: Weights,
    pub(in crate::mirage) controls: Controls,
    /// Where the run begins, if not at the start picture.
    pub(in crate::mirage) resumed: Option<State>,
    /// True if the weights have to be measured before the next step, because shares or the scale are new.
    pub(in crate::mirage) measure: bool,
    /// True if they have to be because the run that is resumed measured them at this very picture.
    pub(in crate::mirage) measure_again: bool,
    /// The newest picture that was found good, after how many iterations; in tiles the one with the least loss, while
    /// another is looked at.
    pub(in crate::mirage) last_good: Option<(u32, KeptPicture)>,
    /// The one with the least loss since the objective last changed: iterations, loss, picture.
    pub(in crate::mirage) best: Option<(u32, f64, KeptPicture)>,
    /// The loss since then.
    pub(in crate::mirage) trend: LossTrend,
    /// How often the step has been halved.
    pub(in crate::mirage) halvings: u32,
    /// Iteration and values of the last picture that the change was measured from.
    pub(in crate::mirage) last_look: Option<(u32, Vec<f32>)>,
    pub(in crate::mirage) change: Option<f32>,
    /// Seconds of the run before the clock was started.
    pub(in crate::mirage) earlier: f64,
    /// None while the run is paused.
    pub(in crate::mirage) clock: Option<Instant>,
    pub(in crate::mirage) most_in_flight: usize,
    cache: Cache,
}

impl Session {
    /// Captures the targets and prepares everything for the first scale.
    ///
    /// # Errors
    /// As [`check_request`], and if the device fails or has too little memory.
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
            halvings: 0,
            last_look: None,
            change: None,
            earlier: 0.0,
            clock: None,
            most_in_flight: 0,
            cache,
        })
    }

    /// Makes this a session of another request, with as little work as possible: where only weights, shares, seeds,
    /// steps or reports differ ([`Request::shares_objective`]), all that was prepared is used again; otherwise the
    /// targets that both requests have in common.
    ///
    /// # Errors
    /// As [`Session::new`]. A session that a device failed has to be restarted before it runs again.
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
            // The old objective's memory is freed before that of the new one is allocated.
            self.leave();
            self.objective =
                Some(Objective::new(&self.engine, &self.network, &request, size, &mut self.cache)?);
        }
        self.started = started(&self.engine, &request, &scales, self.objective()?, begin);
        (self.request, self.scales, self.scale, self.resumed) = (request, scales, 0, None);
        Ok(())
    }

    /// Makes the next [`Session::run`] go on from a state instead of the start picture. The state's weights are kept
    /// if they were measured for the same shares; otherwise they are measured again, or the request's raw weights are
    /// used.
    ///
    /// # Errors
    /// [`Error::Usage`] if the state is of another size, damaged, or beyond the request's iterations; else if its scale
    /// can't be prepared.
    pub fn resume(&mut self, state: State) -> Result<()> {
        let end = self.iterations();
        check_done(state.iteration, end)?;
        state.check(state.scale_of(&self.scales)?.size)?;
        self.enter(state.scale)?;
        self.resumed = Some(state);
        Ok(())
    }

    /// Prepares a scale, if it is not the present one.
    pub(in crate::mirage) fn enter(&mut self, scale: usize) -> Result<()> {
        if scale == self.scale && self.objective.is_some() {
            return Ok(());
        }
        // The old objective's memory is freed before that of the new one is allocated.
        self.leave();
        let size = self.scales[scale].size;
        self.objective =
            Some(Objective::new(&self.engine, &self.network, &self.request, size, &mut self.cache)?);
        self.scale = scale;
        self.engine.forget_unused_constants();
        return_freed_memory();
        Ok(())
    }

    /// Frees the memory of the present scale.
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

    /// Seconds of the run so far, without pauses.
    pub(in crate::mirage) fn seconds(&self) -> f64 {
        let seconds = self.earlier + self.clock.map_or(0.0, |clock| clock.elapsed().as_secs_f64());
        // The earlier seconds come from a checkpoint, which may already state the maximum.
        seconds.min(MOST_SECONDS)
    }

    /// Sets the controls whose commands the run applies.
    pub fn set_controls(&mut self, controls: &Controls) {
        self.controls = controls.clone();
    }

    /// Iterations of the whole run.
    pub fn iterations(&self) -> u32 {
        self.scales.last().map_or(0, |scale| scale.end)
    }

    /// The picture to save if [`Session::run`] fails, with its iteration: the newest that was found good, or after a loss
    /// that diverged the one with the least loss.
    pub fn last_good(&self) -> Option<(u32, Arc<Picture>)> {
        self.last_good.as_ref().map(|(iteration, kept)| (*iteration, kept.picture()))
    }

    /// Bytes of the targets that were captured so far, at all sizes: on the device, and in the host's memory.
    pub(in crate::mirage) fn target_bytes(&self) -> [u64; 2] {
        self.cache.bytes()
    }

    /// Device memory at the present scale.
    pub fn memory(&self) -> MemoryUse {
        self.objective.as_ref().map(Objective::memory).unwrap_or_default()
    }

    /// What is known of the present scale.
    pub(in crate::mirage) fn scale_started(&self) -> ScaleStarted {
        ScaleStarted {
            index: self.scale,
            count: self.scales.len(),
            scale: self.scales[self.scale],
            memory: self.memory(),
        }
    }

    /// Label and seconds of each copy and dispatch of the gradient, run one by one; for reports on where time goes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn step_times(&self) -> Result<Vec<(String, f64)>> {
        self.objective()?.program.time_steps(&[GRADIENT])
    }

    /// The nodes of one iteration and its reports, for tuning.
    pub fn nodes(&self) -> &[PreparedNode] {
        self.objective.as_ref().map_or(&[], |objective| objective.program.nodes())
    }

    /// The time of each layer in an iteration: its nodes run one by one, the smaller of two times after a run to warm
    /// up, so about three iterations in all. The optimiser's step and what only reports need are left out.
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

    /// Seconds of each of `count` iterations (gradient and step), each waited for, from the start picture with
    /// the given raw weights; for benches.
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

    /// The start picture, the measurement of its weights, and the first iteration with its report and picture, waited
    /// for; for benches of the time until then.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn first_iteration(&mut self) -> Result<()> {
        self.one_iteration()
    }

    /// Losses and gradient at one picture with the request's raw weights (1 where a share is given), without a step;
    /// for checks against other implementations. Returns each weighted loss, and the gradient in channel, row, column
    /// order.
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

    /// Largest number of iterations that were in flight at once in the last run, and how many staging buffers
    /// the present scale has made for reports and snapshots.
    pub fn in_flight(&self) -> (usize, usize) {
        let made = self.objective.as_ref().map_or(0, |objective| objective.program.staging_buffers());
        (self.most_in_flight, made)
    }
}

/// Losses times their weights.
pub(in crate::mirage) fn weighted(terms: &[Term], losses: &[f32], weights: &Weights) -> Vec<TermLoss> {
    let weigh = |(term, loss): (&Term, &f32)| TermLoss {
        group: term.group.clone(),
        source: term.source.clone(),
        loss: f64::from(*loss) * f64::from(weights.of(&term.group)) * f64::from(term.weight),
    };
    terms.iter().zip(losses).map(weigh).collect()
}

/// When a preparation began, and how many outdated choices of kernels the engine had met until then.
struct Begun {
    at: Instant,
    outdated: usize,
}

impl Begun {
    fn now(engine: &Engine) -> Self {
        Self { at: Instant::now(), outdated: engine.outdated_choices() }
    }
}

/// What a session of a request starts with.
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
            "the photo already meets its own targets, so a start from it has next to nothing to follow: start from noise, or take a target from another picture".to_owned(),
        );
    }
    if let Some(tile) = objective.tile.filter(|_| request.tiling == Tiling::Auto) {
        notes.push(format!(
            "the feature maps of the whole picture do not fit on the device: the picture is cut into tiles of {tile} pixels a side, which takes longer"
        ));
    }
    let outdated = engine.outdated_choices() - begin.outdated;
    if outdated > 0 {
        notes.push(format!(
            "{outdated} entries of the tuning cache were measured with other kernels than this run has, and are ignored: `mirage tune` measures anew"
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
