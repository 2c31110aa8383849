//! Test cases of the convolution kernels.

use super::backward::ConvBackward;
use super::convolution::{Conv, GradientEpilogue, Padding};
use super::filter::Filter;
use super::pool_indices;
use crate::ops::{Case, CaseInput, Op as _, Shape};
use std::sync::Arc;

/// f32 sums of up to a few thousand products of normal values: the rounding error grows with the square root of the
/// number of products, 6e-8 * sqrt(5000) = 4e-6 of the result's scale; the tolerance is about twice that.
const TOLERANCE: f64 = 1e-5;

/// Creates a filter with pseudo-random weights (He-initialised) from a fixed sequence.
fn sample(out_channels: usize, in_channels: usize, kernel: [usize; 2]) -> Arc<Filter> {
    let fan_in = in_channels * kernel[0] * kernel[1];
    let scale = (2.0 / fan_in as f32).sqrt();
    // A linear congruential sequence is irregular enough for test data.
    let values = move |count: usize, seed: u32| -> Vec<f32> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next() * scale * 1.7).collect()
    };
    let (weights, biases) = (values(out_channels * fan_in, 7), values(out_channels, 11));
    Arc::new(Filter {
        id: format!("sample {out_channels}x{in_channels}x{kernel:?}"),
        out_channels,
        in_channels,
        kernel,
        weights: Arc::new(move || Ok(weights.clone())),
        bias: Arc::new(move || Ok(biases.clone())),
    })
}

/// Each convolution with the shape of its test map.
fn samples() -> Vec<(Conv, Shape)> {
    let same = |outs, ins, relu, height, width| {
        (Conv::same(sample(outs, ins, [3, 3]), relu), Shape::map(ins, height, width))
    };
    let general = |kernel, stride, padding, mode, relu, shape: (usize, usize, usize)| {
        let conv = Conv { filter: sample(6, shape.0, kernel), stride, padding, mode, relu, pool: false };
        (conv, Shape::map(shape.0, shape.1, shape.2))
    };
    let pooled = |(conv, shape)| (Conv { pool: true, ..conv }, shape);
    let replicate = |(conv, shape)| (Conv { mode: Padding::Replicate, ..conv }, shape);
    vec![
        pooled(same(3, 5, true, 2, 3)),
        pooled(same(6, 9, true, 5, 2)), // last tile has one row, outside every pooling window
        pooled(same(21, 17, true, 13, 19)),
        pooled(same(64, 33, true, 24, 31)),
        pooled(same(70, 9, true, 11, 14)),
        pooled(same(16, 32, true, 13, 19)), // channel counts that fit cooperative matrices
        pooled((Conv::same(sample(5, 4, [1, 1]), true), Shape::map(4, 6, 7))),
        pooled(general([3, 3], [2, 1], [1, 0], Padding::Replicate, true, (3, 9, 7))),
        same(5, 3, false, 1, 1),
        same(3, 5, true, 7, 5),
        same(16, 4, true, 13, 2),
        same(17, 21, false, 3, 29),
        same(64, 3, true, 23, 19),
        same(3, 64, false, 19, 31),
        same(32, 48, true, 17, 37),
        same(70, 9, true, 11, 13),
        same(130, 33, false, 5, 3),
        same(40, 37, true, 39, 43),
        same(264, 260, true, 9, 7), // weights so large that filters are transformed while used
        same(180, 177, true, 5, 197), // the same, with several groups of tiles
        same(70, 66, false, 6, 231), // rows with more tiles than a task processes at once
        replicate(same(64, 3, true, 23, 19)),
        replicate(same(6, 3, true, 5, 7)),
        replicate(same(6, 5, false, 1, 1)),
        replicate(same(9, 3, true, 1, 13)),
        replicate(same(7, 4, false, 11, 1)),
        replicate(same(5, 3, true, 2, 2)),
        replicate(same(3, 17, true, 2, 31)),
        replicate(same(13, 6, false, 3, 3)),
        replicate(same(40, 37, true, 39, 43)),
        replicate(pooled(same(21, 17, true, 13, 19))),
        replicate(pooled(same(6, 3, true, 2, 3))),
        general([1, 1], [1, 1], [0, 0], Padding::Zeros, true, (9, 4, 6)),
        general([1, 1], [1, 1], [0, 0], Padding::Zeros, false, (33, 12, 13)),
        (Conv::same(sample(32, 48, [1, 1]), true), Shape::map(48, 5, 9)),
        (Conv::same(sample(10, 3, [1, 1]), true), Shape::map(3, 9, 17)),
        general([5, 5], [1, 1], [2, 2], Padding::Zeros, false, (4, 6, 11)),
        general([7, 3], [1, 1], [3, 1], Padding::Replicate, false, (4, 9, 5)),
        general([11, 11], [4, 4], [2, 2], Padding::Zeros, true, (3, 35, 29)),
        general([3, 3], [2, 2], [1, 1], Padding::Zeros, false, (4, 8, 7)),
        general([2, 2], [1, 2], [0, 0], Padding::Zeros, false, (4, 5, 6)),
        general([3, 3], [1, 1], [0, 0], Padding::Zeros, true, (2, 6, 5)),
    ]
}

pub(in crate::ops) fn cases() -> Vec<Case> {
    samples().into_iter().map(|(conv, shape)| Case::normal(conv, &[shape], TOLERANCE)).collect()
}

pub(in crate::ops) fn backward_cases() -> Vec<Case> {
    let case = |(conv, shape): (Conv, Shape)| {
        let layout = shape.layout()?;
        let output = conv.output(&[shape]).ok()?;
        let first = match conv.saved(&[shape]) {
            Some(indices) => (indices, CaseInput::Values(&pool_indices::SAMPLE)),
            None => (output, CaseInput::Rectified),
        };
        let op =
            ConvBackward { conv, size: [layout.height, layout.width], epilogue: GradientEpilogue::default() };
        let inputs = vec![first, (output, CaseInput::Normal)];
        Some((op, inputs, shape))
    };
    let plain: Vec<_> = samples().into_iter().filter_map(case).collect();
    let epilogues = [
        GradientEpilogue { add: true, mask: false },
        GradientEpilogue { add: false, mask: true },
        GradientEpilogue { add: true, mask: true },
    ];
    // One case in three with each of the epilogues.
    let with_epilogue = plain.iter().enumerate().map(|(index, (op, inputs, shape))| {
        let epilogue = epilogues[index % 3];
        let mut inputs = inputs.clone();
        if epilogue.add {
            inputs.push((*shape, CaseInput::Normal));
        }
        if epilogue.mask {
            inputs.push((*shape, CaseInput::Rectified));
        }
        (ConvBackward { epilogue, ..op.clone() }, inputs, *shape)
    });
    let all: Vec<_> = plain.iter().cloned().chain(with_epilogue).collect();
    all.into_iter().map(|(op, inputs, _)| Case::drawn(op, &inputs, TOLERANCE)).collect()
}
