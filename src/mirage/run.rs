//! The loop: start picture, steps, reports, snapshots, commands, scales, and an orderly end.

use super::controls::PendingCommands;
use super::event::{Event, Observer, Readout, Report};
use super::loss::Shares;
use super::next_scale::carry;
use super::objective::{
    AHEAD, GRADIENT, GROUPS, LOSSES, Numbers, PICTURE, REPORT, SNAPSHOT, STATE, STEP, SUM, named,
};
use super::readout::class_distance;
use super::session::{Session, weighted};
use super::start;
use super::state::State;
use super::weighting::Weights;
use crate::error::{Error, Result};
use crate::graph::{Submission, Values};
use crate::image_io::Picture;
use crate::vgg::labels::top_k;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

/// After this many iterations of the first scale the weights are measured once more: by then every loss has a gradient,
/// and the grain of the start, in which the network sees nothing, no longer decides the weights.
const REBALANCE_AT: u32 = 10;
/// The change of the picture is measured over this many iterations.
const LOOK_EVERY: u32 = 10;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All iterations were done.
    Finished,
    /// The picture changed by less than [`Request::stop_when_change_below`](super::Request).
    Settled,
    /// An observer asked to stop.
    Stopped,
    /// [`Controls::stop`](super::Controls::stop) was called.
    Commanded,
}

/// The result of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunResult {
    /// The picture, at the size of the scale at which the run ended.
    pub picture: Picture,
    /// Iterations done.
    pub iterations: u32,
    /// Why it ended.
    pub ending: Ending,
    /// Seconds from the first iteration to the last, without pauses.
    pub seconds: f64,
}

/// An iteration that is submitted and not yet reported.
#[derive(Debug)]
struct InFlight {
    /// Iterations before it.
    iteration: u32,
    submission: Submission,
    /// The weights it runs with.
    weights: Weights,
    due: Due,
}

/// What an iteration does and reports.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    report: bool,
    /// With the groups' shares.
    shares: bool,
    snapshot: bool,
    picture: bool,
    state: bool,
    /// The picture is compared with the last one, to measure its change.
    look: bool,
    /// It makes a step.
    step: bool,
    /// The run ends with it.
    last: bool,
    /// The weights were measured just before it.
    weights_measured: bool,
}

/// State of the loop of a run: what was submitted, why the run ends, and the observer.
struct RunLoop<'a> {
    in_flight: VecDeque<InFlight>,
    ending: Option<Ending>,
    observer: &'a mut dyn Observer,
}

impl RunLoop<'_> {
    fn emit(&mut self, event: Event<'_>) -> Result<()> {
        if self.observer.observe(event)?.is_break() {
            self.ending = self.ending.or(Some(Ending::Stopped));
        }
        Ok(())
    }
}

impl Session {
    /// Runs to the end, and informs `observer` of what happens.
    ///
    /// Iterations are submitted ahead of the device, and what a report or a snapshot needs is read while later ones
    /// run. The host waits for the oldest if too many are in flight, where weights are measured, and between scales.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the picture blows up, an observer's own error, or if the device fails; see
    /// [`Session::last_good`].
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<RunResult> {
        self.most_in_flight = 0;
        let mut iteration = self.begin()?;
        let mut run = RunLoop { in_flight: VecDeque::new(), ending: None, observer };
        run.emit(Event::Started(&self.started))?;
        let mut first = iteration;
        run.emit(Event::Scale(&self.scale_started()))?;
        let last = self.iterations();
        loop {
            let snapshot = self.apply_commands(iteration, &mut run)?;
            if iteration == self.scales[self.scale].end && iteration < last {
                self.report_down_to(&mut run, 0)?;
                // A scale without iterations is passed through.
                while run.ending.is_none() && iteration == self.scales[self.scale].end {
                    self.next_scale(&mut run)?;
                    first = iteration;
                }
            }
            let mut measures = self.rebalances(iteration, first);
            if measures {
                // Measuring waits for all that is in flight, so that is reported first: events stay in order.
                self.report_down_to(&mut run, 0)?;
                // Without any weights there would be no losses to report.
                measures = run.ending.is_none() || !self.weights.is_measured();
            }
            if measures {
                self.rebalance(iteration, &mut run)?;
            }
            if iteration == last {
                run.ending = run.ending.or(Some(Ending::Finished));
            }
            let due = self.due(iteration, run.ending, measures, snapshot);
            run.in_flight.push_back(self.submit(iteration, due)?);
            self.most_in_flight = self.most_in_flight.max(run.in_flight.len());
            if run.ending.is_some() {
                break;
            }
            self.report_down_to(&mut run, AHEAD)?;
            iteration += 1;
        }
        // The run ends here, whatever the observer answers now.
        self.report_down_to(&mut run, 0)?;
        let Some((_, picture)) = &self.last_good else {
            return Err(Error::NonFinite { iteration, count: 0 });
        };
        Ok(RunResult {
            picture: picture.clone(),
            iterations: iteration,
            ending: run.ending.unwrap_or(Ending::Finished),
            seconds: self.seconds(),
        })
    }

    /// Sets picture, optimiser and weights to where the run begins, and returns the number of iterations before.
    fn begin(&mut self) -> Result<u32> {
        self.last_good = None;
        self.last_look = None;
        self.change = None;
        self.earlier = 0.0;
        self.measure = false;
        let (mut iteration, mut anew) = (0, false);
        match self.resumed.take() {
            None => {
                self.enter(0)?;
                let objective = self.objective()?;
                objective.set_picture(&start::picture(&self.request, self.scales[0].size)?)?;
                self.weights = Weights::given(&objective.groups);
            }
            Some(state) => {
                let objective = self.objective()?;
                objective.set_state(&state.tensors)?;
                let given = Weights::given(&objective.groups);
                let shares = Shares::of(&objective.groups);
                let same_groups = state.weights.0.len() == given.0.len()
                    && state.weights.0.iter().zip(&given.0).all(|(one, other)| one.group == other.group);
                let keeps = self.request.has_shares() && same_groups;
                self.weights = if keeps { state.weights.clone() } else { given };
                self.measure =
                    self.request.has_shares() && (state.weights_measured || !keeps || state.shares != shares);
                // With other weights than before, the loss that the optimiser may know is that of another objective.
                anew = self.weights.0.iter().any(|own| state.weights.of(&own.group) != own.weight);
                iteration = state.iteration;
                self.earlier = state.seconds;
                self.last_look = state.last_look;
            }
        }
        self.objective()?.set_weights(&self.weights, anew)?;
        self.clock = Some(Instant::now());
        Ok(iteration)
    }

    /// Goes on at the next scale, with the picture and the state that the optimiser keeps.
    fn next_scale(&mut self, run: &mut RunLoop<'_>) -> Result<()> {
        let engine = self.engine.clone();
        let _span = engine.trace().map(|trace| trace.host("host", "preparing the next scale"));
        let objective = self.objective()?;
        let state = objective.read_state()?;
        let next = self.scale + 1;
        let clamp = self.request.optimizer.clamps();
        let carried = carry(&engine, objective, &state, self.scales[next].size, clamp)?;
        self.enter(next)?;
        let objective = self.objective()?;
        objective.set_state(&carried)?;
        objective.set_weights(&self.weights, false)?;
        self.last_look = None;
        self.change = None;
        run.emit(Event::Scale(&self.scale_started()))
    }

    /// Seconds of the run so far, without pauses.
    fn seconds(&self) -> f64 {
        self.earlier + self.clock.map_or(0.0, |clock| clock.elapsed().as_secs_f64())
    }

    /// Applies the pending commands, and waits here while the run is paused. True if a snapshot of the next iteration
    /// was asked for.
    fn apply_commands(&mut self, iteration: u32, run: &mut RunLoop<'_>) -> Result<bool> {
        let mut pending = self.controls.take();
        let mut snapshot = pending.save;
        self.apply_shares(&pending)?;
        if pending.paused && !pending.stop && run.ending.is_none() && iteration < self.iterations() {
            self.report_down_to(run, 0)?;
            self.earlier = self.seconds();
            self.clock = None;
            run.emit(Event::Paused { iteration, paused: true })?;
            // A viewer who connects during the pause sees the present picture.
            let shown = Due { picture: self.request.schedule.has_pictures(), ..Due::default() };
            let shown = self.submit(iteration, shown)?;
            self.report(shown, run)?;
            while pending.paused && !pending.stop && run.ending.is_none() {
                if snapshot {
                    let submitted = self.submit(iteration, Due { snapshot: true, ..Due::default() })?;
                    self.report(submitted, run)?;
                    snapshot = false;
                }
                self.controls.wait();
                pending = self.controls.take();
                snapshot |= pending.save;
                self.apply_shares(&pending)?;
            }
            self.clock = Some(Instant::now());
            run.emit(Event::Paused { iteration, paused: false })?;
        }
        if pending.stop {
            run.ending = run.ending.or(Some(Ending::Commanded));
        }
        Ok(snapshot)
    }

    /// Takes over new shares: they are measured before the next step.
    fn apply_shares(&mut self, pending: &PendingCommands) -> Result<()> {
        let Some(shares) = &pending.shares else { return Ok(()) };
        let mut groups = self.request.groups.clone();
        shares.apply(&mut groups)?;
        self.request.groups = groups;
        let request = self.request.clone();
        self.objective_mut()?.take_settings(&request);
        self.measure = true;
        Ok(())
    }

    fn rebalances(&self, iteration: u32, first: u32) -> bool {
        let every = self.request.rebalance_every;
        let scale = self.scales[self.scale];
        let done = iteration - scale.first;
        let again = if self.scale == 0 { REBALANCE_AT } else { 0 };
        // A loss at its minimum has no gradient to measure: try again until it has one.
        let due = done == 0
            || self.measure
            || done == again
            || (done < REBALANCE_AT && self.weights.is_incomplete())
            || (every > 0 && done.is_multiple_of(every));
        // The last iteration makes no step, so it needs weights only for its own report.
        self.request.has_shares() && due && (iteration == first || iteration < self.iterations())
    }

    fn rebalance(&mut self, iteration: u32, run: &mut RunLoop<'_>) -> Result<()> {
        let engine = self.engine.clone();
        let _span = engine.trace().map(|trace| trace.host("host", "measuring the weights"));
        let done = iteration - self.scales[self.scale].first;
        let settled = if self.scale == 0 { done > REBALANCE_AT } else { done > 0 };
        let objective = self.objective()?;
        let norms = objective.measure()?.norms;
        let limit = settled && !self.measure;
        let weights = Weights::measured(&objective.groups, &norms, &self.weights, limit);
        let shares = Shares::of(&objective.groups);
        objective.set_weights(&weights, true)?;
        self.weights = weights;
        self.measure = false;
        run.emit(Event::Weighted { iteration, shares: &shares, weights: &self.weights })
    }

    /// What is due at an iteration that is not submitted yet.
    fn due(&self, iteration: u32, ending: Option<Ending>, weights_measured: bool, snapshot: bool) -> Due {
        let schedule = &self.request.schedule;
        let ends = ending.is_some();
        let report = schedule.reports(iteration, self.iterations()) || ends;
        // A stop should be prompt, so its report is made without the shares.
        let prompt = matches!(ending, Some(Ending::Stopped | Ending::Commanded));
        Due {
            report,
            shares: report && !prompt,
            snapshot: (schedule.snapshots(iteration) && !prompt) || snapshot,
            picture: schedule.pictures(iteration) || (ends && schedule.has_pictures()),
            state: schedule.states(iteration)
                || (ends && schedule.state_every > 0)
                || (prompt && schedule.state_when_stopped),
            look: iteration.is_multiple_of(LOOK_EVERY) && !prompt,
            step: !ends,
            last: ends,
            weights_measured,
        }
    }

    /// Submits an iteration, with what its report and snapshot need.
    fn submit(&self, iteration: u32, due: Due) -> Result<InFlight> {
        // Losses and snapshot are of the picture before the step of the same submission. Where weights were just
        // measured, losses and the groups' gradients are already computed. That does not depend on the schedule of
        // reports, so the schedule never changes how a step is computed.
        let objective = self.objective()?;
        let numbers = due.report || due.snapshot;
        let snapshot = due.report || due.snapshot || due.picture || due.look;
        let sum = due.weights_measured && objective.has_sum();
        let mut sections = Vec::new();
        let mut readbacks = Vec::new();
        let mut add = |wanted: bool, name: &'static str| sections.extend(wanted.then_some(name));
        add(numbers && !due.weights_measured, LOSSES);
        add(due.shares && !due.weights_measured, GROUPS);
        add(snapshot, SNAPSHOT);
        add(due.step, if sum { SUM } else { GRADIENT });
        add(due.step, STEP);
        let mut read = |wanted: bool, name: &'static str| readbacks.extend(wanted.then_some(name));
        read(numbers, REPORT);
        read(snapshot, PICTURE);
        read(due.state, STATE);
        if due.step {
            objective.set_control(iteration - self.scales[self.scale].first)?;
        }
        let submission = objective.submit(&sections, &readbacks)?;
        Ok(InFlight { iteration, submission, weights: self.weights.clone(), due })
    }

    /// Waits for the oldest iterations until no more than `left` are in flight, and reports them in order.
    fn report_down_to(&mut self, run: &mut RunLoop<'_>, left: usize) -> Result<()> {
        while run.in_flight.len() > left
            && let Some(oldest) = run.in_flight.pop_front()
        {
            self.report(oldest, run)?;
        }
        Ok(())
    }

    /// The first iteration with its report and picture, waited for and reported to no one; for benches.
    pub(super) fn one_iteration(&mut self) -> Result<()> {
        let ignore: &mut dyn Observer = &mut |_: Event<'_>| Ok(ControlFlow::Continue(()));
        let mut run = RunLoop { in_flight: VecDeque::new(), ending: None, observer: ignore };
        let first = self.begin()?;
        let measures = self.rebalances(first, first);
        if measures {
            self.rebalance(first, &mut run)?;
        }
        let submitted = self.submit(first, self.due(first, None, measures, false))?;
        self.report(submitted, &mut run)
    }

    /// Waits for one iteration and reports it.
    fn report(&mut self, done: InFlight, run: &mut RunLoop<'_>) -> Result<()> {
        let InFlight { iteration, mut submission, weights, due } = done;
        let engine = self.engine.clone();
        let trace = engine.trace();
        let _span = trace.map(|trace| trace.host("host", format!("reporting iteration {iteration}")));
        let [numbers, picture, state] = [REPORT, PICTURE, STATE].map(|name| submission.take(name));
        if numbers.is_none() && picture.is_none() && state.is_none() {
            submission.wait()?;
        }
        let numbers = match numbers {
            Some(pending) => Some(self.objective()?.numbers(pending.finish()?)),
            None => None,
        };
        if let Some(numbers) = &numbers
            && !(numbers.non_finite == 0.0)
        {
            return Err(Error::NonFinite { iteration, count: numbers.non_finite as u64 });
        }
        let seconds = self.seconds();
        let readout = numbers.as_ref().map(|numbers| self.readout(numbers)).transpose()?.unwrap_or_default();
        let mut settled = false;
        if let Some(pending) = picture {
            let [height, width] = self.scales[self.scale].size;
            let rgb = pending.finish()?.take(PICTURE).unwrap_or_default();
            let picture = Picture { width, height, rgb };
            if due.snapshot {
                run.emit(Event::Snapshot { iteration, picture: &picture, seconds, readout: &readout })?;
            }
            if due.picture {
                run.emit(Event::Picture { iteration, picture: &picture, last: due.last })?;
            }
            if picture.rgb.iter().all(|value| value.is_finite()) {
                settled = due.look && self.measure_change(iteration, &picture);
                self.last_good = Some((iteration, picture));
            }
        }
        if let Some(pending) = state {
            let state = self.state(iteration, seconds, &weights, due.weights_measured, &pending.finish()?)?;
            // A state that can't be resumed would only replace a good checkpoint.
            if state.check(self.scales[self.scale].size).is_ok() {
                run.emit(Event::State(&state))?;
            }
        }
        if let Some(numbers) = numbers
            && due.report
        {
            let objective = self.objective()?;
            let terms = weighted(&objective.terms, &numbers.losses, &weights);
            let measures = |group: &str| objective.measures(group);
            let report = Report {
                iteration,
                seconds,
                total: terms.iter().map(|term| term.loss).sum(),
                terms,
                gradient_shares: if due.shares {
                    weights.shares(&numbers.norms, measures)
                } else {
                    Vec::new()
                },
                readout,
                change: self.change,
            };
            run.emit(Event::Report(&report))?;
        }
        if due.step {
            run.emit(Event::Progress { iteration: iteration + 1, seconds })?;
        }
        if settled {
            run.ending = run.ending.or(Some(Ending::Settled));
        }
        Ok(())
    }

    /// Measures how much the picture has changed since it was last compared. True if that is so little that the run
    /// should end.
    fn measure_change(&mut self, iteration: u32, picture: &Picture) -> bool {
        if let Some((before, old)) = &self.last_look
            && iteration > *before
        {
            let sum: f64 = old.iter().zip(&picture.rgb).map(|(old, new)| f64::from((new - old).abs())).sum();
            self.change = Some((sum / old.len() as f64 / f64::from(iteration - before)) as f32);
        }
        self.last_look = Some((iteration, picture.rgb.clone()));
        let last_scale = self.scale + 1 == self.scales.len();
        last_scale && self.change.is_some_and(|change| change < self.request.stop_when_change_below)
    }

    fn readout(&self, numbers: &Numbers) -> Result<Readout> {
        let photo = &self.objective()?.photo_probabilities;
        let known = !photo.is_empty() && numbers.probabilities.len() == photo.len();
        Ok(Readout {
            classes: top_k(&numbers.probabilities, self.request.top_classes),
            distance: known.then(|| class_distance(photo, &numbers.probabilities)),
        })
    }

    fn state(
        &self,
        iteration: u32,
        seconds: f64,
        weights: &Weights,
        weights_measured: bool,
        values: &Values,
    ) -> Result<State> {
        let mut tensors = named(values);
        tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(State {
            iteration,
            seconds,
            scale: self.scale,
            size: self.scales[self.scale].size,
            tensors,
            shares: Shares::of(&self.objective()?.groups),
            weights: weights.clone(),
            weights_measured,
            last_look: self.last_look.clone().filter(|_| self.request.stop_when_change_below > 0.0),
        })
    }
}
