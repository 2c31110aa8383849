//! Dot products of the rings' rows.

use super::{PAIR, Ring, dot, expect};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::lanes::sums;
use crate::ops::shape::mismatch;
use crate::ops::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use rayon::prelude::*;

/// For each row r of the rings of steps s and changes y: `[s_r . p, s_r . n, y_r . p, y_r . n]`, where p is the
/// projected gradient and n the newest change. Rows without a pair give 0 (the vacant row, where the new pair was
/// written, has one), and so do all rows unless the phase is 2, a new pair.
///
/// Inputs: both rings, p, n, the scalars, and the output of [`crate::ops::LbfgsStore`], which must run before. Output:
/// a matrix with the ring's number of rows and 4 columns. The order of summation is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbfgsProducts;

/// Invocations per workgroup, and most partial sums of the second stage; match the shader.
const GROUP: usize = 64;
/// Fewest texels per invocation before a row gets another workgroup.
const LEAST_TEXELS: usize = 16;

impl Op for LbfgsProducts {
    fn name(&self) -> &'static str {
        "lbfgs_products"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let (Some(steps), Some(x)) = (inputs.first(), inputs.get(2)) else {
            return Err(mismatch(self.name(), "it takes rings, gradients and scalars"));
        };
        let ring = Ring::of(self.name(), *x, *steps)?;
        let wanted = [ring.shape(), ring.shape(), *x, *x, ring.scalars(), Shape::Vector(1)];
        expect(self.name(), inputs, &wanted)?;
        Ok(Shape::Matrix { rows: ring.rows(), columns: 4 })
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let ring = Ring::of(self.name(), signature.inputs[2], signature.inputs[0])?;
        let texels = ring.picture.stored() / 4;
        let chunks = texels.div_ceil(GROUP * LEAST_TEXELS).clamp(1, GROUP.min(device.max_groups as usize));
        let sizes = |dispatch: Dispatch, first: usize| {
            dispatch
                .size("count", texels)
                .size("stride", ring.stride())
                .size("rows", ring.rows())
                .size("first", first)
                .size("chunks", chunks)
        };
        let partial = |window: std::ops::Range<usize>| {
            let dispatch = Dispatch::new("lbfgs_products", "partial")
                .bind("steps", Operand::Input(0))
                .bind("changes", Operand::Input(1))
                .bind("free", Operand::Input(2))
                .bind("change", Operand::Input(3))
                .bind("scalars", Operand::Input(4))
                .bind("sums", Operand::Scratch(0))
                .loops(texels.div_ceil(chunks * GROUP) + GROUP)
                .groups([chunks, window.len(), 1]);
            ring.narrow(sizes(dispatch, window.start), &window)
        };
        let mut dispatches: Vec<Dispatch> = ring.windows(device).into_iter().map(partial).collect();
        let finish = Dispatch::new("lbfgs_products", "finish")
            .bind("partials", Operand::Scratch(0))
            .bind("output", Operand::Output)
            .groups([ring.rows(), 1, 1]);
        dispatches.push(sizes(finish, 0));
        let scratch = vec![(ring.rows() * chunks) as u64 * 16];
        Ok(vec![Kernel { variant: "naive", dispatches, scratch }])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let ring = Ring::of(self.name(), signature.inputs[2], signature.inputs[0])?;
        Ok(CpuKernel::new(move |call| {
            let &[steps, changes, free, change, scalars, ..] = &call.inputs[..] else { return };
            let (head, pairs) = (scalars[4] as usize, scalars[5] as usize);
            call.output.par_chunks_exact_mut(4).enumerate().for_each(|(row, output)| {
                // The vacant row, where the new pair was written, counts as the oldest.
                let age = (head + ring.rows() - row) % ring.rows();
                output.fill(0.0);
                if scalars[0] == PAIR as f32 && (age < pairs || age == ring.rows() - 1) {
                    let stored = ring.stored_row(row);
                    let inputs = [&steps[stored.clone()], &changes[stored], free, change];
                    let sums = sums(inputs, |[s, y, p, n]| [s * p, s * n, y * p, y * n]);
                    output.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum as f32);
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let &[steps, changes, free, change, scalars, _] = inputs else { return Vec::new() };
        let Ok(ring) = Ring::of(self.name(), shapes[2], shapes[0]) else { return Vec::new() };
        let (head, pairs) = (scalars[4] as usize, scalars[5] as usize);
        let row = |row: usize| {
            let age = (head + ring.rows() - row) % ring.rows();
            let vacant = row == (head + 1) % ring.rows();
            if scalars[0] != PAIR || (age >= pairs && !vacant) {
                return [0.0; 4];
            }
            let (s, y) = (ring.row(steps, row), ring.row(changes, row));
            [dot(&s, free), dot(&s, change), dot(&y, free), dot(&y, change)]
        };
        (0..ring.rows()).flat_map(row).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        8 * signature.inputs[0].elements() as u64
    }
}

/// Sums of terms of both signs, as for [`crate::ops::Dot`].
const TOLERANCE: f64 = 1e-4;

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Phase 2 with no pair yet, with some, and with a full ring whose newest row is its last; and phase 3.
    let scalars: [&[f32]; 4] = [
        &[2.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0],
        &[2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.3, 4.0],
        &[2.0, 1.0, 0.0, 1.0, 3.0, 3.0, 0.3, 4.0],
        &[3.0, 1.0, 2.0, 0.25, 3.0, 3.0, 0.3, 4.0],
    ];
    for (shape, history) in [
        (Shape::map(3, 1, 1), 3),
        (Shape::map(3, 7, 5), 3),
        (Shape::map(3, 97, 101), 3),
        (Shape::map(3, 61, 83), 20),
        (Shape::Vector(7), 5),
    ] {
        let ring = Ring { picture: shape, history };
        for scalars in scalars {
            // The rows' padding need not be zero here, because the gradients' padding is.
            let inputs = [
                (ring.shape(), CaseInput::Normal),
                (ring.shape(), CaseInput::Normal),
                (shape, CaseInput::Normal),
                (shape, CaseInput::Normal),
                (ring.scalars(), CaseInput::Values(scalars)),
                (Shape::Vector(1), CaseInput::Normal),
            ];
            cases.push(Case::drawn(LbfgsProducts, &inputs, TOLERANCE));
        }
    }
    cases
}
