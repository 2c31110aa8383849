//! L-BFGS on the device.

use crate::common::{engine, engine_with, relative_l2, turn};
use crate::functions::{coupled, narrow, quadratic, rosenbrock, spread};
use crate::stepper::{Function, Stepper};
use crate::torch::Torch;
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{Bindings, Engine, Goals, Graph, Program, gradient};
use neural_mirage::mirage::optimizer::{Lbfgs, LineSearch, Optimizer, StepInputs};
use neural_mirage::ops::{MeanSquaredError, Shape};
use std::sync::Arc;

const PLAIN: Lbfgs = Lbfgs { learning_rate: 1.0, history: 20, line_search: LineSearch::None, clamp: false };
const SEARCH: Lbfgs = Lbfgs { line_search: LineSearch::Backtracking, ..PLAIN };

/// Indices in the `scalars` state tensor.
const PAIRS: usize = 5;
const LOSS: usize = 8;
const ACCEPTED: usize = 12;
const REJECTED: usize = 13;
const RESTARTS: usize = 14;
const NOT_KEPT: usize = 15;

fn stepper(engine: &Arc<Engine>, lbfgs: Lbfgs, shape: Shape, start: &[f64]) -> Stepper {
    Stepper::new(engine, Arc::new(lbfgs), shape, &narrow(start))
}

fn steps(stepper: &mut Stepper, function: Function<'_>, count: usize) {
    for _ in 0..count {
        stepper.step(function);
    }
}

/// Makes steps with a line search and checks that no accepted picture is worse than the previous one. Returns
/// the losses of the accepted pictures.
fn descend(stepper: &mut Stepper, function: Function<'_>, steps: usize) -> Vec<f64> {
    let mut losses = Vec::new();
    for step in 0..steps {
        stepper.step(function);
        let shown: Vec<f64> = stepper.shown().iter().map(|x| f64::from(*x)).collect();
        let loss = function(&shown).0;
        assert!(loss.is_finite(), "step {step}: the picture shown has loss {loss}");
        // Losses are passed to the device as f32.
        let known = stepper.state("scalars")[LOSS];
        assert_eq!(known, loss as f32, "step {step}");
        if let Some(before) = losses.last() {
            assert!(loss as f32 <= *before as f32, "step {step}: {loss} after {before}");
        }
        losses.push(loss);
    }
    losses
}

/// Histories that never fill, that wrap once, and of a single pair; sizes with each kind of padding.
#[test]
fn matches_torch_without_line_search() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    for (shape, clamp) in [
        (Shape::map(3, 5, 7), false),
        (Shape::map(3, 5, 7), true),
        (Shape::Vector(13), false),
        (Shape::map(3, 1, 1), true),
    ] {
        let center: Vec<f64> = spread(shape.elements(), 3).iter().map(|c| 0.5 + 0.7 * c).collect();
        let start: Vec<f64> = spread(shape.elements(), 1).iter().map(|x| 0.5 + 0.5 * x).collect();
        for (history, learning_rate) in [(1, 0.5), (3, 1.0), (20, 1.0)] {
            let what = format!("{shape}, history {history}, clamp {clamp}");
            let lbfgs = Lbfgs { history, learning_rate, clamp, ..PLAIN };
            let mut stepper = stepper(&engine, lbfgs, shape, &start);
            let mut torch = Torch::new(history, f64::from(learning_rate), clamp);
            let mut x: Vec<f64> = narrow(&start).iter().map(|x| f64::from(*x)).collect();
            let first = coupled(&x, &center).0;
            for step in 0..14 {
                stepper.step(&|x| coupled(x, &center));
                let (loss, gradient) = coupled(&x, &center);
                torch.step(&mut x, &gradient);
                // s and y become small differences of large numbers, so each step loses some digits, and the errors
                // grow in later steps.
                let distance = relative_l2(&stepper.picture(), &x);
                assert!(distance <= 1e-4, "{what}, step {step}: off by {distance:.1e} at loss {loss}");
            }
            let pairs = stepper.state("scalars")[PAIRS] as usize;
            assert_eq!(pairs, torch.pairs(), "{what}");
            assert!(pairs == history.min(13) || history == 20, "{what}: {pairs} pairs");
            let last = coupled(&x, &center).0;
            assert!(last < 0.8 * first, "{what}: from {first} to {last}, so little is tested");
        }
    }
}

#[test]
fn minima_of_quadratics_are_found() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::map(3, 3, 5);
    let center = spread(shape.elements(), 7);
    let start = spread(shape.elements(), 8);
    // In f64 the same steps leave 1e-31, 3e-8 and 3e-4 of the loss.
    for (condition, steps, left) in [(1.0, 8, 1e-6), (100.0, 40, 1e-6), (1e4, 80, 1e-2)] {
        let mut stepper = stepper(&engine, SEARCH, shape, &start);
        let function: Function<'_> = &|x| quadratic(x, &center, condition);
        let losses = descend(&mut stepper, function, steps);
        let (first, last) = (losses[0], losses[steps - 1]);
        assert!(last <= left * first, "condition {condition}: from {first:.2e} to {last:.2e}");
    }
}

#[test]
fn minimum_of_rosenbrock_is_found() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::Vector(6);
    let mut stepper =
        stepper(&engine, Lbfgs { history: 6, ..SEARCH }, shape, &[-1.2, 1.0, 0.3, -0.7, 1.9, 0.1]);
    // From starts that differ by 1e-6 this loss is first reached after 67 to 110 steps, due to rounding alone.
    let losses = descend(&mut stepper, &rosenbrock, 200);
    assert!(losses[199] < 1e-5, "{losses:?}");
    assert!(stepper.state("scalars")[REJECTED] > 0.0, "no step was rejected, so little is tested");
}

/// Just beyond the minimum the loss is NaN, infinite, or finite with a non-finite gradient.
#[test]
fn line_search_rejects_non_finite_regions() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::map(3, 2, 3);
    let center = vec![0.5; shape.elements()];
    let start: Vec<f64> = spread(shape.elements(), 2).iter().map(|x| 0.2 * x).collect();
    for beyond in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -7.0] {
        let wall = |x: &[f64]| {
            let (loss, gradient) = quadratic(x, &center, 50.0);
            let crossed = x.iter().any(|x| *x > 0.52);
            // Only a trial picture may be there.
            if crossed { (beyond, vec![f64::NAN; x.len()]) } else { (loss, gradient) }
        };
        // The initial step length is much too long.
        let lbfgs = Lbfgs { learning_rate: 3.0, ..SEARCH };
        let mut stepper = stepper(&engine, lbfgs, shape, &start);
        let losses = descend(&mut stepper, &wall, 60);
        assert!(losses[59] < 0.05 * losses[0], "loss beyond the minimum: {beyond}; {losses:?}");
        let scalars = stepper.state("scalars");
        assert!(scalars[REJECTED] > 0.0, "no step was rejected, so nothing is tested: {scalars:?}");
        assert_eq!(scalars[ACCEPTED] + scalars[REJECTED], 60.0);
    }
}

/// Six halvings along an ascent direction fail. Then the pairs are dropped, and the next step follows the gradient.
#[test]
fn ascent_direction_drops_the_history() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::Vector(5);
    let center = [0.3, -0.2, 0.7, 0.1, -0.6];
    let mut stepper = stepper(&engine, SEARCH, shape, &[0.0; 5]);
    descend(&mut stepper, &|x| quadratic(x, &center, 9.0), 5);
    let before = stepper.state("scalars");
    assert!(before[PAIRS] > 1.0);
    let accepted = stepper.shown();
    let mut distances = Vec::new();
    for _ in 0..7 {
        let tried = stepper.picture();
        distances.push(f64::from(tried[0] - accepted[0]).abs());
        stepper.step_with(f32::INFINITY, &[1.0; 5]);
        assert_eq!(stepper.shown(), accepted);
    }
    for pair in distances.windows(2) {
        // The picture is rounded by 6e-8, and the last steps are small.
        assert!((pair[1] - pair[0] / 2.0).abs() <= 1.2e-7, "{distances:?}");
    }
    let scalars = stepper.state("scalars");
    assert_eq!((scalars[PAIRS], scalars[RESTARTS] - before[RESTARTS]), (0.0, 1.0));
    let (_, gradient) = quadratic(&accepted.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), &center, 9.0);
    let sum: f64 = gradient.iter().map(|g| g.abs()).sum();
    let expected: Vec<f64> =
        accepted.iter().zip(&gradient).map(|(x, g)| f64::from(*x) - g / sum.max(1.0)).collect();
    let distance = relative_l2(&stepper.picture(), &expected);
    assert!(distance <= 1e-6, "the step along the gradient is off by {distance:.1e}");
    // It continues from there.
    let losses = descend(&mut stepper, &|x| quadratic(x, &center, 9.0), 20);
    assert!(losses[19] < 1e-8, "{losses:?}");
}

#[test]
fn flat_loss_leaves_picture_unchanged() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::map(3, 2, 2);
    let start = spread(12, 4);
    for lbfgs in [PLAIN, SEARCH, Lbfgs { clamp: true, ..SEARCH }] {
        let begin: Vec<f64> = start.iter().map(|x| if lbfgs.clamp { x.abs() } else { *x }).collect();
        let mut stepper = stepper(&engine, lbfgs, shape, &begin);
        for _ in 0..4 {
            stepper.step_with(2.5, &[0.0; 12]);
            assert_eq!(stepper.picture(), narrow(&begin));
            assert!(stepper.state("scalars").iter().all(|value| value.is_finite()));
        }
        // Ties are accepted, and pairs without curvature are discarded.
        let scalars = stepper.state("scalars");
        assert_eq!((scalars[ACCEPTED], scalars[NOT_KEPT], scalars[PAIRS]), (4.0, 3.0, 0.0));
    }
}

/// At the constrained minimum each component has zero gradient or is at a bound that the gradient pushes it to.
#[test]
fn clamping_finds_constrained_minimum() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::map(3, 4, 3);
    let center: Vec<f64> = spread(36, 11).iter().map(|c| 0.5 + 1.2 * c).collect();
    let start: Vec<f64> = spread(36, 12).iter().map(|x| 0.5 + 0.4 * x).collect();
    let function: Function<'_> = &|x| coupled(x, &center);
    for line_search in [LineSearch::None, LineSearch::Backtracking] {
        let lbfgs = Lbfgs { line_search, clamp: true, ..PLAIN };
        let mut stepper = stepper(&engine, lbfgs, shape, &start);
        match line_search {
            LineSearch::Backtracking => drop(descend(&mut stepper, function, 80)),
            LineSearch::None => steps(&mut stepper, function, 80),
        }
        let x: Vec<f64> = stepper.shown().iter().map(|x| f64::from(*x)).collect();
        let (_, gradient) = function(&x);
        let mut bound = 0;
        for (x, g) in x.iter().zip(&gradient) {
            assert!((0.0..=1.0).contains(x));
            let at_bound = (*x == 0.0 && *g > 0.0) || (*x == 1.0 && *g < 0.0);
            bound += usize::from(at_bound);
            assert!(at_bound || g.abs() < 2e-2, "{line_search:?}: gradient {g} at {x}");
        }
        assert!((5..31).contains(&bound), "{bound} of 36 are at a bound");
    }
}

/// After weights are measured again, the run continues from the accepted picture, whose old loss is discarded.
#[test]
fn changed_objective_restarts_from_shown_picture() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::Vector(9);
    let (one, other) = (spread(9, 21), spread(9, 22));
    let mut stepper = stepper(&engine, SEARCH, shape, &[0.0; 9]);
    descend(&mut stepper, &|x| quadratic(x, &one, 20.0), 12);
    // The trial picture has a non-finite loss.
    stepper.step_with(f32::NAN, &[f32::NAN; 9]);
    let shown = stepper.shown();
    assert_ne!(stepper.picture(), shown);
    stepper.restart();
    assert_eq!(stepper.picture(), shown);
    // The loss is now a thousand times larger.
    let function: Function<'_> = &|x| {
        let (loss, gradient) = quadratic(x, &other, 20.0);
        (1e3 * loss, gradient.iter().map(|g| 1e3 * g).collect())
    };
    let losses = descend(&mut stepper, function, 1);
    assert_eq!((stepper.shown(), stepper.state("scalars")[PAIRS]), (shown, 0.0));
    let losses = [losses, descend(&mut stepper, function, 40)].concat();
    assert!(losses[40] < 1e-6 * losses[0], "{losses:?}");
}

/// If the first picture after a change has a non-finite loss, the last accepted picture replaces it.
#[test]
fn non_finite_first_picture_is_replaced_by_accepted_one() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let center = [0.3, -0.2, 0.7, 0.1, -0.6];
    let mut stepper = stepper(&engine, SEARCH, Shape::Vector(5), &[0.0; 5]);
    let function: Function<'_> = &|x| quadratic(x, &center, 9.0);
    descend(&mut stepper, function, 3);
    let shown = stepper.shown();
    stepper.restart();
    stepper.set_picture(&[1e20; 5]);
    stepper.step_with(f32::INFINITY, &[f32::INFINITY; 5]);
    assert_eq!((stepper.picture(), stepper.shown()), (shown.clone(), shown));
    let losses = descend(&mut stepper, function, 20);
    assert!(losses[19] < 1e-8, "{losses:?}");
}

/// Without a line search a non-finite gradient must reach the picture, even where it is clamped.
#[test]
fn non_finite_gradient_reaches_picture_without_line_search() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    for clamp in [false, true] {
        let mut stepper = stepper(&engine, Lbfgs { clamp, ..PLAIN }, Shape::Vector(5), &[0.5; 5]);
        stepper.step_with(0.0, &[0.1, 0.2, -0.1, 0.3, 0.1]);
        assert!(stepper.picture().iter().all(|x| x.is_finite()));
        stepper.step_with(0.0, &[0.1, 0.2, f32::NAN, 0.3, 0.1]);
        assert!(stepper.picture()[2].is_nan(), "{:?}", stepper.picture());
    }
}

/// A history larger than a binding is processed in windows. Windows and repeated runs must be bit-identical.
#[test]
fn windows_and_repeated_runs_are_bit_identical() {
    let _turn = turn();
    let shape = Shape::map(3, 13, 11);
    let center = spread(shape.elements(), 31);
    let start = spread(shape.elements(), 32);
    let run = |max_binding: u64, family, lbfgs| {
        let options = DeviceOptions { family, ..Default::default() };
        let engine = engine_with(&options, |profile| profile.max_binding = max_binding);
        let mut stepper = stepper(&engine, lbfgs, shape, &start);
        steps(&mut stepper, &|x| coupled(x, &center), 12);
        (stepper.picture(), stepper.shown(), stepper.state("scalars"))
    };
    for lbfgs in [Lbfgs { history: 5, ..PLAIN }, Lbfgs { history: 5, clamp: true, ..SEARCH }] {
        let whole = run(128 << 20, Family::Auto, lbfgs);
        assert_eq!(run(128 << 20, Family::Buffer, lbfgs), whole);
        // A row of the history has 3072 bytes here: one, two and four per window.
        for binding in [3100, 7000, 12_500] {
            assert_eq!(run(binding, Family::Auto, lbfgs), whole, "windows of {binding} bytes");
        }
    }
}

/// Loss, gradient and step in one program, without values passing through the host.
#[test]
fn loss_gradient_and_step_run_as_one_program() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::map(3, 9, 7);
    let lbfgs = Lbfgs { clamp: true, ..SEARCH };
    let mut graph = Graph::new();
    let mut bound = Bindings::new();
    let mut external = |graph: &mut Graph, label: &str, shape: Shape, values: &[f32]| {
        let id = graph.external(label, shape);
        bound.insert(id, engine.tensor_with(label, shape, values).unwrap());
        id
    };
    // All targets are within the bounds, some exactly at them.
    let target: Vec<f64> = spread(189, 41).iter().map(|c| (0.5 + 0.6 * c).clamp(0.0, 1.0)).collect();
    let start: Vec<f32> = narrow(&spread(189, 42)).iter().map(|x| 0.5 + 0.5 * x).collect();
    let picture = external(&mut graph, "picture", shape, &start);
    let target_id = external(&mut graph, "target", shape, &narrow(&target));
    let control = external(&mut graph, "control", Shape::Vector(4), &lbfgs.control(0));
    let one = external(&mut graph, "one", Shape::Vector(1), &[1.0]);
    let mut state = Vec::new();
    for tensor in lbfgs.state(shape) {
        let zeros = vec![0.0; tensor.shape.elements()];
        let values = if tensor.name == "accepted" { &start } else { &zeros };
        state.push(external(&mut graph, tensor.name, tensor.shape, values));
    }
    let loss = graph.apply(MeanSquaredError, &[picture, target_id], "loss").unwrap();
    let slope =
        gradient(&mut graph, &[(loss, one)], picture).unwrap().expect("the loss depends on the picture");
    let inputs = StepInputs { picture, gradient: slope, loss: Some(loss), control };
    let goals = lbfgs.step(&mut graph, &inputs, &state).unwrap();
    let program = Program::prepare(&engine, &graph, &bound, &Goals::all(goals), |_| 0).unwrap();
    for _ in 0..10 {
        program.submit(&[Goals::ALL], &[], "iteration").unwrap();
    }
    let shown = engine.read(&bound[&state[0]], shape, "accepted").unwrap();
    let distance = relative_l2(&shown, &target);
    assert!(distance <= 1e-3, "off by {distance:.1e}");
}
