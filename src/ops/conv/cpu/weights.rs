//! Weight layouts of the CPU kernels.

use super::layout::{BLOCK, blocks};
use super::transforms::{POSITIONS, TAPS, transform_filters};
use crate::ops::conv::filter::Filter;
use crate::ops::{CpuConstant, CpuValues};
use std::sync::Arc;

/// One weight for each of 16 results.
type Row = [f32; BLOCK];

/// Which channels of a filter are results, and which are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Results are the outputs.
    Forward,
    /// Results are the inputs.
    Adjoint,
}

impl Packing {
    /// Result channels, and summed channels.
    fn channels(self, filter: &Filter) -> [usize; 2] {
        let [outs, ins] = [filter.out_channels, filter.in_channels];
        match self {
            Self::Forward => [outs, ins],
            Self::Adjoint => [ins, outs],
        }
    }

    /// Returns the taps of a block of results for one summed channel, with zeros for padding.
    fn taps(self, filter: &Filter, filters: &[[f32; TAPS]], block: usize, sum: usize) -> [Row; TAPS] {
        let mut taps = [[0.0; BLOCK]; TAPS];
        let [results, _] = self.channels(filter);
        for (lane, result) in (block * BLOCK..results).take(BLOCK).enumerate() {
            let index = match self {
                Self::Forward => result * filter.in_channels + sum,
                Self::Adjoint => sum * filter.in_channels + result,
            };
            for (tap, value) in taps.iter_mut().zip(filters[index]) {
                tap[lane] = value;
            }
        }
        taps
    }
}

/// Floats of a panel `[sum][result % 16]`, padded to whole blocks.
pub(super) fn panel(sums: usize) -> usize {
    blocks(sums) * BLOCK * BLOCK
}

/// Transformed weights `[position][result / 16][sum][result % 16]`.
pub(super) fn winograd(filter: &Arc<Filter>, packing: Packing) -> CpuConstant {
    let [results, sums] = packing.channels(filter);
    let (panels, panel) = (blocks(results), panel(sums));
    packed(filter, packing, "Winograd", POSITIONS * panels * panel, move |block, sum, taps, packed| {
        let mut transformed = [[0.0; BLOCK]; POSITIONS];
        transform_filters(&taps, &mut transformed);
        for (position, row) in transformed.iter().enumerate() {
            let at = (position * panels + block) * panel + sum * BLOCK;
            packed[at..at + BLOCK].copy_from_slice(row);
        }
    })
}

/// Weights `[result / 16][tap][sum][result % 16]`, to be transformed while they are used.
pub(super) fn taps(filter: &Arc<Filter>, packing: Packing) -> CpuConstant {
    let [results, sums] = packing.channels(filter);
    let (panels, panel) = (blocks(results), panel(sums));
    packed(filter, packing, "taps", TAPS * panels * panel, move |block, sum, taps, packed| {
        for (tap, row) in taps.iter().enumerate() {
            let at = (block * TAPS + tap) * panel + sum * BLOCK;
            packed[at..at + BLOCK].copy_from_slice(row);
        }
    })
}

/// A constant of `length` floats, zeros for padding, that `store` fills with the taps of each block of results and summed
/// channel.
fn packed(
    filter: &Arc<Filter>,
    packing: Packing,
    name: &str,
    length: usize,
    store: impl Fn(usize, usize, [Row; TAPS], &mut [f32]) + Send + Sync + 'static,
) -> CpuConstant {
    let filter = filter.clone();
    CpuConstant {
        key: format!("{} cpu {name} {packing:?}", filter.id),
        bytes: length as u64 * 4,
        reading: read(&filter),
        make: Arc::new(move || {
            let weights = (filter.weights)()?;
            let filters = weights.as_chunks().0;
            let mut packed = vec![0.0; length];
            let [results, sums] = packing.channels(&filter);
            // One block of results at a time, so that whole cache lines are written.
            for (block, sum) in (0..blocks(results)).flat_map(|block| (0..sums).map(move |sum| (block, sum)))
            {
                store(block, sum, packing.taps(&filter, filters, block, sum), &mut packed);
            }
            Ok(CpuValues::F32(packed))
        }),
    }
}

/// Weights `[result / 16][tap][sum][result % 16]`, with sums padded to whole quads. For the adjoint, results are the
/// inputs and the taps are rotated by 180 degrees.
pub(super) fn direct(filter: &Arc<Filter>, packing: Packing) -> CpuConstant {
    let filter = filter.clone();
    let taps = filter.kernel[0] * filter.kernel[1];
    let [results, sums] = packing.channels(&filter);
    let padded = sums.next_multiple_of(4);
    let length = blocks(results) * taps * padded * BLOCK;
    CpuConstant {
        key: format!("{} cpu direct {packing:?}", filter.id),
        bytes: length as u64 * 4,
        reading: read(&filter),
        make: Arc::new(move || {
            let weights = (filter.weights)()?;
            let mut packed = vec![0.0; length];
            for (index, value) in weights.iter().enumerate() {
                let (pair, tap) = (index / taps, index % taps);
                let (o, i) = (pair / filter.in_channels, pair % filter.in_channels);
                let (result, sum, tap) = match packing {
                    Packing::Forward => (o, i, tap),
                    Packing::Adjoint => (i, o, taps - 1 - tap),
                };
                let row = (result / BLOCK * taps + tap) * padded + sum;
                packed[row * BLOCK + result % BLOCK] = *value;
            }
            Ok(CpuValues::F32(packed))
        }),
    }
}

/// Bytes of a filter's weights as they are read.
fn read(filter: &Filter) -> u64 {
    let [height, width] = filter.kernel;
    (filter.out_channels * filter.in_channels * height * width * 4) as u64
}

/// Weights in file order: `[out, in, height, width]`.
pub(super) fn plain(filter: &Arc<Filter>) -> CpuConstant {
    let filter = filter.clone();
    CpuConstant {
        key: format!("{} cpu", filter.id),
        bytes: read(&filter),
        reading: 0,
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
        reading: 0,
        make: Arc::new(move || {
            let mut bias = (filter.bias)()?;
            bias.resize(length, 0.0);
            Ok(CpuValues::F32(bias))
        }),
    }
}
