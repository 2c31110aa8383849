//! The loop: start picture, steps, reports, snapshots, commands, and an orderly end.

use super::balance::Weights;
use super::event::{Event, Readout, Report};
use super::objective::{FACTORS, LOSSES, Numbers, SNAPSHOT, STEP, STEP_OF_FACTORS, Submitted, Wanting};
use super::readout::class_distance;
use super::request::Balance;
use super::session::{AHEAD, Session};
use super::start;
use super::state::State;
use crate::error::{Error, Result};
use crate::graph::Values;
use crate::image_io::Picture;
use crate::vgg::labels::top_k;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

/// After so many iterations the balance is measured once more: by then every loss is alive, and the
/// start's grain, which looks like nothing to the network, no longer decides the weights.
const REBALANCE_AT: u32 = 10;
/// How far the picture has moved is measured over so many iterations.
const LOOK_EVERY: u32 = 10;

/// What a listener answers: go on, or stop after the iterations that were submitted (two at most).
pub type Listener<'a> = dyn FnMut(Event<'_>) -> Result<ControlFlow<()>> + 'a;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All iterations were done.
    Finished,
    /// The picture changed by less than [`Request::stop_when_change_below`](super::Request).
    Settled,
    /// The listener asked to stop.
    Stopped,
    /// [`Controls::stop`](super::Controls::stop) was called.
    Commanded,
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
    /// Seconds from the first iteration to the last, without pauses.
    pub seconds: f64,
}

/// An iteration that was submitted and not yet told of.
#[derive(Debug)]
struct InFlight {
    /// Iterations before it.
    iteration: u32,
    submitted: Submitted,
    /// The weights it runs with.
    weights: Weights,
    wanted: Due,
}

/// What is to be told of an iteration.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    report: bool,
    /// With the factors' shares.
    shares: bool,
    snapshot: bool,
    picture: bool,
    state: bool,
    /// A look at how far the picture has moved.
    look: bool,
    /// It makes a step.
    step: bool,
    /// The run ends with it.
    last: bool,
    /// The balance was measured just before it.
    balanced: bool,
}

impl Session {
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
        self.most_in_flight = 0;
        let mut iteration = self.begin()?;
        let mut ending = listener(Event::Started(&self.started))?.is_break().then_some(Ending::Stopped);
        let first = iteration;
        let mut in_flight = VecDeque::new();
        let last = self.request.iterations;
        loop {
            let snapshot = self.obey(iteration, &mut in_flight, &mut ending, listener)?;
            let mut balanced = self.rebalances(iteration, first);
            if balanced {
                // Measuring waits for all that is in flight, so that is told first: events stay in order.
                self.tell_all(&mut in_flight, 0, &mut ending, listener)?;
                // Without any weights there would be no losses to tell.
                balanced = ending.is_none() || self.weights.measured.is_empty();
            }
            if balanced && self.rebalance(iteration, listener)?.is_break() {
                ending = ending.or(Some(Ending::Stopped));
            }
            if iteration == last {
                ending = ending.or(Some(Ending::Finished));
            }
            let due = self.due(iteration, ending, balanced, snapshot);
            in_flight.push_back(self.submit(iteration, due)?);
            self.most_in_flight = self.most_in_flight.max(in_flight.len());
            if ending.is_some() {
                break;
            }
            self.tell_all(&mut in_flight, AHEAD, &mut ending, listener)?;
            iteration += 1;
        }
        // It ends here whatever the listener still answers.
        self.tell_all(&mut in_flight, 0, &mut ending, listener)?;
        let Some((_, picture)) = &self.last_good else {
            return Err(Error::NonFinite { iteration, count: 0 });
        };
        Ok(Outcome {
            picture: picture.clone(),
            iterations: iteration,
            ending: ending.unwrap_or(Ending::Finished),
            seconds: self.seconds(),
        })
    }

    /// Sets picture, optimiser and weights to where the run begins; the answer is the number of iterations before.
    fn begin(&mut self) -> Result<u32> {
        self.last_good = None;
        self.looked = None;
        self.change = None;
        self.earlier = 0.0;
        self.measure = false;
        self.weights = Weights::given(&self.request);
        let mut iteration = 0;
        match self.resumed.take() {
            None => self.objective.set_picture(&start::picture(&self.request)?)?,
            Some(state) => {
                state.check(self.started.size)?;
                let moments = [state.first_moment.as_slice(), &state.second_moment];
                self.objective.set_state(&state.picture, moments, state.optimiser)?;
                iteration = state.iteration;
                self.earlier = state.seconds;
                self.looked.clone_from(&state.looked);
                if self.request.balance.is_some() {
                    self.weights = state.as_weights();
                    self.measure = state.balanced
                        || self.weights.raw.is_empty()
                        || state.balance != self.request.balance;
                }
            }
        }
        self.weights.apply(&self.objective)?;
        self.clock = Some(Instant::now());
        Ok(iteration)
    }

    /// Seconds of the run so far, without pauses.
    fn seconds(&self) -> f64 {
        self.earlier + self.clock.map_or(0.0, |clock| clock.elapsed().as_secs_f64())
    }

    /// Does what was asked for through the controls, and stays here while the run is held. True if a snapshot is
    /// wanted of the iteration to come.
    fn obey(
        &mut self,
        iteration: u32,
        in_flight: &mut VecDeque<InFlight>,
        ending: &mut Option<Ending>,
        listener: &mut Listener<'_>,
    ) -> Result<bool> {
        let mut wishes = self.controls.take();
        let mut snapshot = wishes.save;
        self.adopt(wishes.balance);
        if wishes.paused && !wishes.stop && ending.is_none() && iteration < self.request.iterations {
            self.tell_all(in_flight, 0, ending, listener)?;
            self.earlier = self.seconds();
            self.clock = None;
            tell_paused(true, iteration, ending, listener)?;
            // Whoever comes to look meanwhile finds the picture at which the run stands.
            let shown = Due { picture: self.request.schedule.has_pictures(), ..Due::default() };
            let shown = self.submit(iteration, shown)?;
            self.tell(shown, ending, listener)?;
            while wishes.paused && !wishes.stop && ending.is_none() {
                if snapshot {
                    let due = Due { snapshot: true, ..Due::default() };
                    let submitted = self.submit(iteration, due)?;
                    self.tell(submitted, ending, listener)?;
                    snapshot = false;
                }
                self.controls.wait();
                wishes = self.controls.take();
                snapshot |= wishes.save;
                self.adopt(wishes.balance);
            }
            self.clock = Some(Instant::now());
            tell_paused(false, iteration, ending, listener)?;
        }
        if wishes.stop {
            *ending = ending.or(Some(Ending::Commanded));
        }
        Ok(snapshot)
    }

    /// Takes over new shares: they are measured before the next step.
    fn adopt(&mut self, balance: Option<Balance>) {
        if let Some(balance) = balance {
            self.request.balance = Some(balance);
            self.measure = true;
        }
    }

    fn rebalances(&self, iteration: u32, first: u32) -> bool {
        let every = self.request.rebalance_every;
        // A loss at its minimum has no gradient to measure: try again until it has one.
        let due = iteration == 0
            || self.measure
            || iteration == REBALANCE_AT
            || (iteration < REBALANCE_AT && self.weights.incomplete())
            || (every > 0 && iteration.is_multiple_of(every));
        // The last iteration makes no step, so weights are of no use to it but for its own report.
        self.request.balance.is_some() && due && (iteration == first || iteration < self.request.iterations)
    }

    fn rebalance(&mut self, iteration: u32, listener: &mut Listener<'_>) -> Result<ControlFlow<()>> {
        let Some(balance) = self.request.balance else { return Ok(ControlFlow::Continue(())) };
        let context = &self.engine.context;
        let _span = context.trace().map(|trace| trace.host("host", "measuring the balance"));
        self.weights = Weights::balanced(&self.objective, &self.request, balance, &self.weights)?;
        self.measure = false;
        listener(Event::Balanced { iteration, balance, weights: &self.weights.measured })
    }

    /// What is due at an iteration, of which nothing is submitted yet.
    fn due(&self, iteration: u32, ending: Option<Ending>, balanced: bool, snapshot: bool) -> Due {
        let schedule = &self.request.schedule;
        let ends = ending.is_some();
        let report = schedule.reports(iteration, self.request.iterations) || ends;
        // A stop should be prompt, so it goes without the shares.
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
            balanced,
        }
    }

    /// Submits what an iteration takes, report and snapshot included.
    fn submit(&self, iteration: u32, due: Due) -> Result<InFlight> {
        // Losses and snapshot are of the picture before the step of the same submission. The balance has
        // measured losses and factors here, and left the gradients. It is the same at every schedule of reports,
        // so these do not decide which way the step is computed.
        let numbers = due.report || due.snapshot;
        let from_factors = due.balanced && self.objective.sums_factors();
        let sections = [
            (LOSSES, numbers && !due.balanced),
            (FACTORS, due.shares && !due.balanced),
            (SNAPSHOT, due.report || due.snapshot || due.picture || due.look),
            (STEP, due.step && !from_factors),
            (STEP_OF_FACTORS, due.step && from_factors),
        ];
        let sections: Vec<&str> = sections.iter().filter(|(_, due)| *due).map(|(name, _)| *name).collect();
        let submitted = self.objective.run(&sections, Wanting { report: numbers, state: due.state })?;
        Ok(InFlight { iteration, submitted, weights: self.weights.clone(), wanted: due })
    }

    /// Waits for the oldest iterations until no more than `left` are in flight, and tells of them in order.
    fn tell_all(
        &mut self,
        in_flight: &mut VecDeque<InFlight>,
        left: usize,
        ending: &mut Option<Ending>,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        while in_flight.len() > left
            && let Some(oldest) = in_flight.pop_front()
        {
            self.tell(oldest, ending, listener)?;
        }
        Ok(())
    }

    /// The first iteration with its report and picture, waited for and told to nobody; for benches.
    pub(super) fn one_iteration(&mut self) -> Result<()> {
        let ignore: &mut Listener<'_> = &mut |_| Ok(ControlFlow::Continue(()));
        let first = self.begin()?;
        let balanced = self.rebalances(first, first);
        if balanced {
            let _ = self.rebalance(first, ignore)?;
        }
        let submitted = self.submit(first, self.due(first, None, balanced, false))?;
        self.tell(submitted, &mut None, ignore)
    }

    /// Waits for one iteration and tells of it.
    fn tell(
        &mut self,
        done: InFlight,
        ending: &mut Option<Ending>,
        listener: &mut Listener<'_>,
    ) -> Result<()> {
        let InFlight { iteration, submitted, weights, wanted } = done;
        let engine = self.engine.clone();
        let context = &engine.context;
        let _span =
            context.trace().map(|trace| trace.host("host", format!("telling of iteration {iteration}")));
        let mut tell = |event: Event<'_>| -> Result<()> {
            if listener(event)?.is_break() {
                *ending = ending.or(Some(Ending::Stopped));
            }
            Ok(())
        };
        if submitted.report.is_none() && submitted.snapshot.is_none() && submitted.state.is_none() {
            submitted.submission.wait()?;
        }
        let numbers = match submitted.report {
            Some(pending) => Some(self.objective.numbers(&pending.finish()?)),
            None => None,
        };
        if let Some(numbers) = &numbers
            && !(numbers.non_finite == 0.0)
        {
            return Err(Error::NonFinite { iteration, count: numbers.non_finite as u64 });
        }
        let seconds = self.seconds();
        let readout = numbers.as_ref().map(|numbers| self.readout(numbers)).unwrap_or_default();
        let mut settled = false;
        if let Some(pending) = submitted.snapshot {
            let [height, width] = self.started.size;
            let rgb = pending.finish()?.take("picture").unwrap_or_default();
            let picture = Picture { width, height, rgb };
            if wanted.snapshot {
                tell(Event::Snapshot { iteration, picture: &picture, seconds, readout: &readout })?;
            }
            if wanted.picture {
                tell(Event::Picture { iteration, picture: &picture, last: wanted.last })?;
            }
            if picture.rgb.iter().all(|value| value.is_finite()) {
                settled = wanted.look && self.look(iteration, &picture);
                self.last_good = Some((iteration, picture));
            }
        }
        if let Some(pending) = submitted.state {
            let state = self.state(iteration, seconds, &weights, wanted.balanced, pending.finish()?);
            // One that nothing can go on from would only replace a good one.
            if state.check(self.started.size).is_ok() {
                tell(Event::State(&state))?;
            }
        }
        if let Some(numbers) = numbers
            && wanted.report
        {
            let terms = self.weighted(&numbers.losses, &weights);
            let report = Report {
                iteration,
                seconds,
                total: terms.iter().map(|term| term.loss).sum(),
                terms,
                gradient_shares: if wanted.shares { weights.shares(numbers.norms) } else { Vec::new() },
                readout,
                change: self.change,
            };
            tell(Event::Report(&report))?;
        }
        if wanted.step {
            tell(Event::Progress { iteration: iteration + 1, seconds })?;
        }
        if settled {
            *ending = ending.or(Some(Ending::Settled));
        }
        Ok(())
    }

    /// Measures how far the picture has moved since the last look. True if that is so little that the run is to
    /// end.
    fn look(&mut self, iteration: u32, picture: &Picture) -> bool {
        if let Some((before, old)) = &self.looked
            && iteration > *before
        {
            let sum: f64 = old.iter().zip(&picture.rgb).map(|(old, new)| f64::from((new - old).abs())).sum();
            self.change = Some((sum / old.len() as f64 / f64::from(iteration - before)) as f32);
        }
        self.looked = Some((iteration, picture.rgb.clone()));
        self.change.is_some_and(|change| change < self.request.stop_when_change_below)
    }

    fn readout(&self, numbers: &Numbers) -> Readout {
        let photo = &self.objective.photo_probabilities;
        let known = !photo.is_empty() && numbers.probabilities.len() == photo.len();
        Readout {
            classes: top_k(&numbers.probabilities, self.request.top_classes),
            distance: known.then(|| class_distance(photo, &numbers.probabilities)),
        }
    }

    fn state(
        &self,
        iteration: u32,
        seconds: f64,
        weights: &Weights,
        balanced: bool,
        values: Values,
    ) -> State {
        let ([picture, first_moment, second_moment], optimiser) = self.objective.state(values);
        State {
            iteration,
            seconds,
            size: self.started.size,
            picture,
            first_moment,
            second_moment,
            optimiser,
            balance: self.request.balance,
            weights: weights.raw.clone(),
            measured: weights.measured.clone(),
            balanced,
            looked: self.looked.clone().filter(|_| self.request.stop_when_change_below > 0.0),
        }
    }
}

fn tell_paused(
    paused: bool,
    iteration: u32,
    ending: &mut Option<Ending>,
    listener: &mut Listener<'_>,
) -> Result<()> {
    if listener(Event::Paused { iteration, paused })?.is_break() {
        *ending = ending.or(Some(Ending::Stopped));
    }
    Ok(())
}
