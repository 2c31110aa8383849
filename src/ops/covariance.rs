//! Covariance matrix from a second-moment matrix and the means; traces.

use super::cpu::{for_each_row, write_number};
use super::linear_combination::LinearCombination;
use super::shape::{mismatch, takes};
use super::vectors::{add_scaled, dot, sum_of_rows};
use super::{Adjoint, AdjointOperand, Case, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// `C = scale * M - mu mu^T + ridge * I`. Inputs: M, a square matrix; mu, a vector as long as its rows.
///
/// With `M = F F^T / (C N)` (a Gram matrix), `scale` the number of channels and mu the channel means, this is the
/// covariance of F. Both terms are rounded to f32: a variance below a millionth of the squared mean is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Covariance {
    /// Factor of M.
    pub scale: f32,
    /// Added to the diagonal.
    pub ridge: f32,
}

/// Adjoint of [`Covariance`] with respect to mu: `-(dC + dC^T) mu`. Inputs: mu, dC.
#[derive(Debug, Clone, Copy)]
pub struct CovarianceMeanBackward;

/// Sum of the diagonal of a square matrix, as a vector of length 1.
#[derive(Debug, Clone, Copy)]
pub struct Trace;

/// Adjoint of [`Trace`]: the upstream gradient times the identity. Input: a vector of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceBackward {
    /// Rows and columns of the matrix.
    pub side: usize,
}

/// Side of a square matrix, or an error.
pub(super) fn expect_square(op: &str, shape: Shape) -> Result<usize> {
    match shape {
        Shape::Matrix { rows, columns } if rows == columns => Ok(rows),
        _ => Err(takes(op, "a square matrix", shape)),
    }
}

/// Sum of the diagonal of a stored square matrix.
pub(super) fn trace(matrix: &[f32], side: usize) -> f64 {
    let diagonal = matrix.iter().step_by(side.next_multiple_of(4) + 1).take(side);
    diagonal.map(|value| f64::from(*value)).sum()
}

fn square(side: usize) -> Shape {
    Shape::Matrix { rows: side, columns: side }
}

fn dispatch(entry: &'static str, side: usize, [scale, ridge]: [f32; 2]) -> Dispatch {
    Dispatch::new("covariance", entry)
        .bind("output", Operand::Output)
        .size("channels", side)
        .size("quads", side.div_ceil(4))
        .float("scale", scale)
        .float("ridge", ridge)
}

impl Op for Covariance {
    fn name(&self) -> &'static str {
        "covariance"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let side = expect_square("covariance", inputs[0])?;
        if inputs[1] != Shape::Vector(side) {
            return Err(mismatch(
                "covariance",
                &format!("{side} channels need one mean each, not {}", inputs[1]),
            ));
        }
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let side = expect_square("covariance", signature.output)?;
        let dispatch = dispatch("forward", side, [self.scale, self.ridge])
            .bind("input", Operand::Input(0))
            .bind("mean", Operand::Input(1))
            .linear(side * side.div_ceil(4), 64, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let side = expect_square("covariance", signature.output)?;
        let stride = side.next_multiple_of(4);
        let Self { scale, ridge } = *self;
        Ok(CpuKernel::new(move |call| {
            let (moments, mean) = (call.inputs[0], &call.inputs[1][..side]);
            for_each_row(call.output, stride, |index, row| {
                let moments = &moments[index * stride..];
                for ((value, moment), other) in row.iter_mut().zip(moments).zip(mean) {
                    *value = scale * moment - mean[index] * other;
                }
                row[index] += ridge;
                row[side..].fill(0.0);
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let (moments, mean) = (inputs[0], inputs[1]);
        let element = |index: usize| {
            let (row, column) = (index / mean.len(), index % mean.len());
            let ridge = if row == column { f64::from(self.ridge) } else { 0.0 };
            f64::from(self.scale) * moments[index] - mean[row] * mean[column] + ridge
        };
        (0..moments.len()).map(element).collect()
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        match input {
            0 => Adjoint::new(LinearCombination::scale(self.scale), &[AdjointOperand::Upstream]),
            _ => Adjoint::new(CovarianceMeanBackward, &[AdjointOperand::Input(1), AdjointOperand::Upstream]),
        }
    }

    fn flops(&self, signature: &Signature) -> u64 {
        3 * signature.output.elements() as u64
    }
}

impl Op for CovarianceMeanBackward {
    fn name(&self) -> &'static str {
        "covariance_mean_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let side = expect_square("covariance_mean_backward", inputs[1])?;
        if inputs[0] != Shape::Vector(side) {
            let message = format!("{side} channels need one mean each, not {}", inputs[0]);
            return Err(mismatch("covariance_mean_backward", &message));
        }
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let side = expect_square("covariance_mean_backward", signature.inputs[1])?;
        let dispatch = dispatch("mean_backward", side, [1.0, 0.0])
            .bind("mean", Operand::Input(0))
            .bind("upstream", Operand::Input(1))
            .linear(side.div_ceil(4), 1, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let side = expect_square("covariance_mean_backward", signature.inputs[1])?;
        let stride = side.next_multiple_of(4);
        Ok(CpuKernel::new(move |call| {
            let (mean, upstream) = (&call.inputs[0][..side], call.inputs[1]);
            let row = |index: usize| &upstream[index * stride..index * stride + side];
            let (gradient, padding) = call.output.split_at_mut(side);
            padding.fill(0.0);
            sum_of_rows(side, gradient, |rows, sum| {
                for first in rows.clone().step_by(4) {
                    // After the last row of the block, repeat the first of the four with factor 0.
                    let of = |index: usize| if first + index < rows.end { first + index } else { first };
                    let factor =
                        |index: usize| if first + index < rows.end { mean[first + index] } else { 0.0 };
                    add_scaled(sum, [0, 1, 2, 3].map(|index| row(of(index))), [0, 1, 2, 3].map(factor));
                }
            });
            for_each_row(gradient, 1, |index, value| value[0] = -(value[0] + dot(row(index), mean)));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let (mean, upstream) = (inputs[0], inputs[1]);
        let side = mean.len();
        let row = |row: usize| {
            -(0..side)
                .map(|other| (upstream[row * side + other] + upstream[other * side + row]) * mean[other])
                .sum::<f64>()
        };
        (0..side).map(row).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        4 * signature.inputs[1].elements() as u64
    }
}

impl Op for Trace {
    fn name(&self) -> &'static str {
        "trace"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_square("trace", inputs[0])?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, _device: &Profile) -> Result<Vec<Kernel>> {
        let side = expect_square("trace", signature.inputs[0])?;
        let dispatch = dispatch("trace", side, [1.0, 0.0]).bind("input", Operand::Input(0));
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let side = expect_square("trace", signature.inputs[0])?;
        Ok(CpuKernel::new(move |call| {
            write_number(call.output, trace(call.inputs[0], side) as f32);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let side = expect_square("trace", shapes[0]).expect("a square matrix");
        vec![inputs[0].iter().step_by(side + 1).sum()]
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let side = expect_square("trace", shapes[0]).ok()?;
        Adjoint::new(TraceBackward { side }, &[AdjointOperand::Upstream])
    }
}

impl Op for TraceBackward {
    fn name(&self) -> &'static str {
        "trace_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_number("trace_backward")?;
        Ok(square(self.side))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let dispatch = dispatch("trace_backward", self.side, [1.0, 0.0])
            .bind("upstream", Operand::Input(0))
            .linear(self.side * self.side.div_ceil(4), 64, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let stride = self.side.next_multiple_of(4);
        Ok(CpuKernel::new(move |call| {
            let upstream = call.inputs[0][0];
            for_each_row(call.output, stride, |index, row| {
                row.fill(0.0);
                row[index] = upstream;
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let mut matrix = vec![0.0; self.side * self.side];
        matrix.iter_mut().step_by(self.side + 1).for_each(|value| *value = inputs[0][0]);
        matrix
    }
}

/// Four roundings of terms at most three times the largest result.
const TOLERANCE: f64 = 6e-7;

/// Sums of at most 262 products of both signs, in f32: 6e-8 * sqrt(262) = 1e-6 of a typical term's sum.
const SUM_TOLERANCE: f64 = 4e-6;

/// Tiny, odd and prime sides; more rows than invocations in a workgroup.
const SIDES: [usize; 6] = [1, 3, 4, 17, 67, 131];

pub(super) fn cases() -> Vec<Case> {
    let case = |side: usize| {
        let op = Covariance { scale: side as f32, ridge: 0.25 };
        Case::normal(op, &[square(side), Shape::Vector(side)], TOLERANCE)
    };
    SIDES.map(case).into()
}

pub(super) fn mean_backward_cases() -> Vec<Case> {
    SIDES
        .map(|side| Case::normal(CovarianceMeanBackward, &[Shape::Vector(side), square(side)], SUM_TOLERANCE))
        .into()
}

pub(super) fn trace_cases() -> Vec<Case> {
    // A trace of values of both signs may be much smaller than its terms.
    SIDES.map(|side| Case::normal(Trace, &[square(side)], 10.0 * SUM_TOLERANCE)).into()
}

pub(super) fn trace_backward_cases() -> Vec<Case> {
    SIDES.map(|side| Case::normal(TraceBackward { side }, &[Shape::Vector(1)], 0.0)).into()
}
