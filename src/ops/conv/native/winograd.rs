//! Winograd's F(4x4, 3x3): tiles of the input are transformed, 36 matrix products over the channels follow, and the
//! results are transformed back.
//!
//! With few channels the transformed weights stay in a core's cache. Then each task takes a band of the output's rows
//! through all three steps, a few tiles at a time. With many channels the weights are what costs: all tiles of a band
//! are transformed first, each product reads its weights once for all of them, and the tasks of each step share the
//! channels. Neither how bands are cut nor the number of threads changes how a value is summed up.

use super::finish::Finish;
use super::layout::{BLOCK, Placement, QUADS, bands, blocks};
use super::products::products;
use super::transforms::{
    PACK, PACKED, POSITION, POSITIONS, Source, TILE, Target, Tiles, transform_input, transform_output,
};
use super::weights::Packing;
use crate::ops::native::Scratch;
use rayon::prelude::*;

/// Transformed weights up to this size are kept for both directions, and bands are computed side by side.
const SMALL_WEIGHTS: usize = 4 << 20;
/// Floats of the transformed tiles and products of a task that should stay in a core's cache.
const CACHED: usize = 160 << 10;
/// Packs of tiles whose products a task computes with weights that it reads once.
const GROUP: usize = 8;
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

    /// Floats of the transformed values and products of a pack of tiles.
    fn pack(&self) -> usize {
        self.blocks().iter().sum::<usize>() * PACK
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
            let rows = (BAND / self.pack() * PACKED / across).max(1);
            for (band, rows_of_band) in bands(self.place.output, output, rows * TILE).into_iter().enumerate()
            {
                let tiles = self.tiles(band * rows, rows, across);
                self.large_band(source, tiles, weights, finish, rows_of_band);
            }
        } else {
            let count = (CACHED / self.pack()).max(2) * PACKED;
            let rows = (count / across).max(1);
            // Parts of a band of about one size.
            let parts = (rows * across).div_ceil(count);
            let count = (rows * across).div_ceil(parts).next_multiple_of(PACKED);
            let bands = bands(self.place.output, output, rows * TILE);
            bands.into_par_iter().enumerate().for_each(|(band, mut rows_of_band)| {
                let tiles = self.tiles(band * rows, rows, across);
                let first_row = band * rows * TILE;
                let mut scratch = Scratch::new(self.pack() * (count / PACKED));
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
        let stride = tiles.packed();
        let (transformed, rest) = scratch.split_at_mut(from * stride);
        let results = &mut rest[..to * stride];
        for (block, transformed) in transformed.chunks_exact_mut(stride).enumerate() {
            transform_input(source, block, tiles, transformed);
        }
        let panel = from * BLOCK * BLOCK;
        for (position, weights) in weights.chunks_exact(to * panel).enumerate() {
            let start = position * POSITION;
            for (panel, results) in weights.chunks_exact(panel).zip(results.chunks_exact_mut(stride)) {
                products(&transformed[start..], stride, panel, &mut results[start..], stride / PACK);
            }
        }
        let per_quad = rows.len() / self.place.output.quads();
        let blocks = rows.chunks_mut(per_quad * QUADS).zip(results.chunks_exact(stride)).enumerate();
        for (block, (rows, results)) in blocks {
            let layout = self.place.output;
            let mut target = Target { layout, block, first_row, rows, per_quad, finish, turned: self.turned };
            transform_output(results, tiles, &mut target);
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
        let stride = tiles.packed();
        let mut scratch = Scratch::new((from + to) * stride);
        let (transformed, results) = scratch.split_at_mut(from * stride);
        transformed.par_chunks_exact_mut(stride).enumerate().for_each(|(block, transformed)| {
            transform_input(source, block, &tiles, transformed);
        });
        let panel = from * BLOCK * BLOCK;
        let groups = results.par_chunks_exact_mut(stride).enumerate().flat_map(|(block, results)| {
            results.par_chunks_mut(GROUP * PACK).enumerate().map(move |(group, part)| (block, group, part))
        });
        groups.for_each(|(block, group, results)| {
            let first = group * GROUP * PACK;
            let mut turned = self.turned.then(|| Scratch::new(panel));
            for (position, weights) in weights.chunks_exact(to * panel).enumerate() {
                let panel = match &mut turned {
                    Some(turned) => {
                        transpose_panel(weights, block, to, turned);
                        &**turned
                    }
                    None => &weights[block * panel..][..panel],
                };
                let start = position * POSITION;
                let packs = results.len() / PACK;
                products(&transformed[first + start..], stride, panel, &mut results[start..], packs);
            }
        });
        let first_row = tiles.numbers.start / tiles.across * TILE;
        let per_quad = rows.len() / self.place.output.quads();
        let blocks = rows.par_chunks_mut(per_quad * QUADS).zip(results.par_chunks_exact(stride)).enumerate();
        blocks.for_each(|(block, (rows, results))| {
            let layout = self.place.output;
            let mut target = Target { layout, block, first_row, rows, per_quad, finish, turned: self.turned };
            transform_output(results, &tiles, &mut target);
        });
    }
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
