//! What goes where: inputs, outputs and parameters matched with a shader's variables, before any device is opened.

use super::params::{Params, fill};
use super::shader::{Bound, ShaderRequest, UserShader, Variable};
use super::spec::{ArraySource, Input, Output};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::room::zeros;
use crate::workbench::array::{count, dimensions};
use crate::workbench::{Array, Element};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::path::PathBuf;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// The shader.
    pub shader: ShaderRequest,
    /// Numbers for variables.
    pub inputs: Vec<Input>,
    /// Variables to be written to files.
    pub outputs: Vec<Output>,
    /// What variables should hold in the end.
    pub expected: Vec<Input>,
    /// Numbers of uniforms and immediates.
    pub params: Params,
    /// Workgroups along each axis.
    pub workgroups: [u32; 3],
}

/// A run, checked as far as that needs no device.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// The shader.
    pub shader: UserShader,
    /// What the shader's variables hold, in their order.
    pub memory: Vec<Memory>,
    /// What is read back.
    pub results: Vec<ResultSpec>,
    /// Workgroups along each axis.
    pub workgroups: [u32; 3],
    /// Notes on how files were read.
    pub notes: Vec<String>,
}

/// Memory of one variable.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Its first contents; empty if none were given.
    pub bytes: Vec<u8>,
    /// Its length in bytes, without a guard zone.
    pub length: usize,
    /// Height and width of a texture.
    pub extent: [u32; 2],
    /// Where its numbers come from, in the words of the call.
    pub source: Option<String>,
    /// Dimensions of the file it is filled from.
    shape: Vec<usize>,
}

impl Memory {
    /// True if it is filled from a file, by a pattern or from parameters.
    pub fn is_filled(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// A variable to be read back.
#[derive(Debug, Clone)]
pub struct ResultSpec {
    /// Which of the shader's variables.
    pub variable: usize,
    /// Dimensions of the array that it becomes.
    pub shape: Vec<usize>,
    /// True if gaps between its numbers are left out: three instead of four of a `vec3`.
    pub packed: bool,
    /// Where it is written to.
    pub path: Option<PathBuf>,
    /// What it should be.
    pub expected: Option<Array>,
}

impl RunPlan {
    /// Reads the shader and all files, and matches them.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Usage`] for the first thing that does not fit.
    pub fn new(request: &RunRequest) -> Result<Self> {
        let shader = UserShader::read(&request.shader)?;
        if let Some(axis) = request.workgroups.iter().position(|groups| *groups == 0) {
            return Err(Error::usage(format!(
                "--workgroups: {} workgroups along {}; there has to be one at least",
                request.workgroups[axis],
                ["x", "y", "z"][axis]
            )));
        }
        let mut plan = Self {
            memory: vec![Memory::default(); shader.variables.len()],
            results: Vec::new(),
            workgroups: request.workgroups,
            notes: Vec::new(),
            shader,
        };
        plan.take_inputs(&request.inputs)?;
        plan.take_params(&request.params)?;
        plan.take_outputs(&request.outputs, &request.expected)?;
        plan.check_complete()?;
        Ok(plan)
    }

    /// Matches each with a variable: those with a name first, the others in order over those that are left.
    fn matched<'a, T>(
        &self,
        items: &'a [T],
        option: &str,
        name: impl Fn(&T) -> Option<&str>,
        eligible: impl Fn(&Variable) -> bool,
        in_order: impl Fn(&Variable) -> bool,
    ) -> Result<Vec<(usize, &'a T)>> {
        let variables = &self.shader.variables;
        let mut matched: Vec<Option<&T>> = vec![None; variables.len()];
        let (named, unnamed): (Vec<&T>, Vec<&T>) = items.iter().partition(|item| name(item).is_some());
        for item in named {
            let wanted = name(item).unwrap_or_default();
            let index = variables.iter().position(|variable| variable.name == wanted);
            let Some(index) = index.filter(|index| eligible(&variables[*index])) else {
                let what = if index.is_some() {
                    "can't be written by the shader"
                } else {
                    "is not a variable that it uses"
                };
                return Err(Error::usage(format!(
                    "{option} {wanted}=...: `{wanted}` {what}; {}. (A file whose name has a `=` in it: ./{wanted}=...)",
                    self.shader.describe_variables()
                )));
            };
            if matched[index].replace(item).is_some() {
                return Err(Error::usage(format!("{option} gives `{wanted}` twice")));
            }
        }
        let mut free: Vec<usize> = (0..variables.len())
            .filter(|index| matched[*index].is_none() && in_order(&variables[*index]))
            .collect();
        if unnamed.len() > free.len() {
            return Err(Error::usage(format!(
                "{} x {option} without a name, for {} variables that are left to take one; {}",
                unnamed.len(),
                free.len(),
                self.shader.describe_variables()
            )));
        }
        free.truncate(unnamed.len());
        for (index, item) in free.into_iter().zip(unnamed) {
            matched[index] = Some(item);
        }
        Ok(matched.into_iter().enumerate().filter_map(|(index, item)| Some((index, item?))).collect())
    }

    fn take_inputs(&mut self, inputs: &[Input]) -> Result<()> {
        let readable = |variable: &Variable| match variable.bound {
            Bound::Texture { readable, .. } => readable,
            _ => variable.is_data(),
        };
        let matched = self.matched(inputs, "--input", |input| input.name.as_deref(), |_| true, readable)?;
        for (index, input) in matched {
            let variable = &self.shader.variables[index];
            let source = match &input.source {
                // Two inputs full of the same numbers would hide that a kernel takes one for the other.
                ArraySource::Random(shape, None) => {
                    ArraySource::Random(shape.clone(), Some(index as u64 + 1))
                }
                source => source.clone(),
            };
            let (memory, note) = fill_from(variable, &source)?;
            self.notes.extend(note);
            self.memory[index] = memory;
        }
        Ok(())
    }

    fn take_params(&mut self, params: &Params) -> Result<()> {
        let variables = &self.shader.variables;
        let open = |index: &usize| !variables[*index].is_data() && !self.memory[*index].is_filled();
        let blocks: Vec<usize> = (0..variables.len()).filter(open).collect();
        let wanted: Vec<&Variable> = blocks.iter().map(|index| &variables[*index]).collect();
        let filled = fill(&wanted, params)?;
        for (index, bytes) in blocks.into_iter().zip(filled) {
            self.memory[index] = Memory { length: bytes.len(), bytes, ..Memory::default() };
        }
        Ok(())
    }

    fn take_outputs(&mut self, outputs: &[Output], expected: &[Input]) -> Result<()> {
        let matched = self.matched(
            outputs,
            "--output",
            |output| output.name.as_deref(),
            Variable::writable,
            Variable::writable,
        )?;
        // An expectation without a name is for the only output; without any, for the only variable that is
        // written.
        let is_output = |variable: &Variable| {
            let index = self.shader.variables.iter().position(|other| other.name == variable.name);
            variable.writable()
                && (matched.is_empty() || matched.iter().any(|(output, _)| Some(*output) == index))
        };
        let candidates = self.shader.variables.iter().filter(|variable| is_output(variable)).count();
        if candidates != 1 && expected.iter().any(|expected| expected.name.is_none()) {
            return Err(Error::usage(format!(
                "--expect without a name is for a single output, and there are {candidates}: give --expect NAME=FILE; {}",
                self.shader.describe_variables()
            )));
        }
        let expected =
            self.matched(expected, "--expect", |input| input.name.as_deref(), Variable::writable, is_output)?;
        let mut results = Vec::new();
        for index in 0..self.shader.variables.len() {
            let output = matched.iter().find(|(output, _)| *output == index).map(|(_, output)| *output);
            let expected =
                expected.iter().find(|(expected, _)| *expected == index).map(|(_, expected)| *expected);
            if output.is_some() || expected.is_some() {
                results.push((index, output, expected));
            }
        }
        for (index, output, expected) in results {
            let wanted = self.want(index, output, expected)?;
            self.results.push(wanted);
        }
        Ok(())
    }

    /// One result: its shape, as stated or as the expected values, the input or the declaration have it.
    fn want(
        &mut self,
        index: usize,
        output: Option<&Output>,
        expected: Option<&Input>,
    ) -> Result<ResultSpec> {
        let variable = &self.shader.variables[index];
        let memory = &mut self.memory[index];
        let expected = match expected {
            None => None,
            Some(Input { source, .. }) => match read(source)? {
                Some(array) => Some((source, array)),
                None => {
                    return Err(Error::usage(format!("--expect {source}: give a file of expected values")));
                }
            },
        };
        let stated = output.and_then(|output| output.shape.clone());
        let shape = if let Some(shape) = stated {
            shape
        } else if let Some((_, array)) = &expected {
            if array.shape.is_empty() { vec![1] } else { array.shape.clone() }
        } else if !memory.shape.is_empty() {
            memory.shape.clone()
        } else if variable.form.open_end().is_none() && !matches!(variable.bound, Bound::Texture { .. }) {
            vec![variable.form.size() / variable.element().size()]
        } else {
            let path = output.map_or_else(String::new, |output| shown(&output.path));
            return Err(Error::usage(format!(
                "--output {path}: how large is it? `{}` does not say; add the shape, e.g. --output {path}:64x32",
                variable.describe()
            )));
        };
        let (length, packed) = length(variable, &shape);
        let extent = check_length(variable, &shape, length)
            .map_err(|why| Error::usage(format!("--output of shape {}: {why}", dimensions(&shape))))?;
        if memory.is_filled() && memory.length != length {
            return Err(Error::usage(format!(
                "--output of shape {}: `{}` is filled from an --input of shape {}, which has another length",
                dimensions(&shape),
                variable.name,
                dimensions(&memory.shape)
            )));
        }
        if let Some((source, array)) = &expected {
            let same = array.shape == shape || array.shape.is_empty() && count(&shape) == Some(1);
            if !same {
                return Err(Error::usage(format!(
                    "--expect {source} has the shape {}, the output {}",
                    dimensions(&array.shape),
                    dimensions(&shape)
                )));
            }
        }
        if variable.atomic && !memory.is_filled() {
            self.notes.push(format!(
                "`{0}` has atomics and starts as NaN words; --input {0}=zeros:{1} starts it from zero",
                variable.name,
                dimensions(&shape)
            ));
        }
        (memory.length, memory.extent) = (length, extent);
        Ok(ResultSpec {
            variable: index,
            shape,
            packed,
            path: output.map(|output| output.path.clone()),
            expected: expected.map(|(_, array)| array),
        })
    }

    fn check_complete(&self) -> Result<()> {
        for (variable, memory) in self.shader.variables.iter().zip(&self.memory) {
            if memory.length > 0 {
                continue;
            }
            let name = &variable.name;
            let remedy = match variable.bound {
                Bound::Storage { writable: false, .. } | Bound::Texture { writable: false, .. } => {
                    format!("--input {name}=FILE")
                }
                Bound::Texture { readable: false, .. } => format!("--output {name}=FILE.npy:SHAPE"),
                _ => format!(
                    "--output {name}=FILE.npy:SHAPE, or --input {name}=FILE, or --input {name}=zeros:SHAPE for scratch memory"
                ),
            };
            return Err(Error::usage(format!(
                "nothing is given for `{name}`: add {remedy}; {}. (Without names, inputs and outputs go in this order.)",
                self.shader.describe_variables()
            )));
        }
        Ok(())
    }
}

/// The numbers of a source, or `None` if it is a pattern, not a file.
fn read(source: &ArraySource) -> Result<Option<Array>> {
    match source {
        ArraySource::Npy(path) => Array::read_npy(path).map(Some),
        ArraySource::Tensor(path, name) => Array::read_tensor(path, name).map(Some),
        ArraySource::Zeros(_) | ArraySource::Random(..) => Ok(None),
    }
}

/// The memory of a variable as a source fills it, and a note on a conversion.
fn fill_from(variable: &Variable, source: &ArraySource) -> Result<(Memory, Option<String>)> {
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
        ArraySource::Npy(_) | ArraySource::Tensor(..) => {
            let Some(array) = read(source)? else { return Err(refuse("is not a file".to_owned())) };
            let is_tensor = matches!(source, ArraySource::Tensor(..));
            let (array, conversion) = convert(variable, array, is_tensor).map_err(refuse)?;
            note = conversion.map(|conversion| format!("{source}: {conversion}"));
            let (_, packed) = length(variable, &array.shape);
            let bytes = if packed && array.element == variable.element() {
                spread(variable, &array)
            } else {
                array.bytes
            };
            (bytes, array.shape)
        }
    };
    let length = bytes.len();
    let extent = check_length(variable, &shape, length).map_err(refuse)?;
    match variable.bound {
        Bound::Uniform => bytes.resize(length.next_multiple_of(16), 0),
        _ => bytes.resize(length.next_multiple_of(4), 0),
    }
    Ok((Memory { length, extent, bytes, shape, source: Some(source.to_string()) }, note))
}

/// The array as the variable takes it: of its own type, f16 and bf16 of tensors widened, pairs of f16 as words.
fn convert(variable: &Variable, array: Array, is_tensor: bool) -> Result<(Array, Option<String>), String> {
    let declared = variable.element();
    let mixed = variable.form.only().is_none();
    if array.element == declared || mixed {
        return Ok((array, None));
    }
    // A structured array's bytes for a struct of which all members happen to have one type.
    let is_raw = array.element == Element::U8 && variable.form.name().contains("struct");
    if is_raw {
        return Ok((array, None));
    }
    match (array.element, declared) {
        (Element::F16 | Element::Bf16, Element::F32) if is_tensor => {
            let conversion = format!("{} widened to f32", array.element);
            Ok((array.to_f32(), Some(conversion)))
        }
        (Element::F16 | Element::Bf16, Element::U32) => {
            if !array.elements().is_multiple_of(2) {
                return Err(format!(
                    "it has {} {}, and a u32 takes two: add one more",
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
            "the file holds {found}, the shader declares {declared}: save a.astype(numpy.{}), or change the declaration",
            declared.numpy()
        )),
    }
}

/// Bytes of memory for an array of this shape, and whether the array leaves gaps out: its last dimension counts
/// the real numbers (three of a `vec3`), not those that memory has.
fn length(variable: &Variable, shape: &[usize]) -> (usize, bool) {
    let size = count(shape).unwrap_or(0) * variable.element().size();
    match variable.form.gaps() {
        Some((whole, real)) if shape.len() > 1 && shape.last() == Some(&real) => (size / real * whole, true),
        _ => (size, false),
    }
}

/// Checks that a variable can have this length in bytes; returns height and width of a texture.
fn check_length(variable: &Variable, shape: &[usize], length: usize) -> Result<[u32; 2], String> {
    let size = variable.element().size();
    let numbers = |bytes: usize| format!("{} {}", bytes / size, variable.element());
    if let Bound::Texture { channels, .. } = variable.bound {
        let side = |side: usize| u32::try_from(side).map_err(|_| "it is too large for a texture".to_owned());
        return match shape {
            [height, width, last] if *last == channels => Ok([side(*height)?, side(*width)?]),
            [height, width] if channels == 1 => Ok([side(*height)?, side(*width)?]),
            _ => Err(format!("a texture takes HEIGHTxWIDTHx{channels}, and this is {}", dimensions(shape))),
        };
    }
    let form = &variable.form;
    let gaps = match form.gaps() {
        Some((whole, real)) => format!(
            " (each of its elements takes {whole} in memory: give them all, or {real} each with a last dimension of {real})"
        ),
        None => String::new(),
    };
    match form.open_end() {
        Some((before, stride)) => {
            if length < before + stride {
                return Err(format!(
                    "it has too few elements: {} at least, and this is {}{gaps}",
                    numbers(before + stride),
                    numbers(length)
                ));
            }
            if !(length - before).is_multiple_of(stride) {
                return Err(format!(
                    "it has to be {} and then a multiple of {}, and this is {}{gaps}",
                    numbers(before),
                    numbers(stride),
                    numbers(length)
                ));
            }
            if !length.is_multiple_of(4) {
                return Err(format!("{} are no whole number of 4-byte words: add one", numbers(length)));
            }
        }
        None => {
            let expected = form.size();
            if length != expected {
                let verdict = if length < expected { "too few" } else { "too many" };
                return Err(format!(
                    "it has {verdict} elements: {} are declared, and this is {}{gaps}",
                    numbers(expected),
                    numbers(length)
                ));
            }
        }
    }
    Ok([0; 2])
}

/// Numbers without gaps, put where they belong in memory.
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

/// Random numbers: normal where they are floating point, else a byte's range.
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
