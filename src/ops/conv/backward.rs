//! The adjoint of a convolution with respect to its input.

use super::convolution::{Conv, GradientEpilogue, Padding, tuned_blocks};
use super::coop_matrix::{self, Direct};
use super::filter::Packing;
use super::pool_indices::{self, PoolIndices};
use super::tiles::{self, Tiles};
use super::winograd::{self, Winograd};
use super::{cpu, edges};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::shape::{MapLayout, mismatch};
use crate::ops::{CaseInput, CpuKernel, Kernel, Op, Operand, ReluBackward, Shape, Signature, epilogue};

/// Adjoint of [`Conv`] with respect to x. Inputs: y (used only with ReLU) or, if y is pooled, its pool indices; dy;
/// then the maps of `epilogue`. Output: dx. The size of x is an attribute, since several input sizes give the same
/// output size.
#[derive(Debug, Clone)]
pub struct ConvBackward {
    /// The forward op.
    pub conv: Conv,
    /// Height and width of x.
    pub size: [usize; 2],
    /// Fused last steps, applied where dx is written.
    pub epilogue: GradientEpilogue,
}

impl ConvBackward {
    /// Upstream gradient for a kernel without a mask of its own: dy, or with a ReLU the scratch buffer that
    /// [`Self::masked`] appends after the kernel's own `scratch` buffers.
    fn upstream(&self, scratch: usize) -> Operand {
        if self.conv.relu { Operand::Scratch(scratch) } else { Operand::Input(1) }
    }

    /// Prepends the backward pass of the ReLU, and of the pool if y is pooled, to the kernel.
    fn masked(&self, mut kernel: Kernel, map: MapLayout, signature: &Signature, device: &Profile) -> Kernel {
        if self.conv.relu {
            let scratch = self.upstream(kernel.scratch.len());
            let before = if self.conv.pool {
                PoolIndices::of(map).route(&scratch, device)
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
        if self.conv.pool && input == 0 {
            CaseInput::Values(&pool_indices::SAMPLE)
        } else {
            CaseInput::Normal
        }
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let expected = self.conv.output_shape(self.input())?;
        let first = self.conv.saved_shape(self.input()).unwrap_or(expected);
        if inputs[1] != expected || inputs[0] != first {
            let message = format!(
                "upstream is {}, the forward output is {expected}; beside it {} instead of {first}",
                inputs[1], inputs[0]
            );
            return Err(mismatch("conv_backward", &message));
        }
        let more = &inputs[2..];
        let wanted = usize::from(self.epilogue.add) + usize::from(self.epilogue.mask);
        if more.len() != wanted || more.iter().any(|shape| *shape != self.input()) {
            let message = format!("the epilogue takes {wanted} maps of {}, not {more:?}", self.input());
            return Err(mismatch("conv_backward", &message));
        }
        Ok(self.input())
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.output.expect_map("conv_backward")?;
        let output = self.conv.map(input)?;
        // Kernels with a mask of their own don't read pool indices.
        let mask_here = self.conv.relu && !self.conv.pool;
        let source = if self.conv.pool { self.upstream(0) } else { Operand::Input(1) };
        let before = |kernel: Kernel| {
            if mask_here { kernel } else { self.masked(kernel, output, signature, device) }
        };
        // With replicate padding an edge pixel also gets the gradients of its copies beyond the edge.
        let beyond = if self.conv.mode == Padding::Replicate { self.conv.padding } else { [0, 0] };
        let naive = Conv { relu: mask_here, ..self.conv.clone() }
            .naive("backward", input, output)
            .bind("activation", if mask_here { Operand::Input(0) } else { source.clone() })
            .bind("upstream", source.clone())
            .bind("output", Operand::Output)
            .loops(self.conv.loops(beyond, output.quads()))
            .linear(input.texels(), 64, device);
        let (mut kernels, mut direct, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let add = self.epilogue.add;
        let mask = self.epilogue.mask.then_some(Operand::Input(2 + usize::from(add)));
        // Winograd's output transform applies the epilogue itself; the other kernels need one more pass.
        let finished = |kernel: Kernel| epilogue::after(kernel, signature.output, add, mask.as_ref(), device);
        let edges = edges::are_corrected(&self.conv);
        // The edge correction comes before the epilogue, so that fusing the epilogue doesn't change the result. If y is
        // pooled, the gradient before the pool is in scratch buffer `scratch`.
        let corrected = |kernel: Kernel, scratch: usize| {
            let operands = edges::Backward {
                upstream: if self.conv.pool { Operand::Scratch(scratch) } else { Operand::Input(1) },
                activation: mask_here.then_some(Operand::Input(0)),
            };
            if !edges {
                return kernel;
            }
            edges::after_backward(kernel, &self.conv, [input, output], &operands, device)
        };
        let taps = self.conv.tuned_taps();
        if taps == Some(9) {
            let finish = if edges {
                winograd::Finish::default()
            } else {
                winograd::Finish { add, mask: mask.clone(), ..Default::default() }
            };
            for winograd in Winograd::choices(&self.conv.filter, output, input, device) {
                let kernel = if self.conv.pool && winograd.pools() && !edges {
                    let finish = winograd::Finish { pool_indices: Some(Operand::Input(0)), ..finish.clone() };
                    let upstream = (Operand::Input(1), output);
                    winograd.kernel(&self.conv.filter, upstream, input, true, &finish, device)
                } else {
                    let upstream = (self.upstream(winograd.scratch()), output);
                    let kernel = winograd.kernel(&self.conv.filter, upstream, input, true, &finish, device);
                    let kernel = self.masked(kernel, output, signature, device);
                    if edges { finished(corrected(kernel, winograd.scratch())) } else { kernel }
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
                half: device.half_weights(),
                bias: tiles::no_bias(input.quads()),
                taps,
                relu: false,
            };
            let mask = mask_here.then_some(Operand::Input(0));
            let dispatch = blocks.dispatch(output, input, matrix, mask, device);
            direct.push(before(Kernel::single(blocks.variant, dispatch)));
        }
        let naive = before(Kernel::single("naive", naive));
        kernels.extend(direct.into_iter().map(|kernel| finished(corrected(kernel, 0))));
        kernels.append(&mut after);
        // Never the preferred kernel: only tuning selects it.
        if let Some(taps) = taps.filter(|_| !kernels.is_empty()) {
            let direct = Direct {
                input: (self.upstream(coop_matrix::SCRATCH), output),
                output: input,
                bias: tiles::no_bias(input.quads()),
                relu: false,
                taps,
                adjoint: true,
            };
            kernels.extend(direct.kernel(&self.conv.filter, device).map(|kernel| {
                let kernel = self.masked(kernel, output, signature, device);
                finished(corrected(kernel, coop_matrix::SCRATCH))
            }));
        }
        kernels.push(finished(naive));
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        let input = signature.output.expect_map("conv_backward")?;
        Ok(cpu::backward(&self.conv, self.epilogue, [input, self.conv.map(input)?], device))
    }

    fn overwrites(&self) -> Option<usize> {
        self.epilogue.add.then_some(2)
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let input = self.input().layout().expect("a map");
        let size = self.conv.output_size(input).expect("a valid size");
        let weights = (self.conv.filter.weights)().expect("weights");
        let mut dx = vec![0.0; input.channels * input.pixels()];
        let mut upstream = inputs[1].to_vec();
        if self.conv.pool {
            let map = self.conv.map(input).expect("a valid size");
            upstream = PoolIndices::of(map).reference_route(inputs[0], &upstream);
        } else if self.conv.relu {
            epilogue::mask(&mut upstream, inputs[0]);
        }
        self.conv.for_each_row(input, size, |to, from, weight, pairs| {
            let (dy, dx, weight) = (&upstream[to], &mut dx[from], f64::from(weights[weight]));
            pairs.iter().for_each(|(to, from)| dx[*from] += dy[*to] * weight);
        });
        let mut more = inputs[2..].iter();
        if self.epilogue.add
            && let Some(addend) = more.next()
        {
            dx.iter_mut().zip(*addend).for_each(|(value, add)| *value += add);
        }
        if self.epilogue.mask
            && let Some(mask) = more.next()
        {
            epilogue::mask(&mut dx, mask);
        }
        dx
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * self.conv.multiply_adds(signature.output)
    }
}
