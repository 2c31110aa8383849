//! Kernels for the CPU: plain Rust functions on tensors as they lie in memory.

use super::shape::MapLayout;
use crate::error::Result;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::fmt::{Debug, Formatter};
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Floats that one task of an elementwise kernel takes, and of which a sum adds up each part by itself. It does not
/// depend on the number of threads, so neither do the results.
pub(in crate::ops) const PART: usize = 16 * 1024;

/// An op's function for the CPU, and what it needs besides its operands.
#[derive(Clone)]
pub struct CpuKernel {
    /// Weights and other data that never change, made once.
    pub constants: Vec<CpuConstant>,
    /// Pieces of scratch memory that it takes while it runs, in bytes, besides less than a megabyte for each thread. They
    /// are kept for the next function.
    pub scratch: Vec<u64>,
    /// Bytes that it takes of the heap while it runs.
    pub temporary: u64,
    /// The function. It writes the whole output, padding included, and may use the threads of the rayon pool that it
    /// runs in; the result must not depend on how many there are.
    pub run: Arc<dyn Fn(CpuCall<'_>) + Send + Sync>,
}

impl CpuKernel {
    /// A kernel without constants.
    pub fn new(run: impl Fn(CpuCall<'_>) + Send + Sync + 'static) -> Self {
        Self { constants: Vec::new(), scratch: Vec::new(), temporary: 0, run: Arc::new(run) }
    }

    /// The same with one more piece of scratch memory, of this many floats.
    pub fn scratch(mut self, floats: usize) -> Self {
        self.scratch.push(floats as u64 * 4);
        self
    }

    /// The same, taking this many floats of the heap while it runs.
    pub fn temporary(mut self, floats: usize) -> Self {
        self.temporary = floats as u64 * 4;
        self
    }

    /// The same with one more constant.
    pub fn constant(mut self, constant: CpuConstant) -> Self {
        self.constants.push(constant);
        self
    }
}

/// Bytes of scratch memory that functions take which run one after another. A piece that one leaves serves the next if it is
/// large enough, so there are as many as one function takes at once, the largest as large as the largest of any.
pub(crate) fn scratch_of(functions: &[CpuKernel]) -> u64 {
    let mut most: Vec<u64> = Vec::new();
    for function in functions {
        let mut pieces = function.scratch.clone();
        pieces.sort_unstable_by_key(|bytes| Reverse(*bytes));
        most.resize(most.len().max(pieces.len()), 0);
        most.iter_mut().zip(pieces).for_each(|(most, bytes)| *most = bytes.max(*most));
    }
    most.iter().sum()
}

impl Debug for CpuKernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuKernel")
            .field("constants", &self.constants)
            .field("scratch", &self.scratch)
            .field("temporary", &self.temporary)
            .finish_non_exhaustive()
    }
}

/// What a CPU kernel works on. Tensors are as stored (see `shape.rs`), without anything behind them.
pub struct CpuCall<'a> {
    /// The inputs. Those that the op mutates or overwrites are empty here.
    pub inputs: Vec<&'a [f32]>,
    /// The inputs that the op changes in place, in the order of [`super::Op::mutates`].
    pub mutated: Vec<&'a mut [f32]>,
    /// The output; it holds the input that the op overwrites ([`super::Op::overwrites`]), if any.
    pub output: &'a mut [f32],
    /// The saved output; empty for ops without one.
    pub saved: &'a mut [f32],
    /// The constants in the kernel's order.
    pub constants: Vec<&'a CpuValues>,
}

/// Data that never changes, made once per key and device.
#[derive(Clone)]
pub struct CpuConstant {
    /// Identity: the same key means the same values.
    pub key: String,
    /// Its size in bytes, known before it is made.
    pub bytes: u64,
    /// Makes the values.
    pub make: Arc<dyn Fn() -> Result<CpuValues> + Send + Sync>,
}

impl Debug for CpuConstant {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuConstant({}, {} bytes)", self.key, self.bytes)
    }
}

/// Values of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum CpuValues {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision, as bits.
    F16(Vec<u16>),
}

impl CpuValues {
    /// The values in single precision; empty if they are stored in half precision.
    pub fn f32(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::F16(_) => &[],
        }
    }
}

/// Fills a map: `fill` gets quad, row and the row's texels (`width * 4` floats). Borders become zero.
pub(in crate::ops) fn fill_map(
    layout: MapLayout,
    output: &mut [f32],
    fill: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let pitch = layout.pitch() * 4;
    let rows = layout.height + 1;
    let (planes, end) = output.split_at_mut(layout.quads() * layout.plane() * 4);
    end.fill(0.0);
    let least = PART.div_ceil(pitch);
    planes.par_chunks_mut(pitch).with_min_len(least).enumerate().for_each(|(index, row)| {
        let (quad, row_above) = (index / rows, index % rows);
        if row_above == 0 {
            row.fill(0.0);
        } else {
            let (border, pixels) = row.split_at_mut(4);
            border.fill(0.0);
            fill(quad, row_above - 1, pixels);
        }
    });
}

/// Calls `fill` with each part of the output and the range of floats that it is.
pub(in crate::ops) fn for_each_part(output: &mut [f32], fill: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    output.par_chunks_mut(PART).enumerate().for_each(|(index, part)| {
        let start = index * PART;
        fill(start..start + part.len(), part);
    });
}

/// The same for several tensors of one length, of which `fill` gets the same part.
pub(in crate::ops) fn for_each_part_of<const COUNT: usize>(
    outputs: [&mut [f32]; COUNT],
    fill: impl Fn(Range<usize>, [&mut [f32]; COUNT]) + Sync,
) {
    let mut chunks = outputs.map(|output| output.chunks_mut(PART));
    let next = || {
        let part = chunks.each_mut().map(|chunk| chunk.next().unwrap_or_default());
        (!part.iter().any(|chunk| chunk.is_empty())).then_some(part)
    };
    let parts: Vec<[&mut [f32]; COUNT]> = std::iter::from_fn(next).collect();
    parts.into_par_iter().enumerate().for_each(|(index, part)| {
        let start = index * PART;
        fill(start..start + part.iter().map(|chunk| chunk.len()).min().unwrap_or(0), part);
    });
}

/// The sums of what `part` gives for each index below `parts`: computed on all threads, added up in order.
pub(in crate::ops) fn sums_in_order<const SUMS: usize>(
    parts: usize,
    part: impl Fn(usize) -> [f64; SUMS] + Sync,
) -> [f64; SUMS] {
    let each: Vec<[f64; SUMS]> = (0..parts).into_par_iter().map(&part).collect();
    each.iter().fold([0.0; SUMS], |total, sums| std::array::from_fn(|sum| total[sum] + sums[sum]))
}

/// Writes a vector of length one, padding included.
pub(in crate::ops) fn write_number(output: &mut [f32], value: f32) {
    output.iter_mut().zip([value, 0.0, 0.0, 0.0]).for_each(|(output, value)| *output = value);
}

/// Floats of a row of a map, without the border: `width * 4` of them.
pub(in crate::ops) fn row(map: &[f32], layout: MapLayout, quad: usize, y: usize) -> &[f32] {
    let start = layout.texel(quad, y, 0) * 4;
    &map[start..start + layout.width * 4]
}

/// Calls `fill` with each row of a matrix as stored and its index; `stride` is how many floats a row has.
pub(in crate::ops) fn for_each_row(
    output: &mut [f32],
    stride: usize,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = output.par_chunks_exact_mut(stride).with_min_len(PART.div_ceil(stride));
    rows.enumerate().for_each(|(index, row)| fill(index, row));
}

/// Fills a map by blocks of texels, borders between them included: `fill` gets the first texel of a block, counted from
/// the start of a plane, and the block's part of each quad's plane. The closing border becomes zero.
pub(in crate::ops) fn fill_blocks(
    layout: MapLayout,
    texels: usize,
    output: &mut [f32],
    fill: impl Fn(usize, Vec<&mut [f32]>) + Sync,
) {
    let plane = layout.plane() * 4;
    let (planes, end) = output.split_at_mut(layout.quads() * plane);
    end.fill(0.0);
    let mut blocks: Vec<Vec<&mut [f32]>> = Vec::new();
    blocks.resize_with(layout.plane().div_ceil(texels), Vec::new);
    for plane in planes.chunks_exact_mut(plane) {
        blocks.iter_mut().zip(plane.chunks_mut(texels * 4)).for_each(|(block, part)| block.push(part));
    }
    blocks.into_par_iter().enumerate().for_each(|(index, parts)| fill(index * texels, parts));
}

/// Scratch memory that no kernel uses at the moment.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<Vec<f32>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Scratch memory, kept from one kernel to the next, because fresh pages cost as much time as small kernels.
pub(in crate::ops) struct Scratch {
    memory: Vec<f32>,
    length: usize,
}

impl Scratch {
    /// This many floats, whose values are arbitrary.
    pub fn new(length: usize) -> Self {
        let fitting = |spare: &mut Vec<Vec<f32>>| {
            spare.sort_by_key(Vec::len);
            let position = spare.iter().position(|memory| memory.len() >= length);
            // Else the largest goes, so that there are never more than are used at once.
            position.map(|position| spare.remove(position)).or_else(|| spare.pop())
        };
        let mut memory = fitting(&mut spare()).unwrap_or_default();
        if memory.len() < length {
            drop(memory);
            memory = vec![0.0; length];
        }
        if cfg!(debug_assertions) {
            memory[..length].fill(f32::NAN);
        }
        Self { memory, length }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.length]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        spare().push(std::mem::take(&mut self.memory));
    }
}

/// Releases the scratch memory that no kernel uses.
pub(crate) fn release_scratch() {
    spare().clear();
}
