//! Arrays of numbers in files: NumPy's .npy files, and tensors in .safetensors files.

mod element;

pub use element::Element;

use crate::allocation::zeros;
use crate::error::{Error, Result};
use crate::files::{LENGTH_BYTES, LONGEST_HEADER, open_ordinary};
use crate::workbench::Difference;
use npyz::{DType, Endianness, NpyFile, Order, WriteOptions, WriterBuilder as _};
use safetensors::tensor::Metadata;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Maximum bytes of the header of a .npy file; NumPy itself reads 10,000.
const LONGEST_NPY_HEADER: usize = 1 << 14;
/// Maximum nesting of brackets in such a header, as in records of records. npyz takes four times as long for each
/// additional level.
const DEEPEST_NPY_HEADER: usize = 7;

/// Numbers of one type with their dimensions; the last dimension varies fastest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Type of the numbers.
    pub element: Element,
    /// Dimensions, outermost first; empty for a single number.
    pub shape: Vec<usize>,
    /// Bytes of the numbers, little-endian.
    pub bytes: Vec<u8>,
}

/// Formats dimensions for messages: `64x32`, or `one number`.
pub fn dimensions(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "one number".to_owned();
    }
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

/// Product of dimensions; `None` if it exceeds any possible memory.
pub fn count(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side))?;
    (count <= isize::MAX as usize / 8).then_some(count)
}

impl Array {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.element.size()
    }

    /// Returns all numbers as f64.
    pub fn widen(&self) -> Vec<f64> {
        self.each(Element::widen).collect()
    }

    /// Compares the numbers with those of `expected`. Integers on both sides are compared exactly, because f64 can't
    /// represent all 64-bit integers.
    pub fn difference(&self, expected: &Self) -> Difference {
        if self.element.is_float() || expected.element.is_float() {
            let [actual, expected] =
                [self, expected].map(|array| array.each(|element, bytes| element.widen(bytes)));
            return Difference::between(actual, expected);
        }
        let [actual, expected] = [self, expected]
            .map(|array| array.each(|element, bytes| element.integer(bytes).unwrap_or_default()));
        Difference::between_integers(actual, expected)
    }

    /// Formats one number, integers with all digits. Empty if the index is out of range.
    pub fn number(&self, index: usize) -> String {
        let bytes = self.bytes.chunks_exact(self.element.size()).nth(index);
        bytes.map_or_else(String::new, |bytes| match self.element.integer(bytes) {
            Some(integer) => integer.to_string(),
            None => format!("{:e}", self.element.widen(bytes)),
        })
    }

    fn each<T>(&self, read: impl Fn(Element, &[u8]) -> T) -> impl ExactSizeIterator<Item = T> {
        self.bytes.chunks_exact(self.element.size()).map(move |bytes| read(self.element, bytes))
    }

    /// Converts the numbers to f32 with rounding.
    #[must_use]
    pub fn to_f32(&self) -> Self {
        let bytes = self.widen().into_iter().flat_map(|value| (value as f32).to_le_bytes()).collect();
        Self { element: Element::F32, shape: self.shape.clone(), bytes }
    }

    /// Reads a .npy file of numbers. Records (a structured array) become bytes, with one more dimension.
    ///
    /// # Errors
    /// [`Error::File`] if it is not such a file, is shorter than its header says, is in Fortran order or big-endian, or
    /// contains numbers of other types.
    pub fn read_npy(path: &Path) -> Result<Self> {
        Self::read_npy_or_records(path).map(|(array, _)| array)
    }

    /// Reads a .npy file like [`Array::read_npy`]. Also returns whether it contains records.
    ///
    /// # Errors
    /// As [`Array::read_npy`].
    pub(in crate::workbench) fn read_npy_or_records(path: &Path) -> Result<(Self, bool)> {
        let (file, length) = open(path)?;
        let broken = |error: std::io::Error| {
            let problem = format!("can't be read as a .npy file: {error}");
            Error::file(path, problem, "Save it again with numpy.save")
        };
        let mut reader = BufReader::with_capacity(LONGEST_NPY_HEADER, file);
        let head = reader.fill_buf().map_err(broken)?;
        check_npy_header(head).map_err(|what| broken(std::io::Error::other(what)))?;
        if promises_too_much(head) {
            return Err(Error::file(path, "is shorter than its shape says", "Copy or write it again"));
        }
        let file = NpyFile::new(reader).map_err(broken)?;
        let (dtype, order) = (file.dtype(), file.order());
        let mut shape: Vec<usize> =
            file.shape().iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
        if order == Order::Fortran {
            return Err(Error::file(
                path,
                "is in Fortran order, its first dimension varying fastest",
                "Save numpy.ascontiguousarray(a), in which the last one varies fastest",
            ));
        }
        if has_big_end(&dtype) {
            return Err(Error::file(
                path,
                format!("has its highest byte first ({})", dtype.descr()),
                "Save a.astype(a.dtype.newbyteorder('<'))",
            ));
        }
        let element = match &dtype {
            DType::Plain(plain) => Element::ALL
                .into_iter()
                .find(|element| element.npy() == Some((plain.type_char(), plain.size_field()))),
            DType::Record(_) if !file.uses_pickled_array() => dtype.num_bytes().map(|size| {
                shape.push(size);
                Element::U8
            }),
            _ => None,
        };
        let Some(element) = element else {
            return Err(Error::file(
                path,
                format!("contains {}, a type that shaders do not support", dtype.descr()),
                "Save a.astype(numpy.float32), or the type that the shader declares",
            ));
        };
        let expected = count(&shape).and_then(|count| count.checked_mul(element.size()));
        // Before allocating memory: the header may claim more than the file contains.
        let Some(expected) = expected.filter(|expected| *expected as u64 <= length) else {
            return Err(cut(path, &shape));
        };
        let mut bytes = buffer(path, expected)?;
        file.into_inner().read_exact(&mut bytes).map_err(|_| cut(path, &shape))?;
        Ok((Self { element, shape, bytes }, matches!(dtype, DType::Record(_))))
    }

    /// Writes a .npy file atomically. Replaces an existing file only if `replace` is true.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for bf16, which NumPy lacks, and for a file that may not be replaced.
    pub fn write_npy(&self, path: &Path, replace: bool) -> Result<()> {
        let Some((kind, size)) = self.element.npy() else {
            return Err(Error::file(path, "a .npy file can't contain bf16", "Write f32"));
        };
        let order = if size == 1 { '|' } else { '<' };
        let failed = |error: String| Error::io(path, "writing")(std::io::Error::other(error));
        let name = format!("{order}{}{size}", kind.to_str());
        let dtype = DType::new_scalar(name.parse().map_err(|_| failed(format!("no such dtype: {name}")))?);
        let shape: Vec<u64> = self.shape.iter().map(|side| *side as u64).collect();
        let header = WriteOptions::new_header_only().dtype(dtype).shape(&shape).writer(Vec::new());
        let mut content = header.write_header_only().map_err(Error::io(path, "writing"))?;
        content.extend_from_slice(&self.bytes);
        crate::files::write_whole(path, &content, "writing", replace).map(drop)
    }

    /// Reads one tensor of a .safetensors file, without reading the others.
    ///
    /// # Errors
    /// [`Error::File`] if it is not such a file or has no such tensor.
    pub fn read_tensor(path: &Path, name: &str) -> Result<Self> {
        let (mut file, length) = open(path)?;
        let broken = |why: String| {
            Error::file(
                path,
                format!("can't be read as a .safetensors file: {why}"),
                "Copy or write it again",
            )
        };
        let mut start = [0; LENGTH_BYTES];
        file.read_exact(&mut start).map_err(|error| broken(error.to_string()))?;
        let header = u64::from_le_bytes(start);
        if header > LONGEST_HEADER.min(length) {
            return Err(broken(format!("it claims a header of {header} bytes")));
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text).map_err(|error| broken(error.to_string()))?;
        let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        let Some(info) = metadata.info(name) else {
            let mut names: Vec<String> = metadata.tensors().into_keys().collect();
            names.sort();
            return Err(Error::file(
                path,
                format!("has no tensor `{name}`"),
                format!("Name one of its tensors: {}", some(&names)),
            ));
        };
        let Some(element) = Element::of_tensor(info.dtype) else {
            return Err(Error::file(
                path,
                format!("its tensor `{name}` contains {:?}, which shaders do not support", info.dtype),
                "Store it as F32",
            ));
        };
        let (from, to) = info.data_offsets;
        let base = LENGTH_BYTES as u64 + header;
        let expected = count(&info.shape).and_then(|count| count.checked_mul(element.size()));
        let size = to.checked_sub(from).filter(|size| Some(*size) == expected);
        let size = size.filter(|_| base.checked_add(to as u64).is_some_and(|end| end <= length));
        let Some(size) = size else {
            return Err(broken(format!("its tensor `{name}` is shorter than its shape says")));
        };
        file.seek(SeekFrom::Start(base + from as u64)).map_err(Error::io(path, "reading"))?;
        let mut bytes = buffer(path, size)?;
        file.read_exact(&mut bytes).map_err(Error::io(path, "reading"))?;
        Ok(Self { element, shape: info.shape.clone(), bytes })
    }
}

/// Allocates a zeroed buffer to read into.
fn buffer(path: &Path, size: usize) -> Result<Vec<u8>> {
    zeros(size).map_err(|problem| Error::file(path, problem, "Use a smaller array, or close other programs"))
}

/// Lists some names for a message.
fn some(names: &[String]) -> String {
    const MOST: usize = 12;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

fn cut(path: &Path, shape: &[usize]) -> Error {
    let problem = format!("is shorter than its shape {} says", dimensions(shape));
    Error::file(path, problem, "Copy or write it again")
}

/// True if the product of the dimensions in the head of a .npy file exceeds any possible memory: npyz multiplies them
/// unchecked.
fn promises_too_much(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let shape =
        head.split_once("shape").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(shape, _)| shape);
    let sides = shape.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let sides: Option<Vec<usize>> = sides.map(|digits| digits.parse().ok()).collect();
    sides.is_none_or(|sides| count(&sides).is_none())
}

/// Checks the start of a .npy file before its header is parsed.
fn check_npy_header(head: &[u8]) -> Result<(), &'static str> {
    // Version 1 stores the header's length in 2 bytes, later versions in 4.
    let (length, start) = match head.strip_prefix(b"\x93NUMPY") {
        Some([1, _, a, b, ..]) => (u32::from_le_bytes([*a, *b, 0, 0]), 10),
        Some([_, _, a, b, c, d, ..]) => (u32::from_le_bytes([*a, *b, *c, *d]), 12),
        // npyz reports the error.
        _ => return Ok(()),
    };
    let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(start);
    if end > LONGEST_NPY_HEADER {
        return Err("its header is too long");
    }
    let header = &head[start..head.len().min(end)];
    // NumPy writes neither, and they make it hard to find the end of a name.
    if header.contains(&b'\\') || header.windows(3).any(|w| matches!(w, b"\"\"\"" | b"\'\'\'")) {
        return Err("its header has names with escapes");
    }
    let (mut depth, mut quote) = (0usize, None);
    for byte in header {
        match (quote, byte) {
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST_NPY_HEADER {
            return Err("its records are nested too deep");
        }
    }
    Ok(())
}

/// Opens an ordinary file and returns it with its length. Rejects an empty file: files of /proc report no length, and
/// may have no end.
fn open(path: &Path) -> Result<(File, u64)> {
    match open_ordinary(path) {
        Ok((_, 0)) => Err(Error::file(path, "is empty", "Save it again, for instance with numpy.save")),
        opened => opened.map_err(|error| {
            Error::file(path, format!("can't be read: {error}"), "Check the name and the file's permissions")
        }),
    }
}

fn has_big_end(dtype: &DType) -> bool {
    match dtype {
        DType::Plain(plain) => plain.endianness() == Endianness::Big && plain.size_field() > 1,
        DType::Array(_, of) => has_big_end(of),
        DType::Record(fields) => fields.iter().any(|field| has_big_end(&field.dtype)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    fn header(text: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16 + 1).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    fn read(content: &[u8]) -> Result<Array> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("an: array.npy");
        std::fs::write(&path, content).unwrap();
        Array::read_npy(&path)
    }

    #[test]
    fn arrays_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("an: array.npy");
        for element in Element::ALL.into_iter().filter(|element| *element != Element::Bf16) {
            for shape in [vec![], vec![3], vec![2, 3, 5]] {
                let size = count(&shape).unwrap() * element.size();
                let array = Array { element, shape, bytes: (0..size).map(|byte| byte as u8).collect() };
                array.write_npy(&path, true).unwrap();
                assert_eq!(Array::read_npy(&path).unwrap(), array);
            }
        }
        let half = Array { element: Element::Bf16, shape: vec![1], bytes: vec![0; 2] };
        assert!(half.write_npy(&path, true).is_err());
    }

    #[test]
    fn numpy_file_is_read() {
        // numpy.save of numpy.array([[1.5, -2.0]], dtype='float32'), version 1 of the format.
        let mut bytes =
            header(&format!("{:<117}", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }"));
        assert_eq!(bytes.len(), 128);
        bytes.extend([1.5f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
        let array = read(&bytes).unwrap();
        assert_eq!((array.element, array.shape.as_slice()), (Element::F32, &[1, 2][..]));
        assert_eq!(array.widen(), [1.5, -2.0]);
    }

    #[test]
    fn structured_arrays_become_bytes() {
        let text = "{'descr': [('a', '<u4'), ('b', '<f4', (2,))], 'fortran_order': False, 'shape': (2,)}";
        let mut bytes = header(text);
        bytes.extend(0..24u8);
        let array = read(&bytes).unwrap();
        assert_eq!((array.element, array.shape.as_slice()), (Element::U8, &[2, 12][..]));
    }

    #[test]
    fn unsupported_arrays_are_refused_by_name() {
        let of = |dtype: &str, fortran: &str| {
            let mut bytes =
                header(&format!("{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': (2, 3), }}"));
            bytes.extend([0; 48]);
            bytes
        };
        for (content, words) in [
            (of("'<f4'", "True"), "Fortran order"),
            (of("'>f4'", "False"), "newbyteorder"),
            (of("[('a', '>u4'), ('b', '<u4')]", "False"), "newbyteorder"),
            (of("'<c8'", "False"), "<c8"),
            (of("'|O'", "False"), "|O"),
            (of("'|S4'", "False"), "|S4"),
            (of("'<f4'", "False")[..85].to_vec(), "shorter than its shape 2x3"),
            (
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999), }"),
                "shorter",
            ),
            (b"Dear diary".to_vec(), "numpy.save"),
            (Vec::new(), "numpy.save"),
        ] {
            let error = read(&content).unwrap_err();
            assert!(error.to_string().contains(words) && error.exit_code() == 2, "{words}: {error}");
        }
        let error = Array::read_npy(Path::new("no such.npy")).unwrap_err();
        assert!(error.to_string().contains("no such.npy") && error.exit_code() == 2, "{error}");
        assert_eq!(Array::read_npy(Path::new(".")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn headers_are_bounded_before_they_are_parsed() {
        let of = |levels: usize| {
            let descr = "[('a', ".repeat(levels) + "'<f4'" + &")]".repeat(levels);
            let mut bytes = header(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}"));
            bytes.extend([0; 4]);
            bytes
        };
        assert_eq!(read(&of(3)).unwrap().shape, [1, 4]);
        for (content, words) in [
            (of(4), "nested too deep"),
            (of(200), "nested too deep"),
            (header(&format!("{{'descr': {}'<f4'", "(".repeat(1000))), "nested too deep"),
            (
                header("{'descr': [('a\\'[[[[[[[[[[[[', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
                "escapes",
            ),
            (header("{'descr': [('''a''', '<f4')], 'fortran_order': False, 'shape': (1,), }"), "escapes"),
            (header(&" ".repeat(60_000)), "too long"),
            ([&b"\x93NUMPY\x02\x00"[..], &u32::MAX.to_le_bytes(), b"{"].concat(), "too long"),
        ] {
            let begun = std::time::Instant::now();
            let error = read(&content).unwrap_err();
            assert!(error.to_string().contains(words) && error.exit_code() == 2, "{words}: {error}");
            assert!(begun.elapsed().as_secs() < 2, "{words}");
        }
        // A bracket in a name does not count as nesting.
        let named = "{'descr': [('[[[[[[[[(((', '<f4')], 'fortran_order': False, 'shape': (1,), }";
        assert_eq!(read(&[header(named), vec![0; 4]].concat()).unwrap().shape, [1, 4]);
        let cut = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }");
        for length in 0..cut.len() {
            assert!(read(&cut[..length]).is_err());
        }
    }

    #[test]
    fn integers_are_compared_exactly() {
        let of = |element: Element, text: &[&str]| {
            let bytes = text.iter().flat_map(|number| element.parse(number).unwrap()).collect();
            Array { element, shape: vec![text.len()], bytes }
        };
        let (actual, expected) = (["7", "9007199254740993"], ["7", "9007199254740992"]);
        for element in [Element::U64, Element::I64] {
            for other in [Element::U64, Element::I64] {
                let (actual, expected) = (of(element, &actual), of(other, &expected));
                assert!(actual.difference(&actual).within(0.0));
                let difference = actual.difference(&expected);
                assert!(!difference.within(0.0) && difference.within(1e-15));
                assert_eq!(difference.worst.unwrap().0, 1);
                assert_eq!(actual.number(1), "9007199254740993");
            }
        }
        let ends = of(Element::U64, &["18446744073709551615"]);
        assert!(!ends.difference(&of(Element::U64, &["18446744073709551614"])).within(0.0));
        // The same bits.
        assert!(!ends.difference(&of(Element::I64, &["-1"])).within(1.0));
        assert_eq!(of(Element::I64, &["-9223372036854775808"]).number(0), "-9223372036854775808");
        assert!(ends.difference(&of(Element::U64, &["1", "2"])).largest.is_infinite());
        // Compared with floats and integers of other sizes.
        assert!(of(Element::U32, &["3"]).difference(&of(Element::F64, &["3.0"])).within(0.0));
        assert!(of(Element::U32, &["3"]).difference(&of(Element::I8, &["3"])).within(0.0));
        assert_eq!(
            (of(Element::F32, &["0.5"]).number(0), of(Element::F32, &[]).number(0)),
            ("5e-1".into(), "".into())
        );
    }

    #[test]
    fn tensors_are_read_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let text = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
            .extend([bf16::from_f32(1.5), bf16::from_f32(-3.0)].iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(7.0f32.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let a = Array::read_tensor(&path, "a").unwrap();
        assert_eq!((a.element, a.to_f32().widen()), (Element::Bf16, vec![1.5, -3.0]));
        assert_eq!(Array::read_tensor(&path, "b").unwrap().widen(), [7.0]);
        let error = Array::read_tensor(&path, "c").unwrap_err();
        assert!(error.to_string().contains("`c`") && error.to_string().contains("a, b"), "{error}");
        for cut in [bytes.len() - 1, 40, 4, 0] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(Array::read_tensor(&path, "b").unwrap_err().exit_code(), 2, "{cut}");
        }
    }

    /// Eight tensors of almost 2^61 bytes, followed by one whose offset in the file would exceed 64 bits.
    #[test]
    fn tensor_beyond_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let huge = (1_u64 << 61) - 4;
        let mut tensors: Vec<String> = (0..8)
            .map(|at| {
                let offsets = [at * huge, (at + 1) * huge];
                format!(r#""h{at}":{{"dtype":"U8","shape":[{huge}],"data_offsets":{offsets:?}}}"#)
            })
            .collect();
        let offsets = [8 * huge, 8 * huge + 16];
        tensors.push(format!(r#""t":{{"dtype":"U32","shape":[4],"data_offsets":{offsets:?}}}"#));
        let text = format!("{{{}}}", tensors.join(","));
        let bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &[0; 64]].concat();
        std::fs::write(&path, bytes).unwrap();
        let error = Array::read_tensor(&path, "t").unwrap_err();
        assert!(error.to_string().contains("shorter") && error.exit_code() == 2, "{error}");
    }
}
