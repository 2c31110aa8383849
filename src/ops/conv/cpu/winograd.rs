//! Winograd's F(4x4, 3x3): transforms tiles of the input, multiplies 36 matrices over the channels, and transforms the
//! results back.
//!
//! With few channels, each task takes a band of output rows through all three steps, a few tiles at a time, so that
//! they stay in a core's cache. With many channels, reading the weights dominates: all tiles of a band are transformed
//! first, and a task computes some blocks of channels for many tiles, so that it reads their weights once. Neither the
//! split into tasks nor the number of threads changes the order of summation.

use super::epilogue::Epilogue;
use super::lanes::{self, Packed, products_by_lanes};
use super::layout::{BLOCK, Placement, QUADS, bands, blocks};
use super::panels::transpose_panel;
use super::products::products;
use super::transforms::{
    PACK, PACKED, POSITION, POSITIONS, TILE, Target, Tiles, WinogradInput, transform_input, transform_output,
};
use super::weights::Packing;
use crate::ops::cpu::Scratch;
use rayon::prelude::*;

/// Up to this size, transformed weights are kept for both directions, and bands are computed in parallel.
const SMALL_WEIGHTS: usize = 4 << 20;
/// Floats of a task's transformed tiles and products, small enough for a core's cache.
const CACHED: usize = 112 << 10;
/// Floats of the transformed tiles of a band with large weights.
const BAND: usize = 8 << 20;
/// With large weights: packs of tiles and blocks of channels per task. For each position, the tiles are read once for
/// all blocks, and the weights once for all tiles.
const FORWARD: [usize; 2] = [8, 4];
/// The same for the adjoint, which transposes the weights in each task.
const ADJOINT: [usize; 2] = [24, 2];
/// Up to this many tiles the adjoint reads the weights without transposing them, `FEW[1]` blocks at a time.
const FEW_TILES: usize = 36;
const FEW: [usize; 2] = [FEW_TILES.div_ceil(PACKED), 8];

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

    /// Packing of the weights that [`Self::run`] reads.
    pub fn packing(&self) -> Packing {
        if self.turned && !self.large() { Packing::Adjoint } else { Packing::Forward }
    }

    /// Number of blocks of input and output channels.
    fn blocks(&self) -> [usize; 2] {
        [self.place.input, self.place.output].map(|map| blocks(map.channels))
    }

    fn large(&self) -> bool {
        let [from, to] = self.blocks();
        POSITIONS * from * to * BLOCK * BLOCK * 4 > SMALL_WEIGHTS
    }

    /// True if the adjoint reads weights packed for the forward pass without transposing them.
    fn by_lanes(&self) -> bool {
        let tiles = self.across() * self.place.output.height.div_ceil(TILE);
        self.turned && self.large() && tiles <= FEW_TILES
    }

    /// Floats of the transformed tiles with large weights; otherwise 0, since each task uses less than a megabyte.
    pub fn scratch(&self) -> usize {
        if !self.large() {
            return 0;
        }
        let [from, _] = self.blocks();
        let (rows, _) = self.group();
        let group = from * self.tiles(0, rows).packed();
        group * self.place.output.height.div_ceil(rows * TILE).min(Self::groups_of_band(group))
    }

    /// Computes `output` from `input`, which is taken as zero where the activation is not positive.
    pub fn run(
        &self,
        input: &[f32],
        activation: Option<&[f32]>,
        weights: &[f32],
        epilogue: &Epilogue<'_>,
        output: &mut [f32],
    ) {
        let source = WinogradInput { map: input, activation, place: self.place, turned: self.turned };
        if self.large() {
            self.by_blocks(source, weights, epilogue, output);
        } else {
            self.by_bands(source, weights, epilogue, output);
        }
    }

    /// Tiles per row of the output.
    fn across(&self) -> usize {
        self.place.output.width.div_ceil(TILE)
    }

    /// Tiles of `rows` rows of tiles.
    fn tiles(&self, first: usize, rows: usize) -> Tiles {
        let across = self.across();
        let down = self.place.output.height.div_ceil(TILE);
        Tiles { numbers: first * across..(first + rows).min(down) * across, across }
    }

    /// Computes the output in parallel by bands of rows, all channels per task.
    fn by_bands(
        &self,
        source: WinogradInput<'_>,
        weights: &[f32],
        epilogue: &Epilogue<'_>,
        output: &mut [f32],
    ) {
        let across = self.across();
        // Tiles of all input channels, and the products of one block.
        let pack = (self.blocks()[0] + 1) * PACK;
        let count = (CACHED / pack).max(2) * PACKED;
        let rows = (count / across).max(1);
        // Parts of a band, of about equal size.
        let parts = (rows * across).div_ceil(count);
        let count = (rows * across).div_ceil(parts).next_multiple_of(PACKED);
        let bands = bands(self.place.output, output, rows * TILE);
        bands.into_par_iter().enumerate().for_each(|(band, mut rows_of_band)| {
            let tiles = self.tiles(band * rows, rows);
            let first_row = band * rows * TILE;
            let mut scratch = Scratch::new(pack * (count / PACKED));
            for start in tiles.numbers.clone().step_by(count) {
                let numbers = start..(start + count).min(tiles.numbers.end);
                let tiles = Tiles { numbers, across };
                let rows = (first_row, rows_of_band.as_mut_slice());
                self.part(source, &tiles, weights, epilogue, rows, &mut scratch);
            }
        });
    }

    /// Computes all channels of a few tiles.
    fn part(
        &self,
        source: WinogradInput<'_>,
        tiles: &Tiles,
        weights: &[f32],
        epilogue: &Epilogue<'_>,
        (first_row, rows): (usize, &mut [&mut [f32]]),
        scratch: &mut [f32],
    ) {
        let [from, to] = self.blocks();
        let stride = tiles.packed();
        let (transformed, results) = scratch[..(from + 1) * stride].split_at_mut(from * stride);
        for (block, transformed) in transformed.chunks_exact_mut(stride).enumerate() {
            transform_input(source, block, tiles, transformed);
        }
        let panel = from * BLOCK * BLOCK;
        let layout = self.place.output;
        let per_quad = rows.len() / layout.quads();
        for (block, rows) in rows.chunks_mut(per_quad * QUADS).enumerate() {
            for (position, weights) in weights.chunks_exact(to * panel).enumerate() {
                let start = position * POSITION;
                let panel = &weights[block * panel..][..panel];
                products(&transformed[start..], stride, panel, &mut results[start..], tiles.numbers.len());
            }
            let mut target =
                Target { layout, block, first_row, rows, per_quad, epilogue, turned: self.turned };
            transform_output(results, tiles, &mut target);
        }
    }

    /// With large weights: rows of tiles per group, and blocks of channels per task.
    fn group(&self) -> (usize, usize) {
        let [packs, blocks] = match (self.turned, self.by_lanes()) {
            (false, _) => FORWARD,
            (true, false) => ADJOINT,
            (true, true) => FEW,
        };
        ((packs * PACKED / self.across()).max(1), blocks)
    }

    /// Number of groups per band, with `group` floats of transformed tiles each.
    fn groups_of_band(group: usize) -> usize {
        (BAND / group).max(1)
    }

    /// Computes the output in parallel by blocks of channels of a group of tiles.
    fn by_blocks(
        &self,
        source: WinogradInput<'_>,
        weights: &[f32],
        epilogue: &Epilogue<'_>,
        output: &mut [f32],
    ) {
        let [from, to] = self.blocks();
        let (rows, mut blocks) = self.group();
        let full = self.tiles(0, rows).packed();
        let mut groups = bands(self.place.output, output, rows * TILE);
        while blocks > 1 && to.div_ceil(blocks) * groups.len() < 2 * rayon::current_num_threads() {
            blocks /= 2;
        }
        let groups_of_band = Self::groups_of_band(from * full);
        let layout = self.place.output;
        for (band, groups) in groups.chunks_mut(groups_of_band).enumerate() {
            let first = band * groups_of_band;
            let tiles: Vec<Tiles> =
                (first..first + groups.len()).map(|group| self.tiles(group * rows, rows)).collect();
            let mut transformed = Scratch::new(tiles.iter().map(|tiles| from * tiles.packed()).sum());
            let parts = transformed.par_chunks_mut(from * full).zip(&tiles);
            parts.for_each(|(transformed, tiles)| {
                let blocks = transformed.par_chunks_exact_mut(tiles.packed()).enumerate();
                blocks.for_each(|(block, transformed)| transform_input(source, block, tiles, transformed));
            });
            let parts: Vec<(&[f32], &Tiles)> = transformed.chunks(from * full).zip(&tiles).collect();
            let mut tasks = Vec::new();
            for (rows, part) in groups.iter_mut().zip(parts) {
                let per_quad = rows.len() / layout.quads();
                let sets = rows.chunks_mut(blocks * QUADS * per_quad).enumerate();
                tasks.extend(sets.map(|(set, rows)| (set * blocks, part, per_quad, rows)));
            }
            // Run tasks that read the same weights one after another.
            tasks.sort_by_key(|&(block, ..)| block);
            tasks.into_par_iter().for_each(|(block, (transformed, tiles), per_quad, rows)| {
                let first_row = tiles.numbers.start / tiles.across * TILE;
                let mut target =
                    Target { layout, block, first_row, rows, per_quad, epilogue, turned: self.turned };
                self.blocks_of_group(transformed, tiles, weights, &mut target);
            });
        }
    }

    /// Computes the products of the blocks starting at `target.block` and writes their pixels.
    fn blocks_of_group(
        &self,
        transformed: &[f32],
        tiles: &Tiles,
        weights: &[f32],
        target: &mut Target<'_, '_>,
    ) {
        let [from, to] = self.blocks();
        let stride = tiles.packed();
        let per_block = target.per_quad * QUADS;
        let panel = from * BLOCK * BLOCK;
        let count = target.rows.len().div_ceil(per_block);
        let mut results = Scratch::new(count * stride);
        if self.by_lanes() {
            let inputs = target.block..target.block + count;
            let mut sums = Scratch::new(lanes::sums(&inputs, tiles.numbers.len()));
            for (position, values) in weights.chunks_exact(to * panel).enumerate() {
                let start = position * POSITION;
                let from = Packed { values: &transformed[start..], stride, tiles: tiles.numbers.len() };
                let weights = lanes::Weights { values, inputs: to };
                products_by_lanes(from, weights, inputs.clone(), &mut sums, &mut results[start..]);
            }
        } else {
            let mut turned = self.turned.then(|| Scratch::new(panel));
            for (position, weights) in weights.chunks_exact(to * panel).enumerate() {
                let start = position * POSITION;
                for (results, block) in results.chunks_exact_mut(stride).zip(target.block..) {
                    let panel = match &mut turned {
                        Some(turned) => {
                            transpose_panel(weights, block, to, turned);
                            &**turned
                        }
                        None => &weights[block * panel..][..panel],
                    };
                    let to = &mut results[start..];
                    products(&transformed[start..], stride, panel, to, tiles.numbers.len());
                }
            }
        }
        for (index, results) in results.chunks_exact(stride).enumerate() {
            let end = target.rows.len().min((index + 1) * per_block);
            let rows = &mut target.rows[index * per_block..end];
            transform_output(results, tiles, &mut Target { block: target.block + index, rows, ..*target });
        }
    }
}
