//! Maps that are kept in 16 bits a value: the upper half of an f32, so with its range and 8 bits of precision (bfloat16). Two
//! quads share a texel of a *packed* map, which is handled as whole bits and never computed with.

use super::crop::{PLACES, check, for_each_row_of_part, place};
use super::native::{fill_map, row, write_number};
use super::shape::{MapLayout, mismatch};
use super::window;
use super::{Case, CaseInput, Dispatch, Kernel, NativeKernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;
use std::ops::Range;

/// Stores a map in a part of a packed one, each value rounded to the nearest with 8 bits of precision, by at most 2^-8 of
/// itself. Inputs: the packed map ([`StoreHalves::packed`]), which it changes; x, a map that may be smaller; the places, as
/// [`Crop`](super::Crop) takes them. Output: 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreHalves {
    /// Index of the place.
    pub at: usize,
}

/// A part of a map that [`StoreHalves`] stored. Inputs: the packed map, the places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadHalves {
    /// Channels of the map, a multiple of four.
    pub channels: usize,
    /// Rows and columns of the part.
    pub size: [usize; 2],
    /// Index of the place.
    pub at: usize,
}

/// The bits of a value rounded to its upper half. NaN stays NaN, which by adding would become a number.
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let near = if value.is_nan() { bits | 0x40_0000 } else { bits + 0x7fff + (bits >> 16 & 1) };
    near & 0xffff_0000
}

/// One word of two values.
fn word(upper: f32, lower: f32) -> f32 {
    f32::from_bits(rounded(upper) | rounded(lower) >> 16)
}

/// The first or the second value of a word.
fn value(word: f32, second: bool) -> f32 {
    f32::from_bits(if second { word.to_bits() << 16 } else { word.to_bits() & 0xffff_0000 })
}

/// The packed map of a map.
fn packed(map: MapLayout) -> MapLayout {
    MapLayout { channels: map.quads().div_ceil(2) * 4, ..map }
}

/// Refuses a map whose last quad has padding: the packed one would not say so.
fn check_channels(op: &str, channels: usize) -> Result<()> {
    if channels.is_multiple_of(4) {
        return Ok(());
    }
    Err(mismatch(op, &format!("{channels} channels are not a multiple of 4")))
}

impl StoreHalves {
    /// The shape in which a map is kept, of half its size.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] if it is not a map of a multiple of four channels.
    pub fn packed(shape: Shape) -> Result<Shape> {
        let map = shape.expect_map("store_halves")?;
        check_channels("store_halves", map.channels)?;
        let MapLayout { channels, height, width } = packed(map);
        Ok(Shape::map(channels, height, width))
    }

    fn layouts(&self, inputs: &[Shape]) -> Result<[MapLayout; 2]> {
        let [whole, part] = [inputs[0].expect_map("store_halves")?, inputs[1].expect_map("store_halves")?];
        let places = inputs.get(2).ok_or_else(|| mismatch("store_halves", "there are no places"))?;
        check_channels("store_halves", part.channels)?;
        check("store_halves", whole, packed(part), *places, self.at)?;
        Ok([whole, part])
    }
}

impl LoadHalves {
    fn layouts(&self, inputs: &[Shape]) -> Result<[MapLayout; 2]> {
        let whole = inputs[0].expect_map("load_halves")?;
        let part = MapLayout { channels: self.channels, height: self.size[0], width: self.size[1] };
        check_channels("load_halves", part.channels)?;
        check("load_halves", whole, packed(part), inputs[1], self.at)?;
        Ok([whole, part])
    }
}

/// One dispatch for each window of packed quads, which are bound as `name`.
fn kernel(
    dispatch: &Dispatch,
    name: &str,
    [whole, part]: [MapLayout; 2],
    (at, device): (usize, &Profile),
    texels: impl Fn(&Range<usize>) -> usize,
) -> Kernel {
    let window = |quads: Range<usize>| {
        dispatch
            .clone()
            .size("height", whole.height)
            .size("width", whole.width)
            .size("part_height", part.height)
            .size("part_width", part.width)
            .size("part_quads", part.quads())
            .size("first", quads.start)
            .size("quads", quads.len())
            .size("at", at)
            .linear(texels(&quads), 64, device)
            .narrow(&[(name, whole)], &quads)
    };
    Kernel::of("naive", window::quads(&[whole], 1, device).into_iter().map(window).collect())
}

impl Op for StoreHalves {
    fn name(&self) -> &'static str {
        "store_halves"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.layouts(inputs)?;
        Ok(Shape::Vector(1))
    }

    fn sample(&self, input: usize) -> CaseInput {
        if input == 2 { CaseInput::Exactly(0.0) } else { CaseInput::Normal }
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layouts = self.layouts(&signature.inputs)?;
        let dispatch = Dispatch::new("halves", "store")
            .bind("whole", Operand::Input(0))
            .bind("x", Operand::Input(1))
            .bind("places", Operand::Input(2))
            .bind("output", Operand::Output);
        let texels = |quads: &Range<usize>| quads.len() * layouts[1].plane();
        Ok(vec![kernel(&dispatch, "whole", layouts, (self.at, device), texels)])
    }

    fn native(&self, signature: &Signature, _device: &Profile) -> Result<NativeKernel> {
        let ([whole, part], at) = (self.layouts(&signature.inputs)?, self.at);
        Ok(NativeKernel::new(move |mut call| {
            let start = place(call.inputs[2], at, whole, packed(part));
            let x = call.inputs[1];
            let [sum] = &mut call.mutated[..] else { return };
            for_each_row_of_part(sum, [whole, part], start, |quad, y, line| {
                let upper = row(x, part, 2 * quad, y);
                if 2 * quad + 1 < part.quads() {
                    let pairs = upper.iter().zip(row(x, part, 2 * quad + 1, y));
                    line.iter_mut().zip(pairs).for_each(|(to, (upper, lower))| *to = word(*upper, *lower));
                } else {
                    line.iter_mut().zip(upper).for_each(|(to, upper)| *to = word(*upper, 0.0));
                }
            });
            write_number(call.output, 0.0);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let [whole, part] = self.layouts(shapes).expect("valid shapes");
        let [top, left] = place(inputs[2], self.at, whole, packed(part));
        let x = |channel: usize, pixel: usize| {
            inputs[1].get(channel * part.pixels() + pixel).map_or(0.0, |value| *value as f32)
        };
        let mut all = inputs[0].to_vec();
        for channel in 0..whole.channels {
            let upper = channel / 4 * 8 + channel % 4;
            for pixel in 0..part.pixels() {
                let (y, column) = (top + pixel / part.width, left + pixel % part.width);
                let both = [upper, upper + 4]
                    .map(|channel| if channel < part.channels { x(channel, pixel) } else { 0.0 });
                all[(channel * whole.height + y) * whole.width + column] = f64::from(word(both[0], both[1]));
            }
        }
        all
    }

    fn mutates(&self) -> &'static [usize] {
        &[0]
    }

    fn flops(&self, _signature: &Signature) -> u64 {
        0
    }
}

impl Op for LoadHalves {
    fn name(&self) -> &'static str {
        "load_halves"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let [_, part] = self.layouts(inputs)?;
        Ok(Shape::map(part.channels, part.height, part.width))
    }

    fn sample(&self, input: usize) -> CaseInput {
        if input == 1 { CaseInput::Exactly(0.0) } else { WORDS }
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layouts = self.layouts(&signature.inputs)?;
        let dispatch = Dispatch::new("halves", "load")
            .bind("packed", Operand::Input(0))
            .bind("places", Operand::Input(1))
            .bind("output", Operand::Output);
        let part = layouts[1];
        let texels = |quads: &Range<usize>| (2 * quads.len() + 1) * part.plane() + part.pitch() + 1;
        Ok(vec![kernel(&dispatch, "packed", layouts, (self.at, device), texels)])
    }

    fn native(&self, signature: &Signature, _device: &Profile) -> Result<NativeKernel> {
        let ([whole, part], at) = (self.layouts(&signature.inputs)?, self.at);
        Ok(NativeKernel::new(move |call| {
            let [top, left] = place(call.inputs[1], at, whole, packed(part));
            fill_map(part, call.output, |quad, y, texels| {
                let line = &row(call.inputs[0], whole, quad / 2, top + y)[left * 4..];
                let second = quad % 2 == 1;
                texels.iter_mut().zip(line).for_each(|(to, word)| *to = value(*word, second));
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let [whole, part] = self.layouts(shapes).expect("valid shapes");
        let [top, left] = place(inputs[1], self.at, whole, packed(part));
        let at = |channel: usize, pixel: usize| {
            let from = channel / 8 * 4 + channel % 4;
            let (y, column) = (top + pixel / part.width, left + pixel % part.width);
            let word = inputs[0][(from * whole.height + y) * whole.width + column] as f32;
            f64::from(value(word, channel / 4 % 2 == 1))
        };
        (0..part.channels)
            .flat_map(|channel| (0..part.pixels()).map(move |pixel| at(channel, pixel)))
            .collect()
    }

    fn flops(&self, _signature: &Signature) -> u64 {
        0
    }
}

/// Words are whole bits, and values of them exact.
const TOLERANCE: f64 = 0.0;

/// Two values each: 1 and 2, -0.25 and 1.5, 0 and 3, 100 and -0.
const WORDS: CaseInput = CaseInput::Values(&[
    f32::from_bits(0x3f80_4000),
    f32::from_bits(0xbe80_3fc0),
    f32::from_bits(0x0000_4040),
    f32::from_bits(0x42c8_8000),
    f32::from_bits(0x3f8f_c0ff),
]);

/// Channels and size of the whole, size of the part, index of the place: one quad, two, and an odd number.
const SAMPLES: [(usize, [usize; 2], [usize; 2], usize); 6] = [
    (4, [1, 1], [1, 1], 0),
    (8, [7, 13], [4, 11], 2),
    (16, [17, 11], [17, 3], 4),
    (12, [37, 29], [31, 23], 2),
    (20, [12, 8], [5, 8], 0),
    (64, [20, 33], [13, 19], 4),
];

pub(super) fn store_cases() -> Vec<Case> {
    SAMPLES
        .map(|(channels, [height, width], size, at)| {
            let whole = packed(MapLayout { channels, height, width });
            let inputs = [
                (Shape::map(whole.channels, height, width), WORDS),
                (Shape::map(channels, size[0], size[1]), CaseInput::Normal),
                (Shape::Vector(6), PLACES),
            ];
            Case::drawn(StoreHalves { at }, &inputs, TOLERANCE)
        })
        .into()
}

pub(super) fn load_cases() -> Vec<Case> {
    SAMPLES
        .map(|(channels, [height, width], size, at)| {
            let whole = packed(MapLayout { channels, height, width });
            let inputs = [(Shape::map(whole.channels, height, width), WORDS), (Shape::Vector(6), PLACES)];
            Case::drawn(LoadHalves { channels, size, at }, &inputs, TOLERANCE)
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back_to_eight_bits() {
        for x in [0.0, 1.0, -1.0, 0.1, 3.0e38, 1e-38, -7.7e12, 1.003_906_3, 1.011_718_8] {
            let both = word(x, -x);
            for (back, x) in [(value(both, false), x), (value(both, true), -x)] {
                assert!((back - x).abs() <= x.abs() / 256.0, "{x} {back}");
            }
        }
        // Halfway: the one with an even last bit.
        assert_eq!(value(word(1.0 + 1.0 / 256.0, 0.0), false), 1.0);
        assert_eq!(value(word(1.0 + 3.0 / 256.0, 0.0), false), 1.015_625);
        assert_eq!(value(word(0.0, f32::INFINITY), true), f32::INFINITY);
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff, 0xff80_0001] {
            let both = word(f32::from_bits(bits), f32::from_bits(bits));
            assert!(value(both, false).is_nan() && value(both, true).is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn a_packed_map_takes_half_the_memory_and_has_to_fit() {
        let map = Shape::map(64, 9, 7);
        let half = StoreHalves::packed(map).unwrap();
        assert_eq!(half, Shape::map(32, 9, 7));
        let places = Shape::Vector(4);
        assert!(StoreHalves { at: 2 }.output(&[half, map, places]).is_ok());
        assert!(StoreHalves { at: 3 }.output(&[half, map, places]).is_err());
        assert!(StoreHalves { at: 0 }.output(&[map, map, places]).is_err());
        let load = LoadHalves { channels: 64, size: [9, 6], at: 0 };
        assert_eq!(load.output(&[half, places]).unwrap(), Shape::map(64, 9, 6));
        assert!(LoadHalves { channels: 60, ..load }.output(&[half, places]).is_ok());
        assert!(LoadHalves { channels: 72, ..load }.output(&[half, places]).is_err());
        assert!(LoadHalves { channels: 62, ..load }.output(&[half, places]).is_err());
        assert!(StoreHalves::packed(Shape::map(7, 9, 7)).is_err());
    }
}
