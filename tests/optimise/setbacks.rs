//! Runs in which something goes wrong: they go back, halve the step and go on, on both devices, with each optimiser.

use crate::common::golden::Golden;
use crate::common::objective::{iterate, network, picture, use_style_statistic, weigh};
use crate::common::runs::{GO_ON, session};
use crate::common::{both, turn};
use neural_mirage::graph::{Graph, TensorId};
use neural_mirage::mirage::optimizer::{Adam, Lbfgs, LineSearch, Optimizer, StateTensor, StepInputs};
use neural_mirage::mirage::{
    Ending, Event, Fault, Request, RunResult, ScaleCount, Scales, Session, Setback, State,
};
use neural_mirage::ops::Shape;
use neural_mirage::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// An optimiser whose learning rate is NaN at some step, the first few times.
#[derive(Debug)]
struct Glitch {
    inner: Arc<dyn Optimizer>,
    at: u32,
    times: AtomicU32,
}

impl Glitch {
    fn around(inner: impl Optimizer + 'static, at: u32, times: u32) -> Arc<dyn Optimizer> {
        Arc::new(Self { inner: Arc::new(inner), at, times: AtomicU32::new(times) })
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
        let left = |times: u32| times.checked_sub(1);
        if done == self.at && self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
            return [f32::NAN; 4];
        }
        self.inner.control(done)
    }

    fn step(&self, graph: &mut Graph, inputs: &StepInputs, state: &[TensorId]) -> Result<Vec<TensorId>> {
        self.inner.step(graph, inputs, state)
    }
}

/// Twelve iterations with given weights, a report every five.
fn request(golden: &Golden) -> Request {
    let mut request = Request::new(picture(golden, "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    weigh(&mut request, |_| 1.0);
    iterate(&mut request, 12);
    request.schedule.report_every = 5;
    request
}

/// What a run told its observer.
#[derive(Debug, Default)]
struct Heard {
    setbacks: Vec<Setback>,
    reports: Vec<u32>,
    totals: Vec<f64>,
    snapshots: Vec<u32>,
    states: Vec<State>,
}

fn listen(session: &mut Session) -> (Result<RunResult>, Heard) {
    let mut heard = Heard::default();
    let result = session.run(&mut |event: Event<'_>| {
        match event {
            Event::Setback(setback) => heard.setbacks.push(setback.clone()),
            Event::Report(report) => {
                heard.reports.push(report.iteration);
                heard.totals.push(report.total);
            }
            Event::Snapshot { iteration, picture, .. } => {
                assert!(picture.rgb.iter().all(|value| value.is_finite()));
                heard.snapshots.push(iteration);
            }
            Event::Picture { picture, .. } => assert!(picture.rgb.iter().all(|value| value.is_finite())),
            Event::State(state) => heard.states.push(state.clone()),
            _ => {}
        }
        GO_ON
    });
    (result, heard)
}
/// The newest report, snapshot or state before the glitch is where the run goes back to, whenever the glitch comes and
/// wherever it is noticed; each event comes once.
#[test]
fn a_run_goes_back_to_its_last_good_picture() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let plain = Lbfgs { line_search: LineSearch::None, ..Lbfgs::default() };
    for engine in both() {
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
                let (result, heard) = listen(&mut session);
                let result = result.unwrap();
                let what = format!("lbfgs {lbfgs}, glitch at {at}: {:?}", heard.setbacks);
                assert_eq!((result.ending, result.iterations), (Ending::Finished, 12), "{what}");
                let [setback] = heard.setbacks.as_slice() else { panic!("{what}") };
                assert_eq!((setback.iteration, setback.to, setback.halvings), (at, to, 1), "{what}");
                assert!(matches!(&setback.fault, Fault::NonFinite { count, .. } if *count > 0), "{what}");
                assert_eq!(heard.reports, [0, 5, 10, 12], "{what}");
                assert_eq!(heard.snapshots, [6], "{what}");
                let states: Vec<u32> = heard.states.iter().map(|state| state.iteration).collect();
                assert_eq!(states, [4, 8, 12], "{what}");
                for state in &heard.states {
                    assert!(state.tensors.iter().all(|(_, values)| values.iter().all(|v| v.is_finite())));
                    assert_eq!(state.halvings, u32::from(state.iteration > to), "{what}");
                }
                assert!(heard.totals.iter().all(|total| total.is_finite()));
                assert!(result.picture.rgb.iter().all(|value| value.is_finite()));
            }
        }
    }
}

#[test]
fn a_resumed_run_keeps_the_halved_step() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both() {
        let mut request = request(&golden);
        request.schedule.state_every = 4;
        request.optimizer = Glitch::around(Adam::default(), 5, 1);
        let setting = (engine, network.clone(), request.clone());
        let (whole, heard) = listen(&mut session(&setting, request.clone()));
        let whole = whole.unwrap();
        request.optimizer = Arc::new(Adam::default());
        let state = &heard.states[1];
        assert_eq!((state.iteration, state.halvings), (8, 1));
        let resume = |state: State| {
            let mut resumed = session(&setting, request.clone());
            resumed.resume(state).unwrap();
            listen(&mut resumed).0.unwrap().picture
        };
        assert!(resume(state.clone()) == whole.picture);
        assert!(resume(State { halvings: 0, ..state.clone() }) != whole.picture);
    }
}

#[test]
fn the_sixth_time_ends_the_run_with_its_cause() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both() {
        let mut request = request(&golden);
        request.optimizer = Glitch::around(Adam::default(), 7, 6);
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, heard) = listen(&mut session);
        let Err(Error::Unstable { cause, iteration, setbacks }) = result else { panic!("{result:?}") };
        assert_eq!((iteration, setbacks), (7, 5));
        assert!(cause.contains("picture"), "{cause}");
        assert_eq!(
            heard.setbacks.iter().map(|setback| setback.halvings).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        let (good, picture) = session.last_good().unwrap();
        assert_eq!(good, 5);
        assert!(picture.rgb.iter().all(|value| value.is_finite()));
        // The next run of the session starts with the whole step.
        let (result, heard) = listen(&mut session);
        assert_eq!((result.unwrap().iterations, heard.setbacks.len()), (12, 0));
    }
}

/// The last step of a scale is checked before it is taken to the next.
#[test]
fn a_scale_does_not_hand_over_what_went_wrong() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both() {
        let mut request = request(&golden);
        request.groups.retain(|group| group.name != "abstract");
        let count = ScaleCount::Exactly(2);
        request.scales = Scales { count, iterations: vec![7, 4], ..Scales::single(7) };
        request.optimizer = Glitch::around(Adam::default(), 6, 1);
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, heard) = listen(&mut session);
        let (setback, result) = (&heard.setbacks[0], result.unwrap());
        assert_eq!((heard.setbacks.len(), setback.iteration, setback.to), (1, 6, 5));
        assert_eq!(result.iterations, 11);
        assert!(result.picture.rgb.iter().all(|value| value.is_finite()));
    }
}

/// Unclamped, a step that is far too long makes the loss explode while all values stay finite.
#[test]
fn a_loss_that_explodes_goes_back_to_the_least_one() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both() {
        let mut request = request(&golden);
        request.schedule.report_every = 1;
        request.optimizer =
            Arc::new(Adam { learning_rate: 64.0, clamp: false, decay: 0.0, ..Adam::default() });
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, heard) = listen(&mut session);
        println!("{result:?}\n{:?}\n{:?}", heard.setbacks, heard.totals);
        assert!(!heard.setbacks.is_empty());
        assert!(heard.setbacks.iter().all(|setback| matches!(setback.fault, Fault::Exploded { .. })));
        assert!(heard.totals.iter().all(|total| *total <= 1000.0 * heard.totals[0]));
        assert!(result.is_ok() || matches!(result, Err(Error::Unstable { .. })));
        assert_eq!(
            session.last_good().map(|(_, picture)| picture.rgb.iter().all(|v| v.is_finite())),
            Some(true)
        );
    }
}

/// A line search meets pictures whose loss is not finite, and deals with them itself.
#[test]
fn a_line_search_is_left_alone() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both() {
        let mut request = request(&golden);
        request.optimizer = Arc::new(Lbfgs { learning_rate: 1e25, clamp: false, ..Lbfgs::default() });
        request.schedule.report_every = 1;
        let mut session = session(&(engine, network.clone(), request.clone()), request);
        let (result, heard) = listen(&mut session);
        assert!(result.unwrap().picture.rgb.iter().all(|value| value.is_finite()));
        assert!(heard.setbacks.is_empty(), "{:?}", heard.setbacks);
    }
}
