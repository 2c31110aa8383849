//! A user's compute shader, reflected by naga: bindings, parameters and required features.

use super::constants::{check_overrides, constant_line, override_value};
use super::form::{Form, number};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::files::read_text;
use crate::shader::{LONGEST_TEXT, check_bounds, unroll};
use crate::workbench::Element;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Expression, Handle, ImageClass, ShaderStage, StorageAccess, TypeInner};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Remedy for an invalid text.
const MEND: &str = "Correct the shader";

/// How a variable is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `var<storage, read>` or `read_write`.
    Storage {
        /// True for `read_write`.
        writable: bool,
        /// True if the shader queries the length of a runtime-sized array in it.
        measured: bool,
    },
    /// `var<uniform>`.
    Uniform,
    /// `var<immediate>`.
    Immediate,
    /// A 2-D storage texture of 32-bit values.
    Texture {
        /// True unless it is write-only.
        readable: bool,
        /// True unless it is read-only.
        writable: bool,
        /// Format of the texels.
        format: wgpu::TextureFormat,
        /// Number of channels of a texel.
        channels: usize,
    },
}

/// One variable that the entry point uses.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Name of the variable.
    pub name: String,
    /// Bind group; 0 for immediates.
    pub group: u32,
    /// Binding number in the group; 0 for immediates.
    pub binding: u32,
    /// Kind of binding.
    pub bound: Bound,
    /// Memory layout; for a texture, that of one texel.
    pub form: Form,
    /// True if it contains atomics.
    pub atomic: bool,
}

impl Variable {
    /// True if a kernel may write it.
    pub fn writable(&self) -> bool {
        matches!(self.bound, Bound::Storage { writable: true, .. } | Bound::Texture { writable: true, .. })
    }

    /// True for memory of inputs and outputs; false for parameters.
    pub fn is_data(&self) -> bool {
        matches!(self.bound, Bound::Storage { .. } | Bound::Texture { .. })
    }

    /// Returns the type of its numbers in files; bytes if it has several types.
    pub fn element(&self) -> Element {
        self.form.only().unwrap_or(Element::U8)
    }

    /// Formats its declaration for messages: `y: array<f32>, read_write`.
    pub fn describe(&self) -> String {
        let kind = match self.bound {
            Bound::Storage { writable: false, .. } => "read",
            Bound::Storage { writable: true, .. } if self.atomic => "read_write, atomic",
            Bound::Storage { writable: true, .. } => "read_write",
            Bound::Uniform => "uniform",
            Bound::Immediate => "immediate",
            Bound::Texture { readable, writable, channels, .. } => {
                let access = match (readable, writable) {
                    (true, false) => "read",
                    (false, _) => "write",
                    (true, true) => "read_write",
                };
                let element = self.element();
                return format!("{}: 2-D storage texture of {channels} {element}, {access}", self.name);
            }
        };
        format!("{}: {}, {kind}", self.name, self.form.name())
    }
}

/// The shader to read.
#[derive(Debug, Clone, Default)]
pub struct ShaderRequest {
    /// Path of the WGSL file.
    pub path: PathBuf,
    /// Name of the entry point, needed if there are several.
    pub entry: Option<String>,
    /// Values of `override`s and of whole `const NAME: u32 = ...;` lines.
    pub constants: Vec<(String, String)>,
    /// Unroll the loops marked `// unroll`.
    pub unroll: bool,
}

/// A compute shader with everything needed to call it.
#[derive(Debug, Clone)]
pub struct UserShader {
    /// Path of the file.
    pub path: PathBuf,
    /// Final WGSL.
    pub source: Arc<str>,
    /// Name of the entry point.
    pub entry: String,
    /// Size of a workgroup in invocations.
    pub workgroup: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Values of overrides.
    pub overrides: Vec<(String, f64)>,
    /// Variables that the entry point uses, by group and binding; immediates last.
    pub variables: Vec<Variable>,
}

impl UserShader {
    /// Reads a WGSL file, assuming a device that supports everything that naga does.
    ///
    /// # Errors
    /// [`Error::Usage`] with naga's message, line and caret if it is invalid, or if the entry point or a constant does
    /// not exist; [`Error::File`] if it can't be read, or has bindings that can't be filled from files.
    pub fn read(request: &ShaderRequest) -> Result<Self> {
        let path = &request.path;
        let refuse = |problem: String| Error::file(path, problem, MEND);
        let mut text = read_text(path, LONGEST_TEXT as u64).map_err(|error| {
            let remedy = "Check the name and the file's permissions; it has to be WGSL in UTF-8";
            Error::file(path, format!("can't be read: {error}"), remedy)
        })?;
        // Windows editors may write a byte order mark, which WGSL does not allow.
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        let all = |text: &str| {
            parse(path, text, Capabilities::all()).map_err(|message| {
                Error::usage(format!("{}: is not valid WGSL. Correct the shader:\n{message}", shown(&path)))
            })
        };
        let (declared, declared_info) = all(&text)?;
        let mut overrides = Vec::new();
        for (index, (name, value)) in request.constants.iter().enumerate() {
            if request.constants[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::usage(format!("--const gives {name} twice")));
            }
            let found = declared.overrides.iter().map(|(_, found)| found).find(|found| {
                found.name.as_ref() == Some(name) || found.id.is_some_and(|id| *name == id.to_string())
            });
            match found {
                Some(found) => {
                    // An `@id`, if present, is the override's key.
                    let key = found.id.map_or_else(|| name.clone(), |id| id.to_string());
                    if overrides.iter().any(|(earlier, _)| *earlier == key) {
                        return Err(Error::usage(format!(
                            "--const gives {name} twice, by name and by number"
                        )));
                    }
                    overrides.push((key, override_value(name, value)?));
                }
                None => text = constant_line(path, &text, &declared, name, value)?,
            }
        }
        // Changed constants and unrolled loops make new texts, which have to be checked again.
        let (mut module, mut info) = (declared, declared_info);
        if overrides.len() < request.constants.len() {
            (module, info) = all(&text)?;
        }
        if request.unroll {
            let unrolled = unroll(&text)
                .map_err(|message| refuse(format!("its marked loops can't be unrolled: {message}")))?;
            if unrolled != text {
                text = unrolled;
                (module, info) = all(&text)?;
            }
        }
        let entry = choose_entry(&module, request.entry.as_deref())?;
        check_overrides(&module, &overrides)?;
        let constants = overrides.iter().cloned().collect();
        let stage = Some((ShaderStage::Compute, entry.as_str()));
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, stage, &constants)
                .map_err(|error| refuse(format!("its overrides can't be resolved: {error}")))?;
        let index = module.entry_points.iter().position(|point| point.name == entry);
        let Some(index) = index else { return Err(refuse(format!("`{entry}` has vanished"))) };
        let (variables, workgroup_bytes) = variables(&module, &info, index).map_err(refuse)?;
        Ok(Self {
            path: path.clone(),
            source: text.into(),
            workgroup: module.entry_points[index].workgroup_size,
            workgroup_bytes,
            entry,
            overrides,
            variables,
        })
    }

    /// Checks the text against a device's features.
    ///
    /// # Errors
    /// [`Error::Usage`] with naga's message if the device lacks something that the shader uses.
    pub fn check_features(&self, features: wgpu::Features, device: &str) -> Result<()> {
        // wgpu's primary backends support everything that some old OpenGL devices lack.
        let flags = wgpu::DownlevelFlags::all();
        let capabilities = wgpu_naga_bridge::features_to_naga_capabilities(features, flags);
        parse(&self.path, &self.source, capabilities).map(drop).map_err(|message| {
            Error::usage(format!(
                "{}: uses features that {device} lacks, or lacks with these options. Choose another --adapter (`mirage \
                 devices` lists them), or avoid them in the shader:\n{message}",
                shown(&self.path)
            ))
        })
    }

    /// Lists the variables with their types, for messages.
    pub fn describe_variables(&self) -> String {
        if self.variables.is_empty() {
            return format!("`{}` uses no bound variable", self.entry);
        }
        let lines = self.variables.iter().map(|variable| format!("  {}", variable.describe()));
        format!("`{}` uses\n{}", self.entry, lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Parses and validates a text. The error is naga's own message.
fn parse(path: &Path, text: &str, capabilities: Capabilities) -> Result<(naga::Module, ModuleInfo), String> {
    check_bounds(text)?;
    let name = shown(&path);
    let mut options = naga::front::wgsl::Options::new();
    options.capabilities = capabilities;
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .map_err(|error| error.emit_to_string_with_path(text, &name).trim_end().to_owned())?;
    check_types(&module)?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string_with_path(text, &name).trim_end().to_owned())?;
    check_memory(&module, &info)?;
    Ok((module, info))
}

/// Rejects types that are nested too deeply or have too many members. Members count at each use of a type: with two
/// members of the same type in each struct, their number doubles with each level.
fn check_types(module: &naga::Module) -> Result<(), String> {
    const DEEPEST: usize = 60;
    const MOST_MEMBERS: usize = 1 << 12;
    let mut known: Vec<(usize, usize)> = Vec::new();
    for (_, ty) in module.types.iter() {
        // A type follows the types that it consists of.
        let of = |base: &Handle<naga::Type>| known.get(base.index()).copied().unwrap_or_default();
        let (depth, members) = match &ty.inner {
            TypeInner::Array { base, .. } | TypeInner::BindingArray { base, .. } => of(base),
            TypeInner::Pointer { base, .. } => of(base),
            TypeInner::Struct { members, .. } => members
                .iter()
                .map(|member| of(&member.ty))
                .fold((0, members.len()), |all, one| (all.0.max(one.0), all.1.saturating_add(one.1))),
            _ => (0, 0),
        };
        known.push((depth + 1, members));
        if depth >= DEEPEST {
            return Err(format!("a type is nested more than {DEEPEST} deep"));
        }
        if members > MOST_MEMBERS {
            return Err(format!("a type has more than {MOST_MEMBERS} members"));
        }
    }
    Ok(())
}

/// Rejects values per invocation that are so large that compilers exhaust the machine's memory for them.
fn check_memory(module: &naga::Module, info: &ModuleInfo) -> Result<(), String> {
    const MOST: u32 = 1 << 18;
    let size = |inner: &TypeInner| inner.try_size(module.to_ctx()).unwrap_or(u32::MAX);
    let within = |what: &str, bytes: u32| {
        if bytes <= MOST {
            return Ok(());
        }
        Err(format!("{what} takes {bytes} bytes in each invocation; the limit is {MOST}"))
    };
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let mut all = 0u32;
    for (_, variable) in module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::Private) {
        all = all.saturating_add(size(&module.types[variable.ty].inner));
        within(&format!("with the private variables before it `{}`", name(&variable.name)), all)?;
    }
    for (_, constant) in module.constants.iter() {
        within(&format!("the constant `{}`", name(&constant.name)), size(&module.types[constant.ty].inner))?;
    }
    let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
    let entries = module.entry_points.iter().enumerate();
    let entries = entries.map(|(index, point)| (&point.function, info.get_entry_point(index)));
    for (function, types) in functions.chain(entries) {
        let mut all = 0u32;
        for (_, local) in function.local_variables.iter() {
            all = all.saturating_add(size(&module.types[local.ty].inner));
            within(&format!("with the variables before it `{}`", name(&local.name)), all)?;
        }
        for (handle, _) in function.expressions.iter() {
            let inner = types[handle].ty.inner_with(&module.types);
            if !matches!(inner, TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. }) {
                within("a value", size(inner))?;
            }
        }
    }
    Ok(())
}

fn choose_entry(module: &naga::Module, wanted: Option<&str>) -> Result<String> {
    let compute = module.entry_points.iter().filter(|point| point.stage == ShaderStage::Compute);
    let names: Vec<&str> = compute.map(|point| point.name.as_str()).collect();
    let list = names.join(", ");
    match (wanted, names.as_slice()) {
        (_, []) => Err(Error::usage("the shader has no @compute entry point, and no other kind can be run")),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => {
            Err(Error::usage(format!("the shader has several entry points, choose one with --entry: {list}")))
        }
        (Some(wanted), _) if names.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) if module.entry_points.iter().any(|point| point.name == wanted) => Err(
            Error::usage(format!("--entry {wanted}: this is not a @compute entry point; those are: {list}")),
        ),
        (Some(wanted), _) => {
            Err(Error::usage(format!("--entry {wanted}: the shader has no such entry point, only {list}")))
        }
    }
}

/// Returns the variables that an entry point uses, in order, and its bytes of workgroup memory.
fn variables(module: &naga::Module, info: &ModuleInfo, index: usize) -> Result<(Vec<Variable>, u32), String> {
    let usage = info.get_entry_point(index);
    let lengths = measured(module, &module.entry_points[index]);
    let mut variables = Vec::new();
    let mut workgroup_bytes = 0u32;
    for (handle, global) in module.global_variables.iter().filter(|(handle, _)| !usage[*handle].is_empty()) {
        let name = global.name.clone().unwrap_or_default();
        let refuse = |what: &str| {
            format!(
                "`{name}` is {what}; only storage buffers, uniforms, immediates and storage textures can be filled"
            )
        };
        let inner = &module.types[global.ty].inner;
        let bound = match (global.space, inner) {
            (AddressSpace::WorkGroup, _) => {
                // Drivers may round each variable up.
                let bytes = inner.try_size(module.to_ctx()).unwrap_or(u32::MAX);
                workgroup_bytes = bytes.div_ceil(16).saturating_mul(16).saturating_add(workgroup_bytes);
                continue;
            }
            (AddressSpace::Private | AddressSpace::Function, _) => continue,
            (_, TypeInner::BindingArray { .. }) => return Err(refuse("a binding array")),
            (AddressSpace::Storage { access }, _) => Bound::Storage {
                writable: access.contains(StorageAccess::STORE),
                measured: lengths.as_ref().is_none_or(|lengths| lengths.contains(&handle)),
            },
            (AddressSpace::Uniform, _) => Bound::Uniform,
            (AddressSpace::Immediate, _) => Bound::Immediate,
            (AddressSpace::Handle, TypeInner::Image { dim, arrayed, class }) => {
                let (bound, form) = texture(*dim, *arrayed, *class).map_err(|what| refuse(&what))?;
                variables.push(variable(&name, global, bound, form, false));
                continue;
            }
            (AddressSpace::Handle, TypeInner::Sampler { .. }) => return Err(refuse("a sampler")),
            (space, _) => return Err(refuse(&format!("in the address space {space:?}"))),
        };
        let form = Form::of(module, global.ty).map_err(|what| refuse(&format!("of a type with {what}")))?;
        variables.push(variable(&name, global, bound, form, has_atomic(module, global.ty)));
    }
    variables.sort_by_key(|variable| (variable.bound == Bound::Immediate, variable.group, variable.binding));
    Ok((variables, workgroup_bytes))
}

fn variable(name: &str, global: &naga::GlobalVariable, bound: Bound, form: Form, atomic: bool) -> Variable {
    let (group, binding) = global.binding.as_ref().map_or((0, 0), |binding| (binding.group, binding.binding));
    Variable { name: name.to_owned(), group, binding, bound, form, atomic }
}

fn texture(dim: naga::ImageDimension, arrayed: bool, class: ImageClass) -> Result<(Bound, Form), String> {
    use naga::StorageFormat as Format;
    let ImageClass::Storage { format, access } = class else {
        return Err("a sampled texture".to_owned());
    };
    let channels = match format {
        Format::R32Float | Format::R32Uint | Format::R32Sint => 1,
        Format::Rg32Float | Format::Rg32Uint | Format::Rg32Sint => 2,
        Format::Rgba32Float | Format::Rgba32Uint | Format::Rgba32Sint => 4,
        other => {
            return Err(format!("a storage texture of {other:?} (only 32-bit channels are supported)"));
        }
    };
    if dim != naga::ImageDimension::D2 || arrayed || access.contains(StorageAccess::ATOMIC) {
        return Err("a storage texture that is not plain 2-D".to_owned());
    }
    let bound = Bound::Texture {
        readable: access.contains(StorageAccess::LOAD),
        writable: access.contains(StorageAccess::STORE),
        format: wgpu_naga_bridge::map_storage_format_from_naga(format),
        channels,
    };
    Ok((bound, Form::Number(number(format.into())?)))
}

fn has_atomic(module: &naga::Module, ty: Handle<naga::Type>) -> bool {
    match &module.types[ty].inner {
        TypeInner::Atomic(_) => true,
        TypeInner::Array { base, .. } => has_atomic(module, *base),
        TypeInner::Struct { members, .. } => members.iter().any(|member| has_atomic(module, member.ty)),
        _ => false,
    }
}

/// Returns the variables that `arrayLength` is called for; `None` if it is called for a pointer of unknown origin.
fn measured(module: &naga::Module, entry: &naga::EntryPoint) -> Option<Vec<Handle<naga::GlobalVariable>>> {
    let functions = module.functions.iter().map(|(_, function)| function).chain([&entry.function]);
    let mut found = Vec::new();
    for function in functions {
        for (_, expression) in function.expressions.iter() {
            let Expression::ArrayLength(mut pointer) = *expression else { continue };
            loop {
                match function.expressions[pointer] {
                    Expression::AccessIndex { base, .. } | Expression::Access { base, .. } => pointer = base,
                    Expression::GlobalVariable(variable) => {
                        found.push(variable);
                        break;
                    }
                    _ => return None,
                }
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marked.wgsl");
        let text = "const N: u32 = 4;\n@compute @workgroup_size(N) fn main() {}\n";
        let read = |marks: &str| {
            std::fs::write(&path, format!("{marks}{text}")).unwrap();
            UserShader::read(&ShaderRequest { path: path.clone(), ..ShaderRequest::default() })
        };
        for marks in ["", "\u{feff}"] {
            assert_eq!(&*read(marks).unwrap().source, text);
        }
        assert!(read("\u{feff}\u{feff}").is_err());
    }
}
