//! Square root of a symmetric positive matrix by Newton-Schulz iteration, and its trace with the gradient.
//!
//! With X = A / s, s the Frobenius norm of A, the coupled iteration is `Y_0 = X, Z_0 = I, T = (3 I - Z Y) / 2, Y' = Y
//! T, Z' = T Z`; Y converges to the root of X and Z to its inverse. Each of the 12 steps enlarges a small eigenvalue of
//! Y by a factor of up to 1.5, so eigenvalues of A below about 6e-5 of the largest have not converged at the end. This
//! is intended: more steps would amplify the f32 rounding errors of such eigenvalues (one slightly below 0 grows
//! without bound), and style-transfer-pytorch stops there too.
//!
//! **The gradient of the trace** is that of the computed number, converged or not, so that it agrees with finite
//! differences, with PyTorch's autograd through the same steps, and with the losses of a line search. It has a closed
//! form, because all matrices of the iteration are polynomials of A and commute. Backward through the steps, the
//! difference `Ybar Y - Zbar Z` is constant, and the sum `c = Ybar Y + Zbar Z` satisfies `c_k = 3 (I - Z_k Y_k) (2
//! T_k)^-1 c_(k+1)`. With `Ybar = I, Zbar = 0` at the end, Y_n = X Z_n, and Z_n = T_0 ... T_(n-1), it follows that
//!
//! `d trace(Y_n) / dX = (Z_n + P) / 2`, with `P = (3/2 (I - Z_0 Y_0)) ... (3/2 (I - Z_(n-1) Y_(n-1)))`.
//!
//! P takes one more product per step; differentiating step by step would take six. Where the iteration has converged, P
//! is 0 and the gradient is half the inverse root, the textbook derivative.
//!
//! **A matrix that is not positive** is treated as zero, with a gradient of zero: if all pixels are equal, their
//! computed covariance is only rounding errors, with eigenvalues of both signs, and the iteration diverges. Since
//! `||Y||^2 = trace X <= sqrt(side)` for a positive matrix, a larger Y shows that the matrix is not positive.

use super::covariance::{expect_square, trace};
use super::cpu::write_number;
use super::lanes::{elementwise, sums};
use super::matmul::{Finish, Form, MatMul, multiply};
use super::product::{MatrixRef, mirror, product_of_rows, symmetric_product};
use super::scale_by::ScaleBy;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Number of steps of the iteration.
const STEPS: usize = 12;

/// Square root of a symmetric positive semi-definite matrix, after 12 steps of the iteration. For targets, so it has no
/// adjoint.
#[derive(Debug, Clone, Copy)]
pub struct MatrixRoot;

/// Trace of the square root of a symmetric positive semi-definite matrix, as a vector of length 1. Saves the gradient,
/// a matrix, for the backward pass.
#[derive(Debug, Clone, Copy)]
pub struct RootTrace;

/// Builder for the dispatches of an iteration and their scratch buffers.
struct Iteration<'a> {
    form: Form,
    side: usize,
    device: &'a Profile,
    dispatches: Vec<Dispatch>,
    scratch: Vec<u64>,
    /// The norm of A and values derived from it; after the iteration, zeros if it diverged.
    numbers: Operand,
}

impl<'a> Iteration<'a> {
    fn new(form: Form, side: usize, device: &'a Profile) -> Self {
        let numbers = Operand::Scratch(0);
        Self { form, side, device, dispatches: Vec::new(), scratch: vec![16], numbers }
    }

    /// Adds a scratch buffer for a matrix.
    fn matrix(&mut self) -> Operand {
        let shape = Shape::Matrix { rows: self.side, columns: self.side };
        self.scratch.push(shape.bytes());
        Operand::Scratch(self.scratch.len() - 1)
    }

    fn push(&mut self, entry: &'static str, bindings: &[(&'static str, &Operand)], factors: [f32; 2]) {
        let mut dispatch = Dispatch::new("matrix_root", entry)
            .size("side", self.side)
            .size("quads", self.side.div_ceil(4))
            .float("scale", factors[0])
            .float("identity", factors[1]);
        for (name, operand) in bindings {
            dispatch = dispatch.bind(name, (*operand).clone());
        }
        if !matches!(entry, "norm" | "judge" | "trace" | "residue") {
            dispatch = dispatch.linear(self.side * self.side.div_ceil(4), 64, self.device);
        }
        self.dispatches.push(dispatch);
    }

    fn multiply(&mut self, a: &Operand, b: &Operand, output: &Operand, finish: Option<Finish>) {
        let (shapes, operands) = ([[self.side; 2]; 2], [a.clone(), b.clone()]);
        let op = MatMul::default();
        let dispatch = self.form.dispatch(op, operands, shapes, output.clone(), finish, self.device);
        self.dispatches.push(dispatch);
    }

    /// `output = scale * a + identity * I`
    fn combine(&mut self, a: &Operand, output: &Operand, [scale, identity]: [f32; 2]) {
        self.push("combine", &[("a", a), ("output", output)], [scale, identity]);
    }

    /// Adds all steps. Returns X, Y and Z, and with `residue` P.
    fn run(&mut self, residue: bool) -> [Operand; 4] {
        let [x, t] = [self.matrix(), self.matrix()];
        let [mut y, mut next_y] = [self.matrix(), self.matrix()];
        let [mut z, mut next_z] = [self.matrix(), self.matrix()];
        let [mut p, mut next_p] =
            if residue { [self.matrix(), self.matrix()] } else { [x.clone(), x.clone()] };
        let (none, numbers) = ([0.0; 2], self.numbers.clone());
        let input = Operand::Input(0);
        self.push("norm", &[("a", &input), ("output", &numbers)], none);
        self.push("normalise", &[("a", &input), ("numbers", &numbers), ("output", &x)], none);
        // First step, from Y = X and Z = I.
        self.combine(&x, &z, [-0.5, 1.5]);
        self.multiply(&x, &z, &y, None);
        if residue {
            self.combine(&x, &p, [-1.5, 1.5]);
        }
        for _ in 1..STEPS {
            self.multiply(&z, &y, &t, Some(Finish { scale: -0.5, plus: 1.5, other: None }));
            if residue {
                // 3/2 (I - Z Y) = 3 T - 3 I
                let finish = Finish { scale: 3.0, plus: -3.0, other: Some(p.clone()) };
                self.multiply(&p, &t, &next_p, Some(finish));
                std::mem::swap(&mut p, &mut next_p);
            }
            self.multiply(&y, &t, &next_y, None);
            self.multiply(&t, &z, &next_z, None);
            std::mem::swap(&mut y, &mut next_y);
            std::mem::swap(&mut z, &mut next_z);
        }
        self.scratch.push(16);
        let judged = Operand::Scratch(self.scratch.len() - 1);
        self.push("judge", &[("bits", &y), ("numbers", &numbers), ("output", &judged)], none);
        self.numbers = judged;
        [x, y, z, p]
    }

    fn kernel(self) -> Kernel {
        Kernel { variant: self.form.variant(), dispatches: self.dispatches, scratch: self.scratch }
    }
}

/// Result of the iteration on the CPU: s, and X, Y, Z and P as stored tensors. P is empty without `residue`.
struct Iterated {
    size: f64,
    x: Vec<f32>,
    y: Vec<f32>,
    z: Vec<f32>,
    p: Vec<f32>,
    /// False if A is not positive.
    is_positive: bool,
}

impl Iterated {
    /// Floats of heap memory that [`Self::new`] uses for a matrix of this shape.
    fn floats(shape: Shape, residue: bool) -> usize {
        shape.stored() * if residue { 10 } else { 8 }
    }

    fn new(a: &[f32], side: usize, residue: bool) -> Self {
        let matrix = || vec![0.0; a.len()];
        // All matrices are polynomials of A, so they are symmetric and commute, and half of a product is enough. Only
        // Z Y must be whole. Rounding errors grow from step to step if it is made symmetric, and also if one of the
        // others, X included, is not symmetric to the bit: on covariances of feature maps, the relative error of Y
        // is then between 1e-4 and 1, instead of 2e-5.
        let mut upper = matrix();
        let size = total(a, a).sqrt().max(1e-30);
        let mut x = matrix();
        combine([a, a], [(1.0 / size) as f32, 0.0, 0.0], side, &mut upper);
        mirror(&upper, side, &mut x);
        let mut multiply =
            |a: &[f32], b: &[f32], output: &mut [f32]| symmetric_product([a, b], side, &mut upper, output);
        // First step, from Y = X and Z = I.
        let [mut y, mut next_y, mut z, mut next_z] = [matrix(), matrix(), matrix(), matrix()];
        combine([&x, &x], [-0.5, 0.0, 1.5], side, &mut z);
        multiply(&x, &z, &mut y);
        let (mut p, mut next_p) = if residue { (matrix(), matrix()) } else { (Vec::new(), Vec::new()) };
        combine([&x, &x], [-1.5, 0.0, 1.5], side, &mut p);
        let (mut t, mut product) = (matrix(), matrix());
        for _ in 1..STEPS {
            let [z_whole, y_whole] = [&z, &y].map(|values| MatrixRef::stored(values, side, side));
            product_of_rows(z_whole, y_whole, &mut product);
            combine([&product, &product], [-0.5, 0.0, 1.5], side, &mut t);
            if residue {
                // 3/2 (I - Z Y) = 3 T - 3 I
                multiply(&p, &t, &mut product);
                combine([&product, &p], [3.0, -3.0, 0.0], side, &mut next_p);
                std::mem::swap(&mut p, &mut next_p);
            }
            multiply(&y, &t, &mut next_y);
            multiply(&t, &z, &mut next_z);
            std::mem::swap(&mut y, &mut next_y);
            std::mem::swap(&mut z, &mut next_z);
        }
        let is_positive = is_bounded(total(&y, &y), side);
        Self { size, x, y, z, p, is_positive }
    }
}

/// True if the squared norm of Y is possible for a positive matrix; false for NaN.
fn is_bounded(square: f64, side: usize) -> bool {
    square <= 2.0 * (side as f64).sqrt()
}

/// Sum of the elementwise products of two matrices.
fn total(a: &[f32], b: &[f32]) -> f64 {
    let [sum] = sums([a, b], |[a, b]| [a * b]);
    sum
}

/// `output = first * a + second * b + identity * I`, of stored matrices; does nothing if the output is empty.
fn combine(matrices: [&[f32]; 2], [first, second, identity]: [f32; 3], side: usize, output: &mut [f32]) {
    elementwise(output, matrices, |[a, b]| first * a + second * b);
    let diagonal = output.iter_mut().step_by(side.next_multiple_of(4) + 1).take(side);
    diagonal.for_each(|value| *value += identity);
}

/// The iteration in f64: s, X, Y, Z and P; zeros for a matrix that is not positive.
fn reference(a: &[f64], side: usize) -> (f64, [Vec<f64>; 4]) {
    let size = a.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-30);
    let product = |a: &[f64], b: &[f64]| multiply(a, b, [side; 3]);
    let combine = |a: &[f64], factor: f64, identity: f64| -> Vec<f64> {
        let on_diagonal = |index: usize| if index.is_multiple_of(side + 1) { identity } else { 0.0 };
        a.iter().enumerate().map(|(index, value)| factor * value + on_diagonal(index)).collect()
    };
    let x = combine(a, 1.0 / size, 0.0);
    let (mut y, mut z, mut p) = (x.clone(), combine(&x, 0.0, 1.0), combine(&x, 0.0, 1.0));
    for _ in 0..STEPS {
        let w = product(&z, &y);
        let t = combine(&w, -0.5, 1.5);
        p = product(&p, &combine(&w, -1.5, 1.5));
        y = product(&y, &t);
        z = product(&t, &z);
    }
    if !is_bounded(y.iter().map(|value| value * value).sum(), side) {
        let zeros = vec![0.0; a.len()];
        return (size, [zeros.clone(), zeros.clone(), zeros.clone(), zeros]);
    }
    (size, [x, y, z, p])
}

impl Op for MatrixRoot {
    fn name(&self) -> &'static str {
        "matrix_root"
    }

    fn sample(&self, _input: usize) -> CaseInput {
        CaseInput::Covariance
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_square("matrix_root", inputs[0])?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let side = expect_square("matrix_root", signature.output)?;
        let kernel = |form| {
            let mut iteration = Iteration::new(form, side, device);
            let [_, y, _, _] = iteration.run(false);
            let numbers = iteration.numbers.clone();
            let bindings = [("a", &y), ("numbers", &numbers), ("output", &Operand::Output)];
            iteration.push("root", &bindings, [0.0; 2]);
            iteration.kernel()
        };
        Ok(Form::choices(&[signature.output], [side; 2], device).into_iter().map(kernel).collect())
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let side = expect_square("matrix_root", signature.output)?;
        Ok(CpuKernel::new(move |call| {
            let Iterated { size, y, is_positive, .. } = Iterated::new(call.inputs[0], side, false);
            if is_positive {
                combine([&y, &y], [size.sqrt() as f32, 0.0, 0.0], side, call.output);
            } else {
                call.output.fill(0.0);
            }
        })
        .temporary(Iterated::floats(signature.output, false)))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let side = expect_square("matrix_root", shapes[0]).expect("a square matrix");
        let (size, [_, y, _, _]) = reference(inputs[0], side);
        y.iter().map(|value| value * size.sqrt()).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let side = expect_square("matrix_root", signature.output).unwrap_or(0) as u64;
        3 * STEPS as u64 * 2 * side.pow(3)
    }
}

impl Op for RootTrace {
    fn name(&self) -> &'static str {
        "root_trace"
    }

    fn sample(&self, _input: usize) -> CaseInput {
        CaseInput::Covariance
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_square("root_trace", inputs[0])?;
        Ok(Shape::Vector(1))
    }

    fn saved(&self, inputs: &[Shape]) -> Option<Shape> {
        inputs.first().copied()
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let side = expect_square("root_trace", signature.inputs[0])?;
        let kernel = |form| {
            let mut iteration = Iteration::new(form, side, device);
            let [x, y, z, p] = iteration.run(true);
            let (numbers, none) = (iteration.numbers.clone(), [0.0; 2]);
            let trace = [("a", &y), ("numbers", &numbers), ("output", &Operand::Output)];
            iteration.push("trace", &trace, none);
            let residue = iteration.matrix();
            iteration.push("residue", &[("a", &x), ("b", &p), ("output", &residue)], none);
            let gradient = [
                ("a", &z),
                ("b", &p),
                ("c", &x),
                ("upstream", &residue),
                ("numbers", &numbers),
                ("output", &Operand::Saved),
            ];
            iteration.push("gradient", &gradient, none);
            iteration.kernel()
        };
        Ok(Form::choices(&[signature.inputs[0]], [side; 2], device).into_iter().map(kernel).collect())
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let side = expect_square("root_trace", signature.inputs[0])?;
        Ok(CpuKernel::new(move |call| {
            let Iterated { size, x, y, z, p, is_positive } = Iterated::new(call.inputs[0], side, true);
            if !is_positive {
                write_number(call.output, 0.0);
                return call.saved.fill(0.0);
            }
            write_number(call.output, (trace(&y, side) * size.sqrt()) as f32);
            // Both are symmetric, so this is the trace of X P.
            let residue = total(&x, &p) as f32;
            let scale = (0.5 / size.sqrt()) as f32;
            elementwise(call.saved, [&x, &z, &p], |[x, z, p]| (z + p - residue * x) * scale);
        })
        .temporary(Iterated::floats(signature.inputs[0], true)))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let side = expect_square("root_trace", shapes[0]).expect("a square matrix");
        let (size, [_, y, _, _]) = reference(inputs[0], side);
        vec![y.iter().step_by(side + 1).sum::<f64>() * size.sqrt()]
    }

    fn reference_saved(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Option<Vec<f64>> {
        let side = expect_square("root_trace", shapes[0]).ok()?;
        let (size, [x, _, z, p]) = reference(inputs[0], side);
        let residue: f64 = x.iter().zip(&p).map(|(x, p)| x * p).sum();
        let element = |index: usize| 0.5 * (z[index] + p[index] - residue * x[index]) / size.sqrt();
        Some((0..x.len()).map(element).collect())
    }

    fn saved_fault(
        &self,
        inputs: &[&[f64]],
        shapes: &[Shape],
        saved: &[f32],
        tolerance: f64,
    ) -> Option<String> {
        let expected = self.reference_saved(inputs, shapes)?;
        let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let allowed = GRADIENT_TOLERANCE * tolerance * largest;
        let right = |(actual, expected): (&f32, &f64)| (f64::from(*actual) - expected).abs() <= allowed;
        let index = saved.iter().zip(&expected).position(|pair| !right(pair))?;
        Some(format!("element {index} is {} instead of {}", saved[index], expected[index]))
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(ScaleBy, &[AdjointOperand::Saved, AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let side = expect_square("root_trace", signature.inputs[0]).unwrap_or(0) as u64;
        4 * STEPS as u64 * 2 * side.pow(3)
    }
}

/// Twelve steps of products in f32, each with rounding errors of 1e-6 of the largest value, which the iteration
/// corrects as long as it converges.
const TOLERANCE: f64 = 2e-5;

/// Ratio of the gradient's tolerance to the trace's, each relative to the largest value: the gradient varies with the
/// small eigenvalues to the power of -1/2.
const GRADIENT_TOLERANCE: f64 = 50.0;

/// Rank 1 and a ridge of 0.001: the small eigenvalues are 1/15,000 of the large one, and nearly converge.
const DEFICIENT_5: CaseInput = CaseInput::Values(&[
    1.001, 2.0, -1.0, 0.5, 3.0, 2.0, 4.001, -2.0, 1.0, 6.0, -1.0, -2.0, 1.001, -0.5, -3.0, 0.5, 1.0, -0.5,
    0.251, 1.5, 3.0, 6.0, -3.0, 1.5, 9.001,
]);
/// With a ridge of 1/100,000: far from convergence.
const SINGULAR_5: CaseInput = CaseInput::Values(&[
    1.00001, 2.0, -1.0, 0.5, 3.0, 2.0, 4.00001, -2.0, 1.0, 6.0, -1.0, -2.0, 1.00001, -0.5, -3.0, 0.5, 1.0,
    -0.5, 0.25001, 1.5, 3.0, 6.0, -3.0, 1.5, 9.00001,
]);

/// With a ridge of 0.0002, 1/76,000 of the large eigenvalue: about halfway to convergence.
const PARTIAL_5: CaseInput = CaseInput::Values(&[
    1.0002, 2.0, -1.0, 0.5, 3.0, 2.0, 4.0002, -2.0, 1.0, 6.0, -1.0, -2.0, 1.0002, -0.5, -3.0, 0.5, 1.0, -0.5,
    0.2502, 1.5, 3.0, 6.0, -3.0, 1.5, 9.0002,
]);

/// Rounding errors of a zero covariance: eigenvalues of both signs.
const INDEFINITE_3: CaseInput = CaseInput::Values(&[1e-4, -2e-4, 1e-5, -2e-4, -1e-4, 3e-4, 1e-5, 3e-4, 2e-4]);
/// A negative eigenvalue that grows without reaching infinity.
const SLIGHTLY_INDEFINITE_3: CaseInput = CaseInput::Values(&[1.0, 0.0, 0.0, 0.0, -2e-3, 0.0, 0.0, 0.0, 0.5]);

/// Sides, matrices and tolerances; more than one block of each family's kernel.
fn samples() -> Vec<(usize, CaseInput, f64)> {
    let mut samples: Vec<_> =
        [1, 3, 8, 17, 67].into_iter().map(|side| (side, CaseInput::Covariance, TOLERANCE)).collect();
    samples.push((131, CaseInput::DecayingCovariance, 5.0 * TOLERANCE));
    samples.push((5, DEFICIENT_5, 5.0 * TOLERANCE));
    samples.push((5, PARTIAL_5, 5.0 * TOLERANCE));
    samples.push((5, SINGULAR_5, 5.0 * TOLERANCE));
    samples
}

fn square(side: usize) -> Shape {
    Shape::Matrix { rows: side, columns: side }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(side, input, tolerance)| Case::drawn(MatrixRoot, &[(square(side), input)], tolerance);
    let mut cases: Vec<Case> = samples().into_iter().map(case).collect();
    cases.push(case((3, INDEFINITE_3, TOLERANCE)));
    cases.push(case((3, SLIGHTLY_INDEFINITE_3, TOLERANCE)));
    cases.push(case((4, CaseInput::Exactly(0.0), TOLERANCE)));
    cases
}

pub(super) fn trace_cases() -> Vec<Case> {
    let case = |(side, input, tolerance)| Case::drawn(RootTrace, &[(square(side), input)], tolerance);
    samples().into_iter().map(case).collect()
}
