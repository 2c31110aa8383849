//! Processes finished iterations: checks them for faults, sends events to observers, and goes back after a fault.

use super::event::{Event, Readout, Report};
use super::loop_state::{Due, Ending, RunLoop, SubmittedIteration};
use super::session::{Session, weighted};
use super::state::{EarlierScale, LossHistory, State};
use crate::error::{Error, Result};
use crate::graph::Pending;
use crate::mirage::loss::Shares;
use crate::mirage::objective::Numbers;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::objective::readout::class_distance;
use crate::mirage::objective::sections::{GRADIENT, NON_FINITE, PICTURE, REPORT, STATE};
use crate::mirage::setback::{Fault, LossTrend, MOST_SETBACKS, Setback};
use crate::mirage::weighting::Weights;
use crate::vgg::labels::top_k;

/// Largest number of values for measuring the change of a picture: more would not improve the mean.
pub(in crate::mirage) const CHANGE_SAMPLES: usize = 3 << 20;

/// Relative difference up to which a resumed run has the loss of its checkpoint. Adapters differ by up to 1e-3 after
/// some iterations; other targets or layers differ by more.
const SAME_LOSS: f64 = 0.01;

impl Session {
    /// Waits for the oldest iterations until at most `left` are in flight, and reports them in order. Stops at one with
    /// a fault, after which [`RunLoop::back`] is the iteration to continue from.
    pub(in crate::mirage) fn report_down_to(&mut self, run: &mut RunLoop<'_>, left: usize) -> Result<()> {
        while run.in_flight.len() > left
            && let Some(oldest) = run.in_flight.pop_front()
        {
            self.report(oldest, run)?;
        }
        Ok(())
    }

    /// Waits for all iterations before this one, reports them, and checks them for faults. False if the run goes back.
    pub(in crate::mirage) fn settle(&mut self, iteration: u32, run: &mut RunLoop<'_>) -> Result<bool> {
        self.report_down_to(run, 0)?;
        if run.back.is_none()
            && let Some((before, fault)) = self.objective()?.read_health()?
        {
            self.go_back(iteration.saturating_sub(1 + before), fault, run)?;
        }
        Ok(run.back.is_none())
    }

    /// Waits for an iteration and reports it, unless it has a fault.
    ///
    /// # Errors
    /// [`Error::NoFiniteTrial`] for the last iteration of a run that could not make any step; those of the device, the
    /// observers and [`Session::go_back`].
    pub(in crate::mirage) fn report(
        &mut self,
        done: SubmittedIteration,
        run: &mut RunLoop<'_>,
    ) -> Result<()> {
        let SubmittedIteration { iteration, mut submission, weights, due } = done;
        let engine = self.engine.clone();
        let trace = engine.trace();
        let _span = trace.map(|trace| trace.host("host", format!("reporting iteration {iteration}")));
        let [numbers, picture, state, health] =
            [REPORT, PICTURE, STATE, NON_FINITE].map(|name| submission.take(name));
        let Some(health) = health else {
            submission.wait()?;
            let seconds = self.seconds();
            return match due.step {
                true => run.emit(Event::Progress { iteration: iteration + 1, seconds }),
                false => Ok(()),
            };
        };
        let finish = |pending: Option<Pending>| pending.map(Pending::finish).transpose();
        let (numbers, picture, state) = (finish(numbers)?, finish(picture)?, finish(state)?);
        let objective = self.objective()?;
        let numbers = numbers.map(|values| objective.numbers(values));
        let terms = numbers.as_ref().map(|numbers| weighted(&objective.terms, &numbers.losses, &weights));
        let total = terms.as_ref().map(|terms| terms.iter().map(|term| term.loss).sum::<f64>());
        // A picture is good if its gradient is finite; then only the step from it failed.
        let mut bad_step = None;
        if let Some((before, fault)) = objective.health(&health.finish()?) {
            let of_gradient = matches!(&fault, Fault::NonFinite { tensor, .. } if tensor == GRADIENT);
            if before > 0 || !due.step || of_gradient {
                let step = if due.step { iteration } else { iteration.saturating_sub(1) };
                return self.go_back(step.saturating_sub(before), fault, run);
            }
            bad_step = Some(fault);
        }
        let drops_earlier = total.is_some_and(|total| self.drops_earlier_losses(iteration, total));
        let counts = due.counts || drops_earlier;
        let trend = self.trend;
        if let Some(total) = total
            && let Some(fault) = self.loss_fault(iteration, total, counts, run)?
        {
            return self.go_back(iteration, fault, run);
        }
        let picture = self.objective()?.snapshot(picture);
        if let Some(picture) = &picture {
            let counted = total.filter(|_| counts);
            if let Some(fault) = self.remember(iteration, counted, picture) {
                return self.go_back(iteration, fault, run);
            }
            self.has_moved = self.has_moved || self.differs_from_start(picture)?;
        }
        let seconds = self.seconds();
        let readout = numbers.as_ref().map(|numbers| self.readout(numbers)).transpose()?.unwrap_or_default();
        let mut settled = false;
        if let Some(kept) = picture {
            show(iteration, &kept, &due, seconds, &readout, run)?;
            settled = due.change && self.measure_change(iteration, &kept);
        }
        let tensors = match state {
            Some(values) => Some(values.into_iter().collect()),
            None if due.takes_state() => Some(self.objective()?.take_state()?),
            None => None,
        };
        if let Some(tensors) = tensors {
            let losses = self.loss_history(iteration, total, trend)?;
            let state = self.state(iteration, seconds, &weights, due.weights_measured, tensors, losses)?;
            // A state that can't be resumed would replace a good checkpoint.
            if state.check(self.scales[self.scale].size).is_ok() {
                run.emit(Event::State(&state))?;
            }
        }
        if let (Some(numbers), Some(terms), Some(total), true) = (numbers, terms, total, due.report) {
            let objective = self.objective()?;
            let measures = |group: &str| objective.measures(group);
            let report = Report {
                iteration,
                seconds,
                total,
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
        let is_over = due.last && matches!(run.ending, Some(Ending::Finished | Ending::Settled));
        if is_over && !self.has_moved && total.is_some_and(|total| !total.is_finite()) {
            return Err(Error::NoFiniteTrial { iterations: iteration });
        }
        if let Some(fault) = bad_step {
            return self.go_back(iteration, fault, run);
        }
        if due.step {
            run.emit(Event::Progress { iteration: iteration + 1, seconds })?;
        }
        if settled {
            run.ending = run.ending.or(Some(Ending::Settled));
        }
        Ok(())
    }

    /// Drops the losses of a resumed run's checkpoint if the loss at its iteration differs, and returns true if so.
    fn drops_earlier_losses(&mut self, iteration: u32, total: f64) -> bool {
        let Some(before) = self.loss_before.take() else { return false };
        let is_same = (total - before).abs() <= SAME_LOSS * before.abs();
        if !is_same {
            self.best = None;
            self.trend = LossTrend::new(iteration, false);
        }
        !is_same
    }

    /// Returns the losses for a checkpoint; `trend` does not yet include that of this iteration.
    fn loss_history(
        &self,
        iteration: u32,
        total: Option<f64>,
        trend: LossTrend,
    ) -> Result<Option<LossHistory>> {
        let rejects = self.objective()?.rejects();
        let loss = total.filter(|total| total.is_finite() && !rejects);
        let best = self.best.clone().filter(|(at, ..)| *at != iteration);
        Ok(loss.map(|loss| LossHistory { loss, trend, best }))
    }

    /// Keeps a picture for setbacks, and the one with the least loss. Returns a fault if the picture is not finite.
    fn remember(&mut self, iteration: u32, total: Option<f64>, picture: &KeptPicture) -> Option<Fault> {
        let non_finite = picture.non_finite();
        if non_finite > 0 {
            return Some(Fault::NonFinite { tensor: PICTURE.to_owned(), count: non_finite as u64 });
        }
        if let Some(total) = total
            && total.is_finite()
            && self.best.as_ref().is_none_or(|(_, least, _)| total <= *least)
        {
            self.best = Some((iteration, total, picture.clone()));
        }
        self.last_good = Some((iteration, picture.clone()));
        None
    }

    /// Returns the fault of the loss after an iteration, if any.
    fn loss_fault(
        &mut self,
        iteration: u32,
        total: f64,
        counts: bool,
        run: &RunLoop<'_>,
    ) -> Result<Option<Fault>> {
        // An optimiser that rejects pictures may be trying a bad one, once it has accepted another.
        let rejects = self.objective()?.rejects();
        let has_accepted = iteration > run.first || self.accepted_before == Some(iteration);
        if !total.is_finite() {
            return Ok((!rejects || !has_accepted).then_some(Fault::NonFiniteLoss));
        }
        if rejects {
            return Ok(None);
        }
        let mut trend = self.trend;
        let fault = trend.follow(iteration, total);
        if counts {
            self.trend = trend;
            return Ok(fault);
        }
        // The losses before this one are those of the schedule; one more could make a rise.
        Ok(fault.filter(|fault| !matches!(fault, Fault::Rising { .. })))
    }

    /// True if the picture is not the one that the current scale started from, which an optimiser that rejects pictures
    /// may never leave.
    fn differs_from_start(&mut self, picture: &KeptPicture) -> Result<bool> {
        if !self.objective()?.rejects() {
            return Ok(true);
        }
        let hash = picture.hash();
        Ok(*self.start_hash.get_or_insert(hash) != hash)
    }

    /// Returns to the last good picture and halves the step size; after a divergence, to the picture with the least
    /// loss. Later submissions are dropped. A run that is being stopped, or has settled, ends there.
    ///
    /// # Errors
    /// [`Error::Unstable`] if there is no good picture at this scale, or if there were too many setbacks.
    fn go_back(&mut self, iteration: u32, fault: Fault, run: &mut RunLoop<'_>) -> Result<()> {
        for later in run.in_flight.drain(..) {
            later.submission.wait()?;
        }
        let best = self.best.clone().filter(|_| fault.is_divergence());
        if let Some((to, _, picture)) = best {
            self.last_good = Some((to, picture));
        }
        let good = self.last_good.clone();
        let scale = self.scales[self.scale];
        let of_scale =
            |(to, picture): &(u32, KeptPicture)| *to >= scale.first && picture.size() == scale.size;
        let gives_up = match run.ending {
            Some(Ending::Settled) => true,
            Some(Ending::Stopped | Ending::Commanded) => {
                self.halvings >= MOST_SETBACKS || !good.as_ref().is_some_and(of_scale)
            }
            _ => false,
        };
        if let Some((to, _)) = good.as_ref().filter(|_| gives_up) {
            (run.back, run.gave_up) = (Some(*to), true);
            return Ok(());
        }
        let good = good.filter(of_scale);
        let Some((to, picture)) = good.filter(|_| self.halvings < MOST_SETBACKS) else {
            let (cause, setbacks) = (fault.to_string(), self.halvings);
            return Err(Error::Unstable { cause, iteration, setbacks });
        };
        self.halvings += 1;
        // Everything is set again below.
        self.objective()?.release();
        self.objective()?.set_picture(&picture.picture())?;
        self.trend = self.trend.gone_back();
        (self.last_look, self.change) = (None, None);
        (run.back, run.reported) = (Some(to), Some(to));
        let setback = Setback { fault, iteration, to, halvings: self.halvings };
        run.emit(Event::Setback(&setback))
    }

    /// Measures the change of the picture since the last comparison. True if it is small enough to end the run.
    fn measure_change(&mut self, iteration: u32, picture: &KeptPicture) -> bool {
        let looked_at = picture.some_values(CHANGE_SAMPLES);
        if let Some((before, old)) = &self.last_look
            && iteration > *before
            && old.len() == looked_at.len()
        {
            let sum: f64 = old.iter().zip(&looked_at).map(|(old, new)| f64::from((new - old).abs())).sum();
            self.change = Some((sum / old.len() as f64 / f64::from(iteration - before)) as f32);
        }
        self.last_look = Some((iteration, looked_at));
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
        mut tensors: Vec<(String, Vec<f32>)>,
        losses: Option<LossHistory>,
    ) -> Result<State> {
        tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(State {
            iteration,
            seconds,
            scale: self.scale,
            size: self.scales[self.scale].size,
            earlier_scales: Some(EarlierScale::list(&self.scales[..self.scale])),
            tensors,
            shares: Shares::of(&self.objective()?.groups),
            weights: weights.clone(),
            weights_measured,
            shares_changed: self.measure,
            halvings: self.halvings,
            last_look: self.last_look.as_ref().filter(|_| self.request.stop_when_change_below > 0.0).cloned(),
            has_moved: self.has_moved,
            losses,
        })
    }
}

/// Sends the picture after an iteration to the observers, as far as it is due.
fn show(
    iteration: u32,
    kept: &KeptPicture,
    due: &Due,
    seconds: f64,
    readout: &Readout,
    run: &mut RunLoop<'_>,
) -> Result<()> {
    if !due.snapshot && !due.picture {
        return Ok(());
    }
    let picture = kept.picture();
    if due.snapshot {
        run.emit(Event::Snapshot { iteration, picture: &picture, seconds, readout })?;
    }
    if due.picture {
        run.emit(Event::Picture { iteration, picture: &picture, last: due.last })?;
    }
    Ok(())
}
