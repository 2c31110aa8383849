//! For every op of the registry that has an adjoint:
//! - the f64 reference of the adjoint agrees with central finite differences of the f64 reference of the
//!   op, along random directions and with random upstream gradients (all-ones would hide misplaced
//!   indices); `tests/kernels/cases.rs` compares the kernels with these references;
//! - if the op is linear, the kernels themselves satisfy <J u, v> = <u, J^T v>.

use crate::common::{chosen_ops, draw, engine, inputs, turn, widen};
use neural_mirage::gpu::Family;
use neural_mirage::graph::{Engine, SingleOp};
use neural_mirage::ops::{Adjoint, AdjointOperand, Case, CaseInput, Op, REGISTRY, Shape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One differentiable input of one case, with the op's output shape and the adjoint.
struct Subject {
    what: String,
    case: Case,
    shapes: Vec<Shape>,
    output: Shape,
    input: usize,
    adjoint: Adjoint,
}

fn subjects() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for entry in chosen_ops() {
        for case in (entry.cases)() {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let output = case.op.output(&shapes).unwrap();
            for input in 0..shapes.len() {
                let Some(adjoint) = case.op.adjoint(input, &shapes) else { continue };
                let what = format!("{:?} on {shapes:?}, input {input}", case.op);
                let (case, shapes) = (case.clone(), shapes.clone());
                subjects.push(Subject { what, case, shapes, output, input, adjoint });
            }
        }
    }
    // There were 367 when this was written.
    assert!(std::env::var("KERNEL").is_ok() || subjects.len() > 300, "{} adjoints", subjects.len());
    subjects
}

fn apply(op: &dyn Op, inputs: &[Vec<f64>], shapes: &[Shape]) -> Vec<f64> {
    let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
    op.reference(&inputs, shapes)
}

fn normal(shape: Shape, seed: u64) -> Vec<f32> {
    draw(shape, CaseInput::Normal, &mut ChaCha8Rng::seed_from_u64(seed))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

impl Subject {
    /// Draws inputs at which the case is differentiable: zeros that would cause ties are replaced.
    fn point(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut values: Vec<Vec<f64>> = inputs(&self.case, seed).iter().map(|values| widen(values)).collect();
        let (shape, kind) = self.case.inputs[self.input];
        if kind == CaseInput::Rectified {
            values[self.input] = widen(&normal(shape, seed)).iter().map(|value| value.abs()).collect();
        }
        values
    }

    fn forward(&self, inputs: &[Vec<f64>]) -> Vec<f64> {
        apply(self.case.op.as_ref(), inputs, &self.shapes)
    }

    /// Returns `point` with the differentiated input moved by `step` along `direction`.
    fn moved(&self, point: &[Vec<f64>], direction: &[f64], step: f64) -> Vec<Vec<f64>> {
        let mut moved = point.to_vec();
        moved[self.input].iter_mut().zip(direction).for_each(|(value, d)| *value += step * d);
        moved
    }

    /// Returns values and shapes of the adjoint's operands.
    fn operands<T: Clone>(
        &self,
        inputs: &[T],
        output: &T,
        saved: Option<&T>,
        upstream: &T,
    ) -> (Vec<T>, Vec<Shape>) {
        let operand = |operand: &AdjointOperand| match *operand {
            AdjointOperand::Input(input) => (inputs[input].clone(), self.shapes[input]),
            AdjointOperand::Output => (output.clone(), self.output),
            AdjointOperand::Saved => {
                let shape = self.case.op.saved(&self.shapes).expect("a saved output");
                (saved.expect("its values").clone(), shape)
            }
            AdjointOperand::Upstream => (upstream.clone(), self.output),
        };
        self.adjoint.operands.iter().map(operand).unzip()
    }

    /// Computes the adjoint's f64 reference at a point.
    fn backward(&self, point: &[Vec<f64>], upstream: &Vec<f64>) -> Vec<f64> {
        let inputs: Vec<&[f64]> = point.iter().map(Vec::as_slice).collect();
        let saved = self.case.op.reference_saved(&inputs, &self.shapes);
        let (values, shapes) = self.operands(point, &self.forward(point), saved.as_ref(), upstream);
        assert_eq!(self.adjoint.op.output(&shapes).unwrap(), self.shapes[self.input], "{}", self.what);
        apply(self.adjoint.op.as_ref(), &values, &shapes)
    }

    /// True if the op is affine in this input: moving by u, -u and from other points changes the output
    /// by the same J u. Exact up to f64 rounding, so that a ReLU that happens not to switch at one of the
    /// points is detected at another. The case's own point is one of them: a root is zero at all that are drawn here.
    fn is_affine(&self, point: &[Vec<f64>], direction: &[f64]) -> bool {
        let mut zero = point.to_vec();
        zero[self.input].fill(0.0);
        let base = self.forward(&zero);
        let change = minus(&self.forward(&self.moved(&zero, direction, 1.0)), &base);
        let scale = norm(&change).max(norm(&base)).max(1e-300);
        let same = |from: &[Vec<f64>], step: f64| {
            let other = minus(&self.forward(&self.moved(from, direction, step)), &self.forward(from));
            let expected: Vec<f64> = change.iter().map(|value| value * step).collect();
            norm(&minus(&other, &expected)) <= 1e-10 * scale
        };
        same(&zero, -1.0)
            && same(&zero, 3.0)
            && same(point, 1.0)
            && (1..4).all(|seed| {
                let mut from = point.to_vec();
                from[self.input] = widen(&normal(self.shapes[self.input], 900 + seed));
                same(&from, 1.0)
            })
    }
}

/// Step along a direction of normally distributed values. Central differences in f64 have a rounding error of
/// 1e-16 / STEP and a curvature error of STEP^2. A larger step would cross more kinks.
const STEP: f64 = 1e-6;

/// Tolerance relative to |gradient| |direction|: the errors above with a margin. One wrong element in a million is
/// detected.
const DIFFERENCE_TOLERANCE: f64 = 1e-6;

#[test]
fn every_adjoint_is_registered() {
    // Otherwise no test covers its kernels.
    for subject in subjects() {
        let name = subject.adjoint.op.name();
        assert!(REGISTRY.iter().any(|entry| entry.name == name), "{}: {name} is not listed", subject.what);
    }
}

#[test]
fn adjoint_references_match_finite_differences() {
    let mut tested = 0;
    for (subject, seed) in subjects().iter().zip(1..) {
        let point = subject.point(seed);
        let upstream = widen(&normal(subject.output, 1000 + seed));
        let gradient = subject.backward(&point, &upstream);
        let at = |direction: &[f64], step| {
            dot(&subject.forward(&subject.moved(&point, direction, step)), &upstream)
        };
        // The slopes on both sides differ by curvature and by kinks (ReLU, maximum). Halving the step halves
        // a gap due to curvature, but not one due to a kink, unless it is at exactly one third of the step.
        // If kinks are as large as the tolerance, try another direction or a shorter step.
        let size = norm(&subject.forward(&point)) * norm(&upstream);
        let mut conclusive = false;
        for attempt in 0..6 {
            let direction = widen(&normal(subject.shapes[subject.input], 2000 + 10 * seed + attempt));
            let step = if attempt < 3 { STEP } else { STEP / 10.0 };
            let here = at(&direction, 0.0);
            let slopes =
                |step: f64| ((at(&direction, step) - here) / step, (here - at(&direction, -step)) / step);
            let ((right, left), (near_right, near_left)) = (slopes(step), slopes(step / 2.0));
            let scale = norm(&gradient) * norm(&direction);
            // Rounding of the references, which sum all elements sequentially.
            let rounding = 3e-16 * (direction.len() as f64).sqrt().max(3.0) * size / step;
            let kinks = ((right - left) - 2.0 * (near_right - near_left)).abs();
            if kinks > DIFFERENCE_TOLERANCE / 2.0 * scale + 8.0 * rounding {
                continue;
            }
            let (found, expected) = (dot(&gradient, &direction), (right + left) / 2.0);
            assert!(
                (found - expected).abs() <= DIFFERENCE_TOLERANCE * scale + rounding,
                "{}: adjoint {found:.9e}, finite differences {expected:.9e} (scale {scale:.3e})",
                subject.what
            );
            conclusive = true;
            break;
        }
        assert!(conclusive, "{}: every direction has kinks", subject.what);
        tested += 1;
    }
    println!("{tested} adjoints");
}

/// Ops with cases in which they are linear. (Others are linear only for a single class or pixel.)
const LINEAR: [&str; 14] = [
    "adaptive_pool",
    "channel_mean",
    "conv",
    "crop",
    "flatten",
    "linear",
    "linear_combination",
    "matmul",
    "multiply",
    "pool",
    "preprocess",
    "scale_by",
    "trace",
    "unflatten",
];

/// Runs all kernels of an op on the device.
fn run_all(
    engine: &Arc<Engine>,
    op: &Arc<dyn Op>,
    shapes: &[Shape],
    values: &[Vec<f32>],
) -> Vec<(String, Vec<f64>)> {
    let single = SingleOp::new(engine, op.clone(), shapes).unwrap();
    let variants = single.variants().unwrap();
    let run = |(variant, name): (usize, &'static str)| {
        let outcome = single.run(variant, values).unwrap_or_else(|error| panic!("{op:?}/{name}: {error}"));
        (name.to_owned(), widen(&outcome.values))
    };
    variants.into_iter().enumerate().map(run).collect()
}

#[test]
fn linear_kernels_satisfy_adjoint_identity() {
    let _turn = turn();
    let (mut tested, mut linear) = (0, BTreeSet::new());
    let engines = [Family::Texture, Family::Buffer].map(engine);
    for (subject, seed) in subjects().iter().zip(1..) {
        let point = inputs(&subject.case, seed);
        let wide: Vec<Vec<f64>> = point.iter().map(|values| widen(values)).collect();
        let u = normal(subject.shapes[subject.input], 3000 + seed);
        let v = normal(subject.output, 4000 + seed);
        if !subject.is_affine(&wide, &widen(&u)) {
            continue;
        }
        let mut zero = point.clone();
        zero[subject.input].fill(0.0);
        let mut moved = point.clone();
        moved[subject.input].clone_from(&u);
        let (wide_u, wide_v) = (widen(&u), widen(&v));
        for engine in &engines {
            let base = run_all(engine, &subject.case.op, &subject.shapes, &zero);
            let ahead = run_all(engine, &subject.case.op, &subject.shapes, &moved);
            for ((name, base), (_, ahead)) in base.iter().zip(&ahead) {
                let output: Vec<f32> = ahead.iter().map(|value| *value as f32).collect();
                let (values, shapes) = subject.operands(&moved, &output, None, &v);
                let left = dot(&minus(ahead, base), &wide_v);
                for (adjoint, back) in run_all(engine, &subject.adjoint.op, &shapes, &values) {
                    let right = dot(&wide_u, &back);
                    // Each element may be off by `tolerance` times the largest (tests/kernels/cases.rs). The largest is
                    // at most a few times the root mean square, so the norm of the errors is at most a few times
                    // `tolerance` times the norm of the vector. Four times is allowed, plus f32 rounding of u and v.
                    let reach = (norm(ahead) + norm(base)) * norm(&wide_v) + norm(&wide_u) * norm(&back);
                    let allowed = 4.0 * subject.case.tolerance.max(1e-6) * reach;
                    assert!(
                        (left - right).abs() <= allowed,
                        "{}: {name} against {adjoint}: <J u, v> = {left:.9e}, <u, J^T v> = {right:.9e}",
                        subject.what
                    );
                }
            }
        }
        tested += 1;
        linear.insert(subject.case.op.name());
    }
    println!("{tested} linear adjoints {linear:?}");
    for op in LINEAR {
        let chosen = chosen_ops().iter().any(|entry| entry.name == op);
        assert!(
            !chosen || linear.contains(op),
            "{op} was not detected as linear, so its kernels were not tested"
        );
    }
}
