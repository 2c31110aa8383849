//! Any convolution and its adjoint as a plain sum: for strides, kernels and paddings that the other methods don't
//! support.

use super::epilogue::Epilogue;
use super::layout::bands;
use crate::ops::MapLayout;
use crate::ops::conv::convolution::Conv;
use rayon::prelude::*;

/// Computes y from x; `maps` are the layouts of x and y.
pub(super) fn forward(
    conv: &Conv,
    maps: [MapLayout; 2],
    x: &[f32],
    weights: &[f32],
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let [input, output] = maps;
    let [kernel_height, kernel_width] = conv.filter.kernel;
    bands(output, y, 1).into_par_iter().enumerate().for_each(|(row, quads)| {
        let rows: Vec<(usize, usize)> = (0..kernel_height)
            .filter_map(|tap| Some((tap, conv.source(0, row, tap, input.height)?)))
            .collect();
        for (quad, line) in quads.into_iter().enumerate() {
            for (column, to) in line.as_chunks_mut::<4>().0[1..].iter_mut().enumerate() {
                let mut sum = [0.0f32; 4];
                for across in 0..kernel_width {
                    let Some(from) = conv.source(1, column, across, input.width) else { continue };
                    for (down, above) in &rows {
                        for channel in 0..input.channels {
                            let value = x[input.texel(channel / 4, *above, from) * 4 + channel % 4];
                            for (lane, sum) in sum.iter_mut().enumerate().take(output.channels - quad * 4) {
                                let pair = (quad * 4 + lane) * input.channels + channel;
                                *sum +=
                                    value * weights[(pair * kernel_height + down) * kernel_width + across];
                            }
                        }
                    }
                }
                epilogue.write(quad, output.texel(quad, row, column), [sum], std::array::from_mut(to));
            }
        }
    });
}

/// Computes dx from dy; `maps` are the layouts of x and y.
pub(super) fn backward(
    conv: &Conv,
    maps: [MapLayout; 2],
    dy: &[f32],
    weights: &[f32],
    epilogue: &Epilogue<'_>,
    dx: &mut [f32],
) {
    let [input, output] = maps;
    let [kernel_height, kernel_width] = conv.filter.kernel;
    // For each row (column) of the input, the output rows (columns) and taps that read it.
    let readers = |axis: usize, size: usize, outputs: usize, taps: usize| {
        let mut readers: Vec<Vec<(usize, usize)>> = vec![Vec::new(); size];
        for at in 0..outputs {
            for tap in 0..taps {
                if let Some(source) = conv.source(axis, at, tap, size) {
                    readers[source].push((at, tap));
                }
            }
        }
        readers
    };
    let down = readers(0, input.height, output.height, kernel_height);
    let across = readers(1, input.width, output.width, kernel_width);
    bands(input, dx, 1).into_par_iter().enumerate().for_each(|(row, quads)| {
        for (quad, line) in quads.into_iter().enumerate() {
            for (column, to) in line.as_chunks_mut::<4>().0[1..].iter_mut().enumerate() {
                let mut sum = [0.0f32; 4];
                for (y, ky) in &down[row] {
                    for (x, kx) in &across[column] {
                        for channel in 0..output.channels {
                            let value = dy[output.texel(channel / 4, *y, *x) * 4 + channel % 4];
                            for (lane, sum) in sum.iter_mut().enumerate().take(input.channels - quad * 4) {
                                let pair = channel * input.channels + quad * 4 + lane;
                                *sum += value * weights[(pair * kernel_height + ky) * kernel_width + kx];
                            }
                        }
                    }
                }
                epilogue.write(quad, input.texel(quad, row, column), [sum], std::array::from_mut(to));
            }
        }
    });
}
