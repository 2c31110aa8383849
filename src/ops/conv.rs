//! Convolution with constant weights, bias and optional ReLU, and its adjoint with respect to the input.
//!
//! As PyTorch's `conv2d` (cross-correlation): `y[o, i, j] = b[o] + sum w[o, c, u, v] x[c, i*s + u - p, j*s + v - p]`.

mod cases;
mod filter;

use super::blocks::Blocks;
use super::codes;
use super::finish;
use super::shape::{MapLayout, mismatch};
use super::tiles::{self, Tiles};
use super::winograd::{self, Winograd};
use super::{
    Absorbed, Adjoint, CaseInput, Dispatch, Kernel, LastStep, Op, Operand, ReluBackward, Shape, Signature,
    Source,
};
use crate::error::Result;
use crate::gpu::Profile;
use std::sync::Arc;

pub(super) use cases::{backward_cases, cases};
pub(super) use filter::Packing;
pub use filter::{Filter, Loader};

/// What lies beyond the edge of a map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Padding {
    /// Zeros.
    #[default]
    Zeros,
    /// The edge pixel, repeated.
    Replicate,
}

/// `y = conv(x) + b`, rectified if `relu`, and then if `pool` the maxima of 2x2 windows side by side (an odd last row
/// or column is dropped). Input: x, a map. With `pool` the side is the windows' codes (see `codes.rs`).
#[derive(Debug, Clone)]
pub struct Conv {
    /// Weights and biases.
    pub filter: Arc<Filter>,
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right.
    pub padding: [usize; 2],
    /// What the padding holds.
    pub mode: Padding,
    /// True to rectify the result.
    pub relu: bool,
    /// True to halve the result by its maxima; only with `relu`.
    pub pool: bool,
}

/// Adjoint of [`Conv`] with respect to x. Inputs: y (used only with ReLU), dy; where y is pooled its codes, dy. The
/// input's size is an attribute, since several sizes can give the same output.
#[derive(Debug, Clone)]
pub struct ConvBackward {
    /// The forward op.
    pub conv: Conv,
    /// Height and width of x.
    pub size: [usize; 2],
    /// Last steps, done where dx is written.
    pub then: Then,
}

/// Last steps of [`ConvBackward`]: each takes one more input like dx, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Then {
    /// Add another gradient, over which dx is written.
    pub add: bool,
    /// Zero where the input is not positive: the adjoint of the ReLU before x.
    pub mask: bool,
}

impl Conv {
    /// A 3x3 convolution that keeps the size: padding 1, stride 1.
    pub fn same(filter: Arc<Filter>, relu: bool) -> Self {
        let padding = [filter.kernel[0] / 2, filter.kernel[1] / 2];
        Self { filter, stride: [1, 1], padding, mode: Padding::Zeros, relu, pool: false }
    }

    fn output_size(&self, input: MapLayout) -> Result<[usize; 2]> {
        let mut size = [input.height, input.width];
        for (axis, size) in size.iter_mut().enumerate() {
            let padded = *size + 2 * self.padding[axis];
            let kernel = self.filter.kernel[axis];
            if padded < kernel {
                return Err(mismatch(
                    "conv",
                    &format!("the map {input:?} is smaller than the kernel {kernel}"),
                ));
            }
            *size = (padded - kernel) / self.stride[axis] + 1;
        }
        Ok(size)
    }

    /// Taps if this is what the tuned kernels do: 9 for 3x3 kernels that keep the size, 1 for 1x1 kernels.
    fn tuned_taps(&self) -> Option<u32> {
        match (self.filter.kernel, self.stride, self.padding) {
            ([3, 3], [1, 1], [1, 1]) if self.mode == Padding::Zeros => Some(9),
            ([1, 1], [1, 1], [0, 0]) => Some(1),
            _ => None,
        }
    }

    /// The convolution's own output, before a pool.
    fn map(&self, input: MapLayout) -> Result<MapLayout> {
        let [height, width] = self.output_size(input)?;
        Ok(MapLayout { channels: self.filter.out_channels, height, width })
    }

    /// The same without the pool.
    fn unpooled(&self) -> Self {
        Self { pool: false, ..self.clone() }
    }

    fn naive(&self, entry: &'static str, input: MapLayout, output: MapLayout) -> Dispatch {
        Dispatch::new("conv", entry)
            .consts(&[
                ("RELU", u32::from(self.relu)),
                ("REPLICATE", u32::from(self.mode == Padding::Replicate)),
            ])
            .bind("weights", self.filter.constant(4, false, Packing::Buffer))
            .size("in_height", input.height)
            .size("in_width", input.width)
            .size("in_quads", input.quads())
            .size("out_height", output.height)
            .size("out_width", output.width)
            .size("out_quads", output.quads())
            .size("kernel_height", self.filter.kernel[0])
            .size("kernel_width", self.filter.kernel[1])
            .size("stride_y", self.stride[0])
            .size("stride_x", self.stride[1])
            .size("pad_y", self.padding[0])
            .size("pad_x", self.padding[1])
    }

    /// Loop iterations of one invocation of the naive kernel, at most: over the rows of the border that a pixel
    /// stands for, the kernel's rows, the same for columns, and the quads of channels.
    fn loops(&self, beyond: [usize; 2], quads: usize) -> usize {
        // Of those rows (columns) and the kernel's the pairs that meet an output.
        let [down, across] = [0, 1].map(|axis| {
            let kernel = self.filter.kernel[axis];
            (0..=beyond[axis]).map(|row| kernel.min(row + 1)).sum::<usize>().max(kernel)
        });
        let rows = (beyond[0] + 1) * (1 + self.filter.kernel[0]);
        let columns = (beyond[1] + 1) * (1 + self.filter.kernel[1]);
        rows + down * (columns + across * quads)
    }

    /// Source row or column of a tap, or `None` where the border is zero.
    fn source(&self, axis: usize, position: usize, tap: usize, size: usize) -> Option<usize> {
        let at = (position * self.stride[axis] + tap) as isize - self.padding[axis] as isize;
        match self.mode {
            Padding::Replicate => Some(at.clamp(0, size as isize - 1) as usize),
            Padding::Zeros => (0..size as isize).contains(&at).then_some(at as usize),
        }
    }

    /// Calls `visit(output index, input index, weight index)` for every product of the convolution.
    fn for_each_product(
        &self,
        input: MapLayout,
        output: [usize; 2],
        mut visit: impl FnMut(usize, usize, usize),
    ) {
        let [kh, kw] = self.filter.kernel;
        for o in 0..self.filter.out_channels {
            for y in 0..output[0] {
                for x in 0..output[1] {
                    for c in 0..input.channels {
                        for ky in 0..kh {
                            let Some(sy) = self.source(0, y, ky, input.height) else { continue };
                            for kx in 0..kw {
                                let Some(sx) = self.source(1, x, kx, input.width) else { continue };
                                visit(
                                    (o * output[0] + y) * output[1] + x,
                                    (c * input.height + sy) * input.width + sx,
                                    ((o * input.channels + c) * kh + ky) * kw + kx,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The buffer family's tiles for a result of this layout.
fn tuned_blocks(taps: Option<u32>, result: MapLayout, device: &Profile) -> Vec<(Blocks, u32)> {
    let choices = |taps| Blocks::choices(result, device).into_iter().map(move |blocks| (blocks, taps));
    taps.into_iter().flat_map(choices).collect()
}

impl Op for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let input = inputs[0].expect_map("conv")?;
        if input.channels != self.filter.in_channels {
            let message = format!("{:?} does not take {} channels", self.filter, input.channels);
            return Err(mismatch("conv", &message));
        }
        let [height, width] = self.output_size(input)?;
        let map = Shape::map(self.filter.out_channels, height, width);
        if self.pool { codes::halving().output(&[map]) } else { Ok(map) }
    }

    fn side(&self, inputs: &[Shape]) -> Option<Shape> {
        let map = self.map(inputs[0].layout()?).ok()?;
        self.pool.then(|| codes::shape(map))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.inputs[0].expect_map("conv")?;
        let output = self.map(input)?;
        // Where a kernel can't pool, two passes more do.
        let pooled = |kernel: Kernel| {
            if self.pool { codes::pool_after(kernel, output, device) } else { kernel }
        };
        let naive = self
            .naive("forward", input, output)
            .bind("input", Operand::Input(0))
            .bind("bias", self.filter.bias_constant())
            .bind("output", Operand::Output)
            .loops(self.loops([0, 0], input.quads()))
            .linear(output.texels(), 64, device);
        let (mut kernels, mut after) = (Vec::new(), Vec::new());
        let taps = self.tuned_taps();
        if taps == Some(9) {
            let finish = winograd::Finish {
                bias: Some(self.filter.bias_constant()),
                relu: self.relu,
                pool: self.pool,
                ..Default::default()
            };
            for winograd in Winograd::choices(&self.filter, input, output, device) {
                let operand = (Operand::Input(0), input);
                let kernel = if winograd.pools() {
                    winograd.kernel(&self.filter, operand, output, false, &finish, device)
                } else {
                    let finish = winograd::Finish { pool: false, ..finish.clone() };
                    pooled(winograd.kernel(&self.filter, operand, output, false, &finish, device))
                };
                let late = winograd.after_direct(input, output);
                if late { &mut after } else { &mut kernels }.push(kernel);
            }
        }
        if let Some(taps) = taps
            && let Some(tiles) = Tiles::choose(output, input.texels(), device)
        {
            let matrix = tiles::Matrix {
                input: Operand::Input(0),
                weights: self.filter.constant(tiles.channels, false, Packing::Texture),
                half: false,
                bias: self.filter.bias_constant(),
                taps,
                relu: self.relu,
            };
            let dispatches = tiles.dispatches(input, output, &matrix, device);
            kernels.push(pooled(Kernel::of("texture", dispatches)));
        }
        for (blocks, taps) in tuned_blocks(taps, output, device) {
            let matrix = tiles::Matrix {
                input: Operand::Input(0),
                weights: self.filter.constant(blocks.channels, false, Packing::buffer(device)),
                half: device.half_weights,
                bias: self.filter.bias_constant(),
                taps,
                relu: self.relu,
            };
            let dispatch = blocks.dispatch(input, output, matrix, None, device);
            kernels.push(pooled(Kernel::single(blocks.variant, dispatch)));
        }
        kernels.append(&mut after);
        kernels.push(pooled(Kernel::single("naive", naive)));
        Ok(kernels)
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let input = shapes[0].layout().expect("a map");
        let size = self.output_size(input).expect("a valid size");
        let (weights, bias) =
            ((self.filter.weights)().expect("weights"), (self.filter.bias)().expect("bias"));
        let pixels = size[0] * size[1];
        let mut y: Vec<f64> = bias.iter().flat_map(|b| std::iter::repeat_n(f64::from(*b), pixels)).collect();
        self.for_each_product(input, size, |to, from, weight| {
            y[to] += inputs[0][from] * f64::from(weights[weight])
        });
        if self.relu {
            y.iter_mut().for_each(|value| *value = value.max(0.0));
        }
        if self.pool { codes::reference_pooled(self.map(input).expect("a valid size"), &y) } else { y }
    }

    fn reference_side(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Option<Vec<f64>> {
        let map = self.map(shapes[0].layout()?).ok()?;
        self.pool.then(|| codes::reference(map, &self.unpooled().reference(inputs, shapes)))
    }

    fn side_fault(
        &self,
        inputs: &[&[f64]],
        shapes: &[Shape],
        side: &[f32],
        tolerance: f64,
    ) -> Option<String> {
        let map = self.map(shapes[0].layout()?).ok()?;
        let values = self.unpooled().reference(inputs, shapes);
        let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        codes::fault(map, &values, side, tolerance * largest)
    }

    fn absorb(&self, step: LastStep, _same_as: Option<usize>) -> Option<Absorbed> {
        let fits = step == LastStep::Halve && self.relu && !self.pool;
        fits.then(|| Absorbed { op: Arc::new(Self { pool: true, ..self.clone() }), takes_operand: false })
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let input = shapes[0].layout()?;
        let size = [input.height, input.width];
        let op = ConvBackward { conv: self.clone(), size, then: Then::default() };
        Adjoint::new(op, &[if self.pool { Source::Side } else { Source::Output }, Source::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let [kh, kw] = self.filter.kernel;
        let map = signature.inputs[0].layout().and_then(|input| self.map(input).ok());
        let outputs = map.map_or(0, |map| map.channels * map.pixels());
        2 * (outputs * self.filter.in_channels * kh * kw) as u64
    }
}

impl ConvBackward {
    /// What a kernel that has no mask of its own reads as the upstream gradient: dy, or where y was rectified
    /// the scratch buffer that [`Self::masked`] adds to the `scratch` ones that the kernel has.
    fn upstream(&self, scratch: usize) -> Operand {
        if self.conv.relu { Operand::Scratch(scratch) } else { Operand::Input(1) }
    }

    /// The kernel with the mask before it, where y was rectified; where it was pooled too, with the way back
    /// through both.
    fn masked(&self, mut kernel: Kernel, map: MapLayout, signature: &Signature, device: &Profile) -> Kernel {
        if self.conv.relu {
            let scratch = self.upstream(kernel.scratch.len());
            let before = if self.conv.pool {
                codes::route(map, &scratch, device)
            } else {
                ReluBackward::dispatches(signature.inputs[1], scratch, device)
            };
            kernel.dispatches.splice(0..0, before);
            kernel.scratch.push((map.texels() * 16) as u64);
        }
        kernel
    }

    fn input(&self) -> Shape {
        Shape::map(self.conv.filter.in_channels, self.size[0], self.size[1])
    }
}

impl Op for ConvBackward {
    fn name(&self) -> &'static str {
        "conv_backward"
    }

    fn sample(&self, input: usize) -> CaseInput {
        if self.conv.pool && input == 0 { CaseInput::Values(&cases::CODES) } else { CaseInput::Normal }
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let expected = self.conv.output(&[self.input()])?;
        let first = self.conv.side(&[self.input()]).unwrap_or(expected);
        if inputs[1] != expected || inputs[0] != first {
            let message = format!(
                "upstream is {}, the forward output is {expected}; beside it {} in place of {first}",
                inputs[1], inputs[0]
            );
            return Err(mismatch("conv_backward", &message));
        }
        let more = &inputs[2..];
        let wanted = usize::from(self.then.add) + usize::from(self.then.mask);
        if more.len() != wanted || more.iter().any(|shape| *shape != self.input()) {
            let message = format!("the last steps take {wanted} maps of {}, not {more:?}", self.input());
            return Err(mismatch("conv_backward", &message));
        }
        Ok(self.input())
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.output.expect_map("conv_backward")?;
        let output = self.conv.map(input)?;
        // Kernels with a mask of their own have none for codes.
        let mask_here = self.conv.relu && !self.conv.pool;
        let source = if self.conv.pool { self.upstream(0) } else { Operand::Input(1) };
        let before = |kernel: Kernel| {
            if mask_here { kernel } else { self.masked(kernel, output, signature, device) }
        };
        // A repeated edge pixel stands for those beyond it too.
        let beyond = if self.conv.mode == Padding::Replicate { self.conv.padding } else { [0, 0] };
        let naive = Conv { relu: mask_here, ..self.conv.clone() }
            .naive("backward", input, output)
            .bind("activation", if mask_here { Operand::Input(0) } else { source.clone() })
            .bind("upstream", source.clone())
            .bind("output", Operand::Output)
            .loops(self.conv.loops(beyond, output.quads()))
            .linear(input.texels(), 64, device);
        let (mut kernels, mut direct, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let add = self.then.add;
        let mask = self.then.mask.then_some(Operand::Input(2 + usize::from(add)));
        // Winograd's last pass does the last steps itself, after others comes one more.
        let finished = |kernel: Kernel| finish::after(kernel, signature.output, add, mask.as_ref(), device);
        let taps = self.conv.tuned_taps();
        if taps == Some(9) {
            let finish = winograd::Finish { add, mask: mask.clone(), ..Default::default() };
            for winograd in Winograd::choices(&self.conv.filter, output, input, device) {
                let kernel = if self.conv.pool && winograd.pools() {
                    let finish = winograd::Finish { codes: Some(Operand::Input(0)), ..finish.clone() };
                    let upstream = (Operand::Input(1), output);
                    winograd.kernel(&self.conv.filter, upstream, input, true, &finish, device)
                } else {
                    let upstream = (self.upstream(winograd.scratch()), output);
                    let kernel = winograd.kernel(&self.conv.filter, upstream, input, true, &finish, device);
                    self.masked(kernel, output, signature, device)
                };
                let late = winograd.after_direct(output, input);
                if late { &mut after } else { &mut kernels }.push(kernel);
            }
        }
        if let Some(taps) = taps
            && let Some(tiles) = Tiles::choose(input, output.texels(), device)
        {
            let matrix = tiles::Matrix {
                input: self.upstream(0),
                weights: self.conv.filter.constant(tiles.channels, true, Packing::Texture),
                half: false,
                bias: tiles::no_bias(input.quads()),
                taps,
                relu: false,
            };
            let kernel = Kernel::of("texture", tiles.dispatches(output, input, &matrix, device));
            direct.push(self.masked(kernel, output, signature, device));
        }
        for (blocks, taps) in tuned_blocks(taps, input, device) {
            let matrix = tiles::Matrix {
                input: source.clone(),
                weights: self.conv.filter.constant(blocks.channels, true, Packing::buffer(device)),
                half: device.half_weights,
                bias: tiles::no_bias(input.quads()),
                taps,
                relu: false,
            };
            let mask = mask_here.then_some(Operand::Input(0));
            let dispatch = blocks.dispatch(output, input, matrix, mask, device);
            direct.push(before(Kernel::single(blocks.variant, dispatch)));
        }
        let naive = before(Kernel::single("naive", naive));
        kernels.extend(direct.into_iter().map(finished));
        kernels.append(&mut after);
        kernels.push(finished(naive));
        Ok(kernels)
    }

    fn absorb(&self, step: LastStep, _same_as: Option<usize>) -> Option<Absorbed> {
        let then = match step {
            LastStep::Add if self.then == Then::default() => Then { add: true, mask: false },
            LastStep::Mask if !self.then.mask => Then { mask: true, ..self.then },
            _ => return None,
        };
        Some(Absorbed { op: Arc::new(Self { then, ..self.clone() }), takes_operand: true })
    }

    fn overwrites(&self) -> Option<usize> {
        self.then.add.then_some(2)
    }

    fn unmasked(&self) -> Option<Arc<dyn Op>> {
        let conv = Conv { relu: false, ..self.conv.clone() };
        let masks = self.conv.relu && !self.conv.pool;
        masks.then(|| Arc::new(Self { conv, ..self.clone() }) as Arc<dyn Op>)
    }

    fn routed(&self) -> Option<Arc<dyn Op>> {
        let conv = Conv { relu: true, pool: true, ..self.conv.clone() };
        (!self.conv.relu).then(|| Arc::new(Self { conv, ..self.clone() }) as Arc<dyn Op>)
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let input = self.input().layout().expect("a map");
        let size = self.conv.output_size(input).expect("a valid size");
        let weights = (self.conv.filter.weights)().expect("weights");
        let mut dx = vec![0.0; input.channels * input.pixels()];
        let mut upstream = inputs[1].to_vec();
        if self.conv.pool {
            let map = self.conv.map(input).expect("a valid size");
            upstream = codes::reference_route(map, inputs[0], &upstream);
        } else if self.conv.relu {
            finish::mask(&mut upstream, inputs[0]);
        }
        self.conv.for_each_product(input, size, |to, from, weight| {
            dx[from] += upstream[to] * f64::from(weights[weight]);
        });
        let mut more = inputs[2..].iter();
        if self.then.add
            && let Some(addend) = more.next()
        {
            dx.iter_mut().zip(*addend).for_each(|(value, add)| *value += add);
        }
        if self.then.mask
            && let Some(mask) = more.next()
        {
            finish::mask(&mut dx, mask);
        }
        dx
    }

    fn flops(&self, signature: &Signature) -> u64 {
        self.conv.flops(&Signature { inputs: vec![signature.output], output: signature.inputs[1] })
    }
}
