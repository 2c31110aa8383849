//! Reads tensors on demand from a safetensors file on disk or embedded in the program.
//!
//! The file is read in pieces rather than memory-mapped: mapped pages count as the process's memory long after the
//! weights are on the device, and if another process truncated a mapped file, this one would die with a bus error.

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

/// Remedy for a damaged weights file.
pub(super) const FETCH_AGAIN: &str = "Copy or download the file again";
/// Remedy for an intact file in an unsupported format.
pub(super) const CONVERT: &str = "Use a safetensors file of a VGG network; tools/convert_weights.py makes one from .pth, .h5 and .caffemodel files";

/// Largest accepted file, in bytes. The full VGG-19 has 575 MB.
const LARGEST_FILE: u64 = 1 << 32;
/// Bytes read at a time, a multiple of the size of every number format.
const PIECE: usize = 1 << 20;

/// The number format of a tensor.
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
    /// Returns the bytes per number.
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

/// A weight tensor in the file. Its values are read on demand; clones are cheap.
#[derive(Clone)]
pub struct Tensor {
    file: Arc<OpenedFile>,
    name: Arc<str>,
    dtype: DType,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The opened file and the path used in errors.
struct OpenedFile {
    path: PathBuf,
    content: Content,
    length: usize,
    modified: Option<SystemTime>,
}

/// The source of a file's bytes.
enum Content {
    Disk(Mutex<File>),
    /// Bytes embedded in the program, read in place.
    Memory(&'static [u8]),
}

impl OpenedFile {
    /// Passes the bytes of a range to `take`, in order and in pieces.
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

    /// Reads the bytes of a range.
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
    /// Returns the dimensions as in the file, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the tensor's key in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Returns rows `rows` of the tensor (entries of its first dimension), clipped to the existing ones.
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

    /// Returns the tensor's size in the file, in bytes.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }

    /// Reads all numbers in the file's order (last dimension fastest), widened to single precision.
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

    /// Reads the half-precision bit patterns in the order of [`Tensor::to_f32`]; `None` if the tensor isn't
    /// stored as [`DType::F16`].
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

    /// Checks that every number is finite, without keeping them in memory.
    ///
    /// # Errors
    /// [`Error::File`] with the tensor and its first NaN or infinite element.
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

    /// Creates an error about this tensor; `problem` follows the tensor's name.
    pub(super) fn error(&self, problem: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error::file(&self.file.path, format!("tensor {} {problem}", self.name), remedy)
    }

    /// Passes the tensor's bytes to `take`, in pieces of whole numbers.
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

/// Exponent bits of [`DType::F16`].
const HALF_EXPONENT: u16 = 0x7c00;
/// Exponent bits of [`DType::Bf16`].
const BF16_EXPONENT: u16 = 0x7f80;

/// Returns true for NaN and infinity: all exponent bits are set.
fn is_not_finite(bits: u16, exponent: u16) -> bool {
    bits & exponent == exponent
}

/// An opened weights file: every tensor by key, and the free-form metadata.
pub(super) struct WeightFile {
    file: Arc<OpenedFile>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// A tensor, or the name of an unsupported number format.
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
        // Checked before opening: opening a pipe may block forever.
        let kind = path.metadata().map_err(unreadable)?;
        if kind.is_dir() {
            return Err(Error::file(
                path,
                "this is a folder, not a weights file",
                "Use the .safetensors file in it",
            ));
        }
        if !kind.is_file() {
            return Err(Error::file(path, "this is not a regular file", CONVERT));
        }
        if kind.len() == 0 {
            return Err(Error::file(path, "the weights file is empty (0 bytes)", FETCH_AGAIN));
        }
        // Hashing a larger file would take minutes.
        if kind.len() > LARGEST_FILE {
            return Err(Error::file(path, "the file is larger than 4 GiB, so it is no VGG network", CONVERT));
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

    /// Reads the header of a file embedded in the program; errors call it `name`.
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

    /// Returns the path and a hash of length and modification time; it changes if the file is replaced.
    pub fn identity(&self) -> String {
        let mut hash = DefaultHasher::new();
        (self.file.length, self.file.modified).hash(&mut hash);
        format!("{:?} (version {:08x})", self.file.path, hash.finish() as u32)
    }

    /// Returns the path given to [`WeightFile::open`], or the name given to [`WeightFile::of_bytes`].
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Passes the whole file to `take`, in order and in pieces.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read.
    pub fn read(&self, take: impl FnMut(&[u8])) -> Result<()> {
        self.file.read(0..self.file.length, take)
    }

    /// Returns the size in bytes.
    pub fn length(&self) -> usize {
        self.file.length
    }

    /// Returns the bytes of the file that stay in memory: all if it is embedded, else 0.
    pub fn resident(&self) -> usize {
        match self.file.content {
            Content::Disk(_) => 0,
            Content::Memory(bytes) => bytes.len(),
        }
    }

    /// Returns all keys of the file, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns a value of the file's free-form metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Returns the number of dimensions of a tensor, if it exists in a supported number format.
    pub fn rank(&self, key: &str) -> Option<usize> {
        match self.tensors.get(key) {
            Some(Entry::Tensor(tensor)) => Some(tensor.shape.len()),
            _ => None,
        }
    }

    /// Returns the tensor stored under `key`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, if it is empty, or if its number format is not supported.
    pub fn tensor(&self, key: &str) -> Result<Tensor> {
        match self.tensors.get(key) {
            None => Err(self.error(format!("tensor {key} is missing"), FETCH_AGAIN)),
            Some(Entry::Foreign(dtype)) => Err(self.error(
                format!("tensor {key} is stored as {dtype}, but only F32, F16 and BF16 are supported"),
                "Convert it to one of these",
            )),
            Some(Entry::Tensor(tensor)) if tensor.range.is_empty() => {
                Err(tensor.error(format_args!("is empty (shape {:?})", tensor.shape), FETCH_AGAIN))
            }
            Some(Entry::Tensor(tensor)) => Ok(tensor.clone()),
        }
    }

    /// Creates an [`Error::File`] about this file.
    pub fn error(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::file(self.path(), problem, remedy)
    }
}

/// Reads the header; also returns the offset of the tensors' data.
///
/// `SafeTensors::deserialize` adds lengths from the file without an overflow check, so a forged header could
/// make it panic.
fn read_header(file: &OpenedFile) -> Result<(Metadata, usize)> {
    let path = &file.path;
    let foreign = |why: String| Error::file(path, format!("this is not a safetensors file ({why})"), CONVERT);
    let start = file.bytes(0..file.length.min(LENGTH_BYTES + 1))?;
    let Some((length, first)) = start.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(foreign(format!("it has only {} bytes", start.len())));
    };
    // A header is a JSON object; with another first byte it is another kind of file.
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
            format!("the file is truncated: its tensors need {stated} bytes, but it has {available}"),
            FETCH_AGAIN,
        )),
        stated => Err(Error::file(
            path,
            format!("the file is damaged: {} bytes follow its last tensor", available - stated),
            FETCH_AGAIN,
        )),
    }
}
