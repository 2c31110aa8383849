//! Fully connected layer with constant weights, bias and optional ReLU, and its adjoint with respect to the input.
//!
//! Same as PyTorch's `linear`: `y[r] = b[r] + sum_c W[r, c] x[c]`.

use super::matrix::{LARGEST_CHUNK, Matrix, ROWS};
use super::tiles;
use crate::error::Result;
use crate::gpu::{Family, Profile};
use crate::ops::relu::rectified;
use crate::ops::shape::mismatch;
use crate::ops::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
    Storage,
};
use std::ops::Range;
use std::sync::Arc;

/// Invocations per workgroup of the naive kernels; as in the shader.
const NAIVE_GROUP: usize = 64;

/// `y = W x + b`, rectified if `relu`. Input: x, a vector.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Weights and biases.
    pub matrix: Arc<Matrix>,
    /// True to apply a ReLU to the result.
    pub relu: bool,
}

/// Adjoint of [`Linear`] with respect to x: `dx = W^T dy`; with a ReLU, dy is zeroed where y <= 0. Inputs: y (used only
/// with ReLU), dy.
#[derive(Debug, Clone)]
pub struct LinearBackward {
    /// The forward op.
    pub linear: Linear,
}

/// Workgroup sizes for one kind of device.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    /// Invocations per workgroup.
    group: usize,
    /// Backward: parts of the rows that a workgroup sums in parallel.
    slices: usize,
    /// Backward: words of columns per invocation.
    columns: usize,
}

impl Tuning {
    /// A software driver runs the subgroups of a workgroup one after the other, each over the full length of the rows,
    /// so more than one re-reads memory that has left the caches: on lavapipe, 64 invocations take four times as long
    /// as 8. Backward, lavapipe walks down the rows; wide strips avoid a cache miss at every step: one word per
    /// invocation takes three times as long as four. A GPU needs larger groups, and backward more invocations than
    /// there are words in a row.
    fn choose(device: &Profile) -> Self {
        // If the buffer family is requested, use the sizes for a GPU.
        if device.prefers(Family::Texture) || (device.software && device.family == Family::Auto) {
            let lanes = device.lanes.filter(|lanes| lanes.is_power_of_two()).unwrap_or(8);
            Self { group: lanes.clamp(4, 64) as usize, slices: 1, columns: 4 }
        } else {
            Self { group: 64, slices: 8, columns: 1 }
        }
    }
}

impl Linear {
    /// Kernel with one dispatch per chunk: sets what all entry points share, and `finish` completes each dispatch.
    fn kernel(
        &self,
        variant: &'static str,
        entry: &'static str,
        device: &Profile,
        finish: impl Fn(Dispatch, Range<usize>) -> Dispatch,
    ) -> Result<Kernel> {
        let matrix = self.matrix.on(device);
        let dispatch = |rows: Range<usize>| {
            let dispatch = Dispatch::new("linear", entry)
                .consts(&[("HALF", u32::from(matrix.half)), ("RELU", u32::from(self.relu))])
                .bind("weights", matrix.constant(rows.clone(), Storage::Buffer))
                .bind("output", Operand::Output)
                .size("rows", rows.len())
                .size("first", rows.start)
                .size("words", matrix.words())
                .size("column_quads", matrix.columns.div_ceil(4));
            finish(dispatch, rows)
        };
        let dispatches = matrix.chunks(device, LARGEST_CHUNK)?.into_iter().map(dispatch).collect();
        Ok(Kernel::of(variant, dispatches))
    }

    /// Kernels in order of preference; only the naive one if it is requested.
    fn choices(device: &Profile, texture: Option<Kernel>, buffer: Kernel, naive: Kernel) -> Vec<Kernel> {
        if device.prefers(Family::Naive) {
            return vec![naive];
        }
        texture.into_iter().chain([buffer, naive]).collect()
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        if inputs[0].expect_vector("linear")? != self.matrix.columns {
            return Err(mismatch("linear", &format!("{:?} does not take {} values", self.matrix, inputs[0])));
        }
        Ok(Shape::Vector(self.matrix.rows))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let bind = |dispatch: Dispatch| {
            dispatch.bind("input", Operand::Input(0)).bind("bias", self.matrix.bias_constant())
        };
        let group = Tuning::choose(device).group as u32;
        let words = self.matrix.on(device).words();
        let tuned = self.kernel("buffer", "forward", device, |dispatch, rows| {
            bind(dispatch).consts(&[("GROUP", group)]).linear(rows.len(), ROWS, device)
        })?;
        let naive = self.kernel("naive", "naive_forward", device, |dispatch, rows| {
            bind(dispatch).loops(words).linear(rows.len().div_ceil(4), NAIVE_GROUP, device)
        })?;
        Ok(Self::choices(device, tiles::kernel(&self.matrix, self.relu, false, device)?, tuned, naive))
    }

    fn cpu(&self, _signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        Ok(self.matrix.on(device).cpu_forward(self.relu))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let bias = (self.matrix.bias)().expect("bias");
        let weights = self.matrix.wide();
        let row = |(row, bias): (&[f64], &f32)| {
            let y: f64 = f64::from(*bias) + row.iter().zip(inputs[0]).map(|(w, x)| w * x).sum::<f64>();
            if self.relu { rectified(y) } else { y }
        };
        weights.chunks_exact(self.matrix.columns).zip(&bias).map(row).collect()
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(
            LinearBackward { linear: self.clone() },
            &[AdjointOperand::Output, AdjointOperand::Upstream],
        )
    }

    fn flops(&self, _signature: &Signature) -> u64 {
        2 * (self.matrix.rows * self.matrix.columns) as u64
    }
}

impl Op for LinearBackward {
    fn name(&self) -> &'static str {
        "linear_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let matrix = &self.linear.matrix;
        let expected = Shape::Vector(matrix.rows);
        if inputs[0] != expected || inputs[1] != expected {
            let message = format!("{matrix:?} does not match y {} and dy {}", inputs[0], inputs[1]);
            return Err(mismatch("linear_backward", &message));
        }
        Ok(Shape::Vector(matrix.columns))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let Tuning { group, slices, columns } = Tuning::choose(device);
        let words = self.linear.matrix.on(device).words();
        let bind = |dispatch: Dispatch| {
            dispatch.bind("activation", Operand::Input(0)).bind("upstream", Operand::Input(1))
        };
        let tuned = self.linear.kernel("buffer", "backward", device, |dispatch, _| {
            bind(dispatch)
                .consts(&[("GROUP", group as u32), ("SLICES", slices as u32), ("WORDS", columns as u32)])
                .linear(words, group / slices * columns, device)
        })?;
        let naive = self.linear.kernel("naive", "naive_backward", device, |dispatch, rows| {
            bind(dispatch).loops(rows.len()).linear(words, NAIVE_GROUP, device)
        })?;
        Ok(Linear::choices(
            device,
            tiles::kernel(&self.linear.matrix, self.linear.relu, true, device)?,
            tuned,
            naive,
        ))
    }

    fn cpu(&self, _signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        Ok(self.linear.matrix.on(device).cpu_backward(self.linear.relu))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let matrix = &self.linear.matrix;
        let mut dx = vec![0.0; matrix.columns];
        for (r, row) in matrix.wide().chunks_exact(matrix.columns).enumerate() {
            if !self.linear.relu || inputs[0][r] > 0.0 {
                dx.iter_mut().zip(row).for_each(|(dx, w)| *dx += w * inputs[1][r]);
            }
        }
        dx
    }

    fn flops(&self, signature: &Signature) -> u64 {
        self.linear.flops(signature)
    }
}

/// One invocation sums at most a thousand products before the tree over the workgroup: rounding of 6e-8 * sqrt(1000) =
/// 2e-6 of the result's scale. The naive kernel sums up to 6272 words sequentially: 6e-8 * sqrt(6272) = 4.8e-6.
const TOLERANCE: f64 = 5e-6;

/// Test layers: one word and many, whole and partial words, rows that end within a quad and within a workgroup.
fn samples() -> Vec<Linear> {
    [
        (1, 1, false, false),
        (1, 1, true, true),
        (3, 5, false, true),
        (10, 7, true, false),
        (4, 8, true, true),
        (17, 67, true, true),
        (64, 129, false, false),
        (11, 300, true, true),
        (1000, 257, true, false),
        (1000, 263, false, true),
        (5, 25088, false, true),
        (5, 25088, true, false),
    ]
    .map(|(rows, columns, half, relu)| Linear { matrix: Matrix::sample(rows, columns, half), relu })
    .into()
}

pub(in crate::ops) fn cases() -> Vec<Case> {
    let case = |linear: Linear| {
        let shape = Shape::Vector(linear.matrix.columns);
        Case::normal(linear, &[shape], TOLERANCE)
    };
    samples().into_iter().map(case).collect()
}

pub(in crate::ops) fn backward_cases() -> Vec<Case> {
    let case = |linear: Linear| {
        let shape = Shape::Vector(linear.matrix.rows);
        let inputs = [(shape, CaseInput::Rectified), (shape, CaseInput::Normal)];
        Case::drawn(LinearBackward { linear }, &inputs, TOLERANCE)
    };
    samples().into_iter().map(case).collect()
}
