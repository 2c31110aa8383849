//! CPU kernels: plain Rust functions on tensors in their stored layout.

use super::shape::MapLayout;
use crate::error::Result;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::fmt::{Debug, Formatter};
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Floats per task of an elementwise kernel, and per partial sum of a sum. Independent of the number of threads, so
/// that results are too.
pub(in crate::ops) const PART: usize = 16 * 1024;

/// An op's CPU function with its constants and memory needs.
#[derive(Clone)]
pub struct CpuKernel {
    /// Weights and other constant data, computed once.
    pub constants: Vec<CpuConstant>,
    /// Sizes in bytes of the scratch buffers used while running, besides those of tasks: less than two megabytes per
    /// thread, or three for maps of thousands of pixels a row. They are reused by the next function.
    pub scratch: Vec<u64>,
    /// Bytes of heap memory used while running.
    pub temporary: u64,
    /// The function. It writes the whole output, padding included, and may use the threads of the current rayon pool;
    /// the result must not depend on their number.
    pub run: Arc<dyn Fn(CpuCall<'_>) + Send + Sync>,
}

impl CpuKernel {
    /// Creates a kernel without constants.
    pub fn new(run: impl Fn(CpuCall<'_>) + Send + Sync + 'static) -> Self {
        Self { constants: Vec::new(), scratch: Vec::new(), temporary: 0, run: Arc::new(run) }
    }

    /// Adds a scratch buffer of this many floats.
    pub fn scratch(mut self, floats: usize) -> Self {
        self.scratch.push(floats as u64 * 4);
        self
    }

    /// Sets the heap memory used while running, in floats.
    pub fn temporary(mut self, floats: usize) -> Self {
        self.temporary = floats as u64 * 4;
        self
    }

    /// Adds a constant.
    pub fn constant(mut self, constant: CpuConstant) -> Self {
        self.constants.push(constant);
        self
    }
}

/// Bytes of scratch memory for functions that run one after another. Each reuses the buffers of the previous one where
/// they are large enough, so the n-th largest buffer is the largest n-th one of any function.
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

/// Operands of a CPU kernel: tensors in their stored layout (see `shape.rs`), without trailing memory.
pub struct CpuCall<'a> {
    /// The inputs. Those that the op mutates or overwrites are empty.
    pub inputs: Vec<&'a [f32]>,
    /// The inputs that the op changes in place, in the order of [`super::Op::mutates`].
    pub mutated: Vec<&'a mut [f32]>,
    /// The output; initially the values of the input that the op overwrites ([`super::Op::overwrites`]), if any.
    pub output: &'a mut [f32],
    /// The saved output; empty for ops without one.
    pub saved: &'a mut [f32],
    /// The constants in the kernel's order.
    pub constants: Vec<&'a CpuValues>,
}

/// Constant data, computed once per key and device.
#[derive(Clone)]
pub struct CpuConstant {
    /// Identity: the same key means the same values.
    pub key: String,
    /// Size in bytes, known before the values are computed.
    pub bytes: u64,
    /// Bytes of heap memory that `make` uses besides the values.
    pub reading: u64,
    /// Computes the values.
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
    /// Returns the values in single precision; empty if they are stored in half precision.
    pub fn f32(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::F16(_) => &[],
        }
    }
}

/// Fills a map: `fill` receives quad, row and the row's texels (`width * 4` floats). Zeroes the borders.
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

/// Calls `fill` with each part of the output and its range of floats, on all threads.
pub(in crate::ops) fn for_each_part(output: &mut [f32], fill: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    output.par_chunks_mut(PART).enumerate().for_each(|(index, part)| {
        let start = index * PART;
        fill(start..start + part.len(), part);
    });
}

/// Like [`for_each_part`] for several tensors of the same length: `fill` receives the same part of each.
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

/// Adds up the results of `part` for each index below `parts`: computed on all threads, added in order.
pub(in crate::ops) fn sums_in_order<const SUMS: usize>(
    parts: usize,
    part: impl Fn(usize) -> [f64; SUMS] + Sync,
) -> [f64; SUMS] {
    let each: Vec<[f64; SUMS]> = (0..parts).into_par_iter().map(&part).collect();
    each.iter().fold([0.0; SUMS], |total, sums| std::array::from_fn(|sum| total[sum] + sums[sum]))
}

/// Writes a vector of length 1, padding included.
pub(in crate::ops) fn write_number(output: &mut [f32], value: f32) {
    output.iter_mut().zip([value, 0.0, 0.0, 0.0]).for_each(|(output, value)| *output = value);
}

/// A row of a map without its border: `width * 4` floats.
pub(in crate::ops) fn row(map: &[f32], layout: MapLayout, quad: usize, y: usize) -> &[f32] {
    let start = layout.texel(quad, y, 0) * 4;
    &map[start..start + layout.width * 4]
}

/// Calls `fill` with the index and the values of each row of a stored matrix; `stride` is the number of floats per row.
pub(in crate::ops) fn for_each_row(
    output: &mut [f32],
    stride: usize,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = output.par_chunks_exact_mut(stride).with_min_len(PART.div_ceil(stride));
    rows.enumerate().for_each(|(index, row)| fill(index, row));
}

/// Fills a map by blocks of texels, inner borders included: `fill` receives the first texel of a block, counted from
/// the start of a plane, and the block's part of each quad's plane. Zeroes the closing border.
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

/// Scratch buffers not in use.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<Vec<f32>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A scratch buffer, reused from one kernel to the next, because touching fresh pages takes as long as a small kernel.
pub(in crate::ops) struct Scratch {
    memory: Vec<f32>,
    length: usize,
}

impl Scratch {
    /// Takes a buffer of `length` floats with arbitrary values.
    pub fn new(length: usize) -> Self {
        let fitting = |spare: &mut Vec<Vec<f32>>| {
            spare.sort_by_key(Vec::len);
            let position = spare.iter().position(|memory| memory.len() >= length);
            // Otherwise replace the largest, so that there are never more buffers than are used at once.
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

/// Frees the scratch buffers that are not in use.
pub(crate) fn release_scratch() {
    spare().clear();
}
