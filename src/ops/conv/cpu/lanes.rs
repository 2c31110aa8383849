//! The adjoint's products for few Winograd tiles, with the weights in the forward pass's layout. For few tiles,
//! transposing a panel would take longer than its products, so the sum over outputs runs across vector lanes instead.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators that are not inlined are compiled without the vector instructions"
)]

use super::layout::BLOCK;
use super::transforms::{PACK, PACKED};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, cast, x86::V4};
use std::ops::Range;

/// One value for each of 16 channels.
type Row = [f32; BLOCK];

/// Packed tiles at one position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    /// Tiles of the first block of channels, starting at the position.
    pub values: &'a [f32],
    /// Floats from one block's tiles to the next block's.
    pub stride: usize,
    pub tiles: usize,
}

/// Weights at one position, `[output / 16][input][output % 16]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    pub values: &'a [f32],
    /// Number of blocks of inputs.
    pub inputs: usize,
}

/// Floats that [`products_by_lanes`] needs for its sums.
pub(super) fn sums(inputs: &Range<usize>, tiles: usize) -> usize {
    inputs.len() * BLOCK * tiles.next_multiple_of(PACKED) * BLOCK
}

/// Computes `to[i / 16][t][i % 16] = sum over o of from[o / 16][t][o % 16] * weights[o / 16][i][o % 16]` at one
/// position, for some blocks of inputs. `to` has the stride of `from`. Each lane sums its outputs in order, then
/// [`add_lanes`] adds the lanes, so the order of summation is fixed. Unused tiles of the last pack may hold any values
/// and don't affect the others. `sums` is scratch memory of [`sums`] floats.
pub(super) fn products_by_lanes(
    from: Packed<'_>,
    weights: Weights<'_>,
    inputs: Range<usize>,
    sums: &mut [f32],
    to: &mut [f32],
) {
    let rows = &weights.values.as_chunks::<BLOCK>().0[inputs.start * BLOCK..];
    let pitch = weights.inputs * BLOCK;
    let sums = sums.as_chunks_mut::<BLOCK>().0;
    let channels = inputs.len() * BLOCK;
    let outputs = weights.values.len() / (pitch * BLOCK);
    let job = Job { from, rows, pitch, channels, outputs };
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = V4::try_new() {
        return simd.vectorize(Wide { simd, job, sums, to });
    }
    narrow(job, sums, to);
}

#[derive(Debug, Clone, Copy)]
struct Job<'a> {
    from: Packed<'a>,
    /// Weights, starting at the first input.
    rows: &'a [Row],
    /// Rows from one block of outputs to the next.
    pitch: usize,
    /// Number of inputs.
    channels: usize,
    /// Number of blocks of outputs.
    outputs: usize,
}

impl Job<'_> {
    /// Rows of a block of outputs.
    #[inline(always)]
    fn rows(&self, output: usize) -> &[Row] {
        &self.rows[output * self.pitch..][..self.channels]
    }
}

/// Offset of a tile in its packs.
#[inline(always)]
fn place(tile: usize) -> usize {
    tile / PACKED * PACK + tile % PACKED * BLOCK
}

/// AVX-512 version. The upstream gradients of 4 tiles and 6 blocks of outputs stay in registers while the weights of
/// these blocks and the sums stream from memory, which suits hardware prefetching.
#[cfg(target_arch = "x86_64")]
struct Wide<'a> {
    simd: V4,
    job: Job<'a>,
    /// `[group of tiles][input][tile]`.
    sums: &'a mut [Row],
    to: &'a mut [f32],
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Wide<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let mut output = 0;
        while output < self.job.outputs {
            output += match self.job.outputs - output {
                6.. => self.add::<6>(output),
                4.. => self.add::<4>(output),
                2.. => self.add::<2>(output),
                _ => self.add::<1>(output),
            };
        }
        self.epilogue();
    }
}

/// Tiles per group with AVX-512.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 4;

#[cfg(target_arch = "x86_64")]
impl Wide<'_> {
    /// Adds the products of `OUTPUTS` blocks of outputs and returns `OUTPUTS`.
    #[inline(always)]
    fn add<const OUTPUTS: usize>(&mut self, output: usize) -> usize {
        let (simd, job) = (self.simd, self.job);
        let channels = job.channels;
        let mut rows: [&[Row]; OUTPUTS] = [&[]; OUTPUTS];
        for o in 0..OUTPUTS {
            rows[o] = job.rows(output + o);
        }
        let groups = job.from.tiles.div_ceil(WIDE);
        let sums = self.sums.as_chunks_mut::<WIDE>().0;
        for (group, sums) in sums.chunks_exact_mut(channels).take(groups).enumerate() {
            let mut gradients = [[simd.splat_f32x16(0.0); WIDE]; OUTPUTS];
            for o in 0..OUTPUTS {
                let from = &job.from.values[(output + o) * job.from.stride + place(group * WIDE)..];
                let from = from.as_chunks::<BLOCK>().0;
                for t in 0..WIDE {
                    gradients[o][t] = cast(from[t]);
                }
            }
            for channel in 0..channels {
                let mut sum = [simd.splat_f32x16(0.0); WIDE];
                if output > 0 {
                    for t in 0..WIDE {
                        sum[t] = cast(sums[channel][t]);
                    }
                }
                for o in 0..OUTPUTS {
                    let weights = cast(rows[o][channel]);
                    for t in 0..WIDE {
                        sum[t] = simd.mul_add_f32x16(gradients[o][t], weights, sum[t]);
                    }
                }
                for t in 0..WIDE {
                    sums[channel][t] = cast(sum[t]);
                }
            }
        }
        OUTPUTS
    }

    /// Adds up the lanes.
    #[inline(always)]
    fn epilogue(self) {
        let sums = self.sums.as_chunks::<WIDE>().0;
        for tile in 0..self.job.from.tiles {
            let sums = &sums[tile / WIDE * self.job.channels..][..self.job.channels];
            for (block, sums) in sums.as_chunks::<BLOCK>().0.iter().enumerate() {
                let sum = Self::add_lanes(self.simd, sums, tile % WIDE);
                self.to[block * self.job.from.stride + place(tile)..][..BLOCK].copy_from_slice(&sum);
            }
        }
    }

    /// Sums the lanes of sixteen rows in 45 steps, in the same order as the scalar [`add_lanes`].
    #[inline(always)]
    fn add_lanes(simd: V4, sums: &[[Row; WIDE]; BLOCK], tile: usize) -> Row {
        let avx = simd.avx512f;
        // Four lanes each of inputs k, 4 + k, 8 + k and 12 + k.
        let mut fours = [avx._mm512_setzero_ps(); 4];
        for k in 0..4 {
            let [a, b] = [cast(sums[k][tile]), cast(sums[4 + k][tile])];
            let [c, d] = [cast(sums[8 + k][tile]), cast(sums[12 + k][tile])];
            let low = [avx._mm512_shuffle_f32x4::<0x44>(a, b), avx._mm512_shuffle_f32x4::<0x44>(c, d)];
            let high = [avx._mm512_shuffle_f32x4::<0xee>(a, b), avx._mm512_shuffle_f32x4::<0xee>(c, d)];
            let ab = avx._mm512_add_ps(low[0], high[0]);
            let cd = avx._mm512_add_ps(low[1], high[1]);
            let even = avx._mm512_shuffle_f32x4::<0x88>(ab, cd);
            fours[k] = avx._mm512_add_ps(even, avx._mm512_shuffle_f32x4::<0xdd>(ab, cd));
        }
        let [a, b, c, d] = fours;
        let ab = cast(avx._mm512_add_ps(avx._mm512_unpacklo_ps(a, b), avx._mm512_unpackhi_ps(a, b)));
        let cd = cast(avx._mm512_add_ps(avx._mm512_unpacklo_ps(c, d), avx._mm512_unpackhi_ps(c, d)));
        let even = cast(avx._mm512_unpacklo_pd(ab, cd));
        cast(avx._mm512_add_ps(even, cast(avx._mm512_unpackhi_pd(ab, cd))))
    }
}

/// Tiles per group and blocks of outputs without AVX-512: with half the lanes they fill 16 registers.
const NARROW: usize = 3;
const OUTPUTS: usize = 4;
const HALF: usize = BLOCK / 2;

#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
fn narrow(job: Job<'_>, sums: &mut [Row], to: &mut [f32]) {
    if target_cfg_f!(any(target_feature = "fma", target_feature = "neon")) {
        by_groups::<true>(job, sums, to);
    } else {
        by_groups::<false>(job, sums, to);
    }
}

#[inline(always)]
fn by_groups<const FUSED: bool>(job: Job<'_>, sums: &mut [Row], to: &mut [f32]) {
    let mut output = 0;
    while output < job.outputs {
        if job.outputs - output >= OUTPUTS {
            add::<FUSED, OUTPUTS>(job, output, sums);
            output += OUTPUTS;
        } else {
            add::<FUSED, 1>(job, output, sums);
            output += 1;
        }
    }
    let sums = sums.as_chunks::<NARROW>().0;
    for tile in 0..job.from.tiles {
        let sums = &sums[tile / NARROW * job.channels..][..job.channels];
        for (block, sums) in sums.as_chunks::<BLOCK>().0.iter().enumerate() {
            let to = &mut to[block * job.from.stride + place(tile)..][..BLOCK];
            for (to, sums) in to.iter_mut().zip(sums) {
                *to = add_lanes(&sums[tile % NARROW]);
            }
        }
    }
}

#[inline(always)]
fn add<const FUSED: bool, const OUTPUTS: usize>(job: Job<'_>, output: usize, sums: &mut [Row]) {
    let channels = job.channels;
    let groups = job.from.tiles.div_ceil(NARROW);
    let sums = sums.as_chunks_mut::<NARROW>().0;
    for (group, sums) in sums.chunks_exact_mut(channels).take(groups).enumerate() {
        for half in [0, HALF] {
            let mut gradients = [[[0.0; HALF]; NARROW]; OUTPUTS];
            for o in 0..OUTPUTS {
                let start = (output + o) * job.from.stride + place(group * NARROW) + half;
                for t in 0..NARROW {
                    gradients[o][t].copy_from_slice(&job.from.values[start + t * BLOCK..][..HALF]);
                }
            }
            for channel in 0..channels {
                let mut sum = [[0.0; HALF]; NARROW];
                if output > 0 {
                    for t in 0..NARROW {
                        sum[t].copy_from_slice(&sums[channel][t][half..half + HALF]);
                    }
                }
                for o in 0..OUTPUTS {
                    let weights = &job.rows[(output + o) * job.pitch + channel][half..half + HALF];
                    for t in 0..NARROW {
                        for lane in 0..HALF {
                            let factor = gradients[o][t][lane];
                            sum[t][lane] = if FUSED {
                                factor.mul_add(weights[lane], sum[t][lane])
                            } else {
                                factor * weights[lane] + sum[t][lane]
                            };
                        }
                    }
                }
                for t in 0..NARROW {
                    sums[channel][t][half..half + HALF].copy_from_slice(&sum[t]);
                }
            }
        }
    }
}

/// Sum of a row: adds its halves, then the halves of the result, then the even and the odd lanes.
#[inline(always)]
fn add_lanes(row: &Row) -> f32 {
    let mut fours = [0.0; 4];
    for lane in 0..4 {
        fours[lane] = (row[lane] + row[8 + lane]) + (row[4 + lane] + row[12 + lane]);
    }
    (fours[0] + fours[2]) + (fours[1] + fours[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers whole and partial packs, a subset of the inputs, and every remainder of the number of outputs. Both
    /// versions must give the same bits, and NaN in unused tiles must not affect the result.
    #[test]
    fn products_match_for_any_tile_and_channel_count() {
        let value = |n: usize| ((n * 7919 + 13) % 1009) as f32 / 1009.0 - 0.4;
        let shapes = [
            (1, 1, 0..1),
            (2, 3, 1..3),
            (3, 2, 0..2),
            (5, 3, 2..3),
            (7, 2, 1..2),
            (9, 4, 1..4),
            (13, 3, 0..2),
        ];
        for (outputs, inputs, range) in shapes {
            let weights: Vec<f32> = (0..outputs * inputs * BLOCK * BLOCK).map(|n| value(n + 5)).collect();
            for tiles in [1_usize, 2, 3, 4, 5, 7, 8, 11, 12, 13, 16, 20, 25] {
                let stride = tiles.div_ceil(PACKED) * PACK;
                let mut values = vec![f32::NAN; outputs * stride];
                for (block, tile) in (0..outputs).flat_map(|block| (0..tiles).map(move |tile| (block, tile)))
                {
                    for o in 0..BLOCK {
                        values[block * stride + place(tile) + o] = value((block * 31 + tile) * BLOCK + o);
                    }
                }
                let from = Packed { values: &values, stride, tiles };
                let of_inputs = Weights { values: &weights, inputs };
                let mut memory = vec![f32::NAN; sums(&range, tiles)];
                let mut found = vec![f32::NAN; range.len() * stride];
                products_by_lanes(from, of_inputs, range.clone(), &mut memory, &mut found);
                memory.fill(f32::NAN);
                let mut plain = vec![f32::NAN; range.len() * stride];
                let rows = &weights.as_chunks::<BLOCK>().0[range.start * BLOCK..];
                let (pitch, channels) = (inputs * BLOCK, range.len() * BLOCK);
                let job = Job { from, rows, pitch, channels, outputs };
                narrow(job, memory.as_chunks_mut::<BLOCK>().0, &mut plain);
                for (tile, i) in (0..tiles).flat_map(|tile| (0..channels).map(move |i| (tile, i))) {
                    let term = |o: usize| {
                        let factor = values[o / BLOCK * stride + place(tile) + o % BLOCK];
                        let row = (o / BLOCK * inputs + range.start) * BLOCK + i;
                        f64::from(factor) * f64::from(weights[row * BLOCK + o % BLOCK])
                    };
                    let expected: f64 = (0..outputs * BLOCK).map(term).sum();
                    let at = i / BLOCK * stride + place(tile) + i % BLOCK;
                    let (by_wide, by_narrow) = (found[at], plain[at]);
                    // 208 products of at most 0.36, in 16 sums of 13 and then five more steps, each rounded to 6e-8 of
                    // a sum of at most 75.
                    let close = (f64::from(by_wide) - expected).abs() <= 9e-5;
                    assert!(
                        close,
                        "{outputs} {inputs} {tiles}, tile {tile}, {i}: {by_wide} against {expected}"
                    );
                    assert_eq!(
                        by_wide.to_bits(),
                        by_narrow.to_bits(),
                        "{outputs} {inputs} {tiles} {tile} {i}"
                    );
                }
            }
        }
    }
}
