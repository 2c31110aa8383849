//! The convolution as an op: its kernels in all families.

use super::backward::ConvBackward;
use super::convolution::{Conv, GradientEpilogue, tuned_blocks};
use super::coop_matrix::Direct;
use super::filter::Packing;
use super::pool_indices::PoolIndices;
use super::tiles::{self, Tiles};
use super::winograd::{self, Winograd};
use super::{cpu, edges};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::relu::rectified;
use crate::ops::{Adjoint, AdjointOperand, CpuKernel, Kernel, Op, Operand, Shape, Signature};

impl Op for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        self.output_shape(inputs[0])
    }

    fn saved(&self, inputs: &[Shape]) -> Option<Shape> {
        self.saved_shape(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let input = signature.inputs[0].expect_map("conv")?;
        let output = self.map(input)?;
        // Kernels that can't pool get two more passes.
        let pooled = |kernel: Kernel| {
            if self.pool { PoolIndices::of(output).pool_after(kernel, device) } else { kernel }
        };
        let edges = edges::are_corrected(self);
        let finished =
            |kernel: Kernel| pooled(if edges { edges::after(kernel, self, output, device) } else { kernel });
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
                let kernel = if winograd.pools() && !edges {
                    winograd.kernel(&self.filter, operand, output, false, &finish, device)
                } else {
                    let finish = winograd::Finish { pool: false, ..finish.clone() };
                    finished(winograd.kernel(&self.filter, operand, output, false, &finish, device))
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
            kernels.push(finished(Kernel::of("texture", dispatches)));
        }
        for (blocks, taps) in tuned_blocks(taps, output, device) {
            let matrix = tiles::Matrix {
                input: Operand::Input(0),
                weights: self.filter.constant(blocks.channels, false, Packing::buffer(device)),
                half: device.half_weights(),
                bias: self.filter.bias_constant(),
                taps,
                relu: self.relu,
            };
            let dispatch = blocks.dispatch(input, output, matrix, None, device);
            kernels.push(finished(Kernel::single(blocks.variant, dispatch)));
        }
        kernels.append(&mut after);
        // Never the preferred kernel: only tuning selects it.
        if let Some(taps) = taps.filter(|_| !kernels.is_empty()) {
            let direct = Direct {
                input: (Operand::Input(0), input),
                output,
                bias: self.filter.bias_constant(),
                relu: self.relu,
                taps,
                adjoint: false,
            };
            kernels.extend(direct.kernel(&self.filter, device).map(finished));
        }
        kernels.push(pooled(Kernel::single("naive", naive)));
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
        let input = signature.inputs[0].expect_map("conv")?;
        Ok(cpu::forward(self, input, self.map(input)?, device))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let input = shapes[0].layout().expect("a map");
        let size = self.output_size(input).expect("a valid size");
        let (weights, bias) =
            ((self.filter.weights)().expect("weights"), (self.filter.bias)().expect("bias"));
        let pixels = size[0] * size[1];
        let mut y: Vec<f64> = bias.iter().flat_map(|b| std::iter::repeat_n(f64::from(*b), pixels)).collect();
        self.for_each_row(input, size, |to, from, weight, pairs| {
            let (y, x, weight) = (&mut y[to], &inputs[0][from], f64::from(weights[weight]));
            pairs.iter().for_each(|(to, from)| y[*to] += x[*from] * weight);
        });
        if self.relu {
            y.iter_mut().for_each(|value| *value = rectified(*value));
        }
        if self.pool {
            PoolIndices::of(self.map(input).expect("a valid size")).reference_pooled(&y)
        } else {
            y
        }
    }

    fn reference_saved(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Option<Vec<f64>> {
        let map = self.map(shapes[0].layout()?).ok()?;
        self.pool.then(|| PoolIndices::of(map).reference(&self.unpooled().reference(inputs, shapes)))
    }

    fn saved_fault(
        &self,
        inputs: &[&[f64]],
        shapes: &[Shape],
        saved: &[f32],
        tolerance: f64,
    ) -> Option<String> {
        let map = self.map(shapes[0].layout()?).ok()?;
        let values = self.unpooled().reference(inputs, shapes);
        let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        PoolIndices::of(map).fault(&values, saved, tolerance * largest)
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let input = shapes[0].layout()?;
        let size = [input.height, input.width];
        let op = ConvBackward { conv: self.clone(), size, epilogue: GradientEpilogue::default() };
        Adjoint::new(
            op,
            &[
                if self.pool { AdjointOperand::Saved } else { AdjointOperand::Output },
                AdjointOperand::Upstream,
            ],
        )
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * self.multiply_adds(signature.inputs[0])
    }
}
