//! A prepared run: its objective, its start, and measurements on it. The loop is in `run`.

use super::balance::Weights;
use super::controls::Controls;
use super::event::{Started, TermLoss};
use super::layer_times::{LayerTime, by_layer};
use super::objective::{GRADIENT, LOSSES, Objective, STEP, Wanting, terms};
use super::request::{Init, Request};
use super::state::State;
use super::targets::Captured;
use super::{network_graph, start};
use crate::error::{Error, Result};
use crate::graph::{Engine, PreparedNode};
use crate::image_io::Picture;
use crate::vgg::Network;
use crate::vgg::labels::top_k;
use std::sync::Arc;
use std::time::Instant;

/// Iterations submitted ahead of the device. Enough to keep it busy; few enough that a stop is prompt.
pub(super) const AHEAD: usize = 2;
/// Checks layers and sizes of a request against a network; needs no device.
///
/// # Errors
/// [`Error::Usage`]: an unknown layer, an abstract layer without fc layers, a picture too small, a number
/// out of range.
pub fn check_request(network: &Network, request: &Request) -> Result<()> {
    request.check()?;
    let terms = terms(network, request)?;
    let deepest = |style_only: bool| {
        let layers =
            terms.iter().filter(|(_, wanted)| wanted.gram || !style_only).map(|(_, wanted)| wanted.layer);
        layers.max()
    };
    if let Some(deepest) = deepest(false) {
        network_graph::check_size(network, deepest, request.photo.height, request.photo.width)?;
    }
    for (style, _) in &request.style_images {
        if let Some(deepest) = deepest(true) {
            network_graph::check_size(network, deepest, style.height, style.width)?;
        }
    }
    Ok(())
}

/// A run from start picture to result.
#[derive(Debug)]
pub struct Session {
    pub(super) engine: Arc<Engine>,
    pub(super) request: Request,
    pub(super) objective: Objective,
    pub(super) started: Started,
    pub(super) weights: Weights,
    pub(super) controls: Controls,
    /// Where the run begins, if not at the start picture.
    pub(super) resumed: Option<State>,
    /// True if the balance is to be measured before the next step.
    pub(super) measure: bool,
    pub(super) last_good: Option<(u32, Picture)>,
    /// Iteration and values of the last picture that the change was measured from.
    pub(super) looked: Option<(u32, Vec<f32>)>,
    pub(super) change: Option<f32>,
    /// Seconds of the run before the clock was started.
    pub(super) earlier: f64,
    /// None while the run is held.
    pub(super) clock: Option<Instant>,
    pub(super) most_in_flight: usize,
    captured: Captured,
}

impl Session {
    /// Captures the targets and prepares everything.
    ///
    /// # Errors
    /// As [`check_request`], and if the device fails or has too little memory.
    pub fn new(engine: &Arc<Engine>, network: &Network, request: Request) -> Result<Self> {
        let begin = Instant::now();
        check_request(network, &request)?;
        let mut captured = Captured::default();
        let objective = Objective::new(engine, network, &request, &mut captured)?;
        Ok(Self {
            engine: engine.clone(),
            weights: Weights::given(&request),
            started: started(engine, &request, &objective, begin),
            request,
            objective,
            controls: Controls::new(),
            resumed: None,
            measure: false,
            last_good: None,
            looked: None,
            change: None,
            earlier: 0.0,
            clock: None,
            most_in_flight: 0,
            captured,
        })
    }

    /// Makes this a session of another request, with as little work as that takes: where only weights, shares,
    /// seeds, steps or reports differ ([`Request::shares_objective`]) all that was prepared is used again, else the
    /// targets that both have in common.
    ///
    /// # Errors
    /// As [`Session::new`]; the session is then still that of the earlier request.
    pub fn restart(&mut self, network: &Network, request: Request) -> Result<()> {
        let begin = Instant::now();
        check_request(network, &request)?;
        if self.request.shares_objective(&request) {
            self.objective.set_learning_rate(request.adam.learning_rate)?;
        } else {
            self.objective = Objective::new(&self.engine, network, &request, &mut self.captured)?;
        }
        self.started = started(&self.engine, &request, &self.objective, begin);
        self.request = request;
        self.resumed = None;
        Ok(())
    }

    /// Has the next [`Session::run`] go on from a state in place of the start picture. Its weights hold where they
    /// were measured for the same shares; else they are measured anew, or the request's raw weights are taken.
    ///
    /// # Errors
    /// [`Error::Usage`] if the state is of another size, damaged, or beyond the request's iterations.
    pub fn resume(&mut self, state: State) -> Result<()> {
        state.check(self.started.size)?;
        if state.iteration > self.request.iterations {
            return Err(Error::usage(format!(
                "the run has {} iterations already: give a larger number than {} with --iterations",
                state.iteration, self.request.iterations
            )));
        }
        self.resumed = Some(state);
        Ok(())
    }

    /// Lets these controls command the run.
    pub fn set_controls(&mut self, controls: &Controls) {
        self.controls = controls.clone();
    }

    /// The newest finite picture that was read back, with its iteration; worth saving if
    /// [`Session::run`] fails.
    pub fn last_good(&self) -> Option<(u32, &Picture)> {
        self.last_good.as_ref().map(|(iteration, picture)| (*iteration, picture))
    }

    /// Device memory of the run.
    pub fn memory(&self) -> crate::graph::MemoryUse {
        self.objective.program.memory()
    }

    /// Seconds of each step of one iteration, run one by one; for reports on where time goes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn profile(&self) -> Result<Vec<(String, f64)>> {
        self.objective.program.time_steps(&[GRADIENT])
    }

    /// The nodes of one iteration and its reports, for tuning.
    pub fn nodes(&self) -> &[PreparedNode] {
        self.objective.program.nodes()
    }

    /// What each layer takes in an iteration: its nodes run one by one, the least time of two after one that
    /// warms up, so about three iterations in all. The optimiser's step and what only reports need are left
    /// out.
    ///
    /// # Errors
    /// If the device fails.
    pub fn layer_times(&self) -> Result<Vec<LayerTime>> {
        let program = &self.objective.program;
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
        self.objective.set_picture(&start::picture(&self.request)?)?;
        self.weights.apply(&self.objective)?;
        let mut times = Vec::new();
        for _ in 0..count {
            let begin = Instant::now();
            let submitted = self.objective.run(&[STEP], Wanting::default())?;
            submitted.submission.wait()?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(times)
    }

    /// The start picture, its balance, and the first iteration with its report and picture, waited for; for
    /// benches of what a user waits until then.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn first_iteration(&mut self) -> Result<()> {
        self.one_iteration()
    }

    /// Losses and gradient at one picture with the given raw weights, without any step; for checks against
    /// other implementations. Returns each weighted loss and the gradient in channel, row, column order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn evaluate(&mut self, picture: &Picture) -> Result<(Vec<TermLoss>, Vec<f32>)> {
        self.objective.set_picture(picture)?;
        self.weights = Weights::given(&self.request);
        self.weights.apply(&self.objective)?;
        let mut losses = Vec::new();
        if let Some(report) =
            self.objective.run(&[LOSSES, GRADIENT], Wanting { report: true, state: false })?.report
        {
            let values = report.finish()?;
            losses = self.weighted(&self.objective.numbers(&values).losses, &self.weights);
        }
        let gradient = self.engine.read(&self.objective.gradient, self.objective.shape, "gradient")?;
        Ok((losses, gradient))
    }

    /// Largest number of iterations that were in flight at once in the last run, and how many staging buffers
    /// the session has made for reports and snapshots.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.most_in_flight, self.objective.staging_buffers())
    }

    pub(super) fn weighted(&self, losses: &[f32], weights: &Weights) -> Vec<TermLoss> {
        let weigh = |(term, loss): (&super::objective::Term, &f32)| TermLoss {
            factor: term.kind,
            layer: term.layer.clone(),
            loss: f64::from(*loss) * f64::from(weights.of(term.kind)) * f64::from(term.factor),
        };
        self.objective.terms.iter().zip(losses).map(weigh).collect()
    }
}

/// What a session of a request starts with.
fn started(engine: &Engine, request: &Request, objective: &Objective, begin: Instant) -> Started {
    let mut notes = Vec::new();
    if request.init == Init::Photo && request.style_images.is_empty() {
        notes.push(
            "the photo already meets its own targets, so a start from it has next to nothing to follow: use --init noise or a --style-image".to_owned(),
        );
    }
    let outdated = engine.outdated_choices();
    if outdated > 0 {
        notes.push(format!(
            "{outdated} entries of the tuning cache were measured with other kernels than this run has, and are ignored: `mirage tune` measures anew"
        ));
    }
    let nodes = objective.program.nodes().iter();
    Started {
        device: engine.context.describe(),
        memory: objective.program.memory(),
        size: [request.photo.height, request.photo.width],
        prepared_in: begin.elapsed().as_secs_f64(),
        photo_classes: top_k(&objective.photo_probabilities, request.top_classes),
        notes,
        variants: nodes.map(|node| (node.label.clone(), node.variant)).collect(),
    }
}
