//! Named sections and read-backs: execution, time of copying, and refused goals.

use crate::common::{assert_close, draw, engine, engine_with, turn};
use neural_mirage::Result;
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{Bindings, Engine, Goals, Graph, Program, Readback, TensorId, When};
use neural_mirage::ops::{Adam, Add, CaseInput, Op, Shape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::sync::Arc;

const MAP: Shape = Shape::Map { channels: 3, height: 5, width: 7 };
const FOUR: Shape = Shape::Vector(4);
const ADAM: Adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp: false };

/// Picture, gradient, both moments, counters and control of an optimiser, plus the doubled picture.
struct Setup {
    engine: Arc<Engine>,
    graph: Graph,
    bound: Bindings,
    inputs: [TensorId; 6],
    values: Vec<Vec<f32>>,
    double: TensorId,
    quadruple: TensorId,
    step: TensorId,
}

impl Setup {
    fn new() -> Self {
        Self::on(engine(Family::Auto))
    }

    fn on(engine: Arc<Engine>) -> Self {
        let mut graph = Graph::new();
        let shapes = [MAP, MAP, MAP, MAP, FOUR, FOUR];
        let inputs = shapes.map(|shape| graph.external("input", shape));
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let mut values: Vec<Vec<f32>> =
            shapes.iter().map(|shape| draw(*shape, CaseInput::Normal, &mut random)).collect();
        values[3] = values[3].iter().map(|value| value.abs()).collect();
        values[4] = vec![0.0; 4];
        values[5] = vec![0.25, 0.0, 0.0, 0.0];
        let mut bound = Bindings::new();
        for ((id, shape), values) in inputs.iter().zip(shapes).zip(&values) {
            bound.insert(*id, engine.tensor_with("input", shape, values).unwrap());
        }
        let double = graph.apply(Add, &[inputs[0], inputs[0]], "double").unwrap();
        let quadruple = graph.apply(Add, &[double, double], "quadruple").unwrap();
        let step = graph.apply(ADAM, &inputs, "step").unwrap();
        Self { engine, graph, bound, inputs, values, double, quadruple, step }
    }

    fn prepare(&self, goals: &Goals) -> Result<Program> {
        Program::prepare(&self.engine, &self.graph, &self.bound, goals, |_| 0)
    }

    /// Sections `double`, `quadruple`, `step` and `nothing`.
    fn goals(&self) -> Goals {
        Goals::default()
            .section("double", [self.double])
            .section("quadruple", [self.quadruple])
            .section("step", [self.step])
            .section("nothing", [])
    }

    /// Returns the picture after one step.
    fn stepped(&self) -> Vec<f64> {
        let wide: Vec<Vec<f64>> =
            self.values.iter().map(|values| values.iter().map(|value| f64::from(*value)).collect()).collect();
        let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
        ADAM.reference(&wide, &[MAP, MAP, MAP, MAP, FOUR, FOUR])[..MAP.elements()].to_vec()
    }
}

fn readback(name: &str, tensors: &[(&str, TensorId)], when: When) -> Readback {
    let tensors = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), *tensor)).collect();
    Readback { name: name.to_owned(), tensors, when, in_flight: 1 }
}

#[test]
fn values_are_read_by_name_before_and_after_work() {
    let _turn = turn();
    let setup = Setup::new();
    let [picture, _, _, _, counters, _] = setup.inputs;
    let state = [("picture", picture), ("counters", counters)];
    // Both `double` and `quadruple` are read although neither is bound.
    let report = [("step", setup.step), ("quadruple", setup.quadruple), ("picture", picture)];
    let goals = setup
        .goals()
        .readback(readback("state", &state, When::Before))
        .readback(readback("report", &report, When::After))
        .readback(readback("double", &[("double", setup.double)], When::After));
    let program = setup.prepare(&goals).unwrap();
    assert_eq!(program.staging_buffers(), 0);

    let sections = ["double", "step", "quadruple"];
    let mut submission = program.submit(&sections, &["report", "state", "double"], "work").unwrap();
    assert!(submission.take("nothing").is_none());
    let state = submission.take("state").unwrap().finish().unwrap();
    assert_eq!(state.get("picture").unwrap(), setup.values[0], "the state is from before the step");
    assert_eq!(state.get("counters").unwrap(), setup.values[4]);
    assert!(state.get("step").is_none());
    let mut report = submission.take("report").unwrap().finish().unwrap();
    let names: Vec<&str> = report.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["step", "quadruple", "picture"]);
    assert_eq!(report.get("step").unwrap(), [1.0]);
    // The node precedes the step, so it read the old picture.
    let quadruple: Vec<f32> = setup.values[0].iter().map(|value| value * 4.0).collect();
    assert_eq!(report.take("quadruple").unwrap(), quadruple);
    assert!(report.take("quadruple").is_none());
    // The tolerance of Adam's own cases.
    assert_close("the picture after the step", report.get("picture").unwrap(), &setup.stepped(), 2e-6);
    assert!(submission.take("report").is_none(), "a read-back is taken once");

    // Read-back tensors have memory of their own, so they keep their last value although no section ran.
    drop(submission);
    let mut submission = program.submit(&["nothing"], &["double"], "nothing").unwrap();
    submission.wait().unwrap();
    let double: Vec<f32> = setup.values[0].iter().map(|value| value * 2.0).collect();
    assert_eq!(submission.take("double").unwrap().finish().unwrap().get("double").unwrap(), double);
    assert_eq!(program.staging_buffers(), 3, "each read-back should reuse its staging buffer");
}

#[test]
fn staging_buffers_are_bounded_and_reused() {
    let _turn = turn();
    let setup = Setup::new();
    let mut read = readback("double", &[("double", setup.double)], When::After);
    read.in_flight = 2;
    let program = setup.prepare(&setup.goals().readback(read)).unwrap();
    let submit = || program.submit(&["double"], &["double"], "work");
    let (mut first, second) = (submit().unwrap(), submit().unwrap());
    let error = submit().unwrap_err().to_string();
    assert!(error.contains("staging buffers are in use"), "{error}");
    first.take("double").unwrap().finish().unwrap();
    let third = submit().unwrap();
    // Dropping one unread also releases its buffer.
    drop((second, third));
    for _ in 0..3 {
        submit().unwrap().take("double").unwrap().finish().unwrap();
    }
    assert_eq!(program.staging_buffers(), 2);
}

/// For example a state larger than the device's maximum buffer size.
#[test]
fn large_readbacks_use_several_buffers() {
    let _turn = turn();
    let setup = Setup::on(engine_with(&DeviceOptions::default(), |profile| {
        profile.max_buffer = MAP.bytes().next_multiple_of(16);
    }));
    let [picture, _, _, _, counters, control] = setup.inputs;
    // Each map spans two of the staging buffers.
    let tensors = [
        ("counters", counters),
        ("picture", picture),
        ("double", setup.double),
        ("control", control),
        ("quadruple", setup.quadruple),
    ];
    let mut read = readback("all", &tensors, When::After);
    read.in_flight = 2;
    let program = setup.prepare(&setup.goals().readback(read)).unwrap();
    let submit = || program.submit(&["double", "quadruple"], &["all"], "work");
    let times = |factor: f32| setup.values[0].iter().map(|value| value * factor).collect::<Vec<f32>>();
    for _ in 0..2 {
        let (first, second) = (submit().unwrap(), submit().unwrap());
        let error = submit().unwrap_err().to_string();
        assert!(error.contains("all 8 staging buffers are in use"), "{error}");
        for mut submission in [first, second] {
            let values = submission.take("all").unwrap().finish().unwrap();
            assert_eq!(values.get("counters").unwrap(), setup.values[4]);
            assert_eq!(values.get("picture").unwrap(), setup.values[0]);
            assert_eq!(values.get("double").unwrap(), times(2.0));
            assert_eq!(values.get("control").unwrap(), setup.values[5]);
            assert_eq!(values.get("quadruple").unwrap(), times(4.0));
        }
    }
    assert_eq!(program.staging_buffers(), 8, "two reads of three maps and two vectors");
}

#[test]
fn invalid_goals_are_refused_by_name() {
    let _turn = turn();
    let mut setup = Setup::new();
    let program = setup.prepare(&setup.goals()).unwrap();
    for (sections, readbacks) in [(["double", "single"], vec![]), (["double", "step"], vec!["single"])] {
        let error = program.submit(&sections, &readbacks, "work").unwrap_err().to_string();
        assert!(error.contains("single"), "{error}");
    }
    let unbound = setup.graph.external("unbound", MAP);
    let double = [("double", setup.double)];
    let wrong = [
        ("double", setup.goals().section("double", [setup.double])),
        (
            "twice",
            setup.goals().readback(readback("twice", &double, When::After)).readback(readback(
                "twice",
                &double,
                When::Before,
            )),
        ),
        ("double", setup.goals().readback(readback("read", &[double[0], double[0]], When::After))),
        ("unbound", setup.goals().readback(readback("read", &[("lost", unbound)], When::After))),
        // No section computes it.
        (
            "quadruple",
            Goals::all([setup.double]).readback(readback("read", &[("lost", setup.quadruple)], When::After)),
        ),
    ];
    for (name, goals) in wrong {
        let error = setup.prepare(&goals).expect_err(name).to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    let many =
        (0..65).fold(Goals::default(), |goals, index| goals.section(index.to_string(), [setup.double]));
    assert!(setup.prepare(&many).unwrap_err().to_string().contains("64"));
}

#[test]
fn only_requested_sections_run() {
    let _turn = turn();
    let mut setup = Setup::new();
    let mut goals = Goals::default();
    let mut read = Vec::new();
    let mut expected: HashMap<String, Vec<f32>> = HashMap::new();
    for index in 0..64 {
        let name = format!("sum {index}");
        let sum = setup.graph.apply(Add, &[setup.inputs[0], setup.inputs[1]], name.clone()).unwrap();
        let sums = setup.values[0].iter().zip(&setup.values[1]).map(|(one, other)| one + other);
        // Sections that did not run leave zeros, the content of fresh memory.
        let ran = index == 5 || index == 63;
        expected.insert(name.clone(), sums.map(|sum| if ran { sum } else { 0.0 }).collect());
        goals = goals.section(name.clone(), [sum]);
        read.push((name, sum));
    }
    let read = Readback { name: "sums".into(), tensors: read, when: When::After, in_flight: 1 };
    let program = setup.prepare(&goals.readback(read)).unwrap();
    let mut submission = program.submit(&["sum 63", "sum 5"], &["sums"], "two").unwrap();
    let values = submission.take("sums").unwrap().finish().unwrap();
    assert_eq!(values.iter().count(), 64);
    for (name, values) in values.iter() {
        assert_eq!(values, expected[name], "{name}");
    }
}
