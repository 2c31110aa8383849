//! Weights of a fully connected layer and their packing for kernels.

use crate::error::{Error, Result};
use crate::gpu::Profile;
use crate::ops::half_precision::to_half;
use crate::ops::shape::mismatch;
use crate::ops::{Constant, Initializer, Loader, Operand, Storage};
use half::f16;
use std::ops::Range;
use std::sync::Arc;

/// Rows per workgroup in the forward pass; as in the shader. Chunks start at multiples of it.
pub(super) const ROWS: usize = 8;
/// Bytes per word, the unit in which the shader reads a row.
const WORD: usize = 16;
/// Largest chunk, even if the device allows more: packing a chunk takes twice its size in host memory. Equals WebGPU's
/// default limit of a binding, so most devices get the same chunks.
pub(super) const LARGEST_CHUNK: u64 = 128 << 20;

/// Values of some rows of a matrix, row-major without padding.
#[derive(Debug, Clone, PartialEq)]
pub enum MatrixValues {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision, as bits.
    F16(Vec<u16>),
}

/// Reads a range of rows on demand.
pub type RowLoader = Arc<dyn Fn(Range<usize>) -> Result<MatrixValues> + Send + Sync>;

/// Weights of a fully connected layer, read from their file only when a kernel needs them. The device keeps one copy
/// for the forward and the backward pass.
#[derive(Clone)]
pub struct Matrix {
    /// Identity: the same id means the same weights.
    pub id: String,
    /// Number of rows: length of the output.
    pub rows: usize,
    /// Number of columns: length of the input.
    pub columns: usize,
    /// True to keep the weights in f16 on the device; all arithmetic is f32.
    pub half: bool,
    /// Reads the weights. Called once per chunk of rows, so the whole matrix is never in memory. Values of the other
    /// precision are converted.
    pub values: RowLoader,
    /// Reads the biases, one per row.
    pub bias: Loader,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let precision = if self.half { "f16" } else { "f32" };
        write!(f, "Matrix({}: {}x{} {precision})", self.id, self.rows, self.columns)
    }
}

impl Matrix {
    /// The matrix in the precision that this device stores.
    pub(super) fn on(self: &Arc<Self>, device: &Profile) -> Arc<Self> {
        if !device.half_weights() || self.half {
            return self.clone();
        }
        Arc::new(Self { half: true, ..Self::clone(self) })
    }

    /// Words per row.
    pub(super) fn words(&self) -> usize {
        self.columns.div_ceil(if self.half { 8 } else { 4 })
    }

    /// Rows of each chunk: as few chunks of at most `largest` bytes as the device's limits allow.
    pub(super) fn chunks(&self, device: &Profile, largest: u64) -> Result<Vec<Range<usize>>> {
        let limit = largest.min(device.max_binding).min(device.max_buffer);
        let row = (self.words() * WORD) as u64;
        // A few very long rows may exceed `largest` if the device allows it.
        let least = if row * ROWS as u64 <= device.max_binding.min(device.max_buffer) { ROWS } else { 0 };
        // In the backward pass an invocation may loop over all rows of a chunk.
        let most = device.loop_limit.map_or(usize::MAX, |limit| limit as usize);
        let rows = (most.min((limit / row.max(1)) as usize) / ROWS * ROWS).max(least);
        if rows == 0 {
            return Err(Error::OutOfMemory {
                what: format!("{self:?}: this adapter binds at most {limit} bytes at once"),
                needed: row * ROWS as u64,
                remedy: "Use another --adapter, or layers before the fully connected ones".to_owned(),
            });
        }
        Ok((0..self.rows).step_by(rows).map(|first| first..(first + rows).min(self.rows)).collect())
    }

    /// Reads some rows and converts them to the stored precision.
    pub(super) fn load(&self, rows: Range<usize>) -> Result<MatrixValues> {
        let values = match ((self.values)(rows.clone())?, self.half) {
            (MatrixValues::F32(values), true) => MatrixValues::F16(to_half(&self.id, &values)?),
            (MatrixValues::F16(values), false) => {
                MatrixValues::F32(values.iter().map(|bits| f16::from_bits(*bits).to_f32()).collect())
            }
            (values, _) => values,
        };
        let length = match &values {
            MatrixValues::F32(values) => values.len(),
            MatrixValues::F16(values) => values.len(),
        };
        if length != rows.len() * self.columns {
            return Err(mismatch("linear", &format!("{self:?}: rows {rows:?} have {length} values")));
        }
        Ok(values)
    }

    /// Packs some rows for the shader: each padded with zeros to whole words.
    fn pack(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let values = self.load(rows.clone())?;
        let stride = self.words() * WORD;
        let mut packed = vec![0; rows.len() * stride];
        let bytes: &[u8] = match &values {
            MatrixValues::F32(values) => bytemuck::cast_slice(values),
            MatrixValues::F16(values) => bytemuck::cast_slice(values),
        };
        let width = bytes.len() / rows.len().max(1);
        for (to, from) in packed.chunks_exact_mut(stride).zip(bytes.chunks_exact(width.max(1))) {
            to[..width].copy_from_slice(from);
        }
        Ok(packed)
    }

    /// A chunk of the weights as a constant.
    pub(super) fn constant(self: &Arc<Self>, rows: Range<usize>, storage: Storage) -> Operand {
        let matrix = self.clone();
        let precision = if self.half { "f16" } else { "f32" };
        Operand::Constant(Constant {
            key: format!("{} rows {} to {} in {precision}", self.id, rows.start, rows.end),
            storage,
            bytes: (rows.len() * self.words() * WORD) as u64,
            initializer: Initializer::host(move || matrix.pack(rows.clone())),
        })
    }

    /// The biases, padded to whole quads.
    pub(super) fn bias_constant(&self) -> Operand {
        let load = self.bias.clone();
        let padded = self.rows.next_multiple_of(4);
        Operand::Constant(Constant {
            key: format!("{} bias", self.id),
            storage: Storage::Buffer,
            bytes: padded as u64 * 4,
            initializer: Initializer::host(move || {
                let mut bias = load()?;
                bias.resize(padded, 0.0);
                Ok(bytemuck::cast_slice(&bias).to_vec())
            }),
        })
    }

    /// The whole matrix in f64, for references.
    pub(super) fn wide(&self) -> Vec<f64> {
        match self.load(0..self.rows).expect("weights") {
            MatrixValues::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            MatrixValues::F16(values) => values.iter().map(|bits| f16::from_bits(*bits).to_f64()).collect(),
        }
    }
}

impl Matrix {
    /// Creates a matrix of pseudo-random values that depend only on the position, so that any rows can be computed
    /// independently, scaled like an initialised layer. Matrices with the same `id` have the same values. Hidden: for
    /// tests and benches.
    #[doc(hidden)]
    pub fn sample(rows: usize, columns: usize, half: bool) -> Arc<Self> {
        let scale = (6.0 / columns as f32).sqrt();
        // A multiplicative hash is irregular enough for test data.
        let value = move |index: usize| {
            let mut bits = (index as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
            bits = (bits ^ (bits >> 15)).wrapping_mul(0x85eb_ca6b);
            bits ^= bits >> 13;
            ((bits >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        Arc::new(Self {
            id: format!("sample {rows}x{columns}"),
            rows,
            columns,
            half,
            values: Arc::new(move |range: Range<usize>| {
                Ok(MatrixValues::F32((range.start * columns..range.end * columns).map(value).collect()))
            }),
            bias: Arc::new(move || Ok((0..rows).map(|row| value(row + 7)).collect())),
        })
    }
}
