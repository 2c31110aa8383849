//! Preprocessing of the picture for the network: channel order, scale and mean, with the adjoint.

use super::cpu::{fill_map, row};
use super::shape::{MapLayout, mismatch, takes};
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// `net[k] = rgb[order[k]] * scale[k] + bias[k]` at each pixel: converts a picture to the input format of a network,
/// e.g. BGR times 255 minus a mean. Input: a map of 3 channels. Output: a map of the same shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocess {
    /// Channel of the picture that becomes channel k; each below 3.
    pub order: [usize; 3],
    /// Factor of each network channel.
    pub scale: [f32; 3],
    /// Offset of each network channel.
    pub bias: [f32; 3],
}

/// Adjoint of [`Preprocess`]: `drgb[c] = sum over k with order[k] = c of scale[k] * dnet[k]`. Input: dnet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreprocessBackward {
    /// The forward op.
    pub forward: Preprocess,
}

/// Layout of a map that must be a picture of 3 channels.
pub(super) fn image_layout(name: &str, shape: Shape) -> Result<MapLayout> {
    let layout = shape.expect_map(name)?;
    if layout.channels != 3 {
        return Err(takes(name, "a picture of 3 channels", shape));
    }
    Ok(layout)
}

impl Preprocess {
    fn check(&self, name: &str, shape: Shape) -> Result<Shape> {
        image_layout(name, shape)?;
        if self.order.iter().any(|channel| *channel >= 3) {
            return Err(mismatch(name, &format!("invalid channel order {:?}", self.order)));
        }
        Ok(shape)
    }

    fn dispatch(&self, entry: &'static str, layout: MapLayout) -> Dispatch {
        Dispatch::new("preprocess", entry)
            .size("height", layout.height)
            .size("width", layout.width)
            .size("order_0", self.order[0])
            .size("order_1", self.order[1])
            .size("order_2", self.order[2])
            .float("scale_0", self.scale[0])
            .float("scale_1", self.scale[1])
            .float("scale_2", self.scale[2])
            .float("bias_0", self.bias[0])
            .float("bias_1", self.bias[1])
            .float("bias_2", self.bias[2])
            .bind("output", Operand::Output)
    }
}

impl Op for Preprocess {
    fn name(&self) -> &'static str {
        "preprocess"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.check("preprocess", inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = image_layout("preprocess", signature.output)?;
        let dispatch = self.dispatch("preprocess", layout).bind("input", Operand::Input(0)).linear(
            layout.texels(),
            GROUP,
            device,
        );
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let layout = image_layout("preprocess", signature.output)?;
        let Self { order, scale, bias } = *self;
        Ok(CpuKernel::new(move |call| {
            fill_map(layout, call.output, |quad, y, texels| {
                let pixels = row(call.inputs[0], layout, quad, y).as_chunks::<4>().0;
                for (texel, rgb) in texels.as_chunks_mut::<4>().0.iter_mut().zip(pixels) {
                    let channel = |k: usize| rgb[order[k] % 4] * scale[k] + bias[k];
                    *texel = [channel(0), channel(1), channel(2), 0.0];
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].elements() / 3;
        let channel = |k: usize| {
            let from = &inputs[0][self.order[k] * pixels..][..pixels];
            from.iter().map(move |v| v * f64::from(self.scale[k]) + f64::from(self.bias[k]))
        };
        (0..3).flat_map(channel).collect()
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(PreprocessBackward { forward: *self }, &[AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.output.elements() as u64
    }
}

impl Op for PreprocessBackward {
    fn name(&self) -> &'static str {
        "preprocess_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.forward.check("preprocess_backward", inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = image_layout("preprocess_backward", signature.output)?;
        let dispatch = self
            .forward
            .dispatch("preprocess_backward", layout)
            .bind("upstream", Operand::Input(0))
            .linear(layout.texels(), GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let layout = image_layout("preprocess_backward", signature.output)?;
        let Preprocess { order, scale, .. } = self.forward;
        Ok(CpuKernel::new(move |call| {
            fill_map(layout, call.output, |quad, y, texels| {
                let gradients = row(call.inputs[0], layout, quad, y).as_chunks::<4>().0;
                for (texel, gradient) in texels.as_chunks_mut::<4>().0.iter_mut().zip(gradients) {
                    *texel = [0.0; 4];
                    for k in 0..3 {
                        texel[order[k] % 4] += gradient[k] * scale[k];
                    }
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].elements() / 3;
        let mut rgb = vec![0.0; 3 * pixels];
        for k in 0..3 {
            for pixel in 0..pixels {
                rgb[self.forward.order[k] * pixels + pixel] +=
                    inputs[0][k * pixels + pixel] * f64::from(self.forward.scale[k]);
            }
        }
        rgb
    }
}

/// One product and one sum, each rounded to 6e-8 of its value; a value before the bias may be twice as large as the
/// result.
const TOLERANCE: f64 = 5e-7;

const SIZES: [(usize, usize); 5] = [(1, 1), (7, 3), (2, 13), (1, 6), (67, 131)];

/// The preprocessings of the supported networks, and one that is not a permutation.
fn samples() -> [Preprocess; 3] {
    // (x - mean) / deviation of ImageNet, as in torchvision; BGR * 255 - mean, as in Caffe.
    let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    [
        Preprocess {
            order: [0, 1, 2],
            scale: deviation.map(f32::recip),
            bias: std::array::from_fn(|k| -mean[k] / deviation[k]),
        },
        Preprocess { order: [2, 1, 0], scale: [255.0; 3], bias: [-103.939, -116.779, -123.68] },
        Preprocess { order: [1, 1, 2], scale: [0.5, -3.0, 2.0], bias: [1.0, 0.0, -7.0] },
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let of = |forward| {
        SIZES.map(|(height, width)| {
            Case::drawn(forward, &[(Shape::map(3, height, width), CaseInput::Picture)], TOLERANCE)
        })
    };
    samples().into_iter().flat_map(of).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let of = |forward| {
        SIZES.map(|(height, width)| {
            Case::normal(PreprocessBackward { forward }, &[Shape::map(3, height, width)], TOLERANCE)
        })
    };
    samples().into_iter().flat_map(of).collect()
}
