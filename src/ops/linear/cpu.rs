//! Fully connected layers on the CPU: the forward pass reads all weights once, the backward pass those of rows with a
//! nonzero gradient.

use super::matrix::{Matrix, MatrixValues};
use crate::ops::relu::rectified;
use crate::ops::shape::mismatch;
use crate::ops::vectors::{add_scaled, dot, heap_of_sum, sum_of_rows};
use crate::ops::{CpuConstant, CpuKernel, CpuValues};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows of weights per task; whole quads.
const ROWS: usize = 16;
/// Half-precision weights that are widened at a time.
const WIDENED: usize = 512;
/// Bytes of weights that are read at a time while the constant is created.
const READ: usize = 16 << 20;

impl Matrix {
    /// All weights, row-major without padding.
    fn cpu_constant(self: &Arc<Self>) -> CpuConstant {
        let matrix = self.clone();
        let (precision, size) = if self.half { ("f16", 2) } else { ("f32", 4) };
        CpuConstant {
            key: format!("{} in {precision}", self.id),
            bytes: (self.rows * self.columns * size) as u64,
            reading: (self.rows * self.columns * size).min(READ) as u64,
            make: Arc::new(move || {
                let (rows, length) = (matrix.rows, matrix.rows * matrix.columns);
                let step = (READ / (matrix.columns * size).max(1)).max(1);
                let mut single = Vec::with_capacity(if matrix.half { 0 } else { length });
                let mut half = Vec::with_capacity(if matrix.half { length } else { 0 });
                for first in (0..rows).step_by(step) {
                    match matrix.load(first..(first + step).min(rows))? {
                        MatrixValues::F32(values) => single.extend_from_slice(&values),
                        MatrixValues::F16(values) => half.extend_from_slice(&values),
                    }
                }
                Ok(if matrix.half { CpuValues::F16(half) } else { CpuValues::F32(single) })
            }),
        }
    }

    /// The biases, one per row.
    fn cpu_bias(&self) -> CpuConstant {
        let (load, rows) = (self.bias.clone(), self.rows);
        CpuConstant {
            key: format!("{} bias", self.id),
            bytes: rows as u64 * 4,
            reading: 0,
            make: Arc::new(move || {
                let bias = load()?;
                if bias.len() != rows {
                    let message = format!("{rows} rows came with {} biases", bias.len());
                    return Err(mismatch("linear", &message));
                }
                Ok(CpuValues::F32(bias))
            }),
        }
    }

    /// CPU kernel of `y = W x + b`, rectified if `relu`.
    pub(super) fn cpu_forward(self: &Arc<Self>, relu: bool) -> CpuKernel {
        let (rows, columns) = (self.rows, self.columns);
        let kernel = CpuKernel::new(move |call| {
            let x = &call.inputs[0][..columns];
            let [weights, bias] = [0, 1].map(|index: usize| call.constants[index]);
            call.output.par_chunks_mut(ROWS).enumerate().for_each(|(block, part)| {
                for (y, row) in part.iter_mut().zip(block * ROWS..) {
                    // Padding follows the last row.
                    let sum = if row < rows {
                        bias.f32()[row] + row_product(weights, row * columns, x)
                    } else {
                        0.0
                    };
                    *y = if relu { rectified(sum) } else { sum };
                }
            });
        });
        kernel.constant(self.cpu_constant()).constant(self.cpu_bias())
    }

    /// CPU kernel of `dx = W^T dy`; with `relu`, dy is zeroed where y <= 0.
    pub(super) fn cpu_backward(self: &Arc<Self>, relu: bool) -> CpuKernel {
        let (rows, columns) = (self.rows, self.columns);
        let kernel = CpuKernel::new(move |call| {
            let (y, dy, weights) = (call.inputs[0], call.inputs[1], call.constants[0]);
            let (dx, padding) = call.output.split_at_mut(columns);
            padding.fill(0.0);
            sum_of_rows(rows, dx, |block, dx| {
                // Skip rows with a zero gradient: after a ReLU that is about half of them.
                let passes = |row: &usize| dy[*row] != 0.0 && (!relu || y[*row] > 0.0);
                let active: Vec<usize> = block.filter(passes).collect();
                for four in active.chunks(4) {
                    // Groups of fewer than four rows repeat the first with factor 0.
                    let row = |index: usize| four.get(index).copied().unwrap_or(four[0]) * columns;
                    let factor = |index: usize| four.get(index).map_or(0.0, |row| dy[*row]);
                    add_rows(weights, [0, 1, 2, 3].map(row), [0, 1, 2, 3].map(factor), dx);
                }
            });
        });
        kernel.constant(self.cpu_constant()).temporary(heap_of_sum(rows, columns))
    }
}

/// Product of the weights starting at `start` with x.
fn row_product(weights: &CpuValues, start: usize, x: &[f32]) -> f32 {
    match weights {
        CpuValues::F32(values) => dot(&values[start..start + x.len()], x),
        CpuValues::F16(bits) => {
            let mut wide = [0.0; WIDENED];
            let blocks = bits[start..start + x.len()].chunks(WIDENED).zip(x.chunks(WIDENED));
            blocks.map(|(bits, x)| dot(widen(bits, &mut wide), x)).sum()
        }
    }
}

/// Adds four rows of weights, starting at `starts`, to dx, each times a factor.
fn add_rows(weights: &CpuValues, starts: [usize; 4], factors: [f32; 4], dx: &mut [f32]) {
    match weights {
        CpuValues::F32(values) => {
            let rows = starts.map(|start| &values[start..start + dx.len()]);
            add_scaled(dx, rows, factors);
        }
        CpuValues::F16(bits) => {
            let mut wide = [[0.0; WIDENED]; 4];
            for (dx, first) in dx.chunks_mut(WIDENED).zip((0..).step_by(WIDENED)) {
                for (wide, start) in wide.iter_mut().zip(starts) {
                    widen(&bits[start + first..start + first + dx.len()], wide);
                }
                add_scaled(dx, wide.each_ref().map(|wide| &wide[..dx.len()]), factors);
            }
        }
    }
}

/// Widens half-precision values into a buffer of at least their length.
fn widen<'a>(bits: &[u16], wide: &'a mut [f32]) -> &'a [f32] {
    let wide = &mut wide[..bits.len()];
    let values: &[half::f16] = bits.reinterpret_cast();
    values.convert_to_f32_slice(wide);
    wide
}
