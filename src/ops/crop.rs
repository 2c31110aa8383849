//! Crops a map, and the adjoint. The position of the part is data, so that one program serves all positions.

use super::cpu::{fill_map, row};
use super::shape::{MapLayout, mismatch};
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
    window,
};
use crate::error::Result;
use crate::gpu::Profile;
use rayon::prelude::*;
use std::ops::Range;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// `y[c, i, j] = x[c, top + i, left + j]`. Inputs: x, a map; a vector of places, with `top` at index `at` and `left` at
/// `at + 1`. A part that would extend beyond x is moved back inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Rows and columns of the part.
    pub size: [usize; 2],
    /// Index of the part's place in the vector of places.
    pub at: usize,
}

/// Adjoint of [`Crop`]: a map of x's size that is zero outside the part. Inputs: dy; the vector of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBackward {
    /// Rows and columns of x.
    pub size: [usize; 2],
    /// Index of the part's place in the vector of places.
    pub at: usize,
}

/// Checks that a part of this size fits in a map, and that its place exists.
pub(super) fn check(op: &str, whole: MapLayout, part: MapLayout, places: Shape, at: usize) -> Result<()> {
    let places = places.expect_vector(op)?;
    if at + 2 > places {
        return Err(mismatch(op, &format!("there is no place at index {at} of {places} values")));
    }
    let fits = part.channels == whole.channels
        && (1..=whole.height).contains(&part.height)
        && (1..=whole.width).contains(&part.width);
    if fits { Ok(()) } else { Err(mismatch(op, &format!("{part:?} is not a part of {whole:?}"))) }
}

/// Row and column at which the part starts.
pub(super) fn place<Real: Copy + Into<f64>>(
    places: &[Real],
    at: usize,
    whole: MapLayout,
    part: MapLayout,
) -> [usize; 2] {
    let start = |index: usize, room: usize| (places[index].into() as usize).min(room);
    [start(at, whole.height - part.height), start(at + 1, whole.width - part.width)]
}

/// Calls `change` with each row of a map that a part at this place covers: the quad, the row of the part, and the
/// texels.
pub(super) fn for_each_row_of_part(
    map: &mut [f32],
    [whole, part]: [MapLayout; 2],
    [top, left]: [usize; 2],
    change: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let planes = &mut map[..whole.quads() * whole.plane() * 4];
    planes.par_chunks_mut(whole.pitch() * 4).enumerate().for_each(|(index, line)| {
        // The first row of a plane is border.
        let (quad, below) = (index / (whole.height + 1), index % (whole.height + 1));
        let Some(y) = below.checked_sub(1 + top).filter(|y| *y < part.height) else { return };
        change(quad, y, &mut line[(1 + left) * 4..(1 + left + part.width) * 4]);
    });
}

fn part_of(map: MapLayout, size: [usize; 2]) -> MapLayout {
    MapLayout { height: size[0], width: size[1], ..map }
}

fn shape(map: MapLayout) -> Shape {
    Shape::map(map.channels, map.height, map.width)
}

/// Dispatches of an entry point, one per window of quads; `filled` is the map that it writes.
fn dispatches(
    entry: &'static str,
    input: &'static str,
    [whole, part, filled]: [MapLayout; 3],
    at: usize,
    device: &Profile,
) -> Kernel {
    let read = if filled == part { whole } else { part };
    let window = |quads: Range<usize>| {
        Dispatch::new("crop", entry)
            .bind(input, Operand::Input(0))
            .bind("places", Operand::Input(1))
            .bind("output", Operand::Output)
            .size("height", whole.height)
            .size("width", whole.width)
            .size("part_height", part.height)
            .size("part_width", part.width)
            .size("quads", quads.len())
            .size("at", at)
            .linear(filled.part(&quads).texels(), GROUP, device)
            .narrow(&[(input, read), ("output", filled)], &quads)
    };
    Kernel::of("naive", window::quads(&[whole, part], 1, device).into_iter().map(window).collect())
}

impl Op for Crop {
    fn name(&self) -> &'static str {
        "crop"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let whole = inputs[0].expect_map("crop")?;
        let part = part_of(whole, self.size);
        check("crop", whole, part, inputs[1], self.at)?;
        Ok(shape(part))
    }

    fn sample(&self, input: usize) -> CaseInput {
        if input == 1 { CaseInput::Exactly(0.0) } else { CaseInput::Normal }
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let whole = signature.inputs[0].expect_map("crop")?;
        let part = signature.output.expect_map("crop")?;
        Ok(vec![dispatches("forward", "input", [whole, part, part], self.at, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let whole = signature.inputs[0].expect_map("crop")?;
        let part = signature.output.expect_map("crop")?;
        let at = self.at;
        Ok(CpuKernel::new(move |call| {
            let [top, left] = place(call.inputs[1], at, whole, part);
            fill_map(part, call.output, |quad, y, texels| {
                let line = row(call.inputs[0], whole, quad, top + y);
                texels.copy_from_slice(&line[left * 4..(left + part.width) * 4]);
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let whole = shapes[0].layout().expect("a map");
        let part = part_of(whole, self.size);
        let [top, left] = place(inputs[1], self.at, whole, part);
        let mut values = Vec::new();
        for channel in inputs[0].chunks_exact(whole.pixels()) {
            for line in channel.chunks_exact(whole.width).skip(top).take(part.height) {
                values.extend_from_slice(&line[left..left + part.width]);
            }
        }
        values
    }

    fn adjoint(&self, input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let whole = shapes[0].layout().filter(|_| input == 0)?;
        let op = CropBackward { size: [whole.height, whole.width], at: self.at };
        Adjoint::new(op, &[AdjointOperand::Upstream, AdjointOperand::Input(1)])
    }
}

impl Op for CropBackward {
    fn name(&self) -> &'static str {
        "crop_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let part = inputs[0].expect_map("crop_backward")?;
        let whole = part_of(part, self.size);
        check("crop_backward", whole, part, inputs[1], self.at)?;
        Ok(shape(whole))
    }

    fn sample(&self, input: usize) -> CaseInput {
        if input == 1 { CaseInput::Exactly(0.0) } else { CaseInput::Normal }
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let part = signature.inputs[0].expect_map("crop_backward")?;
        let whole = signature.output.expect_map("crop_backward")?;
        Ok(vec![dispatches("backward", "upstream", [whole, part, whole], self.at, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let part = signature.inputs[0].expect_map("crop_backward")?;
        let whole = signature.output.expect_map("crop_backward")?;
        let at = self.at;
        Ok(CpuKernel::new(move |call| {
            let [top, left] = place(call.inputs[1], at, whole, part);
            fill_map(whole, call.output, |quad, y, texels| {
                texels.fill(0.0);
                if (top..top + part.height).contains(&y) {
                    let line = row(call.inputs[0], part, quad, y - top);
                    texels[left * 4..(left + part.width) * 4].copy_from_slice(line);
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let part = shapes[0].layout().expect("a map");
        let whole = part_of(part, self.size);
        let [top, left] = place(inputs[1], self.at, whole, part);
        let mut values = vec![0.0; whole.channels * whole.pixels()];
        for (index, value) in inputs[0].iter().enumerate() {
            let (channel, pixel) = (index / part.pixels(), index % part.pixels());
            let (y, x) = (top + pixel / part.width, left + pixel % part.width);
            values[(channel * whole.height + y) * whole.width + x] = *value;
        }
        values
    }
}

/// Exact: values only move.
const TOLERANCE: f64 = 0.0;

/// Two places inside, then one outside every map used here.
pub(super) const PLACES: CaseInput = CaseInput::Values(&[0.0, 0.0, 3.0, 2.0, 1000.0, 1000.0]);

/// Channels and size of the whole, size of the part, index of the place.
const SAMPLES: [(usize, [usize; 2], [usize; 2], usize); 6] = [
    (3, [1, 1], [1, 1], 0),
    (5, [7, 13], [4, 11], 2),
    (6, [17, 11], [17, 3], 4),
    (3, [37, 29], [31, 23], 2),
    (9, [12, 8], [5, 8], 0),
    (64, [20, 33], [13, 19], 4),
];

pub(super) fn cases() -> Vec<Case> {
    SAMPLES
        .map(|(channels, [height, width], size, at)| {
            let inputs =
                [(Shape::map(channels, height, width), CaseInput::Normal), (Shape::Vector(6), PLACES)];
            Case::drawn(Crop { size, at }, &inputs, TOLERANCE)
        })
        .into()
}

pub(super) fn backward_cases() -> Vec<Case> {
    SAMPLES
        .map(|(channels, size, [height, width], at)| {
            let inputs =
                [(Shape::map(channels, height, width), CaseInput::Normal), (Shape::Vector(6), PLACES)];
            Case::drawn(CropBackward { size, at }, &inputs, TOLERANCE)
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_sizes_and_positions_are_refused() {
        let [map, places] = [Shape::map(3, 5, 7), Shape::Vector(4)];
        assert_eq!(Crop { size: [5, 1], at: 2 }.output(&[map, places]).unwrap(), Shape::map(3, 5, 1));
        for op in [Crop { size: [6, 7], at: 0 }, Crop { size: [0, 7], at: 0 }, Crop { size: [5, 7], at: 3 }] {
            assert!(op.output(&[map, places]).is_err(), "{op:?}");
        }
        assert!(CropBackward { size: [4, 9], at: 0 }.output(&[map, places]).is_err());
    }
}
