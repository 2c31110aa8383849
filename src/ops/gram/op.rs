//! Gram matrix of a feature map, and its adjoint.
//!
//! With F the map as a matrix of C channels by N pixels, `G = F F^T / (C * N)`, as defined in neural-style.

use super::coop_matrix;
use super::panel::{FEW_PARTS, FEWEST_CHANNELS, PARTIAL_COUNT, PARTIALS, Panel, partial_gram};
use super::work::{BLOCK_DEPTH, BLOCK_SIDE, Work, scale};
use crate::error::Result;
use crate::gpu::{Family, Profile};
use crate::ops::conv::tiles::{self, Tiles};
use crate::ops::cpu::{Scratch, fill_blocks, for_each_part};
use crate::ops::half_map;
use crate::ops::half_precision::half_bits;
use crate::ops::lanes::update;
use crate::ops::product::{MatrixRef, product};
use crate::ops::shape::{MapLayout, mismatch};
use crate::ops::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuCall, CpuKernel, Dispatch, Kernel, Op, Operand, Shape,
    Signature,
};
use rayon::prelude::*;

/// Channels of a block in `gram_tiles.wgsl`.
const TILE_SIDE: usize = 16;
/// Runs of lanes per step in `gram_tiles.wgsl`.
const TILE_VECTORS: usize = 2;

/// Gram matrix `G = F F^T / (C * N)`, shape `[C, C]`. Input: F, a map of C channels and N pixels.
#[derive(Debug, Clone, Copy)]
pub struct Gram;

/// Adjoint of [`Gram`]: `dF = (dG + dG^T) F / (C * N)`. Inputs: F, in single or half precision; dG (any `[C, C]` matrix,
/// symmetric or not).
#[derive(Debug, Clone, Copy)]
pub struct GramBackward;

/// The texture family's kernel; `lanes` is the subgroup size. The block and chunk sizes are the fastest measured on
/// lavapipe with 8 and 16 lanes, from 64x256x256 to 512x16x16.
fn texture(map: MapLayout, lanes: usize, device: &Profile) -> Kernel {
    let work = Work::split(map, TILE_SIDE, lanes * TILE_VECTORS, [32, 256], 128);
    let dispatch = Dispatch::new("gram_tiles", "forward")
        .consts(&[
            ("LANES", lanes as u32),
            ("STORES", TILE_SIDE.div_ceil(lanes) as u32),
            ("VECTORS", TILE_VECTORS as u32),
        ])
        .bind("input", Operand::Input(0).staged())
        .bind("partials", Operand::Scratch(0))
        .linear(work.pairs * work.splits, 1, device);
    work.finish("texture", work.params(dispatch, map), map, TILE_SIDE, device)
}

/// A dispatch of `gram_blocks.wgsl`; `half` if the map is in half precision.
fn blocks(entry: &'static str, map: MapLayout, half: bool, work: &Work) -> Dispatch {
    let dispatch = Dispatch::new("gram_blocks", entry)
        .consts(&[("HALF_MAP", u32::from(half))])
        .bind(map_name(half), Operand::Input(0))
        .size("channels", map.channels)
        .size("extent", map.plane() + map.pitch() + 1);
    work.params(dispatch, map)
}

/// Name of the map in the shaders.
fn map_name(half: bool) -> &'static str {
    if half { "half_input" } else { "input" }
}

/// A dispatch of `gram.wgsl`; `block` is the packing of `symmetrise`.
fn plain(entry: &'static str, map: MapLayout, work: &Work, block: usize) -> Dispatch {
    let dispatch = Dispatch::new("gram", entry)
        .size("channels", map.channels)
        .size("texels", map.texels())
        .size("block", block)
        .float("scale", scale(map) as f32);
    work.params(dispatch, map)
}

impl Op for Gram {
    fn name(&self) -> &'static str {
        "gram"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let channels = inputs[0].expect_map("gram")?.channels;
        Ok(Shape::Matrix { rows: channels, columns: channels })
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.inputs[0].expect_map("gram")?;
        let mut kernels = Vec::new();
        if let Some(lanes) = device.lanes
            && Tiles::choose(map, map.texels(), device).is_some()
        {
            kernels.push(texture(map, lanes as usize, device));
        }
        if device.prefers(Family::Buffer) {
            // 512 workgroups of 256 invocations fill large GPUs.
            let work = Work::split(map, BLOCK_SIDE, BLOCK_DEPTH, [16, 128], 512);
            let dispatch = blocks("forward", map, false, &work).bind("output", Operand::Scratch(0)).linear(
                work.pairs * work.splits,
                1,
                device,
            );
            kernels.push(work.finish("buffer", dispatch, map, BLOCK_SIDE, device));
        }
        if !kernels.is_empty() {
            kernels.extend(coop_matrix::kernel(map, device));
        }
        let work = Work::split(map, 4, 1, [256, 2048], 1024);
        let naive = plain("forward", map, &work, 1)
            .bind("input", Operand::Input(0))
            .bind("output", Operand::Scratch(0))
            .linear(work.pairs * work.splits, 64, device);
        kernels.push(work.finish("naive", naive, map, 4, device));
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.inputs[0].expect_map("gram")?;
        let channels = map.channels;
        // One partial matrix per panel of the map, within limits.
        let [fewest, most] = PARTIAL_COUNT;
        let limit = (PARTIALS / (channels * channels)).clamp(fewest, most);
        let chunk = map.plane().div_ceil(map.plane().div_ceil(Panel::texels(map)).min(limit));
        let chunks = map.plane().div_ceil(chunk);
        let scale = scale(map) as f32;
        let run = move |call: CpuCall<'_>| {
            let partial = |index: usize| {
                let texels = index * chunk..((index + 1) * chunk).min(map.plane());
                partial_gram(map, call.inputs[0], texels, chunks < FEW_PARTS)
            };
            let mut partials: Vec<Vec<f32>> = (0..chunks).into_par_iter().map(partial).collect();
            let Some((sums, others)) = partials.split_first_mut() else { return };
            for_each_part(sums, |range, sums| {
                for other in &*others {
                    update(sums, [&other[range.clone()]], |sum, [value]| sum + value);
                }
            });
            let (sums, width) = (&*sums, map.quads() * 4);
            call.output.par_chunks_mut(ROWS * width).enumerate().for_each(|(block, rows)| {
                let first = block * ROWS;
                for (row, sums) in
                    rows.chunks_exact_mut(width).zip(sums[first * channels..].chunks_exact(channels))
                {
                    row[..channels].copy_from_slice(sums);
                    row[channels..].fill(0.0);
                }
                // Elements right of the diagonal mirror those left of it.
                for (column, sums) in sums.chunks_exact(channels).enumerate().skip(first) {
                    let mirrored = &sums[first..channels.min(first + ROWS)];
                    for (row, value) in rows.chunks_exact_mut(width).zip(mirrored).take(column - first) {
                        row[column] = *value;
                    }
                }
                rows.iter_mut().for_each(|value| *value *= scale);
            });
        };
        Ok(CpuKernel::new(run).temporary(chunks * channels * channels))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let map = shapes[0].layout().expect("a map");
        let channel = |c: usize| &inputs[0][c * map.pixels()..(c + 1) * map.pixels()];
        let mut gram = Vec::new();
        for row in 0..map.channels {
            for column in 0..map.channels {
                let sum: f64 = channel(row).iter().zip(channel(column)).map(|(a, b)| a * b).sum();
                gram.push(sum * scale(map));
            }
        }
        gram
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(GramBackward, &[AdjointOperand::Input(0), AdjointOperand::Upstream])
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let channels = signature.inputs[0].layout().map_or(0, |map| map.channels);
        2 * (signature.inputs[0].elements() * channels) as u64
    }
}

/// Rows of a matrix that the CPU device writes at a time, so that columns are read in contiguous runs.
const ROWS: usize = 8;

/// `(dG + dG^T) / (C * N)` of a stored dG, with rows of zeros up to a whole quad.
fn symmetrised(map: MapLayout, upstream: &[f32]) -> Scratch {
    let (channels, width) = (map.channels, map.quads() * 4);
    let scale = scale(map) as f32;
    let mut sum = Scratch::new(width * width);
    sum.par_chunks_mut(ROWS * width).enumerate().for_each(|(block, rows)| {
        let first = block * ROWS;
        if channels < width {
            rows.fill(0.0);
        }
        let own = upstream[first * width..].chunks_exact(width);
        for (row, own) in rows.chunks_exact_mut(width).zip(own) {
            row[..channels].copy_from_slice(&own[..channels]);
        }
        for (column, other) in upstream.chunks_exact(width).enumerate() {
            for (row, value) in rows.chunks_exact_mut(width).zip(&other[first..channels.min(first + ROWS)]) {
                row[column] = (row[column] + value) * scale;
            }
        }
    });
    sum
}

impl GramBackward {
    /// Layout of F, and whether it is in half precision.
    fn map(shape: Shape) -> Result<(MapLayout, bool)> {
        match shape.layout() {
            Some(map) => Ok((map, false)),
            None => Ok((shape.expect_half_map("gram_backward")?, true)),
        }
    }
}

impl Op for GramBackward {
    fn name(&self) -> &'static str {
        "gram_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let map = Self::map(inputs[0])?.0.single();
        let expected = Gram.output(&[map])?;
        if inputs[1] != expected {
            let message = format!("upstream is {}, the Gram matrix is {expected}", inputs[1]);
            return Err(mismatch("gram_backward", &message));
        }
        Ok(map)
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let (map, half) = Self::map(signature.inputs[0])?;
        let work = Work::whole(map, BLOCK_SIDE);
        let mut kernels = Vec::new();
        // Writes (dG + dG^T) / (C * N), packed in blocks of `block` rows, to the first scratch buffer.
        let symmetrise = |block: usize| {
            let row_quads = map.channels.next_multiple_of(block).div_ceil(4);
            let dispatch = plain("symmetrise", map, &work, block)
                .bind("upstream", Operand::Input(1))
                .bind("output", Operand::Scratch(0))
                .linear(row_quads * map.quads(), 64, device);
            (dispatch, vec![(map.channels.next_multiple_of(block) * map.quads()) as u64 * 16])
        };
        if let Some(tiles) = Tiles::choose(map, map.texels(), device) {
            let (packing, scratch) = symmetrise(tiles.channels);
            let matrix = tiles::Matrix {
                input: if half { half_map::texture(map) } else { Operand::Input(0) },
                weights: Operand::Scratch(0).staged_in(1),
                half: false,
                bias: tiles::no_bias(map.quads()),
                taps: 1,
                relu: false,
            };
            let mut dispatches = vec![packing];
            if half {
                dispatches.extend(half_map::unpack_to_texture(map, &Operand::Input(0), device));
            }
            dispatches.extend(tiles.dispatches(map, map, &matrix, device));
            kernels.push(Kernel { variant: "texture", dispatches, scratch });
        }
        if device.prefers(Family::Buffer) {
            let (packing, scratch) = symmetrise(1);
            let mut product = blocks("backward", map, half, &work)
                .bind("weights", Operand::Scratch(0))
                .bind("output", Operand::Output)
                .linear(map.plane() + map.pitch() + 1, BLOCK_SIDE, device);
            product.groups[2] = work.blocks as u32;
            kernels.push(Kernel { variant: "buffer", dispatches: vec![packing, product], scratch });
        }
        let naive = plain("backward", map, &work, 1)
            .consts(&[("HALF_MAP", u32::from(half))])
            .bind(map_name(half), Operand::Input(0))
            .bind("upstream", Operand::Input(1))
            .bind("output", Operand::Output)
            .linear(map.texels(), 64, device);
        kernels.push(Kernel::single("naive", naive));
        Ok(kernels)
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let (map, half) = Self::map(signature.inputs[0])?;
        let width = map.quads() * 4;
        // Parts of equal size except the last; split further by channels if there are few.
        let parts = map.plane().div_ceil(Panel::texels(map));
        let texels = map.plane().div_ceil(parts);
        let columns = width.div_ceil(FEW_PARTS.div_ceil(parts)).next_multiple_of(4).max(FEWEST_CHANNELS);
        let run = move |call: CpuCall<'_>| {
            let weights = symmetrised(map, call.inputs[1]);
            let weights = MatrixRef::new(&weights, width, width, width);
            fill_blocks(map, texels, call.output, |first, mut quads| {
                let count = quads.first().map_or(0, |quad| quad.len() / 4);
                let mut panel = Panel::new(map, count);
                let texels = first..first + count;
                if half {
                    panel.load_half(map, half_bits(call.inputs[0]), texels);
                } else {
                    panel.load(map, call.inputs[0], texels);
                }
                let features = panel.matrix(count, width);
                quads.par_chunks_mut(columns / 4).enumerate().for_each(|(part, quads)| {
                    let channels = quads.len() * 4;
                    let weights = weights.columns_from(part * columns).first_columns(channels);
                    // Padded as in a panel, so that it is not a power of two.
                    let stride = channels + 16;
                    let mut gradient = Scratch::new(count * stride);
                    // Texels are rows here, so this computes (S F)^T = F^T S.
                    product(features, weights, &mut gradient, stride, 1.0, false);
                    for (quad, to) in quads.iter_mut().enumerate() {
                        let rows = gradient.chunks_exact(stride);
                        for (to, row) in to.as_chunks_mut::<4>().0.iter_mut().zip(rows) {
                            to.copy_from_slice(&row[quad * 4..quad * 4 + 4]);
                        }
                    }
                });
            });
        };
        Ok(CpuKernel::new(run).scratch(width * width))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let (map, _) = Self::map(shapes[0]).expect("a map");
        let (channels, pixels) = (map.channels, map.pixels());
        let upstream = |row: usize, column: usize| inputs[1][row * channels + column];
        let mut gradient = vec![0.0; channels * pixels];
        for row in 0..channels {
            for other in 0..channels {
                let weight = (upstream(row, other) + upstream(other, row)) * scale(map);
                for pixel in 0..pixels {
                    gradient[row * pixels + pixel] += weight * inputs[0][other * pixels + pixel];
                }
            }
        }
        gradient
    }

    fn flops(&self, signature: &Signature) -> u64 {
        Gram.flops(&Signature { inputs: vec![signature.output], output: signature.inputs[1] })
    }
}

/// f32 sums of at most 2048 products each, then of at most 32 such sums at a time. If all products have the same sign,
/// the sum grows evenly, and its roundings of up to 6e-8 add up to about 2e-8 * sqrt(2048) = 9e-7 of the result. The
/// tolerance is about twice that (measured: 4e-7).
const TOLERANCE: f64 = 2e-6;

/// f32 sums of at most 130 products per pixel: roundings of 6e-8 of partial sums no larger than the result, at most
/// 6e-8 * sqrt(130) = 7e-7 of the largest value (measured: 4e-7).
const BACKWARD_TOLERANCE: f64 = 1e-6;

/// Odd, tiny and prime sizes; more channels than one block of each family; several chunks; folded chunks.
fn samples() -> Vec<Shape> {
    [(1, 1, 1), (3, 1, 7), (5, 200, 3), (17, 5, 1), (20, 130, 71), (64, 61, 67), (130, 6, 11), (67, 2, 2)]
        .map(|(channels, height, width)| Shape::map(channels, height, width))
        .into()
}

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        samples().into_iter().map(|shape| Case::normal(Gram, &[shape], TOLERANCE)).collect();
    // Large enough that every kernel folds its partial matrices (the texture one with 8 lanes). Values of one sign, as
    // after a ReLU, lose the most digits.
    cases.push(Case::drawn(Gram, &[(Shape::map(3, 373, 367), CaseInput::Rectified)], TOLERANCE));
    cases
}

pub(in crate::ops) fn backward_cases() -> Vec<Case> {
    let cases = |shape: Shape| {
        let (gram, map) = (Gram.output(&[shape]).ok()?, shape.layout()?);
        Some([shape, map.half()].map(|shape| Case::normal(GramBackward, &[shape, gram], BACKWARD_TOLERANCE)))
    };
    samples().into_iter().filter_map(cases).flatten().collect()
}
