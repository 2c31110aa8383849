//! The picture's way into the network and out to a file: channel order and scaling with its adjoint, and
//! the change from a map to the interleaved RGB of image files.

use super::native::{fill_map, for_each_row, row};
use super::shape::{MapLayout, mismatch, takes};
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, Dispatch, Kernel, NativeKernel, Op, Operand, Shape, Signature,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;

/// `net[k] = rgb[order[k]] * scale[k] + bias[k]` at each pixel: what a network expects of its input, e.g.
/// BGR times 255 minus a mean. Input: a map of 3 channels; output: another of the same shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Which channel of the picture becomes channel k; each below 3.
    pub order: [usize; 3],
    /// Factor of each of the network's channels.
    pub scale: [f32; 3],
    /// What is added to each of the network's channels.
    pub bias: [f32; 3],
}

/// Adjoint of [`Affine`]: `drgb[c] = sum over k with order[k] = c of scale[k] * dnet[k]`. Input: dnet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineBackward {
    /// The forward op.
    pub affine: Affine,
}

/// A map of 3 channels as a list `r g b r g b ...`, row by row: `Vector(3 * height * width)`. The last
/// step before a file, so it has no adjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interleave {
    /// True to limit the values to 0..1, as for image files.
    pub clamp: bool,
}

/// Sizes of a map that has to be a picture.
fn picture(name: &str, shape: Shape) -> Result<MapLayout> {
    let layout = shape.expect_map(name)?;
    if layout.channels != 3 {
        return Err(takes(name, "a picture of 3 channels", shape));
    }
    Ok(layout)
}

impl Affine {
    /// Leaves a picture as it is.
    pub const IDENTITY: Self = Self { order: [0, 1, 2], scale: [1.0; 3], bias: [0.0; 3] };

    fn check(&self, name: &str, shape: Shape) -> Result<Shape> {
        picture(name, shape)?;
        if self.order.iter().any(|channel| *channel >= 3) {
            return Err(mismatch(name, &format!("there is no channel order {:?}", self.order)));
        }
        Ok(shape)
    }

    fn dispatch(&self, entry: &'static str, layout: MapLayout) -> Dispatch {
        Dispatch::new("picture", entry)
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

impl Op for Affine {
    fn name(&self) -> &'static str {
        "preprocess"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.check("preprocess", inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = picture("preprocess", signature.output)?;
        let dispatch = self.dispatch("preprocess", layout).bind("input", Operand::Input(0)).linear(
            layout.texels(),
            GROUP,
            device,
        );
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn native(&self, signature: &Signature, _device: &Profile) -> Result<NativeKernel> {
        let layout = picture("preprocess", signature.output)?;
        let Self { order, scale, bias } = *self;
        Ok(NativeKernel::new(move |call| {
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
        Adjoint::new(AffineBackward { affine: *self }, &[AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.output.elements() as u64
    }
}

impl Op for AffineBackward {
    fn name(&self) -> &'static str {
        "preprocess_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.affine.check("preprocess_backward", inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = picture("preprocess_backward", signature.output)?;
        let dispatch = self
            .affine
            .dispatch("preprocess_backward", layout)
            .bind("upstream", Operand::Input(0))
            .linear(layout.texels(), GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn native(&self, signature: &Signature, _device: &Profile) -> Result<NativeKernel> {
        let layout = picture("preprocess_backward", signature.output)?;
        let Affine { order, scale, .. } = self.affine;
        Ok(NativeKernel::new(move |call| {
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
                rgb[self.affine.order[k] * pixels + pixel] +=
                    inputs[0][k * pixels + pixel] * f64::from(self.affine.scale[k]);
            }
        }
        rgb
    }
}

impl Op for Interleave {
    fn name(&self) -> &'static str {
        "interleave"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        picture("interleave", inputs[0])?;
        Ok(Shape::Vector(inputs[0].elements()))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = picture("interleave", signature.inputs[0])?;
        let dispatch = Affine::IDENTITY
            .dispatch("interleave", layout)
            .consts(&[("CLAMP", u32::from(self.clamp))])
            .bind("input", Operand::Input(0))
            .linear(signature.output.stored() / 4, GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn native(&self, signature: &Signature, _device: &Profile) -> Result<NativeKernel> {
        let layout = picture("interleave", signature.inputs[0])?;
        let clamp = self.clamp;
        Ok(NativeKernel::new(move |call| {
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

/// Values are moved or limited, not computed.
const EXACT: f64 = 0.0;
/// One product and one sum, each rounded to 6e-8 of its size; before the bias is taken off a value is up to
/// twice as large as the result.
const TOLERANCE: f64 = 5e-7;

const SIZES: [(usize, usize); 5] = [(1, 1), (7, 3), (2, 13), (1, 6), (67, 131)];

/// The preprocessings of the known networks, and one that is not a permutation.
fn samples() -> [Affine; 3] {
    // (x - mean) / deviation of ImageNet, as torchvision; BGR * 255 - mean, as Caffe.
    let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    [
        Affine {
            order: [0, 1, 2],
            scale: deviation.map(f32::recip),
            bias: std::array::from_fn(|k| -mean[k] / deviation[k]),
        },
        Affine { order: [2, 1, 0], scale: [255.0; 3], bias: [-103.939, -116.779, -123.68] },
        Affine { order: [1, 1, 2], scale: [0.5, -3.0, 2.0], bias: [1.0, 0.0, -7.0] },
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let of = |affine| {
        SIZES.map(|(height, width)| {
            Case::drawn(affine, &[(Shape::map(3, height, width), CaseInput::Picture)], TOLERANCE)
        })
    };
    samples().into_iter().flat_map(of).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let of = |affine| {
        SIZES.map(|(height, width)| {
            Case::normal(AffineBackward { affine }, &[Shape::map(3, height, width)], TOLERANCE)
        })
    };
    samples().into_iter().flat_map(of).collect()
}

pub(super) fn interleave_cases() -> Vec<Case> {
    let of = |clamp| {
        SIZES
            .map(|(height, width)| Case::normal(Interleave { clamp }, &[Shape::map(3, height, width)], EXACT))
    };
    [false, true].into_iter().flat_map(of).collect()
}
