//! Both passes over the tiles of a picture that is in the host's memory.

use super::in_transit::{InTransit, in_order};
use super::planes::{HalfMap, Pixels, Planes};
use crate::error::Result;
use crate::graph::{Engine, Memory, MemoryUse, Pending, Program, Submission};
use crate::ops::Shape;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Section that adds a tile's part to the sums.
pub(in crate::mirage) const FORWARD: &str = "forward";
/// Section that computes the gradient of a tile.
pub(in crate::mirage) const BACKWARD: &str = "backward";
/// Read-back of what [`BACKWARD`] computes.
pub(in crate::mirage) const GRADIENT: &str = "gradient";
/// Read-back of the maps that become targets in the host's memory.
pub(in crate::mirage) const TARGETS: &str = "targets";

/// What the programs of all tiles read. It is written anew for each tile.
#[derive(Debug)]
pub(in crate::mirage) struct Inputs {
    pub tile: Memory,
    pub places: (Memory, Shape),
    /// The targets in the host's memory, with room for a tile's part of each.
    pub targets: Vec<(Arc<Mutex<HalfMap>>, Memory)>,
}

impl Inputs {
    /// Bytes on the device, without the places.
    pub fn bytes(&self) -> u64 {
        self.tile.bytes() + self.targets.iter().map(|(_, memory)| memory.bytes()).sum::<u64>()
    }
}

/// The program of all tiles of one size.
#[derive(Debug)]
pub(in crate::mirage) struct TileProgram {
    pub program: Program,
    /// True if it has [`TARGETS`].
    pub captures: bool,
    /// True if it has [`BACKWARD`] and [`GRADIENT`].
    pub has_gradient: bool,
}

/// A tile of a picture.
#[derive(Debug)]
pub(in crate::mirage) struct Tile {
    /// Index of its program.
    pub program: usize,
    /// Its rows and columns of the picture.
    pub all: [Range<usize>; 2],
    /// Rows and columns at which the tile begins; then behind no pools, one, and so on, at which its own part begins in its
    /// map, and in the whole map.
    pub places: Vec<f32>,
    /// Rows and columns of its own part of each target in the host's memory.
    pub targets: Vec<[Range<usize>; 2]>,
    /// The same of each target that is captured.
    pub captured: Vec<[Range<usize>; 2]>,
}

/// Both passes over the tiles of a picture.
#[derive(Debug)]
pub(in crate::mirage) struct TilePasses {
    pub engine: Arc<Engine>,
    /// One for all tiles of the same size.
    pub programs: Vec<TileProgram>,
    /// How many tiles lie beside each other.
    pub across: usize,
    /// Device memory in use, besides sums and their gradients: the programs share it.
    pub memory: MemoryUse,
    pub tiles: Vec<Tile>,
    pub inputs: Inputs,
    /// The targets that the first pass captures.
    pub captured: Vec<Arc<Mutex<HalfMap>>>,
    /// The sums that begin at zero.
    pub zeroed: Vec<(Memory, Shape)>,
}

impl TilePasses {
    /// Puts the sums together for a picture, and waits for all tiles.
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

    /// What the tiles take on their way. The read-back of targets, which is done before the first iteration, does not count.
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

    /// Rows of tiles.
    pub fn rows(&self) -> usize {
        self.tiles.len() / self.across.max(1)
    }

    /// Rows of the picture that one row of tiles is computed of.
    pub fn rows_of(&self, row: usize) -> Range<usize> {
        self.tiles.get(row * self.across).map_or(0..0, |tile| tile.all[0].clone())
    }

    /// Adds what one row of tiles gives of the gradient of a picture to `gradient`, given the gradients by the sums, and
    /// waits for it.
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
        // An engine that counts computes nothing.
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
