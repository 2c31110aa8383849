//! Mean and standard deviation of each channel of a map, and their gradients.

use super::cpu::{PART, fill_map, row};
use super::shape::{MapLayout, mismatch};
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature,
    window,
};
use crate::error::Result;
use crate::gpu::Profile;
use rayon::prelude::*;

/// Texels of a plane that one workgroup sums; the shader's `GROUP * TERMS`.
const CHUNK: usize = 1024;

/// Added to a variance before the square root, as in AdaIN: keeps the gradient of the deviation of a constant channel
/// finite.
const SMALLEST: f64 = 1e-5;

/// Mean of each channel over its pixels. Input: a map. Output: a vector with one value per channel.
#[derive(Debug, Clone, Copy)]
pub struct ChannelMean;

/// Adjoint of [`ChannelMean`]: a map of `size` whose channels are `dmean / pixels` everywhere. Inputs: dmean, a vector;
/// with `add`, a map to add the result to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelMeanBackward {
    /// Rows and columns of the map.
    pub size: [usize; 2],
    /// True to add the result to another gradient of the map.
    pub add: bool,
}

/// Standard deviation of each channel, `sqrt(mean((F - mu)^2) + 1e-5)`. Inputs: the map F and its channel means mu. The
/// means get no gradient: the derivative of the sum of squares with respect to mu is zero at the mean.
#[derive(Debug, Clone, Copy)]
pub struct ChannelDeviation;

/// Adjoint of [`ChannelDeviation`]: `dF = (F - mu) / (pixels * sigma) * dsigma`. Inputs: F, mu, sigma, dsigma.
#[derive(Debug, Clone, Copy)]
pub struct ChannelDeviationBackward;

/// Dispatches of `entry` on a map, one for each window of its quads; `windowed` names the variables that are maps.
fn dispatches(
    entry: &'static str,
    map: MapLayout,
    windowed: &[&'static str],
    device: &Profile,
    finish: impl Fn(Dispatch, MapLayout) -> Dispatch,
) -> Vec<Dispatch> {
    let maps: Vec<(&str, MapLayout)> = windowed.iter().map(|name| (*name, map)).collect();
    let part = |quads: std::ops::Range<usize>| {
        let dispatch = params(Dispatch::new("channel_moments", entry), map)
            .size("first", quads.start)
            .size("quads", quads.len());
        finish(dispatch, map.part(&quads)).narrow(&maps, &quads)
    };
    window::quads(&[map], 1, device).into_iter().map(part).collect()
}

fn splits(map: MapLayout) -> usize {
    map.plane().div_ceil(CHUNK)
}

fn params(dispatch: Dispatch, map: MapLayout) -> Dispatch {
    dispatch
        .size("channels", map.channels)
        .size("height", map.height)
        .size("width", map.width)
        .size("splits", splits(map))
        .float("scale", (1.0 / map.pixels() as f64) as f32)
        .float("smallest", SMALLEST as f32)
}

/// Sums each channel's values or, for the deviation, their squared distances from the mean (input 1).
fn sums(map: MapLayout, deviation: bool, device: &Profile) -> Kernel {
    let splits = splits(map);
    let kind = [("DEVIATION", u32::from(deviation))];
    // The shader always binds a mean; the map is its placeholder.
    let (mean, windowed): (_, &[&str]) =
        if deviation { (Operand::Input(1), &["input"]) } else { (Operand::Input(0), &["input", "mean"]) };
    let mut dispatches = dispatches("partial", map, windowed, device, |dispatch, part| {
        let dispatch = dispatch.consts(&kind).bind("input", Operand::Input(0));
        dispatch.bind("mean", mean.clone()).bind("partials", Operand::Scratch(0)).linear(
            part.quads() * splits,
            1,
            device,
        )
    });
    let finish = params(Dispatch::new("channel_moments", "finish"), map)
        .consts(&kind)
        .bind("partials", Operand::Scratch(0))
        .bind("output", Operand::Output)
        .size("first", 0)
        .size("quads", map.quads())
        .linear(map.quads(), 1, device);
    dispatches.push(finish);
    Kernel { variant: "naive", dispatches, scratch: vec![(map.quads() * splits) as u64 * 16] }
}

/// Sums `term(value, channel of the quad)` over the pixels of a row, for each channel of a quad.
fn row_sums(row: &[f32], term: impl Fn(f32, usize) -> f32) -> [f64; 4] {
    let (texels, rest) = row.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for texels in texels {
        for (lane, (sum, value)) in sums.iter_mut().zip(texels).enumerate() {
            *sum += term(*value, lane % 4);
        }
    }
    for (lane, (sum, value)) in sums.iter_mut().zip(rest).enumerate() {
        *sum += term(*value, lane % 4);
    }
    let mut total = [0.0; 4];
    sums.iter().enumerate().for_each(|(lane, sum)| total[lane % 4] += f64::from(*sum));
    total
}

/// Means over each channel's pixels, by quad; `sums(quad, row)` returns the sums of a row.
fn means(
    map: MapLayout,
    values: &[f32],
    sums: impl Fn(usize, &[f32]) -> [f64; 4] + Sync,
) -> impl Iterator<Item = [f64; 4]> {
    let rows = PART.div_ceil(map.width * 4);
    let blocks = map.height.div_ceil(rows);
    let block = |index: usize| {
        let (quad, first) = (index / blocks, index % blocks * rows);
        let mut total = [0.0; 4];
        for y in first..(first + rows).min(map.height) {
            let sums = sums(quad, row(values, map, quad, y));
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        total
    };
    let partials: Vec<[f64; 4]> = (0..map.quads() * blocks).into_par_iter().map(block).collect();
    let pixels = map.pixels() as f64;
    (0..map.quads()).map(move |quad| {
        let mut total = [0.0; 4];
        for partial in &partials[quad * blocks..(quad + 1) * blocks] {
            total.iter_mut().zip(partial).for_each(|(total, sum)| *total += sum);
        }
        total.map(|sum| sum / pixels)
    })
}

/// Four values of a stored vector.
fn quad_of(vector: &[f32], quad: usize) -> [f32; 4] {
    vector.as_chunks::<4>().0[quad]
}

fn expect_channels(op: &str, map: MapLayout, shape: Shape) -> Result<()> {
    if shape == Shape::Vector(map.channels) {
        return Ok(());
    }
    Err(mismatch(op, &format!("{} channels need one value each, not {shape}", map.channels)))
}

/// Splits the values into channels.
fn channels(values: &[f64], pixels: usize) -> impl Iterator<Item = &[f64]> {
    values.chunks_exact(pixels)
}

impl Op for ChannelMean {
    fn name(&self) -> &'static str {
        "channel_mean"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(Shape::Vector(inputs[0].expect_map("channel_mean")?.channels))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![sums(signature.inputs[0].expect_map("channel_mean")?, false, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.inputs[0].expect_map("channel_mean")?;
        Ok(CpuKernel::new(move |call| {
            let means = means(map, call.inputs[0], |_, row| row_sums(row, |value, _| value));
            // The padding channels of the last quad are zero, and so are their means.
            let output = call.output.as_chunks_mut::<4>().0;
            output.iter_mut().zip(means).for_each(|(output, mean)| *output = mean.map(|mean| mean as f32));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].layout().expect("a map").pixels();
        channels(inputs[0], pixels).map(|values| values.iter().sum::<f64>() / pixels as f64).collect()
    }

    fn adjoint(&self, _input: usize, shapes: &[Shape]) -> Option<Adjoint> {
        let MapLayout { height, width, .. } = shapes[0].layout()?;
        Adjoint::new(ChannelMeanBackward { size: [height, width], add: false }, &[AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        signature.inputs[0].elements() as u64
    }
}

impl Op for ChannelMeanBackward {
    fn name(&self) -> &'static str {
        "channel_mean_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let map = Shape::map(inputs[0].expect_vector("channel_mean_backward")?, self.size[0], self.size[1]);
        let addends = &inputs[1..];
        if addends.len() != usize::from(self.add) || addends.iter().any(|addend| *addend != map) {
            let message = format!("{addends:?} can't be added to {map}");
            return Err(mismatch("channel_mean_backward", &message));
        }
        Ok(map)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.output.expect_map("channel_mean_backward")?;
        let dispatches = dispatches("backward", map, &["output"], device, |dispatch, part| {
            let dispatch = dispatch.consts(&[("ADD", u32::from(self.add))]);
            let dispatch = dispatch.bind("upstream", Operand::Input(0)).bind("output", Operand::Output);
            dispatch.linear(part.texels(), 64, device)
        });
        Ok(vec![Kernel::of("naive", dispatches)])
    }

    fn overwrites(&self) -> Option<usize> {
        self.add.then_some(1)
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.output.expect_map("channel_mean_backward")?;
        let scale = (1.0 / map.pixels() as f64) as f32;
        let add = self.add;
        Ok(CpuKernel::new(move |call| {
            let upstream = call.inputs[0];
            fill_map(map, call.output, |quad, _, texels| {
                let share = quad_of(upstream, quad).map(|value| value * scale);
                let texels = texels.as_chunks_mut::<4>().0;
                if add {
                    for texel in texels {
                        texel.iter_mut().zip(share).for_each(|(value, share)| *value += share);
                    }
                } else {
                    texels.fill(share);
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let pixels = self.size[0] * self.size[1];
        let shares = inputs[0].iter().flat_map(|value| vec![value / pixels as f64; pixels]);
        match inputs.get(1) {
            Some(addend) => shares.zip(*addend).map(|(share, addend)| share + addend).collect(),
            None => shares.collect(),
        }
    }
}

impl Op for ChannelDeviation {
    fn name(&self) -> &'static str {
        "channel_deviation"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let map = inputs[0].expect_map("channel_deviation")?;
        expect_channels("channel_deviation", map, inputs[1])?;
        Ok(inputs[1])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        Ok(vec![sums(signature.inputs[0].expect_map("channel_deviation")?, true, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.inputs[0].expect_map("channel_deviation")?;
        Ok(CpuKernel::new(move |call| {
            let variances = means(map, call.inputs[0], |quad, row| {
                let mean = quad_of(call.inputs[1], quad);
                row_sums(row, |value, channel| (value - mean[channel]) * (value - mean[channel]))
            });
            let output = call.output.as_chunks_mut::<4>().0;
            for (output, variance) in output.iter_mut().zip(variances) {
                *output = variance.map(|variance| (variance + SMALLEST).sqrt() as f32);
            }
            call.output[map.channels..].fill(0.0);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].layout().expect("a map").pixels();
        let deviation = |(values, mean): (&[f64], &f64)| {
            let sum: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (sum / pixels as f64 + SMALLEST).sqrt()
        };
        channels(inputs[0], pixels).zip(inputs[1]).map(deviation).collect()
    }

    fn adjoint(&self, input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        if input != 0 {
            return None;
        }
        let operands = [
            AdjointOperand::Input(0),
            AdjointOperand::Input(1),
            AdjointOperand::Output,
            AdjointOperand::Upstream,
        ];
        Adjoint::new(ChannelDeviationBackward, &operands)
    }

    fn flops(&self, signature: &Signature) -> u64 {
        3 * signature.inputs[0].elements() as u64
    }
}

impl Op for ChannelDeviationBackward {
    fn name(&self) -> &'static str {
        "channel_deviation_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let map = inputs[0].expect_map("channel_deviation_backward")?;
        inputs[1..]
            .iter()
            .try_for_each(|shape| expect_channels("channel_deviation_backward", map, *shape))?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.output.expect_map("channel_deviation_backward")?;
        let windowed = ["input", "output"];
        let dispatches = dispatches("deviation_backward", map, &windowed, device, |dispatch, part| {
            dispatch
                .bind("input", Operand::Input(0))
                .bind("mean", Operand::Input(1))
                .bind("deviation", Operand::Input(2))
                .bind("upstream", Operand::Input(3))
                .bind("output", Operand::Output)
                .linear(part.texels(), 64, device)
        });
        Ok(vec![Kernel::of("naive", dispatches)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.output.expect_map("channel_deviation_backward")?;
        let scale = (1.0 / map.pixels() as f64) as f32;
        Ok(CpuKernel::new(move |call| {
            let [values, means, deviations, upstream] = [0, 1, 2, 3].map(|input: usize| call.inputs[input]);
            fill_map(map, call.output, |quad, y, texels| {
                let mean = quad_of(means, quad);
                // The padding channels of the last quad have no deviation.
                let rate = |channel: usize| {
                    let index = quad * 4 + channel;
                    if index < map.channels { upstream[index] * scale / deviations[index] } else { 0.0 }
                };
                let rate = [0, 1, 2, 3].map(rate);
                let values = row(values, map, quad, y).as_chunks::<4>().0;
                for (texel, values) in texels.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    for channel in 0..4 {
                        texel[channel] = (values[channel] - mean[channel]) * rate[channel];
                    }
                }
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].layout().expect("a map").pixels();
        let gradient = |(channel, values): (usize, &[f64])| {
            let [mean, deviation, upstream] = [1, 2, 3].map(|input: usize| inputs[input][channel]);
            let rate = upstream / (pixels as f64 * deviation);
            values.iter().map(|value| (value - mean) * rate).collect::<Vec<f64>>()
        };
        channels(inputs[0], pixels).enumerate().flat_map(gradient).collect()
    }

    fn flops(&self, signature: &Signature) -> u64 {
        3 * signature.inputs[0].elements() as u64
    }
}

/// f32 sums of at most 16 texels in a row, then trees of sums, of values about as large as their mean: roundings of
/// 6e-8 add up to at most 1e-6 of the largest mean. Where values of both signs cancel (the case drawn from a normal
/// distribution), the mean is smaller than its terms by the square root of their number, up to 200 here.
const TOLERANCE: f64 = 1e-6;
const SIGNED_TOLERANCE: f64 = 2e-5;

/// Up to three roundings of 6e-8.
const BACKWARD_MEAN_TOLERANCE: f64 = 2e-7;

/// Sums of squares in the same order, plus 1e-5, and a root.
const DEVIATION_TOLERANCE: f64 = 1e-6;

/// Four roundings, and a division with an error of up to 2.5 units in the last place.
const BACKWARD_TOLERANCE: f64 = 5e-7;

/// Odd, tiny and prime sizes; several chunks of a plane; several quads, full and not.
fn samples() -> Vec<Shape> {
    [(1, 1, 1), (3, 1, 7), (5, 11, 1), (9, 7, 3), (4, 31, 33), (6, 61, 67), (21, 130, 71)]
        .map(|(channels, height, width)| Shape::map(channels, height, width))
        .into()
}

fn vector(shape: Shape) -> Shape {
    Shape::Vector(shape.layout().map_or(0, |map| map.channels))
}

pub(super) fn mean_cases() -> Vec<Case> {
    let both = |shape| {
        [
            Case::drawn(ChannelMean, &[(shape, CaseInput::Rectified)], TOLERANCE),
            Case::normal(ChannelMean, &[shape], SIGNED_TOLERANCE),
        ]
    };
    samples().into_iter().flat_map(both).collect()
}

pub(super) fn mean_backward_cases() -> Vec<Case> {
    let case = |add| {
        move |shape: Shape| {
            let MapLayout { channels, height, width } = shape.layout()?;
            let op = ChannelMeanBackward { size: [height, width], add };
            let inputs = [Shape::Vector(channels), shape];
            Some(Case::normal(op, &inputs[..1 + usize::from(add)], BACKWARD_MEAN_TOLERANCE))
        }
    };
    let plain = samples().into_iter().filter_map(case(false));
    plain.chain(samples().into_iter().filter_map(case(true))).collect()
}

pub(super) fn deviation_cases() -> Vec<Case> {
    let case = |shape| Case::normal(ChannelDeviation, &[shape, vector(shape)], DEVIATION_TOLERANCE);
    samples().into_iter().map(case).collect()
}

pub(super) fn deviation_backward_cases() -> Vec<Case> {
    let case = |shape| {
        let channels = vector(shape);
        let inputs = [
            (shape, CaseInput::Normal),
            (channels, CaseInput::Scaled(0.3)),
            (channels, CaseInput::Values(&[0.5, 2.0, 0.9, 1.3, 0.003_2])),
            (channels, CaseInput::Normal),
        ];
        Case::drawn(ChannelDeviationBackward, &inputs, BACKWARD_TOLERANCE)
    };
    samples().into_iter().map(case).collect()
}
