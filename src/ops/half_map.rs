//! Maps in half precision ([`Shape::HalfMap`]), which take half the memory: activations that only the backward pass
//! still reads.

use super::cpu::for_each_part;
use super::half_precision::{half_bits, is_positive, to_half_map, to_single};
use super::shape::expect_same;
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, MapLayout, Op, Operand, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::Profile;
use std::ops::Range;

/// Rounds a map to half precision. Values beyond the range of f16 become its largest number, and numbers other than
/// zero keep their sign: those that are smaller than any normal f16 become the smallest one.
#[derive(Debug, Clone, Copy)]
pub struct ToHalf;

/// Converts a map from half to single precision. Exact.
#[derive(Debug, Clone, Copy)]
pub struct FromHalf;

/// Adjoint of a ReLU whose output is kept in half precision: `dx = dy where y > 0, else 0`. Inputs: dy, which the
/// output overwrites; y in half precision.
#[derive(Debug, Clone, Copy)]
pub struct HalfMask;

/// Dispatches of an entry point that reads or writes a map of this shape as `single` and its half-precision form as
/// `half`.
fn dispatches(
    entry: &'static str,
    shape: Shape,
    (single, half): ((&'static str, Operand), (&'static str, Operand)),
    device: &Profile,
) -> Vec<Dispatch> {
    let texels = shape.stored() / 4;
    let part = |range: Range<usize>| {
        // A texel of the half-precision map's binding holds two texels of the map. Windows start at even texels.
        let pairs = range.start / 2..range.end.div_ceil(2);
        Dispatch::new("half_map", entry)
            .bind(single.0, single.1.clone())
            .bind(half.0, half.1.clone())
            .size("count", range.len())
            .size("first", 0)
            .linear(pairs.len(), 64, device)
            .narrow_run(&[single.0], &range, texels)
            .narrow_run(&[half.0], &pairs, texels.div_ceil(2))
    };
    window::texels(texels, device).into_iter().map(part).collect()
}

/// The content of the first staging texture after [`unpack_to_texture`].
pub(super) fn texture(map: MapLayout) -> Operand {
    Operand::Texture { slot: 0, bytes: (map.texels() * 16) as u64 }
}

/// Dispatches that convert a half-precision map to single precision in the first staging texture, for kernels of the
/// texture family.
pub(super) fn unpack_to_texture(map: MapLayout, half: &Operand, device: &Profile) -> Vec<Dispatch> {
    let texels = map.texels();
    let part = |range: Range<usize>| {
        let pairs = range.start / 2..range.end.div_ceil(2);
        Dispatch::new("half_map", "unpack_to_texture")
            .bind("packed", half.clone())
            .bind("texels", texture(map))
            .size("count", range.len())
            .size("first", range.start)
            .linear(pairs.len(), 64, device)
            .narrow_run(&["packed"], &pairs, texels.div_ceil(2))
    };
    window::texels(texels, device).into_iter().map(part).collect()
}

impl Op for ToHalf {
    fn name(&self) -> &'static str {
        "to_half"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(inputs[0].expect_map("to_half")?.half())
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let operands = (("input", Operand::Input(0)), ("rounded", Operand::Output));
        Ok(vec![Kernel::of("naive", dispatches("pack", signature.inputs[0], operands, device))])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let input = call.inputs[0];
            for_each_part(call.output, |range, part| {
                let values = &input[range.start * 2..input.len().min(range.end * 2)];
                to_half_map(values, part);
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].to_vec()
    }
}

impl Op for FromHalf {
    fn name(&self) -> &'static str {
        "from_half"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(inputs[0].expect_half_map("from_half")?.single())
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let operands = (("output", Operand::Output), ("packed", Operand::Input(0)));
        Ok(vec![Kernel::of("naive", dispatches("unpack", signature.output, operands, device))])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let bits = half_bits(call.inputs[0]);
            for_each_part(call.output, |range, part| to_single(&bits[range], part));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].to_vec()
    }
}

impl Op for HalfMask {
    fn name(&self) -> &'static str {
        "half_mask"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let map = inputs[1].expect_half_map("half_mask")?.single();
        expect_same("half_mask", &[inputs[0], map])?;
        Ok(map)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let operands = (("output", Operand::Output), ("packed", Operand::Input(1)));
        Ok(vec![Kernel::of("naive", dispatches("rectify", signature.output, operands, device))])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let bits = half_bits(call.inputs[1]);
            for_each_part(call.output, |range, part| {
                for (value, bits) in part.iter_mut().zip(&bits[range]) {
                    *value = if is_positive(*bits) { *value } else { 0.0 };
                }
            });
        }))
    }

    fn overwrites(&self) -> Option<usize> {
        Some(0)
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().zip(inputs[1]).map(|(dy, y)| if *y > 0.0 { *dy } else { 0.0 }).collect()
    }
}

/// A driver may round to f16 in either direction: by up to 2^-10 of a value. Values raised to the smallest normal f16
/// are off by less than 6.2e-5 in all.
const TOLERANCE: f64 = 1e-3;

/// Conversions to single precision and masks are exact.
const EXACT: f64 = 0.0;

/// Odd, tiny and prime sizes, with an even and an odd number of texels, and more than one workgroup.
fn samples() -> [Shape; 5] {
    [(3, 1, 1), (5, 7, 3), (4, 2, 2), (8, 130, 67), (21, 37, 29)]
        .map(|(channels, height, width)| Shape::map(channels, height, width))
}

/// The half-precision form of a map's shape.
fn half(shape: Shape) -> Shape {
    shape.layout().map_or(shape, |map| map.half())
}

pub(super) fn to_half_cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        samples().into_iter().map(|shape| Case::normal(ToHalf, &[shape], TOLERANCE)).collect();
    let large = [(Shape::map(6, 5, 7), CaseInput::Scaled(1e4))];
    cases.push(Case::drawn(ToHalf, &large, TOLERANCE));
    cases
}

pub(super) fn from_half_cases() -> Vec<Case> {
    samples().into_iter().map(|shape| Case::normal(FromHalf, &[half(shape)], EXACT)).collect()
}

pub(super) fn mask_cases() -> Vec<Case> {
    let case = |shape: Shape| {
        let inputs = [(shape, CaseInput::Normal), (half(shape), CaseInput::Rectified)];
        Case::drawn(HalfMask, &inputs, EXACT)
    };
    samples().into_iter().map(case).collect()
}
