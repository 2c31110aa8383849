//! Converts a picture from a map to the interleaved RGB of image files.

use super::cpu::{for_each_row, row};
use super::preprocess::image_layout;
use super::{Case, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// Converts a map of 3 channels to a list `r g b r g b ...`, row by row: `Vector(3 * height * width)`. The last step
/// before an image file, so it has no adjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interleave {
    /// True to clamp the values to 0..1, as for image files.
    pub clamp: bool,
}

impl Op for Interleave {
    fn name(&self) -> &'static str {
        "interleave"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        image_layout("interleave", inputs[0])?;
        Ok(Shape::Vector(inputs[0].elements()))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = image_layout("interleave", signature.inputs[0])?;
        let dispatch = Dispatch::new("interleave", "interleave")
            .size("height", layout.height)
            .size("width", layout.width)
            .bind("output", Operand::Output)
            .consts(&[("CLAMP", u32::from(self.clamp))])
            .bind("input", Operand::Input(0))
            .linear(signature.output.stored() / 4, GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let layout = image_layout("interleave", signature.inputs[0])?;
        let clamp = self.clamp;
        Ok(CpuKernel::new(move |call| {
            let (list, padding) = call.output.split_at_mut(3 * layout.pixels());
            padding.fill(0.0);
            for_each_row(list, 3 * layout.width, |y, list| {
                let pixels = row(call.inputs[0], layout, 0, y).as_chunks::<4>().0;
                for (rgb, pixel) in list.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
                    *rgb = [pixel[0], pixel[1], pixel[2]];
                    if clamp {
                        *rgb = rgb.map(|value| value.clamp(0.0, 1.0));
                    }
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].elements() / 3;
        let value = |n: usize| inputs[0][n % 3 * pixels + n / 3];
        (0..3 * pixels).map(|n| if self.clamp { value(n).clamp(0.0, 1.0) } else { value(n) }).collect()
    }
}

/// Values are moved or clamped, not computed.
const EXACT: f64 = 0.0;

pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1), (7, 3), (2, 13), (1, 6), (67, 131)];
    let of = |clamp| {
        sizes
            .map(|(height, width)| Case::normal(Interleave { clamp }, &[Shape::map(3, height, width)], EXACT))
    };
    [false, true].into_iter().flat_map(of).collect()
}
