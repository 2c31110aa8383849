//! Stores the new pair in the rings, and the accepted picture and gradient.

use super::{FIRST, PAIR, Ring, expect};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::cpu::{for_each_part_of, write_number};
use crate::ops::lanes::update;
use crate::ops::projected_gradient::AT_BOUNDS;
use crate::ops::shape::mismatch;
use crate::ops::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};

/// If the picture is accepted: writes its difference from the previously accepted picture, and the change of the
/// gradient, to the vacant row of the rings, and then stores the picture and its gradient as the accepted ones.
///
/// Inputs: x, its gradient, the accepted picture, its gradient, the rings of steps and of changes, the scalars, and the
/// output of [`crate::ops::LbfgsJudge`], which must run before. Updates inputs 2 to 5 in place. Output: the phase, as a
/// vector of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbfgsStore;

impl Op for LbfgsStore {
    fn name(&self) -> &'static str {
        "lbfgs_store"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let (Some(x), Some(steps)) = (inputs.first(), inputs.get(4)) else {
            return Err(mismatch(self.name(), "it takes pictures, rings and scalars"));
        };
        let ring = Ring::of(self.name(), *x, *steps)?;
        let one = Shape::Vector(1);
        expect(self.name(), inputs, &[*x, *x, *x, *x, ring.shape(), ring.shape(), ring.scalars(), one])?;
        Ok(one)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let ring = Ring::of(self.name(), signature.inputs[0], signature.inputs[4])?;
        let texels = ring.picture.stored() / 4;
        let windows = ring.windows(device);
        let last = windows.len() - 1;
        let dispatch = |(index, window): (usize, &std::ops::Range<usize>)| {
            let dispatch = Dispatch::new("lbfgs_store", "store")
                .consts(&[("LAST", u32::from(index == last))])
                .bind("x", Operand::Input(0))
                .bind("gradient", Operand::Input(1))
                .bind("accepted", Operand::Input(2))
                .bind("accepted_gradient", Operand::Input(3))
                .bind("steps", Operand::Input(4))
                .bind("changes", Operand::Input(5))
                .bind("scalars", Operand::Input(6))
                .bind("output", Operand::Output)
                .size("count", texels)
                .size("stride", ring.stride())
                .size("rows", ring.rows())
                .size("first", window.start)
                .size("window", window.len())
                .linear(texels, 64, device);
            ring.narrow(dispatch, window)
        };
        Ok(vec![Kernel::of("naive", windows.iter().enumerate().map(dispatch).collect())])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let ring = Ring::of(self.name(), signature.inputs[0], signature.inputs[4])?;
        Ok(CpuKernel::new(move |mut call| {
            let (x, gradient, scalars) = (call.inputs[0], call.inputs[1], call.inputs[6]);
            let [accepted, accepted_gradient, steps, changes] = &mut call.mutated[..] else { return };
            let phase = scalars[0];
            write_number(call.output, phase);
            if phase == PAIR as f32 {
                let stored = ring.stored_row((scalars[4] as usize + 1) % ring.rows());
                let rows = [&mut steps[stored.clone()], &mut changes[stored]];
                for_each_part_of(rows, |range, [step, change]| {
                    update(step, [&x[range.clone()], &accepted[range.clone()]], |_, [to, from]| to - from);
                    let gradients = [&gradient[range.clone()], &accepted_gradient[range]];
                    update(change, gradients, |_, [to, from]| to - from);
                });
            }
            if phase == FIRST as f32 || phase == PAIR as f32 {
                for_each_part_of([accepted, accepted_gradient], |range, [accepted, accepted_gradient]| {
                    accepted.copy_from_slice(&x[range.clone()]);
                    accepted_gradient.copy_from_slice(&gradient[range]);
                });
            }
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let &[x, gradient, accepted, accepted_gradient, steps, changes, scalars, _] = inputs else {
            return Vec::new();
        };
        let Ok(ring) = Ring::of(self.name(), shapes[0], shapes[4]) else { return Vec::new() };
        let (mut steps, mut changes) = (steps.to_vec(), changes.to_vec());
        let phase = scalars[0];
        if phase == PAIR {
            let row = (scalars[4] as usize + 1) % ring.rows() * ring.stride() * 4;
            let stored = row..row + ring.picture.stored();
            steps[stored.clone()].fill(0.0);
            changes[stored].fill(0.0);
            for (index, position) in ring.picture.positions().enumerate() {
                let at = row + position;
                steps[at] = x[index] - accepted[index];
                changes[at] = gradient[index] - accepted_gradient[index];
            }
        }
        let accepts = phase == FIRST || phase == PAIR;
        let [picture, at_picture] = if accepts { [x, gradient] } else { [accepted, accepted_gradient] };
        [picture, at_picture, &steps, &changes].concat()
    }

    fn mutates(&self) -> &'static [usize] {
        &[2, 3, 4, 5]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.inputs[0].elements() as u64
    }
}

/// One rounding.
const TOLERANCE: f64 = 1e-7;

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Phase in the first row, the newest pair's row in the second.
    let scalars: [&[f32]; 6] = [
        &[1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.5],
        &[2.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.3, 4.0, 0.5],
        &[2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.3, 4.0, 0.5],
        &[3.0, 1.0, 2.0, 0.25, 1.0, 1.0, 0.3, 4.0, 0.5],
        &[4.0, 1.0, 0.0, 0.25, 1.0, 0.0, 1.0, 4.0, 0.5],
        &[5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ];
    for (shape, history) in [
        (Shape::map(3, 1, 1), 1),
        (Shape::map(3, 7, 5), 3),
        (Shape::map(3, 31, 29), 6),
        (Shape::Vector(7), 2),
    ] {
        let ring = Ring { picture: shape, history };
        for scalars in scalars {
            let inputs = [
                (shape, AT_BOUNDS),
                (shape, CaseInput::Normal),
                (shape, CaseInput::Picture),
                (shape, CaseInput::Normal),
                (ring.shape(), CaseInput::Normal),
                (ring.shape(), CaseInput::Normal),
                (ring.scalars(), CaseInput::Values(scalars)),
                (Shape::Vector(1), CaseInput::Normal),
            ];
            cases.push(Case::drawn(LbfgsStore, &inputs, TOLERANCE));
        }
    }
    cases
}
