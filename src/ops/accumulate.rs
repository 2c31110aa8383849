//! Adds to a tensor in place: accumulates sums over tiles of the picture, and assembles maps from the maps of tiles.

use super::cpu::{for_each_part, row, write_number};
use super::crop::{check, for_each_row_of_part, place};
use super::lanes::update;
use super::shape::{MapLayout, mismatch};
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::Profile;
use std::ops::Range;

/// Adds in place: `sum += factor * x`, or with `replace` `sum = factor * x`, ignoring the old values.
///
/// Inputs: the sum, updated in place; x, of the same shape. With `at`, x is a map that may be smaller than the sum and
/// is added where [`Crop`](super::Crop) would read it; the vector of places is then a third input. Output: the vector
/// `[0]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accumulate {
    /// Factor of x.
    pub factor: f32,
    /// Index of x's place in the vector of places; `None` if x has the shape of the sum.
    pub at: Option<usize>,
    /// True to overwrite the old values instead of adding to them.
    pub replace: bool,
}

impl Accumulate {
    /// Returns the layouts of the sum and of x and the index of the place, or `None` without a place.
    fn placed(&self, inputs: &[Shape]) -> Result<Option<(MapLayout, MapLayout, usize)>> {
        let Some(at) = self.at else { return Ok(None) };
        let [whole, part] = [inputs[0].expect_map("accumulate")?, inputs[1].expect_map("accumulate")?];
        let places =
            inputs.get(2).ok_or_else(|| mismatch("accumulate", "the vector of places is missing"))?;
        check("accumulate", whole, part, *places, at)?;
        Ok(Some((whole, part, at)))
    }

    fn dispatch(&self, entry: &'static str) -> Dispatch {
        Dispatch::new("accumulate", entry)
            .consts(&[("REPLACE", u32::from(self.replace))])
            .bind("sum", Operand::Input(0))
            .bind("x", Operand::Input(1))
            .bind("output", Operand::Output)
            .float("factor", self.factor)
    }
}

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        if self.placed(inputs)?.is_none() && inputs[0] != inputs[1] {
            return Err(mismatch("accumulate", &format!("{} and {} differ", inputs[0], inputs[1])));
        }
        Ok(Shape::Vector(1))
    }

    fn sample(&self, input: usize) -> CaseInput {
        if input == 2 { CaseInput::Exactly(0.0) } else { CaseInput::Normal }
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let sizes = |dispatch: Dispatch, [height, width, part_height, part_width, quads, at]: [usize; 6]| {
            dispatch
                .size("height", height)
                .size("width", width)
                .size("part_height", part_height)
                .size("part_width", part_width)
                .size("quads", quads)
                .size("at", at)
        };
        let Some((whole, part, at)) = self.placed(&signature.inputs)? else {
            let dispatch = sizes(self.dispatch("add"), [0; 6]);
            let quads = signature.inputs[0].stored() / 4;
            return Ok(vec![Kernel::of(
                "naive",
                window::elementwise(&dispatch, &["sum", "x"], quads, device),
            )]);
        };
        let window = |quads: Range<usize>| {
            let values = [whole.height, whole.width, part.height, part.width, quads.len(), at];
            sizes(self.dispatch("add_at"), values)
                .bind("places", Operand::Input(2))
                .size("count", 0)
                .linear(part.part(&quads).texels(), 64, device)
                .narrow(&[("sum", whole), ("x", part)], &quads)
        };
        Ok(vec![Kernel::of(
            "naive",
            window::quads(&[whole, part], 1, device).into_iter().map(window).collect(),
        )])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let Self { factor, replace, .. } = *self;
        let Some((whole, part, at)) = self.placed(&signature.inputs)? else {
            return Ok(CpuKernel::new(move |mut call| {
                let x = call.inputs[1];
                let [sum] = &mut call.mutated[..] else { return };
                for_each_part(sum, |range, sum| {
                    // Ignore the old values: they may be NaN.
                    let add = |sum, [x]: [f32; 1]| if replace { factor * x } else { sum + factor * x };
                    update(sum, [&x[range]], add);
                });
                write_number(call.output, 0.0);
            }));
        };
        Ok(CpuKernel::new(move |mut call| {
            let start = place(call.inputs[2], at, whole, part);
            let x = call.inputs[1];
            let [sum] = &mut call.mutated[..] else { return };
            for_each_row_of_part(sum, [whole, part], start, |quad, y, line| {
                let kept = |sum: f32| if replace { 0.0 } else { sum };
                line.iter_mut()
                    .zip(row(x, part, quad, y))
                    .for_each(|(sum, x)| *sum = kept(*sum) + factor * x);
            });
            write_number(call.output, 0.0);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let factor = f64::from(self.factor);
        let mut sum = inputs[0].to_vec();
        let added = |sum: f64, x: f64| if self.replace { factor * x } else { sum + factor * x };
        let Some((whole, part, at)) = self.placed(shapes).expect("valid shapes") else {
            sum.iter_mut().zip(inputs[1]).for_each(|(sum, x)| *sum = added(*sum, *x));
            return sum;
        };
        let [top, left] = place(inputs[2], at, whole, part);
        for (index, x) in inputs[1].iter().enumerate() {
            let (channel, pixel) = (index / part.pixels(), index % part.pixels());
            let (y, column) = (top + pixel / part.width, left + pixel % part.width);
            let sum = &mut sum[(channel * whole.height + y) * whole.width + column];
            *sum = added(*sum, *x);
        }
        sum
    }

    fn mutates(&self) -> &'static [usize] {
        &[0]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.inputs[1].elements() as u64
    }
}

/// Three roundings of 6e-8.
const TOLERANCE: f64 = 2e-7;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in
        [Shape::map(3, 7, 5), Shape::Vector(1), Shape::Vector(131), Shape::Matrix { rows: 35, columns: 67 }]
    {
        for (factor, replace) in [(1.0, false), (-0.375, false), (0.75, true)] {
            cases.push(Case::normal(Accumulate { factor, at: None, replace }, &[shape, shape], TOLERANCE));
        }
    }
    let places = CaseInput::Values(&[0.0, 0.0, 3.0, 2.0, 1000.0, 1000.0]);
    for (channels, [height, width], part, at) in [
        (3, [1, 1], [1, 1], 0),
        (5, [7, 13], [4, 11], 2),
        (3, [37, 29], [31, 23], 2),
        (6, [17, 11], [17, 3], 4),
        (64, [20, 33], [13, 19], 4),
    ] {
        let inputs = [
            (Shape::map(channels, height, width), CaseInput::Normal),
            (Shape::map(channels, part[0], part[1]), CaseInput::Normal),
            (Shape::Vector(6), places),
        ];
        for replace in [false, true] {
            let op = Accumulate { factor: 0.75, at: Some(at), replace };
            cases.push(Case::drawn(op, &inputs, TOLERANCE));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mismatched_shapes_are_refused() {
        let shapes = [Shape::map(3, 5, 7), Shape::map(3, 4, 7), Shape::Vector(2)];
        let op = |at| Accumulate { factor: 1.0, at, replace: false };
        assert!(op(Some(0)).output(&shapes).is_ok());
        assert!(op(None).output(&shapes[..2]).is_err());
        assert!(op(Some(0)).output(&shapes[..2]).is_err());
        assert!(op(Some(1)).output(&shapes).is_err());
    }
}
