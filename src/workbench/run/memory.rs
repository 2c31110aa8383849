//! Initial contents and length of a variable's memory.

use super::shader::{Bound, Variable};
use super::spec::ArraySource;
use crate::allocation::zeros;
use crate::error::{Error, Result};
use crate::workbench::array::{count, dimensions};
use crate::workbench::{Array, Element};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Memory of one variable.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Initial contents; empty if none were given.
    pub bytes: Vec<u8>,
    /// Length in bytes, without the guard zone.
    pub length: usize,
    /// Height and width of a texture.
    pub extent: [u32; 2],
    /// Source of its numbers, as given in the call.
    pub source: Option<String>,
    /// Dimensions of the array that it is filled from.
    pub(super) shape: Vec<usize>,
}

impl Memory {
    /// True if it is filled from a file, a pattern or parameters.
    pub fn is_filled(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// Reads the expected values of a variable from a file. Records become numbers like those of an input; plain uint8
/// values are numbers.
pub(super) fn expected_values(variable: &Variable, source: &ArraySource) -> Result<Array> {
    let refuse = |why: String| Error::usage(format!("--expect {source}: {why}"));
    let array = match source {
        ArraySource::Tensor(path, name) => return Array::read_tensor(path, name),
        ArraySource::Npy(path) => match Array::read_npy_or_records(path)? {
            (records, true) => records,
            (array, false) => return Ok(array),
        },
        ArraySource::Zeros(_) | ArraySource::Random(..) => {
            return Err(refuse("use a file of expected values".to_owned()));
        }
    };
    match variable.form.only() {
        None => Ok(array),
        Some(element) if has_struct(variable) => reinterpret(array, element).map_err(refuse),
        Some(_) => Err(refuse(format!(
            "it contains records, but `{}` has no struct: save numpy.lib.recfunctions.structured_to_unstructured(a)",
            variable.describe()
        ))),
    }
}

/// Fills the memory of a variable from a source. Also returns a note on a conversion, if any.
pub(super) fn fill_from(variable: &Variable, source: &ArraySource) -> Result<(Memory, Option<String>)> {
    let what = || format!("--input {source} for `{}`", variable.describe());
    let refuse = |why: String| Error::usage(format!("{}: {why}", what()));
    let mut note = None;
    let (mut bytes, shape) = match source {
        ArraySource::Zeros(shape) | ArraySource::Random(shape, _) => {
            let (length, _) = length(variable, shape);
            let mut bytes = zeros(length).map_err(refuse)?;
            if let ArraySource::Random(_, seed) = source {
                scatter(variable, seed.unwrap_or_default(), &mut bytes);
            }
            (bytes, shape.clone())
        }
        ArraySource::Npy(path) => {
            let (array, conversion) = convert(variable, Array::read_npy(path)?, false).map_err(refuse)?;
            note = conversion;
            in_memory(variable, array)
        }
        ArraySource::Tensor(path, name) => {
            let array = Array::read_tensor(path, name)?;
            let (array, conversion) = convert(variable, array, true).map_err(refuse)?;
            note = conversion;
            in_memory(variable, array)
        }
    };
    let note = note.map(|conversion| format!("{source}: {conversion}"));
    let length = bytes.len();
    let extent = check_length(variable, &shape, length).map_err(refuse)?;
    match variable.bound {
        Bound::Uniform => bytes.resize(length.next_multiple_of(16), 0),
        _ => bytes.resize(length.next_multiple_of(4), 0),
    }
    Ok((Memory { length, extent, bytes, shape, source: Some(source.to_string()) }, note))
}

/// Returns the bytes of an array as laid out in memory, and its shape.
fn in_memory(variable: &Variable, array: Array) -> (Vec<u8>, Vec<usize>) {
    let (_, packed) = length(variable, &array.shape);
    let spreads = packed && array.element == variable.element();
    (if spreads { spread(variable, &array) } else { array.bytes }, array.shape)
}

/// Converts an array to the variable's type: f16 and bf16 of tensors are widened, pairs of f16 become words.
fn convert(variable: &Variable, array: Array, is_tensor: bool) -> Result<(Array, Option<String>), String> {
    let declared = variable.element();
    let mixed = variable.form.only().is_none();
    if array.element == declared || mixed {
        return Ok((array, None));
    }
    // The bytes of a structured array, for a struct whose members all have the same type.
    if array.element == Element::U8 && has_struct(variable) {
        return Ok((reinterpret(array, declared)?, None));
    }
    match (array.element, declared) {
        (Element::F16 | Element::Bf16, Element::F32) if is_tensor => {
            let conversion = format!("{} widened to f32", array.element);
            Ok((array.to_f32(), Some(conversion)))
        }
        (Element::F16 | Element::Bf16, Element::U32) => {
            if !array.elements().is_multiple_of(2) {
                return Err(format!(
                    "it has {} {}, but a u32 takes two: add one more",
                    array.elements(),
                    array.element
                ));
            }
            let conversion = format!("two {} in each u32, the first in its lower half", array.element);
            Ok((
                Array { element: Element::U32, shape: vec![array.elements() / 2], bytes: array.bytes },
                Some(conversion),
            ))
        }
        (found, declared) => Err(format!(
            "the file contains {found}, but the shader declares {declared}: save a.astype(numpy.{}), or change the declaration",
            declared.numpy()
        )),
    }
}

/// True if NumPy records can have the variable's layout.
fn has_struct(variable: &Variable) -> bool {
    variable.form.name().contains("struct")
}

/// Reinterprets bytes as numbers of another type and adapts the shape. If the last dimension is not a multiple of the
/// number's size, the result has one dimension.
fn reinterpret(array: Array, element: Element) -> Result<Array, String> {
    let (size, all) = (element.size(), array.bytes.len());
    let mut shape = array.shape;
    match shape.last_mut() {
        Some(last) if last.is_multiple_of(size) => *last /= size,
        _ if all.is_multiple_of(size) => shape = vec![all / size],
        _ => return Err(format!("it has {all} bytes, but each {element} takes {size}")),
    }
    Ok(Array { element, shape, bytes: array.bytes })
}

/// Returns the bytes of memory for an array of this shape, and whether the array omits gaps: its last dimension then
/// counts the numbers of an element (three of a `vec3`), not their places in memory.
pub(super) fn length(variable: &Variable, shape: &[usize]) -> (usize, bool) {
    let size = count(shape).unwrap_or(0) * variable.element().size();
    match variable.form.gaps() {
        Some((whole, real)) if shape.len() > 1 && shape.last() == Some(&real) => (size / real * whole, true),
        _ => (size, false),
    }
}

/// Checks that a variable can have this length in bytes. Returns height and width of a texture.
pub(super) fn check_length(variable: &Variable, shape: &[usize], length: usize) -> Result<[u32; 2], String> {
    let size = variable.element().size();
    let numbers = |bytes: usize| format!("{} {}", bytes / size, variable.element());
    if let Bound::Texture { channels, .. } = variable.bound {
        let side = |side: usize| u32::try_from(side).map_err(|_| "it is too large for a texture".to_owned());
        return match shape {
            [height, width, last] if *last == channels => Ok([side(*height)?, side(*width)?]),
            [height, width] if channels == 1 => Ok([side(*height)?, side(*width)?]),
            _ => Err(format!("a texture takes HEIGHTxWIDTHx{channels}, but this is {}", dimensions(shape))),
        };
    }
    let form = &variable.form;
    let gaps = match form.gaps() {
        Some((whole, real)) => format!(
            " (each element takes {whole} in memory: include all of them, or {real} each, with a last dimension of {real})"
        ),
        None => String::new(),
    };
    match form.open_end() {
        Some((before, stride)) => {
            if length < before + stride {
                return Err(format!(
                    "it has too few elements: at least {} are needed, but this is {}{gaps}",
                    numbers(before + stride),
                    numbers(length)
                ));
            }
            if !(length - before).is_multiple_of(stride) {
                return Err(format!(
                    "it has to be {} plus a multiple of {}, but this is {}{gaps}",
                    numbers(before),
                    numbers(stride),
                    numbers(length)
                ));
            }
            if !length.is_multiple_of(4) {
                return Err(format!("{} are not a multiple of 4 bytes: add one", numbers(length)));
            }
        }
        None => {
            let expected = form.size();
            if length != expected {
                let verdict = if length < expected { "too few" } else { "too many" };
                return Err(format!(
                    "it has {verdict} elements: {} are declared, but this is {}{gaps}",
                    numbers(expected),
                    numbers(length)
                ));
            }
        }
    }
    Ok([0; 2])
}

/// Spreads numbers without gaps to their places in memory.
fn spread(variable: &Variable, array: &Array) -> Vec<u8> {
    let (length, _) = length(variable, &array.shape);
    let mut bytes = vec![0; length];
    let size = array.element.size();
    let mut numbers = array.bytes.chunks_exact(size);
    variable.form.visit(length, &mut |offset, _| {
        if let Some(number) = numbers.next() {
            bytes[offset..offset + size].copy_from_slice(number);
        }
    });
    bytes
}

/// Fills memory with random numbers: normally distributed floats, or integers in the range of a byte.
fn scatter(variable: &Variable, seed: u64, bytes: &mut [u8]) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let length = bytes.len();
    let mut put = |offset: usize, element: Element| {
        let value = if element.is_float() {
            StandardNormal.sample(&mut random)
        } else if matches!(element, Element::U16 | Element::U32 | Element::U64) {
            f64::from(random.random_range(0..=255u8))
        } else {
            f64::from(random.random_range(-128..=127i16))
        };
        element.put(value, bytes.get_mut(offset..).unwrap_or_default());
    };
    match variable.bound {
        Bound::Texture { .. } => {
            let size = variable.element().size();
            (0..length / size).for_each(|index| put(index * size, variable.element()));
        }
        _ => variable.form.visit(length, &mut put),
    }
}
