//! Setbacks: failing runs go back, halve the step and continue, on both devices and with each optimiser.

use crate::common::golden::Golden;
use crate::common::objective::{iterate, network, picture, use_style_statistic, weigh};
use crate::common::runs::{CONTINUE, session};
use crate::common::{both_devices, turn};
use neural_mirage::graph::{Graph, TensorId};
use neural_mirage::mirage::optimizer::{Adam, Lbfgs, LineSearch, Optimizer, StateTensor, StepInputs};
use neural_mirage::mirage::{
    Checkpoint, Ending, Event, Fault, Request, RunResult, ScaleCount, Scales, Schedule, Session, Setback,
    State, Tiling,
};
use neural_mirage::ops::Shape;
use neural_mirage::{Error, Result};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What goes wrong in an optimiser.
#[derive(Debug)]
enum Wrong {
    /// The learning rate is NaN at a step the first so many times.
    NanAt(u32, AtomicU32),
    /// From a step on, the learning rate is negative, so that the loss rises.
    AscendsFrom(u32),
}

/// Wraps an optimiser in which something goes wrong.
#[derive(Debug)]
struct Glitch {
    inner: Arc<dyn Optimizer>,
    wrong: Wrong,
}

impl Glitch {
    fn around(inner: impl Optimizer + 'static, at: u32, times: u32) -> Arc<dyn Optimizer> {
        Arc::new(Self { inner: Arc::new(inner), wrong: Wrong::NanAt(at, AtomicU32::new(times)) })
    }

    fn ascending(inner: impl Optimizer + 'static, from: u32) -> Arc<dyn Optimizer> {
        Arc::new(Self { inner: Arc::new(inner), wrong: Wrong::AscendsFrom(from) })
    }
}

impl Optimizer for Glitch {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn key(&self) -> String {
        self.inner.key()
    }

    fn check(&self) -> Result<()> {
        self.inner.check()
    }

    fn state(&self, picture: Shape) -> Vec<StateTensor> {
        self.inner.state(picture)
    }

    fn needs_loss(&self) -> bool {
        self.inner.needs_loss()
    }

    fn shown(&self) -> Option<&'static str> {
        self.inner.shown()
    }

    fn clamps(&self) -> bool {
        self.inner.clamps()
    }

    fn watched(&self) -> &'static [&'static str] {
        self.inner.watched()
    }

    fn control(&self, done: u32) -> [f32; 4] {
        let control = self.inner.control(done);
        let left = |times: u32| times.checked_sub(1);
        match &self.wrong {
            Wrong::NanAt(at, times)
                if done == *at && times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() =>
            {
                [f32::NAN; 4]
            }
            Wrong::AscendsFrom(from) if done >= *from => [-control[0], control[1], control[2], control[3]],
            _ => control,
        }
    }

    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>> {
        self.inner.step(graph, inputs, state)
    }
}

/// A request of twelve iterations with given weights and a report every five.
fn request(golden: &Golden) -> Request {
    let mut request = Request::new(picture(golden, "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    weigh(&mut request, |_| 1.0);
    iterate(&mut request, 12);
    request.schedule.report_every = 5;
    request
}

/// Events that the observer received.
#[derive(Debug, Default)]
struct Observed {
    setbacks: Vec<Setback>,
    reports: Vec<u32>,
    totals: Vec<f64>,
    snapshots: Vec<u32>,
    states: Vec<State>,
}

fn run_observed(session: &mut Session) -> (Result<RunResult>, Observed) {
    let mut observed = Observed::default();
    let result = session.run(&mut |event: Event<'_>| {
        match event {
            Event::Setback(setback) => observed.setbacks.push(setback.clone()),
            Event::Report(report) => {
                observed.reports.push(report.iteration);
                observed.totals.push(report.total);
            }
            Event::Snapshot { iteration, picture, .. } => {
                assert!(picture.rgb.iter().all(|value| value.is_finite()));
                observed.snapshots.push(iteration);
            }
            Event::Picture { picture, .. } => assert!(picture.rgb.iter().all(|value| value.is_finite())),
            Event::State(state) => observed.states.push(state.clone()),
            _ => {}
        }
        CONTINUE
    });
    (result, observed)
}
/// The run goes back to the latest report, snapshot or state before the glitch, whenever it occurs and wherever it is
/// detected. Each event occurs once.
#[test]
fn setback_returns_to_last_good_picture() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let plain = Lbfgs { line_search: LineSearch::None, ..Lbfgs::default() };
    for engine in both_devices() {
        for lbfgs in [false, true] {
            for (at, to) in [(0, 0), (4, 4), (5, 5), (7, 6), (9, 8), (11, 10)] {
                let mut request = request(&golden);
                request.schedule.snapshot_at = vec![6];
                request.schedule.state_every = 4;
                request.optimizer = match lbfgs {
                    false => Glitch::around(Adam::default(), at, 1),
                    true => Glitch::around(plain, at, 1),
                };
                let mut session = session(&(engine.clone(), network.clone(), request.clone()), request);
                let (result, observed) = run_observed(&mut session);
                let result = result.unwrap();
                let what = format!("lbfgs {lbfgs}, glitch at {at}: {:?}", observed.setbacks);
                assert_eq!((result.ending, result.iterations), (Ending::Finished, 12), "{what}");
                let [setback] = observed.setbacks.as_slice() else { panic!("{what}") };
                assert_eq!((setback.iteration, setback.to, setback.halvings), (at, to, 1), "{what}");
                assert!(matches!(&setback.fault, Fault::NonFinite { count, .. } if *count > 0), "{what}");
                assert_eq!(observed.reports, [0, 5, 10, 12], "{what}");
                assert_eq!(observed.snapshots, [6], "{what}");
                let states: Vec<u32> = observed.states.iter().map(|state| state.iteration).collect();
                assert_eq!(states, [4, 8, 12], "{what}");
                for state in &observed.states {
                    assert!(state.tensors.iter().all(|(_, values)| values.iter().all(|v| v.is_finite())));
                    assert_eq!(state.halvings, u32::from(state.iteration > to), "{what}");
                }
                assert!(observed.totals.iter().all(|total| total.is_finite()));
                assert!(result.picture.rgb.iter().all(|value| value.is_finite()));
            }
        }
    }
}

#[test]
fn resumed_run_keeps_halved_step() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let mut request = request(&golden);
        request.schedule.state_every = 4;
        request.optimizer = Glitch::around(Adam::default(), 5, 1);
        let setting = (engine, network.clone(), request.clone());
        let (whole, observed) = run_observed(&mut session(&setting, request.clone()));
        let whole = whole.unwrap();
        request.optimizer = Arc::new(Adam::default());
        let state = &observed.states[1];
        assert_eq!((state.iteration, state.halvings), (8, 1));
        let resume = |state: State| {
            let mut resumed = session(&setting, request.clone());
            resumed.resume(state).unwrap();
            run_observed(&mut resumed).0.unwrap().picture
        };
        assert!(resume(state.clone()) == whole.picture);
        let mut full_step = state.clone();
        full_step.halvings = 0;
        assert!(resume(full_step) != whole.picture);
    }
}

#[test]
fn sixth_setback_ends_the_run_with_its_cause() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let mut request = request(&golden);
        request.optimizer = Glitch::around(Adam::default(), 7, 6);
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, observed) = run_observed(&mut session);
        let Err(Error::Unstable { cause, iteration, setbacks }) = result else { panic!("{result:?}") };
        assert_eq!((iteration, setbacks), (7, 5));
        assert!(cause.contains("picture"), "{cause}");
        assert_eq!(
            observed.setbacks.iter().map(|setback| setback.halvings).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        let (good, picture) = session.last_good().unwrap();
        assert_eq!(good, 5);
        assert!(picture.rgb.iter().all(|value| value.is_finite()));
        // The next run of the session starts with the full step.
        let (result, observed) = run_observed(&mut session);
        assert_eq!((result.unwrap().iterations, observed.setbacks.len()), (12, 0));
    }
}

/// The last step of a scale is checked before the next scale starts.
#[test]
fn failed_step_is_not_passed_to_next_scale() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let mut request = request(&golden);
        request.groups.retain(|group| group.name != "abstract");
        let count = ScaleCount::Exactly(2);
        request.scales = Scales { count, iterations: vec![7, 4], ..Scales::single(7) };
        request.optimizer = Glitch::around(Adam::default(), 6, 1);
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, observed) = run_observed(&mut session);
        let (setback, result) = (&observed.setbacks[0], result.unwrap());
        assert_eq!((observed.setbacks.len(), setback.iteration, setback.to), (1, 6, 5));
        assert_eq!(result.iterations, 11);
        assert!(result.picture.rgb.iter().all(|value| value.is_finite()));
    }
}

/// Without clamping, far too long steps make the loss explode while all values stay finite.
#[test]
fn exploding_loss_returns_to_lowest_loss() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let mut request = request(&golden);
        request.schedule.report_every = 1;
        request.optimizer =
            Arc::new(Adam { learning_rate: 64.0, clamp: false, decay: 0.0, ..Adam::default() });
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, observed) = run_observed(&mut session);
        println!("{result:?}\n{:?}\n{:?}", observed.setbacks, observed.totals);
        assert!(!observed.setbacks.is_empty());
        assert!(observed.setbacks.iter().all(|setback| matches!(setback.fault, Fault::Exploded { .. })));
        assert!(observed.totals.iter().all(|total| *total <= 1000.0 * observed.totals[0]));
        assert!(result.is_ok() || matches!(result, Err(Error::Unstable { .. })));
        assert_eq!(
            session.last_good().map(|(_, picture)| picture.rgb.iter().all(|v| v.is_finite())),
            Some(true)
        );
    }
}

/// A line search encounters non-finite losses and handles them itself.
#[test]
fn line_search_causes_no_setbacks() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let mut request = request(&golden);
        request.optimizer = Arc::new(Lbfgs { learning_rate: 1e25, clamp: false, ..Lbfgs::default() });
        request.schedule.report_every = 1;
        iterate(&mut request, 120);
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, observed) = run_observed(&mut session);
        assert!(result.unwrap().picture.rgb.iter().all(|value| value.is_finite()));
        assert!(observed.setbacks.is_empty(), "{:?}", observed.setbacks);
        assert!(observed.totals[1..].iter().any(|total| !total.is_finite()), "{:?}", observed.totals);
    }
}

/// If no step was short enough, the picture is still the start picture. That is an error, however few reports there are.
#[test]
fn line_search_without_finite_loss_is_an_error() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        for every in [0, 1] {
            let mut request = request(&golden);
            request.optimizer = Arc::new(Lbfgs { learning_rate: 1e25, clamp: false, ..Lbfgs::default() });
            request.schedule.report_every = every;
            let setting = (engine.clone(), network.clone(), request.clone());
            let mut failed = session(&setting, request.clone());
            let (result, observed) = run_observed(&mut failed);
            assert!(matches!(result, Err(Error::NoFiniteTrial { iterations: 12 })), "{result:?}");
            assert!(observed.setbacks.is_empty(), "{:?}", observed.setbacks);
            assert!(failed.last_good().is_some());
            // Still an error after a resume, and if the run ends because its picture doesn't change.
            let mut stepwise = request.clone();
            stepwise.schedule.state_every = 4;
            let (_, observed) = run_observed(&mut session(&setting, stepwise.clone()));
            iterate(&mut stepwise, 20);
            let mut resumed = session(&setting, stepwise);
            resumed.resume(observed.states.last().unwrap().clone()).unwrap();
            let (result, _) = run_observed(&mut resumed);
            assert!(matches!(result, Err(Error::NoFiniteTrial { iterations: 20 })), "{result:?}");
            let mut unchanging = request.clone();
            unchanging.stop_when_change_below = 1e-3;
            iterate(&mut unchanging, 40);
            let (result, _) = run_observed(&mut session(&setting, unchanging));
            assert!(matches!(result, Err(Error::NoFiniteTrial { iterations: ..25 })), "{result:?}");
            // Nor do the steps of another optimiser count.
            let mut adam = request.clone();
            adam.optimizer = Arc::new(Adam::default());
            adam.schedule.state_every = 12;
            // An average of the pictures would go on approaching the last one.
            adam.average_decay = 0.0;
            let (_, observed) = run_observed(&mut session(&setting, adam.clone()));
            let mut state = observed.states.last().unwrap().clone();
            state.forget_optimizer(&*adam.optimizer);
            let mut further = Request { average_decay: 0.0, ..request.clone() };
            iterate(&mut further, 20);
            let mut resumed = session(&setting, further);
            resumed.resume(state).unwrap();
            let (result, _) = run_observed(&mut resumed);
            assert!(matches!(result, Err(Error::NoFiniteTrial { iterations: 20 })), "{result:?}");
            // A stop is not the end.
            let mut stopped = session(&setting, request);
            let result = stopped.run(&mut |event: Event<'_>| match event {
                Event::Progress { iteration: 5, .. } => Ok(ControlFlow::Break(())),
                _ => CONTINUE,
            });
            assert_eq!(result.unwrap().ending, Ending::Stopped);
        }
    }
}

/// A scale without any step is no error if an earlier one made some.
#[test]
fn line_search_may_fail_in_later_scale() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let [_, cpu] = both_devices();
    for (first, is_error) in [(100, false), (3, true)] {
        let mut request = request(&golden);
        request.groups.retain(|group| group.name != "abstract");
        request.optimizer = Arc::new(Lbfgs { learning_rate: 1e20, clamp: false, ..Lbfgs::default() });
        let count = ScaleCount::Exactly(2);
        request.scales = Scales { count, iterations: vec![first, 4], ..Scales::single(7) };
        let mut session = session(&(cpu.clone(), network.clone(), request.clone()), request);
        let (result, observed) = run_observed(&mut session);
        assert!(!observed.totals.last().unwrap().is_finite(), "{:?}", observed.totals);
        assert_eq!(matches!(result, Err(Error::NoFiniteTrial { .. })), is_error, "{first}: {result:?}");
    }
}

/// A run that is stopped while its values are not finite goes back first, and saves a state to resume from.
#[test]
fn stop_after_a_failed_step_saves_a_good_state() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let mut request = request(&golden);
        request.optimizer = Glitch::around(Adam::default(), 5, 1);
        (request.schedule.report_every, request.schedule.state_when_stopped) = (4, true);
        let setting = (engine, network.clone(), request.clone());
        let (mut setbacks, mut states) = (Vec::new(), Vec::new());
        let mut stopped = session(&setting, request.clone());
        let result = stopped.run(&mut |event: Event<'_>| {
            match event {
                Event::Setback(setback) => setbacks.push(setback.clone()),
                Event::State(state) => states.push(state.clone()),
                Event::Progress { iteration: 5, .. } => return Ok(ControlFlow::Break(())),
                _ => {}
            }
            CONTINUE
        });
        let result = result.unwrap();
        assert_eq!((result.ending, result.iterations), (Ending::Stopped, 4), "{setbacks:?}");
        assert!(result.picture.rgb.iter().all(|value| value.is_finite()));
        assert_eq!(
            setbacks.iter().map(|setback| (setback.to, setback.halvings)).collect::<Vec<_>>(),
            [(4, 1)]
        );
        let [state] = states.as_slice() else { panic!("{states:?}") };
        assert_eq!((state.iteration, state.halvings), (4, 1));
        let mut resumed = session(&setting, request);
        resumed.resume(state.clone()).unwrap();
        let (result, observed) = run_observed(&mut resumed);
        assert_eq!((result.unwrap().iterations, observed.setbacks.len()), (12, 0));
    }
}

/// The loss at a stop is one more than those of the schedule, and may not complete a row of rises.
#[test]
fn stop_causes_no_setback() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let [_, cpu] = both_devices();
    let mut request = request(&golden);
    request.schedule.report_every = 10;
    request.optimizer = Glitch::ascending(Adam { decay: 0.0, ..Adam::default() }, 1);
    iterate(&mut request, 60);
    let (mut totals, mut setbacks) = (Vec::new(), 0);
    let mut session = session(&(cpu, network, request.clone()), request);
    let result = session.run(&mut |event: Event<'_>| {
        match event {
            Event::Report(report) => totals.push(report.total),
            Event::Setback(_) => setbacks += 1,
            Event::Progress { iteration: 32, .. } => return Ok(ControlFlow::Break(())),
            _ => {}
        }
        CONTINUE
    });
    assert_eq!(result.unwrap().ending, Ending::Stopped);
    assert!(totals.len() == 5 && totals.is_sorted(), "{totals:?}");
    assert_eq!(setbacks, 0);
}

/// A run that is resumed from a checkpoint goes back to a picture from before it, exactly as an uninterrupted one.
#[test]
fn resumed_run_knows_its_best_picture() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let [gpu, cpu] = both_devices();
    let ending = |result: Result<RunResult>| result.map(|result| result.picture).map_err(|e| e.to_string());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    for (engine, tiling) in [(gpu, Tiling::Whole), (cpu.clone(), Tiling::Whole), (cpu, Tiling::Side(32))] {
        let mut request = request(&golden);
        (request.schedule.state_every, request.tiling) = (10, tiling);
        request.optimizer = Glitch::ascending(Adam { decay: 0.0, ..Adam::default() }, 9);
        iterate(&mut request, 35);
        let setting = (engine, network.clone(), request.clone());
        let stops = Schedule { state_when_stopped: true, ..request.schedule.clone() };
        let (whole, observed) = run_observed(&mut session(&setting, request.clone()));
        let whole = ending(whole);
        let first = &observed.setbacks[0];
        println!("{:?} {:?}", observed.setbacks, observed.totals);
        assert!(matches!(first.fault, Fault::Rising { .. }) && first.to < 20, "{first:?}");
        let before: Vec<&State> = observed.states.iter().filter(|state| state.halvings == 0).collect();
        assert!(before.last().unwrap().iteration == 20, "{before:?}");
        for state in &before {
            let checkpoint = Checkpoint { state: (*state).clone(), texts: HashMap::new() };
            checkpoint.save(&path).unwrap();
            let mut resumed = session(&setting, request.clone());
            resumed.resume(Checkpoint::load(&path).unwrap().state).unwrap();
            let (result, again) = run_observed(&mut resumed);
            assert_eq!(again.setbacks, observed.setbacks, "from {}", state.iteration);
            assert!(ending(result) == whole, "from {}", state.iteration);
        }
        // A stop at any other iteration changes nothing either.
        let mut stopped = session(&setting, Request { schedule: stops, ..request.clone() });
        let mut saved = None;
        let result = stopped.run(&mut |event: Event<'_>| {
            match event {
                Event::State(state) => saved = Some(state.clone()),
                Event::Progress { iteration: 22, .. } => return Ok(ControlFlow::Break(())),
                _ => {}
            }
            CONTINUE
        });
        assert_eq!(result.unwrap().ending, Ending::Stopped);
        let saved = saved.unwrap();
        assert!(!saved.iteration.is_multiple_of(5), "{saved:?}");
        let mut resumed = session(&setting, request.clone());
        resumed.resume(saved).unwrap();
        let (result, again) = run_observed(&mut resumed);
        assert_eq!(again.setbacks, observed.setbacks, "after a stop");
        assert!(ending(result) == whole, "after a stop");
        // With other targets, the losses so far are no measure.
        let mut other = request.clone();
        let mut photo = picture(&golden, "photo");
        photo.rgb.iter_mut().for_each(|value| *value = 1.0 - *value);
        other.photo = Arc::new(photo);
        let mut resumed = session(&setting, other);
        resumed.resume(before[1].clone()).unwrap();
        let (_, again) = run_observed(&mut resumed);
        assert!(again.setbacks.iter().all(|setback| setback.to >= 20), "{:?}", again.setbacks);
    }
}
