//! The safetensors file and the tensors in it, read when asked for: on disk, or inside the program.
//!
//! The file is read in pieces rather than mapped: mapped pages count as the process's memory long after the
//! weights are on the device, and a file that another process shortens would end this one with a bus error.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::files::{LENGTH_BYTES, LONGEST_HEADER};
use crate::{Error, Result};

/// Said wherever a weights file is beyond repair.
pub(super) const FETCH_AGAIN: &str = "Copy or download the file again";
/// Said wherever a file may be fine for another program but not for this one.
pub(super) const CONVERT: &str = "Give a safetensors file of a VGG network; tools/convert_weights.py makes one from .pth, .h5 and .caffemodel files";

/// The largest file that is read, in bytes: the full VGG-19 has 575 MB.
const LARGEST_FILE: u64 = 1 << 32;
/// The file is read in pieces of this size, a multiple of every number's.
const PIECE: usize = 1 << 20;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
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

/// A weight tensor in the file: read only when asked for, cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    file: Arc<OpenedFile>,
    name: Arc<str>,
    dtype: DType,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The opened file and the path that its errors name.
struct OpenedFile {
    path: PathBuf,
    content: Content,
    length: usize,
    modified: Option<SystemTime>,
}

/// Where a file's bytes are.
enum Content {
    Disk(Mutex<File>),
    /// Bytes that are part of the program; they are read where they lie.
    Memory(&'static [u8]),
}

impl OpenedFile {
    /// Hands the bytes of a range to `take`, in order and in pieces.
    fn read(&self, range: Range<usize>, mut take: impl FnMut(&[u8])) -> Result<()> {
        let unreadable = |error: std::io::Error| {
            let problem = format!("the weights file can't be read: {error}");
            Error::file(&self.path, problem, "Check the disk, and that no other program changes the file")
        };
        let file = match &self.content {
            Content::Disk(file) => file,
            Content::Memory(bytes) => {
                let part = bytes.get(range);
                take(part.ok_or_else(|| unreadable(std::io::ErrorKind::UnexpectedEof.into()))?);
                return Ok(());
            }
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start as u64)).map_err(unreadable)?;
        let mut piece = vec![0; range.len().min(PIECE)];
        let mut left = range.len();
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE)];
            file.read_exact(piece).map_err(unreadable)?;
            take(piece);
            left -= piece.len();
        }
        Ok(())
    }

    /// The bytes of a range.
    fn bytes(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(range.len());
        self.read(range, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }
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
        let mut values: Vec<f32> = Vec::with_capacity(self.elements());
        self.read(|bytes| match self.dtype {
            DType::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            DType::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            DType::Bf16 => {
                values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()));
            }
        })?;
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
        let mut values: Vec<u16> = Vec::with_capacity(self.elements());
        self.read(|bytes| values.extend(bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b))))?;
        match values.iter().position(|bits| is_not_finite(*bits, HALF_EXPONENT)) {
            None => Ok(Some(values)),
            Some(first) => Err(self.not_finite(first)),
        }
    }

    /// Checks that every number is finite, without keeping any.
    ///
    /// # Errors
    /// [`Error::File`] that names the tensor and its first NaN or infinity.
    pub fn check_finite(&self) -> Result<()> {
        let (mut first, mut before) = (None, 0);
        self.read(|bytes| {
            let half =
                |mask| bytes.as_chunks().0.iter().position(|b| is_not_finite(u16::from_le_bytes(*b), mask));
            let found = match self.dtype {
                DType::F32 => bytes.as_chunks().0.iter().position(|b| !f32::from_le_bytes(*b).is_finite()),
                DType::F16 => half(HALF_EXPONENT),
                DType::Bf16 => half(BF16_EXPONENT),
            };
            first = first.or(found.map(|at| before + at));
            before += bytes.len() / self.dtype.size();
        })?;
        first.map_or(Ok(()), |first| Err(self.not_finite(first)))
    }

    /// An error about this tensor: `problem` follows the tensor's name.
    pub(super) fn error(&self, problem: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error::file(&self.file.path, format!("tensor {} {problem}", self.name), remedy)
    }

    /// Hands the tensor's bytes to `take`, in pieces of whole numbers.
    fn read(&self, take: impl FnMut(&[u8])) -> Result<()> {
        if self.range.end > self.file.length {
            return Err(self.error("lies outside the file", FETCH_AGAIN));
        }
        self.file.read(self.range.clone(), take)
    }

    fn not_finite(&self, first: usize) -> Error {
        self.error(
            format_args!("holds a NaN or infinite value (element {first} of {})", self.elements()),
            "The file is damaged or its training diverged; use another copy of the weights",
        )
    }
}

/// Bits of the exponent of [`DType::F16`].
const HALF_EXPONENT: u16 = 0x7c00;
/// Bits of the exponent of [`DType::Bf16`].
const BF16_EXPONENT: u16 = 0x7f80;

/// True for NaN and infinity: all bits of the exponent are set.
fn is_not_finite(bits: u16, exponent: u16) -> bool {
    bits & exponent == exponent
}

/// An opened weights file: every tensor by key, and the free-form metadata.
pub(super) struct WeightFile {
    file: Arc<OpenedFile>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// A tensor, or the name of a number format that this crate doesn't read.
enum Entry {
    Tensor(Tensor),
    Foreign(String),
}

impl WeightFile {
    /// Opens the file and reads its header.
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
        // Not opened before: a pipe may keep its reader waiting for ever.
        let kind = path.metadata().map_err(unreadable)?;
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
        // Its hash alone would take minutes.
        if kind.len() > LARGEST_FILE {
            return Err(Error::file(path, "the file is larger than 4 GiB: no VGG network is", CONVERT));
        }
        let file = File::open(path).map_err(unreadable)?;
        let length = usize::try_from(kind.len()).unwrap_or(usize::MAX);
        let modified = kind.modified().ok();
        Self::new(OpenedFile {
            path: path.to_owned(),
            content: Content::Disk(Mutex::new(file)),
            length,
            modified,
        })
    }

    /// Reads the header of a file whose bytes are part of the program. Errors name it `name`.
    ///
    /// # Errors
    /// [`Error::File`] if the bytes aren't a complete safetensors file.
    pub fn of_bytes(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let content = Content::Memory(bytes);
        Self::new(OpenedFile { path: name.into(), content, length: bytes.len(), modified: None })
    }

    fn new(file: OpenedFile) -> Result<Self> {
        let file = Arc::new(file);
        let (header, data_start) = read_header(&file)?;

        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors() {
            let entry = match DType::of(info.dtype) {
                Some(dtype) => Entry::Tensor(Tensor {
                    file: Arc::clone(&file),
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
        Ok(Self { file, tensors, metadata })
    }

    /// The path, and a hash of length and time of the last change: another text for a file that was replaced.
    pub fn identity(&self) -> String {
        let mut hash = DefaultHasher::new();
        (self.file.length, self.file.modified).hash(&mut hash);
        format!("{:?} (version {:08x})", self.file.path, hash.finish() as u32)
    }

    /// The path as given to [`WeightFile::open`], or the name given to [`WeightFile::of_bytes`].
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Hands the whole file to `take`, in order and in pieces.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read.
    pub fn read(&self, take: impl FnMut(&[u8])) -> Result<()> {
        self.file.read(0..self.file.length, take)
    }

    /// Its size in bytes.
    pub fn length(&self) -> usize {
        self.file.length
    }

    /// Bytes of it that are in memory once it was read.
    pub fn resident(&self) -> usize {
        match self.file.content {
            Content::Disk(_) => 0,
            Content::Memory(bytes) => bytes.len(),
        }
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
fn read_header(file: &OpenedFile) -> Result<(Metadata, usize)> {
    let path = &file.path;
    let foreign = |why: String| Error::file(path, format!("this is not a safetensors file ({why})"), CONVERT);
    let start = file.bytes(0..file.length.min(LENGTH_BYTES + 1))?;
    let Some((length, first)) = start.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(foreign(format!("it has only {} bytes", start.len())));
    };
    // A header is a JSON object, so anything else at its first byte is another kind of file.
    if first != b"{" {
        return Err(foreign("its header is not JSON".into()));
    }
    let length = u64::from_le_bytes(*length);
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_BYTES));
    let Some(data_start) = end.filter(|end| *end <= file.length) else {
        let problem = format!(
            "the file is truncated: its header of {length} bytes ends beyond the file's {}",
            file.length
        );
        return Err(Error::file(path, problem, FETCH_AGAIN));
    };
    if data_start as u64 > LONGEST_HEADER {
        let problem = format!("its header of {length} bytes is longer than that of any network");
        return Err(Error::file(path, problem, FETCH_AGAIN));
    }
    let header = file.bytes(LENGTH_BYTES..data_start)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| {
        Error::file(path, format!("the safetensors header is damaged: {error}"), FETCH_AGAIN)
    })?;
    let available = file.length - data_start;
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
