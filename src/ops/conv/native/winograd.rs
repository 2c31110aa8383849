//! Winograd's F(4x4, 3x3): tiles of the input are transformed, 36 matrix products over the channels follow, and the
//! results are transformed back.
//!
//! With few channels the transformed weights stay in a core's cache. Then each task takes a band of the output's rows
//! through all three steps, a few tiles at a time. With many channels the weights are what costs: all tiles of a band
//! are transformed first, each product reads its weights once for all of them, and the tasks of each step share the
//! channels. Neither how bands are cut nor the number of threads changes how a value is summed up.

use super::finish::Finish;
use super::layout::{BLOCK, Placement, QUADS, bands, blocks};
use super::products::{TILES, products};
use super::transforms::{POSITIONS, Source, TILE, Target, Tiles, transform_input, transform_output};
use super::weights::Packing;
use crate::ops::native::Scratch;
use rayon::prelude::*;

/// Transformed weights up to this size are kept for both directions, and bands are computed side by side.
const SMALL_WEIGHTS: usize = 4 << 20;
/// Floats of the transformed tiles and products of a task that should stay in a core's cache.
const CACHED: usize = 160 << 10;
/// Floats of the transformed tiles and products of a band where weights are large.
const BAND: usize = 8 << 20;

#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd {
    place: Placement,
    /// True for the adjoint.
    turned: bool,
}

impl Winograd {
    pub fn new(place: Placement, turned: bool) -> Self {
        Self { place, turned }
    }

    /// How the weights are packed that [`Self::run`] takes.
    pub fn packing(&self) -> Packing {
        if self.turned && !self.large() { Packing::Adjoint } else { Packing::Forward }
    }

    /// Blocks of input and output channels.
    fn blocks(&self) -> [usize; 2] {
        [self.place.input, self.place.output].map(|map| blocks(map.channels))
    }

    fn large(&self) -> bool {
        let [from, to] = self.blocks();
        POSITIONS * from * to * BLOCK * BLOCK * 4 > SMALL_WEIGHTS
    }

    /// Floats of a tile's transformed values and products.
    fn tile(&self) -> usize {
        POSITIONS * self.blocks().iter().sum::<usize>() * BLOCK
    }

    /// From `input`, which counts as zero where the activation is not positive, to `output`.
    pub fn run(
        &self,
        input: &[f32],
        activation: Option<&[f32]>,
        weights: &[f32],
        finish: &Finish<'_>,
        output: &mut [f32],
    ) {
        let source = Source { map: input, activation, place: self.place, turned: self.turned };
        let across = self.place.output.width.div_ceil(TILE);
        if self.large() {
            let rows = (BAND / self.tile() / across).max(1);
            for (band, rows_of_band) in bands(self.place.output, output, rows * TILE).into_iter().enumerate()
            {
                let tiles = self.tiles(band * rows, rows, across);
                self.large_band(source, tiles, weights, finish, rows_of_band);
            }
        } else {
            let count = (CACHED / self.tile() / TILES * TILES).max(2 * TILES);
            let rows = (count / across).max(1);
            // Parts of a band of about one size.
            let parts = (rows * across).div_ceil(count);
            let count = (rows * across).div_ceil(parts).next_multiple_of(TILES);
            let bands = bands(self.place.output, output, rows * TILE);
            bands.into_par_iter().enumerate().for_each(|(band, mut rows_of_band)| {
                let tiles = self.tiles(band * rows, rows, across);
                let first_row = band * rows * TILE;
                let [from, to] = self.blocks();
                let mut scratch = Scratch::new(POSITIONS * (stride(from, count) + stride(to, count)));
                for start in tiles.numbers.clone().step_by(count) {
                    let numbers = start..(start + count).min(tiles.numbers.end);
                    let tiles = Tiles { numbers, across };
                    let rows = (first_row, rows_of_band.as_mut_slice());
                    self.small_part(source, &tiles, weights, finish, rows, &mut scratch);
                }
            });
        }
    }

    /// The tiles of so many rows of tiles.
    fn tiles(&self, first: usize, rows: usize, across: usize) -> Tiles {
        let down = self.place.output.height.div_ceil(TILE);
        Tiles { numbers: first * across..(first + rows).min(down) * across, across }
    }

    /// A few tiles, by one task.
    fn small_part(
        &self,
        source: Source<'_>,
        tiles: &Tiles,
        weights: &[f32],
        finish: &Finish<'_>,
        (first_row, rows): (usize, &mut [&mut [f32]]),
        scratch: &mut [f32],
    ) {
        let [from, to] = self.blocks();
        let count = tiles.numbers.len().next_multiple_of(TILES);
        let [place, result] = [from, to].map(|blocks| stride(blocks, count));
        let (transformed, rest) = scratch.split_at_mut(POSITIONS * place);
        let results = &mut rest[..POSITIONS * result];
        for (block, mut places) in by_block(transformed, from, count).into_iter().enumerate() {
            transform_input(source, block, tiles, &mut places);
        }
        let panel = from * BLOCK * BLOCK;
        let positions = transformed.chunks_exact(place).zip(weights.chunks_exact(to * panel));
        for ((transformed, weights), results) in positions.zip(results.chunks_exact_mut(result)) {
            let transformed = &transformed[..from * count * BLOCK];
            for (panel, results) in weights.chunks_exact(panel).zip(results.chunks_exact_mut(count * BLOCK)) {
                products(transformed, panel, results, count);
            }
        }
        let per_quad = rows.len() / self.place.output.quads();
        for (block, rows) in rows.chunks_mut(per_quad * QUADS).enumerate() {
            let layout = self.place.output;
            let mut target = Target { layout, block, first_row, rows, finish, turned: self.turned };
            transform_output(&of_block(results, to, count, block), tiles, &mut target);
        }
    }

    /// All tiles of a band, by all tasks.
    fn large_band(
        &self,
        source: Source<'_>,
        tiles: Tiles,
        weights: &[f32],
        finish: &Finish<'_>,
        mut rows: Vec<&mut [f32]>,
    ) {
        let [from, to] = self.blocks();
        let count = tiles.numbers.len().next_multiple_of(TILES);
        let [place, result] = [from, to].map(|blocks| stride(blocks, count));
        let mut scratch = Scratch::new(POSITIONS * (place + result));
        let (transformed, results) = scratch.split_at_mut(POSITIONS * place);
        by_block(transformed, from, count).into_par_iter().enumerate().for_each(|(block, mut places)| {
            transform_input(source, block, &tiles, &mut places);
        });
        let panel = from * BLOCK * BLOCK;
        let positions = results.par_chunks_exact_mut(result).enumerate();
        positions.for_each(|(position, results)| {
            let transformed = &transformed[position * place..][..from * count * BLOCK];
            let weights = &weights[position * to * panel..][..to * panel];
            let blocks = results[..to * count * BLOCK].par_chunks_exact_mut(count * BLOCK).enumerate();
            blocks.for_each(|(block, results)| {
                if self.turned {
                    let mut turned = Scratch::new(panel);
                    transpose_panel(weights, block, to, &mut turned);
                    products(transformed, &turned, results, count);
                } else {
                    products(transformed, &weights[block * panel..][..panel], results, count);
                }
            });
        });
        let first_row = tiles.numbers.start / tiles.across * TILE;
        let per_quad = rows.len() / self.place.output.quads();
        rows.par_chunks_mut(per_quad * QUADS).enumerate().for_each(|(block, rows)| {
            let layout = self.place.output;
            let mut target = Target { layout, block, first_row, rows, finish, turned: self.turned };
            transform_output(&of_block(results, to, count, block), &tiles, &mut target);
        });
    }
}

/// Floats from one position's tiles to the next one's: an odd number of cache lines, because a transform touches all 36
/// positions at a time, and at a multiple of 4 KiB they would push each other out of the first cache.
fn stride(blocks: usize, count: usize) -> usize {
    (blocks * count | 1) * BLOCK
}

/// For each block of channels its place at each position.
fn by_block(tiles: &mut [f32], blocks: usize, count: usize) -> Vec<Vec<&mut [f32]>> {
    let mut by_block: Vec<Vec<&mut [f32]>> = Vec::new();
    by_block.resize_with(blocks, || Vec::with_capacity(POSITIONS));
    for position in tiles.chunks_exact_mut(stride(blocks, count)) {
        let places = position.chunks_exact_mut(count * BLOCK);
        by_block.iter_mut().zip(places).for_each(|(block, place)| block.push(place));
    }
    by_block
}

/// What a block of channels has at each position.
fn of_block(tiles: &[f32], blocks: usize, count: usize, block: usize) -> Vec<&[f32]> {
    let positions = tiles.chunks_exact(stride(blocks, count));
    positions.map(|position| &position[block * count * BLOCK..][..count * BLOCK]).collect()
}

/// The panel of a block of input channels, `[output][input % 16]`, from one position's weights in the order of the
/// forward pass, `[output / 16][input][output % 16]` with `blocks` blocks of inputs.
fn transpose_panel(weights: &[f32], block: usize, blocks: usize, panel: &mut [f32]) {
    let outputs = weights.chunks_exact(blocks * BLOCK * BLOCK);
    for (weights, panel) in outputs.zip(panel.chunks_exact_mut(BLOCK * BLOCK)) {
        let from = &weights[block * BLOCK * BLOCK..][..BLOCK * BLOCK];
        for (index, quads) in from.as_chunks::<4>().0.as_chunks::<BLOCK>().0.iter().enumerate() {
            // Four inputs, each four quads of outputs.
            for quad in 0..QUADS {
                let rows: [[f32; 4]; 4] = std::array::from_fn(|input| quads[input * QUADS + quad]);
                for output in 0..4 {
                    let start = (quad * 4 + output) * BLOCK + index * 4;
                    panel[start..start + 4].copy_from_slice(&rows.map(|row| row[output]));
                }
            }
        }
    }
}
