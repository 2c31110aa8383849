//! Two-loop recursion of L-BFGS on dot products.

use super::{FIRST, LARGEST, PAIR, RESTART, Ring, expect};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::cpu::write_number;
use crate::ops::shape::mismatch;
use crate::ops::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};

/// Adds the new pair, if there is one with `s.y > 1e-10`, and computes the direction `-H p` as factors of the projected
/// gradient p and of the rings' rows. The initial H is `s.y / y.y` of the newest pair.
///
/// Inputs: the output of [`crate::ops::LbfgsProducts`]; `control`, a vector of length 4 that starts with the learning
/// rate; the inner products (see [`Ring::products`]); the scalars. Updates the last two in place. Output: the phase, as
/// a vector of length 1.
///
/// The step length is the learning rate, times `min(1, 1 / sum |p|)` for the first step. With a line search that factor
/// applies whenever there are no pairs, and a direction that is not a descent direction is replaced by `-p`, dropping
/// all pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbfgsRecursion {
    /// True if [`crate::ops::LbfgsJudge`] uses a line search.
    pub line_search: bool,
}

const CURVATURE: f64 = 1e-10;

impl LbfgsRecursion {
    fn ring(&self, inputs: &[Shape]) -> Result<Ring> {
        // The picture's shape is not needed here.
        let picture = Shape::Vector(1);
        let history = match inputs.first() {
            Some(Shape::Matrix { rows, columns: 4 }) if (2..=LARGEST).contains(rows) => rows - 1,
            _ => return Err(mismatch("lbfgs_recursion", "it takes products of 2 to 128 rows")),
        };
        Ok(Ring { picture, history })
    }
}

/// Adds the new pair on the CPU if its curvature is positive. Rows of `products`: `s.p`, `s.y`, `y.p`, `y.y`.
fn take_up(ring: &Ring, products: &[[f32; 4]], inner: &mut [f32], scalars: &mut [f32]) {
    let (rows, stride) = (ring.rows(), ring.rows().next_multiple_of(4));
    let next = (scalars[4] as usize + 1) % rows;
    let curvature = products[next][1];
    if curvature > CURVATURE as f32 {
        for (row, product) in products.iter().enumerate() {
            inner[row * stride + next] = product[1];
            inner[(rows + row) * stride + next] = product[3];
            inner[(rows + next) * stride + row] = product[3];
        }
        let pairs = (scalars[5] as usize + 1).min(ring.history);
        scalars[4..7].copy_from_slice(&[next as f32, pairs as f32, curvature / products[next][3]]);
    } else {
        scalars[15] += 1.0;
    }
}

/// Both loops on the CPU: writes the factors of the direction and the step length.
fn direction(
    ring: &Ring,
    products: &[[f32; 4]],
    inner: &[f32],
    scalars: &mut [f32],
    rate: f32,
    line_search: bool,
) {
    let (rows, stride) = (ring.rows(), ring.rows().next_multiple_of(4));
    let (mut pairs, mut gamma) = (scalars[5] as usize, scalars[6]);
    // Rows by age, the newest first. s_i . y_j is valid if i is not newer than j.
    let ages: Vec<usize> = (0..pairs).map(|age| (scalars[4] as usize + rows - age) % rows).collect();
    let sy = |s: usize, y: usize| inner[s * stride + y];
    let yy = |a: usize, b: usize| inner[(rows + a) * stride + b];
    // s_i . q and y_i . q, where q is initially p.
    let mut along_s: Vec<f32> = products.iter().map(|product| product[0]).collect();
    let mut along_y: Vec<f32> = products.iter().map(|product| product[2]).collect();
    let mut alpha = vec![0.0; rows];
    for (age, i) in ages.iter().enumerate() {
        alpha[*i] = along_s[*i] / sy(*i, *i);
        ages.iter().for_each(|j| along_y[*j] -= alpha[*i] * yy(*j, *i));
        ages[age + 1..].iter().for_each(|j| along_s[*j] -= alpha[*i] * sy(*j, *i));
    }
    along_y.iter_mut().for_each(|y| *y *= gamma);
    let mut factors = vec![[0.0; 2]; rows];
    for (age, i) in ages.iter().enumerate().rev() {
        let weight = alpha[*i] - along_y[*i] / sy(*i, *i);
        factors[*i] = [-weight, gamma * alpha[*i]];
        ages[..age].iter().for_each(|j| along_y[*j] += weight * sy(*i, *j));
    }
    let along = factors.iter().zip(products).map(|([s, y], product)| s * product[0] + y * product[2]);
    let mut slope = -gamma * scalars[10] + along.sum::<f32>();
    // A NaN slope is no descent either.
    if line_search && pairs > 0 && !(slope.is_finite() && slope < 0.0) {
        (pairs, gamma, slope) = (0, 1.0, -scalars[10]);
        factors.fill([0.0; 2]);
        scalars[14] += 1.0;
    }
    let short = scalars[0] == FIRST as f32 || (line_search && pairs == 0);
    scalars[3] = rate / if short { scalars[9].max(1.0) } else { 1.0 };
    scalars[5..7].copy_from_slice(&[pairs as f32, gamma]);
    scalars[11] = slope;
    scalars[16..20].copy_from_slice(&[-gamma, 0.0, 0.0, 0.0]);
    for (row, [s, y]) in scalars[20..].chunks_exact_mut(4).zip(factors) {
        row.copy_from_slice(&[s, y, 0.0, 0.0]);
    }
}

impl Op for LbfgsRecursion {
    fn name(&self) -> &'static str {
        "lbfgs_recursion"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let ring = self.ring(inputs)?;
        let wanted = [inputs[0], Shape::Vector(4), ring.products(), ring.scalars()];
        expect(self.name(), inputs, &wanted)?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        let ring = self.ring(&signature.inputs)?;
        let dispatch = Dispatch::new("lbfgs_recursion", "recursion")
            .consts(&[("LINE_SEARCH", u32::from(self.line_search))])
            .bind("products", Operand::Input(0))
            .bind("control", Operand::Input(1))
            .bind("inner", Operand::Input(2))
            .bind("scalars", Operand::Input(3))
            .bind("output", Operand::Output)
            .size("rows", ring.rows())
            .size("stride", ring.rows().next_multiple_of(4))
            .loops(3 * ring.rows());
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let ring = self.ring(&signature.inputs)?;
        let line_search = self.line_search;
        Ok(CpuKernel::new(move |mut call| {
            let (products, control) = (call.inputs[0].as_chunks::<4>().0, call.inputs[1]);
            let [inner, scalars] = &mut call.mutated[..] else { return };
            let phase = scalars[0];
            write_number(call.output, phase);
            if phase == PAIR as f32 {
                take_up(&ring, products, inner, scalars);
            }
            if [FIRST, PAIR, RESTART].contains(&f64::from(phase)) {
                direction(&ring, products, inner, scalars, control[0], line_search);
            }
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let &[products, control, inner, scalars] = inputs else { return Vec::new() };
        let Ok(ring) = self.ring(shapes) else { return Vec::new() };
        let rows = ring.rows();
        let (mut inner, mut scalars) = (inner.to_vec(), scalars.to_vec());
        let product = |row: usize, column: usize| products[row * 4 + column];
        let phase = scalars[0];
        let (mut head, mut pairs, mut gamma) = (scalars[4] as usize, scalars[5] as usize, scalars[6]);
        if phase == PAIR {
            let next = (head + 1) % rows;
            if product(next, 1) > CURVATURE {
                for row in 0..rows {
                    inner[row * rows + next] = product(row, 1);
                    inner[(rows + row) * rows + next] = product(row, 3);
                    inner[(rows + next) * rows + row] = product(row, 3);
                }
                (head, pairs, gamma) =
                    (next, (pairs + 1).min(ring.history), product(next, 1) / product(next, 3));
            } else {
                scalars[15] += 1.0;
            }
        }
        if ![FIRST, PAIR, RESTART].contains(&phase) {
            return [inner, scalars].concat();
        }
        // Rows by age, the newest first. s_i . y_j is valid if i is not newer than j.
        let ages: Vec<usize> = (0..pairs).map(|age| (head + rows - age) % rows).collect();
        let sy = |s: usize, y: usize| inner[s * rows + y];
        let yy = |a: usize, b: usize| inner[(rows + a) * rows + b];
        let mut alpha = vec![0.0; rows];
        for (age, i) in ages.iter().enumerate() {
            let newer: f64 = ages[..age].iter().map(|j| alpha[*j] * sy(*i, *j)).sum();
            alpha[*i] = (product(*i, 0) - newer) / sy(*i, *i);
        }
        let mut weight = vec![0.0; rows];
        for (age, i) in ages.iter().enumerate().rev() {
            let all: f64 = ages.iter().map(|j| alpha[*j] * yy(*i, *j)).sum();
            let older: f64 = ages[age + 1..].iter().map(|j| weight[*j] * sy(*j, *i)).sum();
            let beta = (gamma * (product(*i, 2) - all) + older) / sy(*i, *i);
            weight[*i] = alpha[*i] - beta;
        }
        let mut factors: Vec<[f64; 2]> = (0..rows).map(|row| [-weight[row], gamma * alpha[row]]).collect();
        let along = factors.iter().enumerate().map(|(row, [s, y])| s * product(row, 0) + y * product(row, 2));
        let mut slope = -gamma * scalars[10] + along.sum::<f64>();
        if self.line_search && pairs > 0 && !(slope.is_finite() && slope < 0.0) {
            (pairs, gamma, slope) = (0, 1.0, -scalars[10]);
            factors.fill([0.0; 2]);
            scalars[14] += 1.0;
        }
        let short = phase == FIRST || (self.line_search && pairs == 0);
        scalars[3] = control[0] / if short { scalars[9].max(1.0) } else { 1.0 };
        scalars[4..7].copy_from_slice(&[head as f64, pairs as f64, gamma]);
        scalars[11] = slope;
        scalars[16..20].copy_from_slice(&[-gamma, 0.0, 0.0, 0.0]);
        for (row, [s, y]) in factors.into_iter().enumerate() {
            scalars[20 + row * 4..24 + row * 4].copy_from_slice(&[s, y, 0.0, 0.0]);
        }
        [inner, scalars].concat()
    }

    fn mutates(&self) -> &'static [usize] {
        &[2, 3]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let rows = signature.inputs[0].elements() as u64 / 4;
        5 * rows * rows
    }
}

/// Up to 100 steps of a recursion whose factors stay below the largest value.
const TOLERANCE: f64 = 1e-5;

/// Repeating values that put 1 on the diagonal of a matrix with one column less and small values elsewhere: inner
/// products of nearly orthogonal directions.
const fn nearly_diagonal<const COUNT: usize>() -> [f32; COUNT] {
    let mut values = [0.0; COUNT];
    values[0] = 1.0;
    let mut index = 1;
    while index < COUNT {
        values[index] = ((index * 7) % 11) as f32 / 400.0 - 0.0125;
        index += 1;
    }
    values
}

const OF_2: CaseInput = CaseInput::Values(&nearly_diagonal::<3>());
const OF_4: CaseInput = CaseInput::Values(&nearly_diagonal::<5>());
const OF_7: CaseInput = CaseInput::Values(&nearly_diagonal::<8>());
const OF_21: CaseInput = CaseInput::Values(&nearly_diagonal::<22>());
const OF_101: CaseInput = CaseInput::Values(&nearly_diagonal::<102>());
const OF_128: CaseInput = CaseInput::Values(&nearly_diagonal::<129>());

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Phase, ..., row of the newest pair and number of pairs, ..., sums of the projected gradient.
    let scalars: [&[f32]; 7] = [
        &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 7.0, 3.0, 0.0, 0.5],
        &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 0.25, 3.0, 0.0, 0.5],
        &[2.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 7.0, 30.0, 0.0, 0.5],
        &[2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5],
        // A slope that is not negative, as rounding may give.
        &[2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5, 9.0, 2.0, 7.0, -900.0, 0.0, 0.5],
        &[3.0, 1.0, 2.0, 0.25, 1.0, 1.0, 0.5, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5],
        &[4.0, 1.0, 0.0, 0.25, 1.0, 0.0, 1.0, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5],
    ];
    // A full ring whose newest row is the second to last.
    let full: [(usize, &[f32]); 4] = [
        (3, &[2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 0.5, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5]),
        (6, &[2.0, 1.0, 0.0, 1.0, 5.0, 6.0, 0.5, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5]),
        (20, &[2.0, 1.0, 0.0, 1.0, 19.0, 20.0, 0.5, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5]),
        (100, &[2.0, 1.0, 0.0, 1.0, 99.0, 100.0, 0.5, 9.0, 2.0, 7.0, 30.0, 0.0, 0.5]),
    ];
    for (history, inner) in [(1, OF_2), (3, OF_4), (6, OF_7), (20, OF_21), (100, OF_101), (127, OF_128)] {
        let ring = Ring { picture: Shape::Vector(1), history };
        let mut push = |line_search, products, scalars| {
            let inputs = [
                (Shape::Matrix { rows: history + 1, columns: 4 }, products),
                (Shape::Vector(4), CaseInput::Values(&[0.75, 9.0, -3.0, 5.0])),
                (ring.products(), inner),
                (ring.scalars(), CaseInput::Values(scalars)),
            ];
            cases.push(Case::drawn(LbfgsRecursion { line_search }, &inputs, TOLERANCE));
        };
        let full = full.iter().filter(|(length, _)| *length == history).map(|(_, scalars)| *scalars);
        for scalars in scalars.into_iter().chain(full) {
            for line_search in [false, true] {
                // A pair that is kept in some cases and dropped in others.
                push(line_search, CaseInput::Values(&[0.3, 0.9, -0.4, 1.3, -0.7, 0.8, 0.2]), scalars);
                push(line_search, CaseInput::Values(&[0.3, -0.9, -0.4, 1.3, -0.7, -0.8, 0.2]), scalars);
                push(line_search, CaseInput::Exactly(0.125), scalars);
            }
        }
    }
    cases
}
