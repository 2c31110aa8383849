//! Computes the direction and the next trial picture.

use super::{BACK, Ring, SHORTER, expect};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::cpu::{for_each_part_of, write_number};
use crate::ops::lanes::update;
use crate::ops::projected_gradient::{AT_BOUNDS, held};
use crate::ops::shape::mismatch;
use crate::ops::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};

/// Computes the direction from the scalars' factors, unless the previous direction is tried again, and moves x from the
/// accepted picture along it by the step length; or restores the accepted picture.
///
/// Inputs: x, the accepted picture, its gradient, the direction, the rings of steps and of changes, the scalars, and
/// the output of [`crate::ops::LbfgsRecursion`], which must run before. Updates x and the direction in place. Output:
/// the phase, as a vector of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbfgsMove {
    /// True to clamp x to [0, 1], and to leave elements unchanged where the gradient points out of it.
    pub clamp: bool,
    /// True to keep the accepted value of elements that would not be finite, so that every trial picture is finite.
    pub line_search: bool,
}

impl LbfgsMove {
    /// One element after the step, on the CPU.
    fn moved(self, from: f32, step: f32) -> f32 {
        let moved = from + step;
        let moved = if self.line_search && !moved.is_finite() { from } else { moved };
        // `clamp` keeps NaN.
        if self.clamp { moved.clamp(0.0, 1.0) } else { moved }
    }
}

impl Op for LbfgsMove {
    fn name(&self) -> &'static str {
        "lbfgs_move"
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
            let dispatch = Dispatch::new("lbfgs_move", "move_along")
                .consts(&[
                    ("FIRST_WINDOW", u32::from(index == 0)),
                    ("LAST_WINDOW", u32::from(index == last)),
                    ("CLAMP", u32::from(self.clamp)),
                    ("LINE_SEARCH", u32::from(self.line_search)),
                ])
                .bind("x", Operand::Input(0))
                .bind("accepted", Operand::Input(1))
                .bind("accepted_gradient", Operand::Input(2))
                .bind("direction", Operand::Input(3))
                .bind("steps", Operand::Input(4))
                .bind("changes", Operand::Input(5))
                .bind("scalars", Operand::Input(6))
                .bind("output", Operand::Output)
                .size("count", texels)
                .size("stride", ring.stride())
                .size("first", window.start)
                .size("window", window.len())
                .loops(window.len())
                .linear(texels, 64, device);
            ring.narrow(dispatch, window)
        };
        Ok(vec![Kernel::of("naive", windows.iter().enumerate().map(dispatch).collect())])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let ring = Ring::of(self.name(), signature.inputs[0], signature.inputs[4])?;
        let op = *self;
        Ok(CpuKernel::new(move |mut call| {
            let &[_, accepted, gradient, _, steps, changes, scalars, ..] = &call.inputs[..] else { return };
            let [x, direction] = &mut call.mutated[..] else { return };
            let phase = scalars[0];
            write_number(call.output, phase);
            for_each_part_of([x, direction], |range, [x, direction]| {
                let (accepted, gradient) = (&accepted[range.clone()], &gradient[range.clone()]);
                if phase == BACK as f32 {
                    x.copy_from_slice(accepted);
                    return;
                }
                if phase != SHORTER as f32 {
                    update(direction, [gradient], |_, [g]| scalars[16] * g);
                    for (row, factors) in scalars[20..].chunks_exact(4).enumerate() {
                        let (of_s, of_y) = (factors[0], factors[1]);
                        // Rows without a pair may hold any values.
                        if of_s != 0.0 || of_y != 0.0 {
                            let start = ring.stored_row(row).start;
                            let stored = start + range.start..start + range.end;
                            let pair = [&steps[stored.clone()], &changes[stored]];
                            update(direction, pair, |sum, [s, y]| sum + (of_s * s + of_y * y));
                        }
                    }
                }
                if op.clamp {
                    let hold = |d: f32, [x, g]: [f32; 2]| if held(x, g) { 0.0 } else { d };
                    update(direction, [accepted, gradient], hold);
                }
                let length = scalars[3];
                update(x, [accepted, direction], |_, [from, d]| op.moved(from, length * d));
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let &[_, accepted, gradient, direction, steps, changes, scalars, _] = inputs else {
            return Vec::new();
        };
        let Ok(ring) = Ring::of(self.name(), shapes[0], shapes[4]) else { return Vec::new() };
        let phase = scalars[0];
        let mut d = direction.to_vec();
        if phase == BACK {
            return [accepted, &d].concat();
        }
        if phase != SHORTER {
            d = gradient.iter().map(|g| scalars[16] * g).collect();
            for row in 0..ring.rows() {
                let (of_s, of_y) = (scalars[20 + row * 4], scalars[21 + row * 4]);
                let pairs = ring.row(steps, row).into_iter().zip(ring.row(changes, row));
                d.iter_mut().zip(pairs).for_each(|(d, (s, y))| *d += of_s * s + of_y * y);
            }
        }
        let mut x = accepted.to_vec();
        for ((x, d), g) in x.iter_mut().zip(&mut d).zip(gradient) {
            if self.clamp && held(*x, *g) {
                *d = 0.0;
            }
            let moved = *x + scalars[3] * *d;
            *x = if self.line_search && !moved.is_finite() { *x } else { moved };
            if self.clamp {
                *x = x.clamp(0.0, 1.0);
            }
        }
        [x, d].concat()
    }

    fn mutates(&self) -> &'static [usize] {
        &[0, 3]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        4 * signature.inputs[4].elements() as u64
    }
}

/// Sums of up to 42 products, of both signs.
const TOLERANCE: f64 = 2e-6;

/// Phase and step length, the factor of the gradient in row 4, and the factors of the rings' rows.
const fn scalars(phase: f32) -> [f32; 37] {
    let mut values = [0.0; 37];
    values[0] = phase;
    values[3] = 0.25;
    values[16] = -0.625;
    let mut index = 20;
    while index < 37 {
        values[index] = ((index * 29) % 17) as f32 / 8.0 - 1.0;
        index += 1;
    }
    values
}

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let phases = [
        CaseInput::Values(const { &scalars(1.0) }),
        CaseInput::Values(const { &scalars(2.0) }),
        CaseInput::Values(const { &scalars(3.0) }),
        CaseInput::Values(const { &scalars(4.0) }),
        CaseInput::Values(const { &scalars(5.0) }),
    ];
    for (shape, history) in [
        (Shape::map(3, 1, 1), 1),
        (Shape::map(3, 7, 5), 3),
        (Shape::map(3, 31, 29), 20),
        (Shape::Vector(7), 2),
    ] {
        let ring = Ring { picture: shape, history };
        for (clamp, line_search) in [(false, false), (false, true), (true, false), (true, true)] {
            for scalars in phases {
                let inputs = [
                    (shape, CaseInput::Picture),
                    (shape, AT_BOUNDS),
                    (shape, CaseInput::Normal),
                    (shape, CaseInput::Normal),
                    (ring.shape(), CaseInput::Stored(ring.picture)),
                    (ring.shape(), CaseInput::Stored(ring.picture)),
                    (ring.scalars(), scalars),
                    (Shape::Vector(1), CaseInput::Normal),
                ];
                cases.push(Case::drawn(LbfgsMove { clamp, line_search }, &inputs, TOLERANCE));
            }
        }
    }
    cases
}
