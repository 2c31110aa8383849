//! Peak benchmarks: an op that only computes multiply-adds, and one that only moves memory. Their throughput is the
//! reference for the other kernels (`graph/peaks.rs`).

use super::cpu::for_each_part;
use super::lanes::elementwise;
use super::shape::expect_same;
use super::{Case, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, window};
use crate::error::Result;
use crate::gpu::{Family, Profile};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// Chains per texel, and multiply-adds per chain and step; as in the shader.
const CHAINS: usize = 12;
const REPEAT: usize = 16;
const FACTOR: f64 = 0.9921875;
const SUMMAND: f64 = 0.0625;

/// For each value x of a vector, the sum of twelve chains: chain k starts at `x + k / 4` and repeats `v = v * 127/128 +
/// 1/16`, sixteen times per step.
#[derive(Debug, Clone, Copy)]
pub struct MultiplyAdd {
    /// Number of steps; at most 5000, because Mesa's software driver silently ends an invocation's loops after 65535
    /// iterations.
    pub steps: usize,
}

/// Values for which the CPU computes one chain at a time: enough to start as many multiply-adds in every cycle as the
/// processor can, without more registers than it has.
const CHAIN_LANES: usize = 64;
/// The same with AVX-512: ten of its registers, enough for two pipelines with a latency of four cycles.
const WIDE_CHAIN_LANES: usize = 160;

/// Sums of the chains that start at each value.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
fn chains(values: &[f32], steps: usize, sums: &mut [f32]) {
    let wide = target_cfg_f!(target_feature = "avx512f");
    // Without the instruction, `mul_add` would be a function call.
    let fused = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match (wide, fused) {
        (true, _) => chains_of::<true, WIDE_CHAIN_LANES>(values, steps, sums),
        (false, true) => chains_of::<true, CHAIN_LANES>(values, steps, sums),
        (false, false) => chains_of::<false, CHAIN_LANES>(values, steps, sums),
    }
}

#[inline(always)]
fn chains_of<const FUSED: bool, const LANES: usize>(values: &[f32], steps: usize, sums: &mut [f32]) {
    let (factor, summand) = (FACTOR as f32, SUMMAND as f32);
    for (values, sums) in values.chunks(LANES).zip(sums.chunks_mut(LANES)) {
        let mut x = [0.0; LANES];
        x.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
        let mut total = [0.0; LANES];
        for k in 0..CHAINS {
            let mut chain = x;
            for value in &mut chain {
                *value += k as f32 * 0.25;
            }
            for _ in 0..steps * REPEAT {
                for value in &mut chain {
                    *value = if FUSED { value.mul_add(factor, summand) } else { *value * factor + summand };
                }
            }
            total.iter_mut().zip(chain).for_each(|(total, value)| *total += value);
        }
        sums.iter_mut().zip(total).for_each(|(to, from)| *to = from);
    }
}

impl Op for MultiplyAdd {
    fn name(&self) -> &'static str {
        "multiply_add"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_vector("multiply_add").map(Shape::Vector)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let quads = signature.output.stored() / 4;
        // The number of parallel chains that fills the pipeline without spilling depends on the device.
        let kernel = |(variant, vectors)| {
            let dispatch = Dispatch::new("peaks", "multiply_add")
                .consts(&[("VECTORS", vectors)])
                .bind("input", Operand::Input(0))
                .bind("output", Operand::Output)
                .size("count", quads)
                .size("length", signature.output.elements())
                .size("steps", self.steps)
                .linear(quads, 64, device);
            Kernel::single(variant, dispatch)
        };
        let all = [("chains4", 4), ("chains3", 3), ("chains2", 2), ("naive", 1)];
        let first = if device.prefers(Family::Naive) { all.len() - 1 } else { 0 };
        Ok(all[first..].iter().copied().map(kernel).collect())
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let (length, steps) = (signature.output.elements(), self.steps);
        Ok(CpuKernel::new(move |call| {
            let input = call.inputs[0];
            for_each_part(call.output, |range, output| {
                chains(&input[range.clone()], steps, output);
                let end = length.clamp(range.start, range.end) - range.start;
                output[end..].fill(0.0);
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let chain = |mut value: f64| {
            for _ in 0..self.steps * REPEAT {
                value = value * FACTOR + SUMMAND;
            }
            value
        };
        inputs[0].iter().map(|x| (0..CHAINS).map(|k| chain(x + k as f64 * 0.25)).sum()).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        (signature.output.elements() * CHAINS * REPEAT * self.steps * 2) as u64
    }
}

/// `y = a + 127/128 b`: memory traffic of three vectors (McCalpin's STREAM triad).
#[derive(Debug, Clone, Copy)]
pub struct Triad;

impl Op for Triad {
    fn name(&self) -> &'static str {
        "triad"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_same("triad", inputs)?;
        inputs[0].expect_vector("triad").map(Shape::Vector)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let dispatch = Dispatch::new("peaks", "triad")
            .bind("input", Operand::Input(0))
            .bind("addend", Operand::Input(1))
            .bind("output", Operand::Output)
            .size("length", signature.output.elements())
            .size("steps", 0);
        let quads = signature.output.stored() / 4;
        let dispatches = window::elementwise(&dispatch, &["input", "addend", "output"], quads, device);
        Ok(vec![Kernel::of("naive", dispatches)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            elementwise(call.output, [call.inputs[0], call.inputs[1]], |[a, b]| a + FACTOR as f32 * b);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        inputs[0].iter().zip(inputs[1]).map(|(a, b)| a + FACTOR * b).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.output.elements() as u64
    }
}

/// Forty-eight steps of two roundings each, 2 * 48 * 6e-8, relative to the sum of the chains.
const CHAIN_TOLERANCE: f64 = 6e-6;
/// A product and a sum.
const TRIAD_TOLERANCE: f64 = 1.2e-7;

pub(super) fn multiply_add_cases() -> Vec<Case> {
    [(1, 1), (3, 259)]
        .map(|(steps, length)| Case::normal(MultiplyAdd { steps }, &[Shape::Vector(length)], CHAIN_TOLERANCE))
        .into()
}

pub(super) fn triad_cases() -> Vec<Case> {
    [1, 4, 1031].map(|length| Case::normal(Triad, &[Shape::Vector(length); 2], TRIAD_TOLERANCE)).into()
}
