//! The memory-mapped safetensors file and the tensors in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::{Error, Result};

/// Said wherever a weights file is beyond repair.
pub(super) const FETCH_AGAIN: &str = "Copy or download the file again";
/// Said wherever a file may be fine for another program but not for this one.
pub(super) const CONVERT: &str = "Give a safetensors file of a VGG network; tools/convert_weights.py makes one from .pth, .h5 and .caffemodel files";

/// Length of the number that opens a safetensors file, in bytes.
const LENGTH_BYTES: usize = 8;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes.
    F16,
    /// The upper half of a single-precision number, 2 bytes.
    Bf16,
}

impl DType {
    /// Bytes that one number takes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        })
    }
}

/// A weight tensor inside the mapped file: read only when asked for, cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    map: Arc<Mapped>,
    name: Arc<str>,
    dtype: DType,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The mapping and the path that its errors name.
struct Mapped {
    path: PathBuf,
    bytes: Mmap,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.shape)
    }
}

impl Tensor {
    /// The dimensions as the file states them, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the numbers are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The tensor's key in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many numbers the tensor holds.
    pub fn elements(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Rows `rows` of the tensor (entries of its first dimension), clipped to those it has.
    pub(super) fn rows(&self, rows: Range<usize>) -> Self {
        let count = self.shape.first().copied().unwrap_or(1).max(1);
        let row = self.range.len() / count;
        let (start, end) = (rows.start.min(count), rows.end.min(count));
        let mut part = self.clone();
        part.range = self.range.start + start * row..self.range.start + end.max(start) * row;
        if let Some(first) = part.shape.first_mut() {
            *first = end.max(start) - start;
        }
        part
    }

    /// Bytes that the tensor takes in the file.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }

    /// All numbers in the file's order (last dimension fastest), widened to single precision.
    ///
    /// # Errors
    /// [`Error::File`] if a number is NaN or infinite.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let bytes = self.bytes()?;
        let values: Vec<f32> = match self.dtype {
            DType::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            DType::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            DType::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        };
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(first) => Err(self.not_finite(first)),
        }
    }

    /// The half-precision bit patterns in the order of [`Tensor::to_f32`], or `None` if the tensor
    /// isn't stored as [`DType::F16`].
    ///
    /// # Errors
    /// [`Error::File`] if a number is NaN or infinite.
    pub fn to_f16_bits(&self) -> Result<Option<Vec<u16>>> {
        if self.dtype != DType::F16 {
            return Ok(None);
        }
        self.check_finite()?;
        Ok(Some(self.bytes()?.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect()))
    }

    /// Checks that every number is finite, without keeping any.
    ///
    /// # Errors
    /// [`Error::File`] that names the tensor and its first NaN or infinity.
    pub fn check_finite(&self) -> Result<()> {
        let bytes = self.bytes()?;
        // A number is NaN or infinite when all its exponent bits are set.
        let half = |mask: u16| bytes.as_chunks().0.iter().position(|b| u16::from_le_bytes(*b) & mask == mask);
        let first = match self.dtype {
            DType::F32 => bytes.as_chunks().0.iter().position(|b| !f32::from_le_bytes(*b).is_finite()),
            DType::F16 => half(0x7c00),
            DType::Bf16 => half(0x7f80),
        };
        first.map_or(Ok(()), |first| Err(self.not_finite(first)))
    }

    /// An error about this tensor: `problem` follows the tensor's name.
    pub(super) fn error(&self, problem: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error::file(&self.map.path, format!("tensor {} {problem}", self.name), remedy)
    }

    fn bytes(&self) -> Result<&[u8]> {
        let bytes = self.map.bytes.get(self.range.clone());
        bytes.ok_or_else(|| self.error("lies outside the file", FETCH_AGAIN))
    }

    fn not_finite(&self, first: usize) -> Error {
        self.error(
            format_args!("holds a NaN or infinite value (element {first} of {})", self.elements()),
            "The file is damaged or its training diverged; use another copy of the weights",
        )
    }
}

/// An opened weights file: every tensor by key, and the free-form metadata.
pub(super) struct WeightFile {
    map: Arc<Mapped>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// A tensor, or the name of a number format that this crate doesn't read.
enum Entry {
    Tensor(Tensor),
    Foreign(String),
}

impl WeightFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// [`Error::File`] if the path isn't a readable, complete safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => "Check the path given for the weights",
                _ => "Check the file's permissions",
            };
            Error::file(path, format!("the weights file can't be opened: {error}"), remedy)
        };
        let file = File::open(path).map_err(unreadable)?;
        let kind = file.metadata().map_err(unreadable)?;
        if kind.is_dir() {
            return Err(Error::file(
                path,
                "this is a folder, not a weights file",
                "Name the .safetensors file in it",
            ));
        }
        if !kind.is_file() {
            return Err(Error::file(path, "this is not a regular file", CONVERT));
        }
        if kind.len() == 0 {
            return Err(Error::file(path, "the weights file is empty (0 bytes)", FETCH_AGAIN));
        }
        // SAFETY: the mapping is read-only and private to this struct. Another process that
        // truncates the file meanwhile would end this one with a bus error; there is no portable
        // guard against that, and reading half a gigabyte into memory instead costs too much.
        let bytes = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let (header, data_start) = read_header(path, &bytes)?;

        let map = Arc::new(Mapped { path: path.to_owned(), bytes });
        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors() {
            let entry = match DType::of(info.dtype) {
                Some(dtype) => Entry::Tensor(Tensor {
                    map: Arc::clone(&map),
                    name: name.as_str().into(),
                    dtype,
                    shape: info.shape.clone(),
                    range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
                }),
                None => Entry::Foreign(format!("{:?}", info.dtype)),
            };
            tensors.insert(name, entry);
        }
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { map, tensors, metadata })
    }

    /// The path as given to [`WeightFile::open`].
    pub fn path(&self) -> &Path {
        &self.map.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map.bytes
    }

    /// Every key of the file, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A value of the file's free-form metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The number of dimensions of a tensor, if it exists in a readable number format.
    pub fn rank(&self, key: &str) -> Option<usize> {
        match self.tensors.get(key) {
            Some(Entry::Tensor(tensor)) => Some(tensor.shape.len()),
            _ => None,
        }
    }

    /// The tensor stored under `key`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, if it is empty, or if its number format is not supported.
    pub fn tensor(&self, key: &str) -> Result<Tensor> {
        match self.tensors.get(key) {
            None => Err(self.error(format!("tensor {key} is missing"), FETCH_AGAIN)),
            Some(Entry::Foreign(dtype)) => Err(self.error(
                format!("tensor {key} is stored as {dtype}, but only F32, F16 and BF16 are read"),
                "Convert it to one of these",
            )),
            Some(Entry::Tensor(tensor)) if tensor.range.is_empty() => {
                Err(tensor.error(format_args!("is empty (shape {:?})", tensor.shape), FETCH_AGAIN))
            }
            Some(Entry::Tensor(tensor)) => Ok(tensor.clone()),
        }
    }

    /// An [`Error::File`] about this file.
    pub fn error(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::file(self.path(), problem, remedy)
    }
}

/// Reads the header, and the offset at which the tensors' data begin.
///
/// `SafeTensors::deserialize` does the same, but adds lengths from the file without an overflow
/// check, which a forged header can use to make it panic.
fn read_header(path: &Path, bytes: &[u8]) -> Result<(Metadata, usize)> {
    let foreign = |why: String| Error::file(path, format!("this is not a safetensors file ({why})"), CONVERT);
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(foreign(format!("it has only {} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    // A header is a JSON object, so anything else at its first byte is another kind of file.
    if rest.first() != Some(&b'{') {
        return Err(foreign("its header is not JSON".into()));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
        Error::file(
            path,
            format!(
                "the file is truncated: its header of {length} bytes ends beyond the file's {}",
                bytes.len()
            ),
            FETCH_AGAIN,
        )
    })?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| {
        Error::file(path, format!("the safetensors header is damaged: {error}"), FETCH_AGAIN)
    })?;
    let data_start = LENGTH_BYTES + header.len();
    let available = bytes.len() - data_start;
    match metadata.data_len() {
        stated if stated == available => Ok((metadata, data_start)),
        stated if stated > available => Err(Error::file(
            path,
            format!("the file is truncated: its tensors need {stated} bytes, {available} are there"),
            FETCH_AGAIN,
        )),
        stated => Err(Error::file(
            path,
            format!("the file is damaged: {} bytes follow its last tensor", available - stated),
            FETCH_AGAIN,
        )),
    }
}
