//! Plan of a run: matches inputs, outputs and parameters with a shader's variables before a device is opened.

use super::memory::{Memory, check_length, expected_values, fill_from, length};
use super::params::{Params, fill};
use super::shader::{Bound, ShaderRequest, UserShader, Variable};
use super::spec::{ArraySource, Input, Output};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::workbench::Array;
use crate::workbench::array::{count, dimensions};
use std::path::PathBuf;

/// A request to run a shader.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// The shader.
    pub shader: ShaderRequest,
    /// Inputs of variables.
    pub inputs: Vec<Input>,
    /// Variables to write to files.
    pub outputs: Vec<Output>,
    /// Expected values of variables after the run.
    pub expected: Vec<Input>,
    /// Values of uniforms and immediates.
    pub params: Params,
    /// Number of workgroups along each axis.
    pub workgroups: [u32; 3],
}

/// A run, checked as far as possible without a device.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// The shader.
    pub shader: UserShader,
    /// Memory of the shader's variables, in their order.
    pub memory: Vec<Memory>,
    /// Variables to read back.
    pub results: Vec<ResultSpec>,
    /// Number of workgroups along each axis.
    pub workgroups: [u32; 3],
    /// Notes on how files were read.
    pub notes: Vec<String>,
}

/// A variable to read back.
#[derive(Debug, Clone)]
pub struct ResultSpec {
    /// Index of the shader's variable.
    pub variable: usize,
    /// Dimensions of the resulting array.
    pub shape: Vec<usize>,
    /// True if gaps between its numbers are omitted: three instead of four for a `vec3`.
    pub packed: bool,
    /// File to write it to.
    pub path: Option<PathBuf>,
    /// Expected values.
    pub expected: Option<Array>,
}

impl RunPlan {
    /// Reads the shader and all files, and matches them.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Usage`] for the first mismatch.
    pub fn new(request: &RunRequest) -> Result<Self> {
        let shader = UserShader::read(&request.shader)?;
        if let Some(axis) = request.workgroups.iter().position(|groups| *groups == 0) {
            return Err(Error::usage(format!(
                "--workgroups: {} workgroups along {}; at least one is needed",
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

    /// Matches each item with a variable: named items first, the others with the remaining variables in order.
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
                    "is not a variable that the shader uses"
                };
                return Err(Error::usage(format!(
                    "{option} {wanted}=...: `{wanted}` {what}; {}. (For a file name with a `=`: ./{wanted}=...)",
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
                "{} x {option} without a name, but only {} variables are left; {}",
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
                // Two inputs with the same numbers would hide that a kernel mixes them up.
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
        // Expected values without a name are for the only output; without outputs, for the only variable that is
        // written.
        let is_output = |variable: &Variable| {
            let index = self.shader.variables.iter().position(|other| other.name == variable.name);
            variable.writable()
                && (matched.is_empty() || matched.iter().any(|(output, _)| Some(*output) == index))
        };
        let candidates = self.shader.variables.iter().filter(|variable| is_output(variable)).count();
        if candidates != 1 && expected.iter().any(|expected| expected.name.is_none()) {
            return Err(Error::usage(format!(
                "--expect without a name needs a single output, but there are {candidates}: use --expect NAME=FILE; {}",
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

    /// Plans one result. Its shape is given explicitly, or by the expected values, the input or the declaration.
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
            Some(Input { source, .. }) => Some((source, expected_values(variable, source)?)),
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
                "--output {path}: its size is unknown, as `{}` does not declare one; add the shape, e.g. --output {path}:64x32",
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
                    "--expect {source} has shape {}, but the output has shape {}",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workbench::Element;
    use std::path::Path;

    const SHADER: &str = "
        struct Particle { at: vec2<f32>, by: vec2<f32> }
        struct Mixed { id: u32, at: f32 }
        @group(0) @binding(0) var<storage, read_write> p: array<Particle>;
        @group(0) @binding(1) var<storage, read_write> m: array<Mixed>;
        @group(0) @binding(2) var<storage, read_write> v: array<vec4<f32>>;
        @compute @workgroup_size(1) fn particles() { p[0].at += p[0].by; }
        @compute @workgroup_size(1) fn mixed() { m[0].id += 1u; }
        @compute @workgroup_size(1) fn vectors() { v[0] += 1.0; }";

    /// Writes a .npy file of 8 elements with these fields; all bytes differ.
    fn npy(folder: &Path, name: &str, descr: &str, bytes: u8) -> PathBuf {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (8,), }}\n");
        let mut content = b"\x93NUMPY\x01\x00".to_vec();
        content.extend((header.len() as u16).to_le_bytes());
        content.extend(header.as_bytes());
        content.extend(0..8 * bytes);
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn planned(folder: &Path, entry: &str, words: [Option<&Path>; 3]) -> Result<RunPlan> {
        let path = folder.join("records.wgsl");
        std::fs::write(&path, SHADER).unwrap();
        let [input, output, expected] = words;
        let input_of = |path: Option<&Path>| {
            path.map(|path| Input { name: None, source: ArraySource::Npy(path.into()) })
        };
        RunPlan::new(&RunRequest {
            shader: ShaderRequest { path, entry: Some(entry.to_owned()), ..ShaderRequest::default() },
            inputs: input_of(input).into_iter().collect(),
            outputs: output
                .map(|path| Output { name: None, path: path.into(), shape: None })
                .into_iter()
                .collect(),
            expected: input_of(expected).into_iter().collect(),
            workgroups: [1; 3],
            ..RunRequest::default()
        })
    }

    #[test]
    fn structured_arrays_of_one_type_have_that_type() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let records = npy(folder, "p.npy", "[('at', '<f4', (2,)), ('by', '<f4', (2,))]", 16);
        let out = folder.join("out.npy");
        let (records, out) = (Some(records.as_path()), Some(out.as_path()));
        for words in
            [[records, out, None], [records, None, records], [None, out, records], [None, None, records]]
        {
            let plan = planned(folder, "particles", words).unwrap();
            let (memory, result) = (&plan.memory[0], &plan.results[0]);
            assert_eq!((memory.length, result.shape.as_slice()), (128, &[8, 4][..]));
            if let Some(expected) = &result.expected {
                assert_eq!((expected.element, expected.shape.as_slice()), (Element::F32, &[8, 4][..]));
                assert_eq!(expected.bytes, (0..128).collect::<Vec<u8>>());
            }
        }
        // The same bytes without fields.
        let bytes = Array { element: Element::U8, shape: vec![128], bytes: (0..128).collect() };
        let path = folder.join("bytes.npy");
        bytes.write_npy(&path, false).unwrap();
        assert_eq!(planned(folder, "particles", [Some(&path), out, None]).unwrap().results[0].shape, [32]);
        let odd = npy(folder, "odd.npy", "[('a', '<f4'), ('b', '|u1')]", 5);
        let why = planned(folder, "particles", [Some(&odd), None, None]).unwrap_err().to_string();
        assert!(why.contains("has to be"), "{why}");
    }

    #[test]
    fn structured_arrays_of_mixed_types_stay_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let records = npy(folder, "m.npy", "[('id', '<u4'), ('at', '<f4')]", 8);
        let records = Some(records.as_path());
        let plan = planned(folder, "mixed", [records, None, records]).unwrap();
        assert_eq!((plan.memory[0].length, plan.results[0].shape.as_slice()), (64, &[8, 8][..]));
        assert_eq!(plan.results[0].expected.as_ref().unwrap().element, Element::U8);
        // Without a struct they would be compared as bytes.
        let why = planned(folder, "vectors", [None, None, records]).unwrap_err().to_string();
        assert!(why.contains("structured_to_unstructured"), "{why}");
    }
}
