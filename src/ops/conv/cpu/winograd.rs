//! Winograd's F(4x4, 3x3): transforms tiles of the input, multiplies 36 matrices over the channels, and transforms the
//! results back.
//!
//! With few channels, each task takes a band of output rows through all three steps, a few tiles at a time, so that
//! they stay in a core's cache; the filters are transformed once. With many channels, all tiles of a band are transformed
//! first, and each task computes a few blocks of output channels for many tiles, transforming the filters of those blocks
//! as it goes. Neither the split into tasks nor the number of threads changes the order of summation.

use super::epilogue::Epilogue;
use super::filters::{PAIRS, transform_column, transform_rows};
use super::layout::{BLOCK, Placement, QUADS, bands, blocks};
use super::products::products;
use super::transforms::{
    PACK, PACKED, POSITION, POSITIONS, SIDE, TAPS, TILE, Target, Tiles, WinogradInput, transform_input,
    transform_output,
};
use super::weights::{self, Packing};
use crate::ops::CpuConstant;
use crate::ops::conv::filter::Filter;
use crate::ops::cpu::Scratch;
use rayon::prelude::*;
use std::sync::Arc;

/// Up to this size in bytes, transformed filters are kept, and bands are computed in parallel.
const SMALL_WEIGHTS: usize = 4 << 20;
/// Floats of a task's transformed tiles and products, small enough for a core's cache.
const CACHED: usize = 112 << 10;
/// Floats of the transformed tiles of a band with large weights.
const BAND: usize = 8 << 20;
/// With large weights: packs of tiles per task. With more, transforming the filters would take a smaller share of the
/// time, but the products of [`BLOCKS`] blocks would not fit a core's cache.
const PACKS: usize = 8;
/// With large weights: blocks of channels per task. For each position, the tiles are read once for every [`PANELS`] of
/// them.
const BLOCKS: usize = 4;
/// Blocks multiplied at once; [`multiply`] is written for two.
const PANELS: usize = 2;

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

    /// The weights that [`Self::run`] reads.
    pub fn weights(&self, filter: &Arc<Filter>, packing: Packing) -> CpuConstant {
        if self.large() { weights::taps(filter, packing) } else { weights::winograd(filter, packing) }
    }

    /// Number of blocks of input and output channels.
    fn blocks(&self) -> [usize; 2] {
        [self.place.input, self.place.output].map(|map| blocks(map.channels))
    }

    fn large(&self) -> bool {
        let [from, to] = self.blocks();
        POSITIONS * from * to * BLOCK * BLOCK * 4 > SMALL_WEIGHTS
    }

    /// Floats of the transformed tiles with large weights, without the tasks' own buffers; 0 with small ones.
    pub fn scratch(&self) -> usize {
        if !self.large() {
            return 0;
        }
        let [from, _] = self.blocks();
        let rows = self.rows_of_group();
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

    /// The tiles of `rows` rows of tiles, starting at row `first`.
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
        // Floats for a pack: the tiles of all input channels, and the products of [`PANELS`] blocks.
        let pack = (self.blocks()[0] + PANELS) * PACK;
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
        let (transformed, results) = scratch[..(from + PANELS) * stride].split_at_mut(from * stride);
        for (block, transformed) in transformed.chunks_exact_mut(stride).enumerate() {
            transform_input(source, block, tiles, transformed);
        }
        let panel = weights::panel(self.place.input.channels);
        let layout = self.place.output;
        let per_quad = rows.len() / layout.quads();
        for (set, rows) in rows.chunks_mut(per_quad * QUADS * PANELS).enumerate() {
            let block = set * PANELS;
            let results = &mut results[..rows.len().div_ceil(per_quad * QUADS) * stride];
            for (position, weights) in weights.chunks_exact(to * panel).enumerate() {
                multiply(transformed, tiles, position, (&weights[block * panel..], panel), results);
            }
            let mut target =
                Target { layout, block, first_row, rows, per_quad, epilogue, turned: self.turned };
            write_blocks(results, tiles, &mut target);
        }
    }

    /// With large weights: rows of tiles per group.
    fn rows_of_group(&self) -> usize {
        (PACKS * PACKED / self.across()).max(1)
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
        let rows = self.rows_of_group();
        let mut blocks = BLOCKS;
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
    fn blocks_of_group(&self, transformed: &[f32], tiles: &Tiles, taps: &[f32], target: &mut Target<'_, '_>) {
        let stride = tiles.packed();
        let panel = weights::panel(self.place.input.channels);
        let count = target.rows.len().div_ceil(target.per_quad * QUADS);
        let taps = taps.chunks_exact(TAPS * panel).skip(target.block).take(count);
        let mut results = Scratch::new(count * stride);
        let mut lines = Scratch::new(2 * count * 3 * panel);
        let mut panels = Scratch::new(2 * PANELS * panel);
        let [first_lines, second_lines] = halves(&mut lines);
        let [first, second] = halves(&mut panels);
        for (columns_pair, columns) in PAIRS.iter().enumerate() {
            let lines = first_lines.chunks_exact_mut(3 * panel).zip(second_lines.chunks_exact_mut(3 * panel));
            for (taps, (first, second)) in taps.clone().zip(lines) {
                transform_rows(taps, columns_pair, [first, second]);
            }
            for (column, lines) in columns.iter().zip([&*first_lines, &*second_lines]) {
                for (pair, rows) in PAIRS.iter().enumerate() {
                    let sets = results.chunks_mut(PANELS * stride).zip(lines.chunks(PANELS * 3 * panel));
                    for (results, lines) in sets {
                        let panels = first.chunks_exact_mut(panel).zip(second.chunks_exact_mut(panel));
                        for (lines, (first, second)) in lines.chunks_exact(3 * panel).zip(panels) {
                            transform_column(lines, pair, [first, second]);
                        }
                        for (row, panels) in rows.iter().zip([&*first, &*second]) {
                            let position = row * SIDE + column;
                            multiply(transformed, tiles, position, (panels, panel), results);
                        }
                    }
                }
            }
        }
        write_blocks(&results, tiles, target);
    }
}

fn halves(values: &mut [f32]) -> [&mut [f32]; 2] {
    let (first, second) = values.split_at_mut(values.len() / 2);
    [first, second]
}

/// Computes the products of one or two blocks at one position; `panels` begins with their panels.
fn multiply(
    transformed: &[f32],
    tiles: &Tiles,
    position: usize,
    (panels, panel): (&[f32], usize),
    results: &mut [f32],
) {
    let (start, stride, count) = (position * POSITION, tiles.packed(), tiles.numbers.len());
    let from = &transformed[start..];
    let (first, second) = results.split_at_mut(stride);
    if second.is_empty() {
        products(from, stride, [&panels[..panel]], [&mut first[start..]], count);
    } else {
        let panels = [&panels[..panel], &panels[panel..][..panel]];
        products(from, stride, panels, [&mut first[start..], &mut second[start..]], count);
    }
}

/// Transforms the products of some blocks of channels back and writes their pixels.
fn write_blocks(results: &[f32], tiles: &Tiles, target: &mut Target<'_, '_>) {
    let per_block = target.per_quad * QUADS;
    for (index, results) in results.chunks_exact(tiles.packed()).enumerate() {
        let end = target.rows.len().min((index + 1) * per_block);
        let rows = &mut target.rows[index * per_block..end];
        transform_output(results, tiles, &mut Target { block: target.block + index, rows, ..*target });
    }
}
