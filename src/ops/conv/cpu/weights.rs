//! Weight layouts of the CPU kernels.

use super::layout::{BLOCK, blocks};
use super::transforms::{POSITIONS, transform_filters};
use crate::ops::conv::filter::Filter;
use crate::ops::{CpuConstant, CpuValues};
use std::sync::Arc;

/// Channel order of the panels of 16 outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// `[position][output / 16][input][output % 16]`: whole panels for the convolution's products.
    Forward,
    /// `[position][input / 16][output][input % 16]`: whole panels for the adjoint's products.
    Adjoint,
}

impl Packing {
    /// Blocks of result channels, and of summed channels.
    pub fn blocks(self, filter: &Filter) -> [usize; 2] {
        let [outs, ins] = [filter.out_channels, filter.in_channels].map(blocks);
        match self {
            Self::Forward => [outs, ins],
            Self::Adjoint => [ins, outs],
        }
    }
}

/// Transformed weights as rows of `[f32; 16]`, with zeros for padding.
pub(super) fn winograd(filter: &Arc<Filter>, packing: Packing) -> CpuConstant {
    let filter = filter.clone();
    let [panels, sums] = packing.blocks(&filter);
    let [results, summed] = match packing {
        Packing::Forward => [filter.out_channels, filter.in_channels],
        Packing::Adjoint => [filter.in_channels, filter.out_channels],
    };
    let panel = sums * BLOCK * BLOCK;
    let length = POSITIONS * panels * panel;
    CpuConstant {
        key: format!("{} cpu Winograd {packing:?}", filter.id),
        bytes: length as u64 * 4,
        make: Arc::new(move || {
            let weights = (filter.weights)()?;
            let filters = weights.as_chunks::<9>().0;
            let mut packed = vec![0.0; length];
            let mut transformed = [[0.0; BLOCK]; POSITIONS];
            // One block of results at a time, so that whole cache lines are written.
            for (block, sum) in (0..panels).flat_map(|block| (0..summed).map(move |sum| (block, sum))) {
                let mut taps = [[0.0; BLOCK]; 9];
                for lane in 0..BLOCK.min(results - block * BLOCK) {
                    let result = block * BLOCK + lane;
                    let index = match packing {
                        Packing::Forward => result * filter.in_channels + sum,
                        Packing::Adjoint => sum * filter.in_channels + result,
                    };
                    for (tap, value) in taps.iter_mut().zip(filters[index]) {
                        tap[lane] = value;
                    }
                }
                transform_filters(&taps, &mut transformed);
                for (position, row) in transformed.iter().enumerate() {
                    let at = (position * panels + block) * panel + sum * BLOCK;
                    packed[at..at + BLOCK].copy_from_slice(row);
                }
            }
            Ok(CpuValues::F32(packed))
        }),
    }
}

/// Weights `[result / 16][tap][sum][result % 16]`, with sums padded to whole quads. For the adjoint, results are the
/// inputs and the taps are rotated by 180 degrees.
pub(super) fn direct(filter: &Arc<Filter>, adjoint: bool) -> CpuConstant {
    let filter = filter.clone();
    let taps = filter.kernel[0] * filter.kernel[1];
    let [results, sums] = if adjoint {
        [filter.in_channels, filter.out_channels]
    } else {
        [filter.out_channels, filter.in_channels]
    };
    let padded = sums.next_multiple_of(4);
    let length = blocks(results) * taps * padded * BLOCK;
    CpuConstant {
        key: format!("{} cpu direct{}", filter.id, if adjoint { " adjoint" } else { "" }),
        bytes: length as u64 * 4,
        make: Arc::new(move || {
            let weights = (filter.weights)()?;
            let mut packed = vec![0.0; length];
            for (index, value) in weights.iter().enumerate() {
                let (pair, tap) = (index / taps, index % taps);
                let (o, i) = (pair / filter.in_channels, pair % filter.in_channels);
                let (result, sum, tap) = if adjoint { (i, o, taps - 1 - tap) } else { (o, i, tap) };
                let row = (result / BLOCK * taps + tap) * padded + sum;
                packed[row * BLOCK + result % BLOCK] = *value;
            }
            Ok(CpuValues::F32(packed))
        }),
    }
}

/// Weights in file order: `[out, in, height, width]`.
pub(super) fn plain(filter: &Arc<Filter>) -> CpuConstant {
    let filter = filter.clone();
    let [height, width] = filter.kernel;
    CpuConstant {
        key: format!("{} cpu", filter.id),
        bytes: (filter.out_channels * filter.in_channels * height * width * 4) as u64,
        make: Arc::new(move || Ok(CpuValues::F32((filter.weights)()?))),
    }
}

/// Biases, padded to whole blocks.
pub(super) fn bias(filter: &Arc<Filter>) -> CpuConstant {
    let filter = filter.clone();
    let length = blocks(filter.out_channels) * BLOCK;
    CpuConstant {
        key: format!("{} cpu bias", filter.id),
        bytes: length as u64 * 4,
        make: Arc::new(move || {
            let mut bias = (filter.bias)()?;
            bias.resize(length, 0.0);
            Ok(CpuValues::F32(bias))
        }),
    }
}
