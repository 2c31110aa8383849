//! Forward and backward passes over the tiles of a picture in host memory.

use super::in_transit::{InTransit, in_order};
use super::planes::{HalfMap, Pixels, Planes};
use crate::error::Result;
use crate::graph::{Engine, Memory, MemoryUse, Pending, Program, Submission};
use crate::ops::Shape;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Section that adds a tile's contributions to the sums.
pub(in crate::mirage) const FORWARD: &str = "forward";
/// Section that computes the gradient with respect to a tile.
pub(in crate::mirage) const BACKWARD: &str = "backward";
/// Read-back of the gradient from [`BACKWARD`].
pub(in crate::mirage) const GRADIENT: &str = "gradient";
/// Read-back of maps that become targets in host memory.
pub(in crate::mirage) const TARGETS: &str = "targets";

/// Inputs of all tile programs, overwritten for each tile.
#[derive(Debug)]
pub(in crate::mirage) struct Inputs {
    pub tile: Memory,
    pub places: (Memory, Shape),
    /// Targets in host memory, and device memory for a tile's part of each.
    pub targets: Vec<(Arc<Mutex<HalfMap>>, Memory)>,
}

impl Inputs {
    /// Returns the bytes on the device, without the positions.
    pub fn bytes(&self) -> u64 {
        self.tile.bytes() + self.targets.iter().map(|(_, memory)| memory.bytes()).sum::<u64>()
    }
}

/// Program of all tiles of one size.
#[derive(Debug)]
pub(in crate::mirage) struct TileProgram {
    pub program: Program,
    /// True if it has the read-back [`TARGETS`].
    pub captures: bool,
    /// True if it has the section [`BACKWARD`] and the read-back [`GRADIENT`].
    pub has_gradient: bool,
}

/// A tile of a picture.
#[derive(Debug)]
pub(in crate::mirage) struct Tile {
    /// Index of the tile's program.
    pub program: usize,
    /// Rows and columns of the picture that the tile covers.
    pub all: [Range<usize>; 2],
    /// Row and column of the tile in the picture. Then, after 0, 1, ... pools, row and column of its own part in the
    /// tile's map, and in the whole map.
    pub places: Vec<f32>,
    /// Rows and columns of the tile's own part of each target in host memory.
    pub targets: Vec<[Range<usize>; 2]>,
    /// Rows and columns of the tile's own part of each captured target.
    pub captured: Vec<[Range<usize>; 2]>,
}

/// Forward and backward passes over the tiles of a picture.
#[derive(Debug)]
pub(in crate::mirage) struct TilePasses {
    pub engine: Arc<Engine>,
    /// One program for each size of tile.
    pub programs: Vec<TileProgram>,
    /// Number of tiles in a row.
    pub across: usize,
    /// Device memory in use, which the programs share, without that of sums and their gradients.
    pub memory: MemoryUse,
    pub tiles: Vec<Tile>,
    pub inputs: Inputs,
    /// Targets that the forward pass captures.
    pub captured: Vec<Arc<Mutex<HalfMap>>>,
    /// Sums that are zeroed before the forward pass.
    pub zeroed: Vec<(Memory, Shape)>,
}

impl TilePasses {
    /// Accumulates the sums of a picture, and waits for all tiles.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward(&self, pixels: Pixels<'_>) -> Result<()> {
        for (memory, shape) in &self.zeroed {
            self.engine.write(memory, *shape, &vec![0.0; shape.elements()])?;
        }
        let reads = |program: &TileProgram| program.captures.then_some(TARGETS);
        self.each(&self.tiles, pixels, (FORWARD, |_| true), reads, |tile, mut submission| {
            let Some(read) = submission.take(TARGETS) else { return submission.wait() };
            let values = read.finish()?;
            for ((map, [rows, columns]), (_, values)) in
                self.captured.iter().zip(&tile.captured).zip(values.iter())
            {
                map.lock().unwrap_or_else(PoisonError::into_inner).store(rows, columns, values);
            }
            Ok(())
        })
    }

    /// Returns the memory of tiles in transit, without the read-back of targets, which precedes the first iteration.
    pub fn in_transit(&self) -> InTransit {
        let map = |channels: usize, [rows, columns]: &[Range<usize>; 2]| {
            Shape::map(channels, rows.len(), columns.len())
        };
        let of_program = |index: usize| {
            let tiles = || self.tiles.iter().filter(|tile| tile.program == index);
            let parts = tiles().count();
            let of_tile = |tile: &Tile| {
                let pixels = map(3, &tile.all);
                let targets = self.inputs.targets.iter().zip(&tile.targets).map(|((target, _), part)| {
                    map(target.lock().unwrap_or_else(PoisonError::into_inner).channels(), part)
                });
                let written: Vec<_> = targets.chain([pixels]).collect();
                InTransit::of(&self.engine, parts, &written, &[pixels])
            };
            tiles().map(of_tile).max_by_key(|tile| tile.host).unwrap_or_default()
        };
        (0..self.programs.len()).map(of_program).fold(InTransit::default(), InTransit::and)
    }

    /// Returns the number of rows of tiles.
    pub fn rows(&self) -> usize {
        self.tiles.len() / self.across.max(1)
    }

    /// Returns the rows of the picture that a row of tiles covers.
    pub fn rows_of(&self, row: usize) -> Range<usize> {
        self.tiles.get(row * self.across).map_or(0..0, |tile| tile.all[0].clone())
    }

    /// Adds the contribution of one row of tiles to the picture's gradient, from the gradients with respect to the
    /// sums, and waits for it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(&self, row: usize, pixels: Pixels<'_>, gradient: &mut Planes) -> Result<()> {
        let tiles = &self.tiles[row * self.across..(row + 1) * self.across];
        let section = (BACKWARD, |program: &TileProgram| program.has_gradient);
        self.each(
            tiles,
            pixels,
            section,
            |_| Some(GRADIENT),
            |Tile { all: [rows, columns], .. }, mut submission| {
                let values = submission.take(GRADIENT).map(Pending::finish).transpose()?;
                if let Some(values) = values.as_ref().and_then(|values| values.get(GRADIENT)) {
                    gradient.add(rows, columns, values, 1.0);
                }
                Ok(())
            },
        )
    }

    /// Runs a section of each of these tiles whose program has it, and calls `done` with each in order.
    fn each(
        &self,
        tiles: &[Tile],
        pixels: Pixels<'_>,
        (section, has_section): (&str, impl Fn(&TileProgram) -> bool),
        reads: impl Fn(&TileProgram) -> Option<&'static str>,
        mut done: impl FnMut(&Tile, Submission) -> Result<()>,
    ) -> Result<()> {
        // A counting engine computes nothing.
        let tiles = if self.engine.counted().is_some() { &[] } else { tiles };
        let tiles = tiles.iter().filter(|tile| has_section(&self.programs[tile.program]));
        let submit = |(): &(), tile: &&Tile| {
            let program = &self.programs[tile.program];
            let [rows, columns] = &tile.all;
            let shape = Shape::map(3, rows.len(), columns.len());
            self.engine.write(&self.inputs.tile, shape, &pixels.part(rows, columns))?;
            let (places, shape) = &self.inputs.places;
            self.engine.write(places, *shape, &tile.places)?;
            for ((map, memory), [rows, columns]) in self.inputs.targets.iter().zip(&tile.targets) {
                let map = map.lock().unwrap_or_else(PoisonError::into_inner);
                let shape = Shape::map(map.channels(), rows.len(), columns.len());
                self.engine.write(memory, shape, &map.part(rows, columns))?;
            }
            program.program.submit(&[section], reads(program).as_slice(), "a tile")
        };
        in_order(&mut (), tiles, submit, |(), tile, submission| done(tile, submission))
    }
}
