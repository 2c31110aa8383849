//! Total variation: half the sum of squared differences to the right and below, neural-style's `TVLoss`
//! with its factor left to the loss weight.
//!
//! `tv = 1/2 * sum over channels, y < H - 1, x < W - 1 of (p[y][x+1] - p[y][x])^2 + (p[y+1][x] - p[y][x])^2`.
//! The last row and column have no terms of their own, as there; one row or column alone gives 0.

use super::shape::MapLayout;
use super::sum;
use super::{Adjoint, Case, CaseInput, Dispatch, Kernel, Op, Operand, Shape, Signature, Source};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;
/// Texels that one invocation adds up; matches the shader's `TERMS`.
const TERMS: usize = 8;

/// The total variation of a map, a vector of length one.
#[derive(Debug, Clone, Copy)]
pub struct TotalVariation;

/// Gradient of [`TotalVariation`]. Inputs: the map, and the upstream gradient, a vector of length one.
#[derive(Debug, Clone, Copy)]
pub struct TotalVariationBackward;

fn dispatch(entry: &'static str, map: MapLayout, partials: usize) -> Dispatch {
    Dispatch::new("total_variation", entry)
        .bind("input", Operand::Input(0))
        .size("height", map.height)
        .size("width", map.width)
        .size("quads", map.quads())
        .size("texels", map.texels())
        .size("partials", partials)
}

/// Calls `visit(index, index of a neighbour)` for every difference.
fn for_each_difference(map: MapLayout, mut visit: impl FnMut(usize, usize)) {
    for c in 0..map.channels {
        for y in 0..map.height - 1 {
            for x in 0..map.width - 1 {
                let here = (c * map.height + y) * map.width + x;
                visit(here, here + 1);
                visit(here, here + map.width);
            }
        }
    }
}

impl Op for TotalVariation {
    fn name(&self) -> &'static str {
        "total_variation"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_map("total_variation")?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.inputs[0].expect_map("total_variation")?;
        let partials = map.texels().div_ceil(TERMS).next_multiple_of(GROUP);
        let first = dispatch("forward", map, partials)
            .bind("sums", Operand::Scratch(0))
            .linear(partials, GROUP, device);
        Ok(vec![sum::total(vec![first], partials, 0.5, device)])
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let mut sum = 0.0;
        for_each_difference(shapes[0].layout().expect("a map"), |here, there| {
            sum += (inputs[0][there] - inputs[0][here]).powi(2);
        });
        vec![0.5 * sum]
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(TotalVariationBackward, &[Source::Input(0), Source::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        6 * signature.inputs[0].elements() as u64
    }
}

impl Op for TotalVariationBackward {
    fn name(&self) -> &'static str {
        "total_variation_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_map("total_variation_backward")?;
        sum::expect_number("total_variation_backward", inputs[1])?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.output.expect_map("total_variation_backward")?;
        let kernel = dispatch("backward", map, 0)
            .bind("upstream", Operand::Input(1))
            .bind("output", Operand::Output)
            .linear(map.texels(), GROUP, device);
        Ok(vec![Kernel::single("naive", kernel)])
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let mut gradient = vec![0.0; inputs[0].len()];
        for_each_difference(shapes[0].layout().expect("a map"), |here, there| {
            let difference = inputs[0][there] - inputs[0][here];
            gradient[there] += difference * inputs[1][0];
            gradient[here] -= difference * inputs[1][0];
        });
        gradient
    }

    fn flops(&self, signature: &Signature) -> u64 {
        8 * signature.output.elements() as u64
    }
}

/// f32 sums of squares, at most 64 at a time and at most 64 such sums in a row: 6e-8 * sqrt(64) = 5e-7
/// of the result; twice that is allowed.
const TOLERANCE: f64 = 1e-6;

/// Up to eight roundings of 6e-8 each, of values no larger than the largest result.
const BACKWARD_TOLERANCE: f64 = 5e-7;

/// Rows, columns and pixels alone, then maps of several quads and workgroups.
fn samples() -> Vec<Shape> {
    [(3, 1, 1), (3, 1, 9), (2, 11, 1), (4, 2, 2), (3, 3, 2), (5, 7, 3), (9, 13, 31), (3, 127, 131)]
        .map(|(channels, height, width)| Shape::map(channels, height, width))
        .into()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        samples().into_iter().map(|shape| Case::normal(TotalVariation, &[shape], TOLERANCE)).collect();
    // Enough partial sums that they are folded once before the last workgroup.
    cases.push(Case::drawn(TotalVariation, &[(Shape::map(3, 383, 389), CaseInput::Picture)], TOLERANCE));
    cases
}

pub(super) fn backward_cases() -> Vec<Case> {
    samples()
        .into_iter()
        .map(|shape| Case::normal(TotalVariationBackward, &[shape, Shape::Vector(1)], BACKWARD_TOLERANCE))
        .collect()
}
