//! The main loop: start picture, steps, reports, snapshots, commands, scales, and an orderly end.

use super::controls::PendingCommands;
use super::event::{Event, Observer};
use super::loop_state::{Due, Ending, RunLoop, SubmittedIteration};
use super::next_scale::CarriedState;
use super::session::{Session, weighted};
use super::state::LossHistory;
use super::{grain, start};
use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::mirage::loss::{Group, Shares, check_groups};
use crate::mirage::objective::kept_picture::KeptPicture;
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

/// Iteration of the first scale after which the weights are measured again. By then every loss has a gradient, and the
/// grain of the start picture, in which the network recognises nothing, no longer determines the weights.
const REBALANCE_AT: u32 = 10;
/// Number of iterations over which the change of the picture is measured.
const CHANGE_INTERVAL: u32 = 10;

/// Result of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunResult {
    /// The picture, at the size of the scale at which the run ended.
    pub picture: Arc<Picture>,
    /// Number of iterations done.
    pub iterations: u32,
    /// Reason why the run ended.
    pub ending: Ending,
    /// Seconds from the first iteration to the last, without pauses.
    pub seconds: f64,
}

impl Session {
    /// Runs to the end, and sends events to `observer`.
    ///
    /// Iterations are submitted ahead of the device, and the data of a report or a snapshot is read while later ones
    /// run. The host waits for the oldest iteration if too many are in flight, before weights are measured, and between
    /// scales.
    ///
    /// If values become NaN or infinite, or the loss diverges, the run continues from its last good picture with half
    /// the step size ([`Event::Setback`]).
    ///
    /// # Errors
    /// [`Error::Unstable`] on the sixth fault, [`Error::NoFiniteTrial`], an observer's own error, or if the device fails;
    /// see [`Session::last_good`].
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<RunResult> {
        let result = self.run_to_end(observer);
        // The next run sets its own state.
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
                match run.ending {
                    // It is the result.
                    Some(_) if run.gave_up => break,
                    // The run ends with it, and with its state.
                    Some(Ending::Stopped | Ending::Commanded) => {}
                    _ => run.ending = None,
                }
                iteration = to;
            }
            snapshot |= self.apply_commands(iteration, &mut run)?;
            if run.back.is_some() {
                continue;
            }
            if iteration == self.scales[self.scale].end && iteration < last {
                if !self.settle(iteration, &mut run)? {
                    continue;
                }
                // A scale without iterations is skipped.
                while run.ending.is_none() && iteration == self.scales[self.scale].end {
                    self.next_scale(&mut run)?;
                    run.first = iteration;
                }
            }
            let mut measures = self.rebalances(iteration, run.first);
            if measures {
                // Measuring waits for everything in flight. Report that first, so that events stay in order.
                if !self.settle(iteration, &mut run)? {
                    continue;
                }
                // Without weights there would be no losses to report.
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
                // The run ends here whatever the observer returns, unless it has to go back.
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
        // No more steps or setbacks from here.
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

    /// Sets picture, optimiser and weights to the start of the run, and returns the number of iterations before it.
    fn begin(&mut self) -> Result<u32> {
        (self.last_good, self.best) = (None, None);
        self.halvings = 0;
        self.accepted_before = None;
        self.last_look = None;
        self.change = None;
        self.earlier = 0.0;
        self.measure = false;
        self.measure_again = false;
        (self.loss_before, self.start_hash, self.has_moved) = (None, None, false);
        let (mut iteration, mut anew, mut losses) = (0, false, None);
        // The picture may already meet its targets.
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
                let is_whole = state.holds(objective.state.iter().map(|part| part.name.as_str()));
                objective.set_state(std::mem::take(&mut state.tensors))?;
                let has_shares = self.request.has_shares();
                let kept = state.weights.kept(&objective.groups).filter(|_| has_shares);
                let is_same = kept.is_some() && state.shares.agree(&Shares::of(&objective.groups));
                self.weights = kept.unwrap_or_else(|| Weights::given(&objective.groups));
                self.measure = has_shares && (!is_same || state.shares_changed);
                // With the growth limit that applied then.
                self.measure_again = has_shares && state.weights_measured;
                // If the weights differ, a loss stored by the optimiser belongs to another objective.
                anew = self.weights.0.iter().any(|own| state.weights.of(&own.group) != own.weight);
                iteration = state.iteration;
                self.accepted_before = (is_whole && !anew).then_some(iteration);
                grace &= iteration == 0;
                self.halvings = state.halvings;
                self.earlier = state.seconds;
                self.last_look = state.last_look;
                self.has_moved = state.has_moved;
                let is_measured = self.measure || self.measure_again;
                losses = state.losses.filter(|_| !anew && !is_measured);
            }
        }
        if anew {
            self.objective()?.return_to_shown()?;
        }
        self.objective()?.set_weights(&self.weights, anew)?;
        self.trend = LossTrend::new(iteration, grace);
        self.counted_first = losses.is_none().then_some(iteration);
        if let Some(LossHistory { loss, trend, best }) = losses {
            (self.loss_before, self.trend) = (Some(loss), trend);
            let compact = self.objective()?.is_tiled() && self.request.optimizer.clamps();
            let kept = |picture: KeptPicture| if compact { picture.compacted() } else { picture };
            self.best = best.map(|(at, least, picture)| (at, least, kept(picture)));
        }
        self.clock = Some(Instant::now());
        Ok(iteration)
    }

    /// Moves to the next scale, carrying over the picture and the optimiser's state.
    fn next_scale(&mut self, run: &mut RunLoop<'_>) -> Result<()> {
        let engine = self.engine.clone();
        let _span = engine.trace().map(|trace| trace.host("host", "preparing the next scale"));
        let objective = self.objective()?;
        let next = self.scale + 1;
        let [before, size] = [self.scales[self.scale].size, self.scales[next].size];
        let carried = CarriedState::of(objective)?;
        self.leave();
        // At this point only the targets of both scales take memory.
        let grain = grain::draw(&self.request, next, before, size)?;
        self.enter(next)?;
        let objective = self.objective()?;
        carried.unpack(&engine, objective, grain, self.request.optimizer.clamps())?;
        objective.set_weights(&self.weights, false)?;
        self.last_look = None;
        self.change = None;
        (self.best, self.start_hash) = (None, None);
        self.trend = LossTrend::new(self.scales[next].first, false);
        run.emit(Event::Scale(&self.scale_started()))
    }

    /// Applies the pending commands, and waits while the run is paused. True if a snapshot of the next iteration was
    /// requested.
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
            // For viewers who connect during the pause.
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

    /// Applies new shares, which are measured before the next step. Invalid ones are ignored.
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
        // A loss at its minimum has no gradient to measure: retry until it has one.
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
        // After a setback, the weights of that picture are unchanged.
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

    /// Returns the tasks of an iteration that is not submitted yet.
    fn due(&self, iteration: u32, run: &RunLoop<'_>, weights_measured: bool, snapshot: bool) -> Due {
        let schedule = &self.request.schedule;
        let ends = run.ending.is_some();
        if run.reported == Some(iteration) && !ends {
            return Due { step: true, weights_measured, snapshot, ..Due::default() };
        }
        let report = schedule.reports(iteration, self.iterations()) || ends;
        // A stop should be prompt, so its report omits the shares.
        let prompt = matches!(run.ending, Some(Ending::Stopped | Ending::Commanded));
        // In the tiled case, measuring shares takes as long as several iterations.
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
            counts: weights_measured
                || iteration == self.scales[self.scale].first
                || self.counted_first == Some(iteration)
                || (schedule.report_every > 0 && iteration.is_multiple_of(schedule.report_every))
                || schedule.snapshots(iteration)
                || schedule.states(iteration),
        }
    }

    /// Frees memory in the tiled case before another picture is kept, by dropping all earlier pictures but the one with
    /// the least loss.
    fn make_room(&mut self) -> Result<()> {
        if self.objective()?.is_tiled()
            && let Some((iteration, _, best)) = &self.best
        {
            self.last_good = Some((*iteration, best.clone()));
        }
        Ok(())
    }

    /// Submits an iteration and the read-backs of its report and snapshot.
    fn submit(&self, iteration: u32, due: Due) -> Result<SubmittedIteration> {
        // Losses and snapshot belong to the picture before the step of the same submission. After a measurement of the
        // weights, losses and group gradients are already computed. This does not depend on the schedule of reports, so
        // the schedule never changes how a step is computed.
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

    /// Runs the first iteration with its report and picture, waits for it, and discards the events; for benchmarks.
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
