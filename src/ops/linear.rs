//! Fully connected layer with constant weights, bias and optional ReLU, and its adjoint with respect to
//! the input.
//!
//! As PyTorch's `linear`: `y[r] = b[r] + sum_c W[r, c] x[c]`.

mod tiles;

use super::shape::mismatch;
use super::{
    Adjoint, Case, CaseInput, Constant, Dispatch, Kernel, Loader, Making, Op, Operand, Shape, Signature,
    Source, Storage,
};
use crate::error::{Error, Result};
use crate::gpu::{Family, Profile};
use half::f16;
use std::ops::Range;
use std::sync::Arc;

/// Rows per workgroup forward; as in the shader. Chunks start at multiples of it.
const ROWS: usize = 8;
/// Bytes of the unit in which the shader reads a row.
const WORD: usize = 16;
/// Chunks are not larger than this even where the device would take more: packing one costs host memory
/// of twice its size. WebGPU's default limit of a binding, so most devices see the same chunks.
const LARGEST_CHUNK: u64 = 128 << 20;
/// Invocations per workgroup of the naive kernels; as in the shader.
const NAIVE_GROUP: usize = 64;

/// Values of some rows of a matrix, row by row without padding.
#[derive(Debug, Clone, PartialEq)]
pub enum MatrixValues {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision, as bits.
    F16(Vec<u16>),
}

/// Reads a range of rows on demand.
pub type RowLoader = Arc<dyn Fn(Range<usize>) -> Result<MatrixValues> + Send + Sync>;

/// Weights of a fully connected layer; read from their file when a kernel wants them, not before. The
/// device holds one copy, which serves forward and backward.
#[derive(Clone)]
pub struct Matrix {
    /// Identity: the same id means the same weights.
    pub id: String,
    /// Rows: length of the output.
    pub rows: usize,
    /// Columns: length of the input.
    pub columns: usize,
    /// True to keep the weights in f16 on the device; all arithmetic is f32.
    pub half: bool,
    /// Reads the weights. Called once for each chunk of rows, so nobody ever holds the whole matrix.
    /// Values of the other precision are converted.
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

/// `y = W x + b`, rectified if `relu`. Input: x, a vector.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Weights and biases.
    pub matrix: Arc<Matrix>,
    /// True to rectify the result.
    pub relu: bool,
}

/// Adjoint of [`Linear`] with respect to x: `dx = W^T dy`, with dy masked where a rectified y is 0.
/// Inputs: y (used only with ReLU), dy.
#[derive(Debug, Clone)]
pub struct LinearBackward {
    /// The forward op.
    pub linear: Linear,
}

/// Workgroup sizes for one kind of device.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    /// Invocations per workgroup.
    group: usize,
    /// Backward: parts of the rows that a workgroup sums at the same time.
    slices: usize,
    /// Backward: words of columns per invocation.
    columns: usize,
}

impl Tuning {
    /// A software driver runs the subgroups of a workgroup one after the other, each over the whole
    /// length of the rows, so that more than one re-reads memory that the caches have lost by then:
    /// measured on lavapipe, 64 invocations take four times as long as 8. Backward it walks across the
    /// rows; wide strips keep that from missing the caches at every step: one word per invocation takes
    /// three times as long as four. A GPU wants larger groups, and backward more invocations than there
    /// are words in a row.
    fn choose(device: &Profile) -> Self {
        if device.prefers(Family::Texture) {
            let lanes = device.lanes.filter(|lanes| lanes.is_power_of_two()).unwrap_or(8);
            Self { group: lanes.clamp(4, 64) as usize, slices: 1, columns: 4 }
        } else {
            Self { group: 64, slices: 8, columns: 1 }
        }
    }
}

impl Matrix {
    /// The matrix as this device keeps it.
    fn on(self: &Arc<Self>, device: &Profile) -> Arc<Self> {
        if !device.half_weights || self.half {
            return self.clone();
        }
        Arc::new(Self { half: true, ..Self::clone(self) })
    }

    /// Words in a row.
    fn words(&self) -> usize {
        self.columns.div_ceil(if self.half { 8 } else { 4 })
    }

    /// The rows of each chunk: as few chunks of at most `largest` bytes as the device's limits allow.
    fn chunks(&self, device: &Profile, largest: u64) -> Result<Vec<Range<usize>>> {
        let limit = largest.min(device.max_binding).min(device.max_buffer);
        let row = (self.words() * WORD) as u64;
        // Very long rows may make a chunk larger than `largest`, as long as the device takes it.
        let least = if row * ROWS as u64 <= device.max_binding.min(device.max_buffer) { ROWS } else { 0 };
        // Backward an invocation may walk down all rows of a chunk.
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

    /// Some rows, in the precision in which they are stored.
    fn load(&self, rows: Range<usize>) -> Result<MatrixValues> {
        let values = match ((self.values)(rows.clone())?, self.half) {
            (MatrixValues::F32(values), true) => {
                MatrixValues::F16(values.iter().map(|value| f16::from_f32(*value).to_bits()).collect())
            }
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
            return Err(mismatch("linear", &format!("{self:?}: rows {rows:?} came as {length} values")));
        }
        Ok(values)
    }

    /// Some rows as the shader reads them: each padded with zeros to whole words.
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
    fn constant(self: &Arc<Self>, rows: Range<usize>, storage: Storage) -> Operand {
        let matrix = self.clone();
        let precision = if self.half { "f16" } else { "f32" };
        Operand::Constant(Constant {
            key: format!("{} rows {} to {} in {precision}", self.id, rows.start, rows.end),
            storage,
            bytes: (rows.len() * self.words() * WORD) as u64,
            make: Making::host(move || matrix.pack(rows.clone())),
        })
    }

    /// The biases, padded to whole quads.
    fn bias_constant(&self) -> Operand {
        let load = self.bias.clone();
        let padded = self.rows.next_multiple_of(4);
        Operand::Constant(Constant {
            key: format!("{} bias", self.id),
            storage: Storage::Buffer,
            bytes: padded as u64 * 4,
            make: Making::host(move || {
                let mut bias = load()?;
                bias.resize(padded, 0.0);
                Ok(bytemuck::cast_slice(&bias).to_vec())
            }),
        })
    }

    /// The whole matrix in f64, for references.
    fn wide(&self) -> Vec<f64> {
        match self.load(0..self.rows).expect("weights") {
            MatrixValues::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            MatrixValues::F16(values) => values.iter().map(|bits| f16::from_bits(*bits).to_f64()).collect(),
        }
    }
}

impl Linear {
    /// A kernel of one dispatch per chunk, which `finish` completes; here is what all have in common.
    fn kernel(
        &self,
        variant: &'static str,
        entry: &'static str,
        device: &Profile,
        finish: impl Fn(Dispatch, Range<usize>) -> Dispatch,
    ) -> Result<Kernel> {
        let matrix = self.matrix.on(device);
        let dispatch = |rows: Range<usize>| {
            let dispatch = Dispatch::new("linear", entry)
                .consts(&[("HALF", u32::from(matrix.half)), ("RELU", u32::from(self.relu))])
                .bind("weights", matrix.constant(rows.clone(), Storage::Buffer))
                .bind("output", Operand::Output)
                .size("rows", rows.len())
                .size("first", rows.start)
                .size("words", matrix.words())
                .size("column_quads", matrix.columns.div_ceil(4));
            finish(dispatch, rows)
        };
        let dispatches = matrix.chunks(device, LARGEST_CHUNK)?.into_iter().map(dispatch).collect();
        Ok(Kernel::of(variant, dispatches))
    }

    /// The kernels in the order of preference; only the naive one if that was asked for.
    fn choices(device: &Profile, texture: Option<Kernel>, buffer: Kernel, naive: Kernel) -> Vec<Kernel> {
        if device.prefers(Family::Naive) {
            return vec![naive];
        }
        texture.into_iter().chain([buffer, naive]).collect()
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        if inputs[0].expect_vector("linear")? != self.matrix.columns {
            return Err(mismatch("linear", &format!("{:?} does not take {} values", self.matrix, inputs[0])));
        }
        Ok(Shape::Vector(self.matrix.rows))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let bind = |dispatch: Dispatch| {
            dispatch.bind("input", Operand::Input(0)).bind("bias", self.matrix.bias_constant())
        };
        let group = Tuning::choose(device).group as u32;
        let words = self.matrix.on(device).words();
        let tuned = self.kernel("buffer", "forward", device, |dispatch, rows| {
            bind(dispatch).consts(&[("GROUP", group)]).linear(rows.len(), ROWS, device)
        })?;
        let naive = self.kernel("naive", "naive_forward", device, |dispatch, rows| {
            bind(dispatch).loops(words).linear(rows.len().div_ceil(4), NAIVE_GROUP, device)
        })?;
        Ok(Self::choices(device, tiles::kernel(self, false, device)?, tuned, naive))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let bias = (self.matrix.bias)().expect("bias");
        let weights = self.matrix.wide();
        let row = |(row, bias): (&[f64], &f32)| {
            let y: f64 = f64::from(*bias) + row.iter().zip(inputs[0]).map(|(w, x)| w * x).sum::<f64>();
            if self.relu { y.max(0.0) } else { y }
        };
        weights.chunks_exact(self.matrix.columns).zip(&bias).map(row).collect()
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(LinearBackward { linear: self.clone() }, &[Source::Output, Source::Upstream])
    }

    fn flops(&self, _signature: &Signature) -> u64 {
        2 * (self.matrix.rows * self.matrix.columns) as u64
    }
}

impl Op for LinearBackward {
    fn name(&self) -> &'static str {
        "linear_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let matrix = &self.linear.matrix;
        let expected = Shape::Vector(matrix.rows);
        if inputs[0] != expected || inputs[1] != expected {
            let message = format!("{matrix:?} does not give {} and {}", inputs[0], inputs[1]);
            return Err(mismatch("linear_backward", &message));
        }
        Ok(Shape::Vector(matrix.columns))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let Tuning { group, slices, columns } = Tuning::choose(device);
        let words = self.linear.matrix.on(device).words();
        let bind = |dispatch: Dispatch| {
            dispatch.bind("activation", Operand::Input(0)).bind("upstream", Operand::Input(1))
        };
        let tuned = self.linear.kernel("buffer", "backward", device, |dispatch, _| {
            bind(dispatch)
                .consts(&[("GROUP", group as u32), ("SLICES", slices as u32), ("WORDS", columns as u32)])
                .linear(words, group / slices * columns, device)
        })?;
        let naive = self.linear.kernel("naive", "naive_backward", device, |dispatch, rows| {
            bind(dispatch).loops(rows.len()).linear(words, NAIVE_GROUP, device)
        })?;
        Ok(Linear::choices(device, tiles::kernel(&self.linear, true, device)?, tuned, naive))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let matrix = &self.linear.matrix;
        let mut dx = vec![0.0; matrix.columns];
        for (r, row) in matrix.wide().chunks_exact(matrix.columns).enumerate() {
            if !self.linear.relu || inputs[0][r] > 0.0 {
                dx.iter_mut().zip(row).for_each(|(dx, w)| *dx += w * inputs[1][r]);
            }
        }
        dx
    }

    fn flops(&self, signature: &Signature) -> u64 {
        self.linear.flops(signature)
    }
}

/// One invocation sums at most a thousand products before the tree over the workgroup: rounding of
/// 6e-8 * sqrt(1000) = 2e-6 of the result's scale. The naive kernel sums up to 6272 words one after the
/// other: 6e-8 * sqrt(6272) = 4.8e-6.
const TOLERANCE: f64 = 5e-6;

impl Matrix {
    /// A matrix of irregular values that depend only on their position, so that any rows can be had on
    /// their own, scaled like an initialised layer. With `id`s alike, so are the values.
    #[doc(hidden)]
    pub fn sample(rows: usize, columns: usize, half: bool) -> Arc<Self> {
        let scale = (6.0 / columns as f32).sqrt();
        // A multiplicative hash; test data only has to be irregular.
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

/// Each layer that is tested: one word and many, whole words and not, rows that end within a quad and
/// within a workgroup.
fn samples() -> Vec<Linear> {
    [
        (1, 1, false, false),
        (1, 1, true, true),
        (3, 5, false, true),
        (10, 7, true, false),
        (4, 8, true, true),
        (17, 67, true, true),
        (64, 129, false, false),
        (11, 300, true, true),
        (1000, 257, true, false),
        (1000, 263, false, true),
        (5, 25088, false, true),
        (5, 25088, true, false),
    ]
    .map(|(rows, columns, half, relu)| Linear { matrix: Matrix::sample(rows, columns, half), relu })
    .into()
}

pub(super) fn cases() -> Vec<Case> {
    let case = |linear: Linear| {
        let shape = Shape::Vector(linear.matrix.columns);
        Case::normal(linear, &[shape], TOLERANCE)
    };
    samples().into_iter().map(case).collect()
}

pub(super) fn backward_cases() -> Vec<Case> {
    let case = |linear: Linear| {
        let shape = Shape::Vector(linear.matrix.rows);
        let inputs = [(shape, CaseInput::Rectified), (shape, CaseInput::Normal)];
        Case::drawn(LinearBackward { linear }, &inputs, TOLERANCE)
    };
    samples().into_iter().map(case).collect()
}
