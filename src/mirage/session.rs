//! The loop: start picture, steps, reports, snapshots, and an orderly end.

use super::balance::Weights;
use super::event::{Event, Report, Started, TermLoss};
use super::layer_times::{LayerTime, by_layer};
use super::objective::{
    FACTORS, GRADIENT, LOSSES, Objective, SNAPSHOT, STEP, STEP_OF_FACTORS, Submitted, terms,
};
use super::request::{Init, Request};
use super::{network_graph, start};
use crate::error::{Error, Result};
use crate::graph::{Engine, PreparedNode};
use crate::image_io::Picture;
use crate::vgg::Network;
use crate::vgg::labels::top_k;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// Iterations submitted ahead of the device. Enough to keep it busy; few enough that a stop is prompt.
pub(super) const AHEAD: usize = 2;
/// After so many iterations the balance is measured once more: by then every loss is alive, and the
/// start's grain, which looks like nothing to the network, no longer decides the weights.
const REBALANCE_AT: u32 = 10;

/// What a listener answers: go on, or stop after the iterations that were submitted (two at most).
pub type Listener<'a> = dyn FnMut(Event<'_>) -> Result<ControlFlow<()>> + 'a;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All iterations were done.
    Finished,
    /// The listener asked to stop.
    Stopped,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The picture.
    pub picture: Picture,
    /// Iterations done.
    pub iterations: u32,
    /// Why it ended.
    pub ending: Ending,
    /// Seconds from the first iteration to the last.
    pub seconds: f64,
}

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
    engine: Arc<Engine>,
    request: Request,
    objective: Objective,
    started: Started,
    weights: Weights,
    last_good: Option<(u32, Picture)>,
    clock: Option<Instant>,
    most_in_flight: usize,
}

impl Session {
    /// Captures the targets and prepares everything.
    ///
    /// # Errors
    /// As [`check_request`], and if the device fails or has too little memory.
    pub fn new(engine: &Arc<Engine>, network: &Network, request: Request) -> Result<Self> {
        let begin = Instant::now();
        check_request(network, &request)?;
        let objective = Objective::new(engine, network, &request)?;
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
        let started = Started {
            device: engine.context.describe(),
            memory: objective.program.memory(),
            size: [request.photo.height, request.photo.width],
            prepared_in: begin.elapsed().as_secs_f64(),
            photo_classes: top_k(&objective.photo_probabilities, request.top_classes),
            notes,
            variants: objective
                .program
                .nodes()
                .iter()
                .map(|node| (node.label.clone(), node.variant))
                .collect(),
        };
        let weights = Weights::given(&request);
        let engine = engine.clone();
        Ok(Self {
            engine,
            request,
            objective,
            started,
            weights,
            last_good: None,
            clock: None,
            most_in_flight: 0,
        })
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
        self.objective.program.time_steps(GRADIENT)
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
        program.time_nodes(GRADIENT)?;
        let first = program.time_nodes(GRADIENT)?;
        let second = program.time_nodes(GRADIENT)?;
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
            let submitted = self.objective.run(STEP, false)?;
            self.engine.context.wait(&submitted.submission, "timing an iteration")?;
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
        let ignore: &mut Listener<'_> = &mut |_| Ok(ControlFlow::Continue(()));
        self.objective.set_picture(&start::picture(&self.request)?)?;
        self.weights.apply(&self.objective)?;
        let balanced = self.rebalances(0);
        if balanced {
            let _ = self.rebalance(0, ignore)?;
        }
        let submitted = self.submit(0, false, balanced)?;
        let _ = self.tell(submitted, ignore)?;
        Ok(())
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
        if let Some(report) = self.objective.run(LOSSES | GRADIENT, true)?.report {
            let values = report.finish(&self.engine.context)?;
            losses = self.weighted(&self.objective.numbers(&values).losses, &self.weights);
        }
        let gradient = self.engine.read(&self.objective.gradient, self.objective.shape, "gradient")?;
        Ok((losses, gradient))
    }

    /// Runs to the end, telling `listener` what happens.
    ///
    /// Iterations are submitted ahead of the device, and what a report or a snapshot needs is read while later
    /// ones run: the host waits for the oldest of them only, when there are more than it may be ahead, and
    /// where the balance is measured.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the picture blows up, a listener's own error, or if the device fails; see
    /// [`Session::last_good`].
    pub fn run(&mut self, listener: &mut Listener<'_>) -> Result<Outcome> {
        let begin = Instant::now();
        self.clock = Some(begin);
        self.most_in_flight = 0;
        self.objective.set_picture(&start::picture(&self.request)?)?;
        self.weights.apply(&self.objective)?;
        let mut stop = listener(Event::Started(&self.started))?.is_break();
        let mut in_flight = VecDeque::new();
        let last = self.request.iterations;
        let mut iteration = 0;
        loop {
            let mut balanced = self.rebalances(iteration);
            if balanced {
                // Measuring waits for all that is in flight, so that is told first: events stay in order.
                stop |= self.tell_all(&mut in_flight, 0, listener)?.is_break();
                // Without any weights there would be no losses to tell.
                balanced = !stop || iteration == 0;
            }
            if balanced {
                stop |= self.rebalance(iteration, listener)?.is_break();
            }
            in_flight.push_back(self.submit(iteration, stop, balanced)?);
            self.most_in_flight = self.most_in_flight.max(in_flight.len());
            if stop || iteration == last {
                break;
            }
            stop |= self.tell_all(&mut in_flight, AHEAD, listener)?.is_break();
            iteration += 1;
        }
        // It ends here whatever the listener still answers.
        let _ = self.tell_all(&mut in_flight, 0, listener)?;
        let ending = if iteration == last { Ending::Finished } else { Ending::Stopped };
        let Some((_, picture)) = &self.last_good else {
            return Err(Error::NonFinite { iteration, count: 0 });
        };
        Ok(Outcome {
            picture: picture.clone(),
            iterations: iteration,
            ending,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// Largest number of iterations that were in flight at once in the last run, and how many staging buffers
    /// the session has made for reports and snapshots.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.most_in_flight, self.objective.staging_buffers())
    }

    /// Submits what iteration `iteration` takes, its report and snapshot included. With `stop` it is the
    /// last: a report in place of a step.
    fn submit(&self, iteration: u32, stop: bool, balanced: bool) -> Result<InFlight> {
        let last = self.request.iterations;
        let report = self.request.schedule.reports(iteration, last) || stop;
        let snapshot = self.request.schedule.snapshots(iteration) && !stop;
        let step = !stop && iteration < last;
        // A stop should be prompt, so it goes without the shares.
        let shares = report && !stop;
        // Losses and snapshot are of the picture before the step of the same submission. The balance has
        // measured losses and factors here, and left the gradients. It is the same at every schedule of reports,
        // so these do not decide which way the step is computed.
        let mut sections = 0;
        sections |= if report && !balanced { LOSSES } else { 0 };
        sections |= if shares && !balanced { FACTORS } else { 0 };
        sections |= if report || snapshot { SNAPSHOT } else { 0 };
        sections |= if !step {
            0
        } else if balanced {
            STEP_OF_FACTORS
        } else {
            STEP
        };
        let submitted = self.objective.run(sections, report)?;
        Ok(InFlight { iteration, submitted, shares, weights: self.weights.clone(), snapshot, step })
    }

    /// Waits for the oldest iterations until no more than `left` are in flight, and tells of them in order.
    fn tell_all(
        &mut self,
        in_flight: &mut VecDeque<InFlight>,
        left: usize,
        listener: &mut Listener<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        while in_flight.len() > left
            && let Some(oldest) = in_flight.pop_front()
        {
            if self.tell(oldest, listener)?.is_break() {
                flow = ControlFlow::Break(());
            }
        }
        Ok(flow)
    }

    fn rebalances(&self, iteration: u32) -> bool {
        // A loss at its minimum has no gradient to measure: try again until it has one.
        let due = iteration == 0
            || iteration == REBALANCE_AT
            || (iteration < REBALANCE_AT && self.weights.incomplete());
        self.request.balance.is_some() && due && (iteration == 0 || iteration < self.request.iterations)
    }

    fn rebalance(&mut self, iteration: u32, listener: &mut Listener<'_>) -> Result<ControlFlow<()>> {
        let Some(balance) = self.request.balance else { return Ok(ControlFlow::Continue(())) };
        let context = &self.engine.context;
        let _span = context.trace().map(|trace| trace.host("host", "measuring the balance"));
        self.weights = Weights::balanced(&self.objective, &self.request, balance, &self.weights)?;
        listener(Event::Balanced { iteration, weights: &self.weights.measured })
    }

    /// Waits for one iteration and tells of it.
    fn tell(&mut self, done: InFlight, listener: &mut Listener<'_>) -> Result<ControlFlow<()>> {
        let InFlight { iteration, submitted, shares, weights, snapshot, step } = done;
        let context = &self.engine.context;
        let _span =
            context.trace().map(|trace| trace.host("host", format!("telling of iteration {iteration}")));
        let mut flow = ControlFlow::Continue(());
        let mut note = |answer: ControlFlow<()>| {
            if answer.is_break() {
                flow = answer;
            }
        };
        if submitted.report.is_none() && submitted.snapshot.is_none() {
            context.wait(&submitted.submission, "waiting for an iteration")?;
        }
        let numbers = match submitted.report {
            Some(pending) => Some(self.objective.numbers(&pending.finish(context)?)),
            None => None,
        };
        if let Some(numbers) = &numbers
            && !(numbers.non_finite == 0.0)
        {
            return Err(Error::NonFinite { iteration, count: numbers.non_finite as u64 });
        }
        if let Some(pending) = submitted.snapshot {
            let [height, width] = self.started.size;
            let picture = Picture { width, height, rgb: pending.finish(context)? };
            if snapshot {
                note(listener(Event::Snapshot { iteration, picture: &picture })?);
            }
            if picture.rgb.iter().all(|value| value.is_finite()) {
                self.last_good = Some((iteration, picture));
            }
        }
        let seconds = self.clock.map_or(0.0, |clock| clock.elapsed().as_secs_f64());
        if let Some(numbers) = numbers {
            let terms = self.weighted(&numbers.losses, &weights);
            let report = Report {
                iteration,
                seconds,
                total: terms.iter().map(|term| term.loss).sum(),
                terms,
                gradient_shares: if shares { weights.shares(numbers.norms) } else { Vec::new() },
                classes: top_k(&numbers.probabilities, self.request.top_classes),
            };
            note(listener(Event::Report(&report))?);
        }
        if step {
            note(listener(Event::Progress { iteration: iteration + 1, seconds })?);
        }
        Ok(flow)
    }

    fn weighted(&self, losses: &[f32], weights: &Weights) -> Vec<TermLoss> {
        let weigh = |(term, loss): (&super::objective::Term, &f32)| TermLoss {
            factor: term.kind,
            layer: term.layer.clone(),
            loss: f64::from(*loss) * f64::from(weights.of(term.kind)) * f64::from(term.factor),
        };
        self.objective.terms.iter().zip(losses).map(weigh).collect()
    }
}

/// An iteration that was submitted and not yet told of.
#[derive(Debug)]
struct InFlight {
    /// Iterations before it.
    iteration: u32,
    submitted: Submitted,
    /// True if the report holds the factors' shares.
    shares: bool,
    /// The weights it runs with.
    weights: Weights,
    /// True if the snapshot is to be told of, not only kept.
    snapshot: bool,
    /// True if it makes a step.
    step: bool,
}
