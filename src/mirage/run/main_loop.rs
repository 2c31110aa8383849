//! The loop: start picture, steps, reports, snapshots, commands, scales, and an orderly end.

use super::controls::PendingCommands;
use super::event::{Event, Observer};
use super::grain;
use super::loop_state::{Due, Ending, RunLoop, SubmittedIteration};
use super::next_scale::CarriedState;
use super::session::{Session, weighted};
use super::start;
use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::mirage::loss::{Group, Shares, check_groups};
use crate::mirage::objective::sections::{
    GRADIENT, GROUPS, LOSSES, NON_FINITE, PICTURE, REPORT, SNAPSHOT, STATE, STEP, SUM,
};
use crate::mirage::objective::{Objective, is_measured};
use crate::mirage::request::Init;
use crate::mirage::setback::LossTrend;
use crate::mirage::weighting::Weights;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// After this many iterations of the first scale the weights are measured once more: by then every loss has a gradient,
/// and the grain of the start, in which the network sees nothing, no longer decides the weights.
const REBALANCE_AT: u32 = 10;
/// The change of the picture is measured over this many iterations.
const CHANGE_INTERVAL: u32 = 10;

/// The result of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunResult {
    /// The picture, at the size of the scale at which the run ended.
    pub picture: Arc<Picture>,
    /// Iterations done.
    pub iterations: u32,
    /// Why it ended.
    pub ending: Ending,
    /// Seconds from the first iteration to the last, without pauses.
    pub seconds: f64,
}

impl Session {
    /// Runs to the end, and informs `observer` of what happens.
    ///
    /// Iterations are submitted ahead of the device, and what a report or a snapshot needs is read while later ones
    /// run. The host waits for the oldest if too many are in flight, where weights are measured, and between scales.
    ///
    /// Where values become NaN or infinite, or the loss diverges, the run goes back to its last good picture and goes on
    /// with half the step ([`Event::Setback`]).
    ///
    /// # Errors
    /// [`Error::Unstable`] if that has happened five times and happens again, an observer's own error, or if the device
    /// fails; see [`Session::last_good`].
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<RunResult> {
        let result = self.run_to_end(observer);
        // The next run begins with a state of its own.
        if let Ok(objective) = self.objective() {
            objective.release();
        }
        result
    }

    fn run_to_end(&mut self, observer: &mut dyn Observer) -> Result<RunResult> {
        self.most_in_flight = 0;
        let mut iteration = self.begin()?;
        let mut run = RunLoop::new(iteration, observer);
        run.emit(Event::Started(&self.started))?;
        run.emit(Event::Scale(&self.scale_started()))?;
        let last = self.iterations();
        let mut snapshot = false;
        loop {
            if let Some(to) = run.back.take() {
                if matches!(run.ending, Some(Ending::Settled | Ending::Stopped | Ending::Commanded)) {
                    break;
                }
                (iteration, run.ending) = (to, None);
            }
            snapshot |= self.apply_commands(iteration, &mut run)?;
            if run.back.is_some() {
                continue;
            }
            if iteration == self.scales[self.scale].end && iteration < last {
                if !self.settle(iteration, &mut run)? {
                    continue;
                }
                // A scale without iterations is passed through.
                while run.ending.is_none() && iteration == self.scales[self.scale].end {
                    self.next_scale(&mut run)?;
                    run.first = iteration;
                }
            }
            let mut measures = self.rebalances(iteration, run.first);
            if measures {
                // Measuring waits for all that is in flight, so that is reported first: events stay in order.
                if !self.settle(iteration, &mut run)? {
                    continue;
                }
                // Without any weights there would be no losses to report.
                measures = run.ending.is_none() || !self.weights.is_measured();
            }
            if measures {
                self.rebalance(iteration, &mut run)?;
            }
            if iteration == last {
                run.ending = run.ending.or(Some(Ending::Finished));
            }
            let due = self.due(iteration, &run, measures, std::mem::take(&mut snapshot));
            if due.pixels() {
                self.make_room()?;
            }
            run.in_flight.push_back(self.submit(iteration, due)?);
            self.most_in_flight = self.most_in_flight.max(run.in_flight.len());
            if run.ending.is_some() {
                // The run ends here, whatever the observer answers now, unless it has to go back.
                self.report_down_to(&mut run, 0)?;
                if run.back.is_none() {
                    break;
                }
                continue;
            }
            let ahead = self.objective()?.ahead();
            self.report_down_to(&mut run, ahead)?;
            iteration += 1;
        }
        // There is nothing to go back to any more, and no more steps.
        (self.best, self.last_look) = (None, None);
        self.objective()?.release();
        let Some((iterations, picture)) = self.last_good() else {
            let cause = "no picture was finite".to_owned();
            return Err(Error::Unstable { cause, iteration, setbacks: self.halvings });
        };
        Ok(RunResult {
            picture,
            iterations,
            ending: run.ending.unwrap_or(Ending::Finished),
            seconds: self.seconds(),
        })
    }

    /// Sets picture, optimiser and weights to where the run begins, and returns the number of iterations before.
    fn begin(&mut self) -> Result<u32> {
        (self.last_good, self.best) = (None, None);
        self.halvings = 0;
        self.last_look = None;
        self.change = None;
        self.earlier = 0.0;
        self.measure = false;
        self.measure_again = false;
        let (mut iteration, mut anew) = (0, false);
        // A picture may already meet its targets.
        let mut grace = matches!(self.request.init, Init::Photo | Init::Picture(_));
        match self.resumed.take() {
            None => {
                self.enter(0)?;
                let objective = self.objective()?;
                objective.set_picture(&start::picture(&self.request, self.scales[0].size)?)?;
                self.weights = Weights::given(&objective.groups);
            }
            Some(mut state) => {
                let objective = self.objective()?;
                objective.set_state(std::mem::take(&mut state.tensors))?;
                let has_shares = self.request.has_shares();
                let kept = state.weights.kept(&objective.groups).filter(|_| has_shares);
                let is_same = kept.is_some() && state.shares.agree(&Shares::of(&objective.groups));
                self.weights = kept.unwrap_or_else(|| Weights::given(&objective.groups));
                self.measure = has_shares && (!is_same || state.shares_changed);
                // With the limit that held then.
                self.measure_again = has_shares && state.weights_measured;
                // With other weights than before, the loss that the optimiser may know is that of another objective.
                anew = self.weights.0.iter().any(|own| state.weights.of(&own.group) != own.weight);
                iteration = state.iteration;
                grace = false;
                self.halvings = state.halvings;
                self.earlier = state.seconds;
                self.last_look = state.last_look;
            }
        }
        if anew {
            self.objective()?.return_to_shown()?;
        }
        self.objective()?.set_weights(&self.weights, anew)?;
        self.trend = LossTrend::new(iteration, grace);
        self.clock = Some(Instant::now());
        Ok(iteration)
    }

    /// Goes on at the next scale, with the picture and the state that the optimiser keeps.
    fn next_scale(&mut self, run: &mut RunLoop<'_>) -> Result<()> {
        let engine = self.engine.clone();
        let _span = engine.trace().map(|trace| trace.host("host", "preparing the next scale"));
        let objective = self.objective()?;
        let next = self.scale + 1;
        let [before, size] = [self.scales[self.scale].size, self.scales[next].size];
        let carried = CarriedState::of(objective)?;
        self.leave();
        // Nothing else of either scale takes memory now but targets.
        let grain = grain::draw(&self.request, next, before, size)?;
        self.enter(next)?;
        let objective = self.objective()?;
        carried.unpack(&engine, objective, grain, self.request.optimizer.clamps())?;
        objective.set_weights(&self.weights, false)?;
        self.last_look = None;
        self.change = None;
        self.best = None;
        self.trend = LossTrend::new(self.scales[next].first, false);
        run.emit(Event::Scale(&self.scale_started()))
    }

    /// Applies the pending commands, and waits here while the run is paused. True if a snapshot of the next iteration
    /// was asked for.
    fn apply_commands(&mut self, iteration: u32, run: &mut RunLoop<'_>) -> Result<bool> {
        let mut pending = self.controls.take();
        let mut snapshot = pending.save;
        self.apply_shares(&pending)?;
        if pending.paused && !pending.stop && run.ending.is_none() && iteration < self.iterations() {
            self.report_down_to(run, 0)?;
            if run.back.is_some() {
                return Ok(snapshot);
            }
            self.earlier = self.seconds();
            self.clock = None;
            run.emit(Event::Paused { iteration, paused: true })?;
            // A viewer who connects during the pause sees the present picture.
            let shown = Due { picture: self.request.schedule.has_pictures(), ..Due::default() };
            self.make_room()?;
            let shown = self.submit(iteration, shown)?;
            self.report(shown, run)?;
            while pending.paused && !pending.stop && run.ending.is_none() && run.back.is_none() {
                if snapshot {
                    self.make_room()?;
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

    /// Takes over new shares: they are measured before the next step. Those that make no sense change nothing.
    fn apply_shares(&mut self, pending: &PendingCommands) -> Result<()> {
        let Some(shares) = &pending.shares else { return Ok(()) };
        let mut groups = self.request.groups.clone();
        let named = |group: &&Group| shares.get(&group.name).is_some();
        let are_measured = groups.iter().filter(named).all(is_measured);
        if !are_measured || shares.apply(&mut groups).and_then(|()| check_groups(&groups)).is_err() {
            return Ok(());
        }
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
            || self.measure_again
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
        let numbers = objective.measure()?;
        let limit = settled && !self.measure;
        let weights = Weights::measured(&objective.groups, &numbers.norms, &self.weights, limit);
        let shares = Shares::of(&objective.groups);
        objective.set_weights(&weights, true)?;
        let losses = weighted(&objective.terms, &numbers.losses, &weights);
        self.weights = weights;
        self.measure = false;
        self.measure_again = false;
        // Where the run has gone back to, weights are those that they were.
        if run.reported != Some(iteration) {
            self.best = None;
            let grace = iteration == 0 && self.trend.has_grace();
            self.trend = LossTrend::new(iteration, grace);
            let total: f64 = losses.iter().map(|term| term.loss).sum();
            if total.is_finite() {
                self.trend.follow(iteration, total);
            }
        }
        run.emit(Event::Weighted { iteration, shares: &shares, weights: &self.weights })
    }

    /// What is due at an iteration that is not submitted yet.
    fn due(&self, iteration: u32, run: &RunLoop<'_>, weights_measured: bool, snapshot: bool) -> Due {
        let schedule = &self.request.schedule;
        let ends = run.ending.is_some();
        if run.reported == Some(iteration) && !ends {
            return Due { step: true, weights_measured, snapshot, ..Due::default() };
        }
        let report = schedule.reports(iteration, self.iterations()) || ends;
        // A stop should be prompt, so its report is made without the shares.
        let prompt = matches!(run.ending, Some(Ending::Stopped | Ending::Commanded));
        // In tiles the shares take as long as several iterations.
        let takes_long =
            self.objective().is_ok_and(Objective::is_tiled) && !weights_measured && iteration > 0;
        Due {
            report,
            shares: report && !prompt && !takes_long,
            snapshot: (schedule.snapshots(iteration) && !prompt) || snapshot,
            picture: schedule.pictures(iteration) || (ends && schedule.has_pictures()),
            state: schedule.states(iteration)
                || (ends && schedule.state_every > 0)
                || (prompt && schedule.state_when_stopped),
            change: iteration.is_multiple_of(CHANGE_INTERVAL) && !prompt,
            keep: iteration == run.first || weights_measured,
            step: !ends,
            last: ends,
            weights_measured,
        }
    }

    /// Before another picture is kept of a run in tiles, where memory counts: of the pictures to go back to, the one with the
    /// least loss is enough.
    fn make_room(&mut self) -> Result<()> {
        if self.objective()?.is_tiled()
            && let Some((iteration, _, best)) = &self.best
        {
            self.last_good = Some((*iteration, best.clone()));
        }
        Ok(())
    }

    /// Submits an iteration, with what its report and snapshot need.
    fn submit(&self, iteration: u32, due: Due) -> Result<SubmittedIteration> {
        // Losses and snapshot are of the picture before the step of the same submission. Where weights were just
        // measured, losses and the groups' gradients are already computed. That does not depend on the schedule of
        // reports, so the schedule never changes how a step is computed.
        let objective = self.objective()?;
        let (numbers, snapshot) = (due.numbers(), due.pixels());
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
        read(snapshot, NON_FINITE);
        read(due.state && !due.takes_state(), STATE);
        if due.step {
            objective.set_control(iteration - self.scales[self.scale].first, self.halvings)?;
        }
        let submission = objective.submit(&sections, &readbacks)?;
        Ok(SubmittedIteration { iteration, submission, weights: self.weights.clone(), due })
    }

    /// The first iteration with its report and picture, waited for and reported to no one; for benches.
    pub(in crate::mirage) fn one_iteration(&mut self) -> Result<()> {
        let ignore: &mut dyn Observer = &mut |_: Event<'_>| Ok(ControlFlow::Continue(()));
        let first = self.begin()?;
        let mut run = RunLoop::new(first, ignore);
        let measures = self.rebalances(first, first);
        if measures {
            self.rebalance(first, &mut run)?;
        }
        let submitted = self.submit(first, self.due(first, &run, measures, false))?;
        self.report(submitted, &mut run)
    }
}
