//! Bindings and parameters of a shader, reflected from its text by naga, so no binding is declared twice.

use crate::error::{Error, Result};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// How a resource is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    /// `var<storage, read>` or `var<storage, read_write>`.
    Storage {
        /// True for `read`.
        read_only: bool,
    },
    /// `var<uniform>`: the parameter struct.
    Uniform {
        /// Size in bytes.
        size: u32,
    },
    /// `texture_storage_2d<rgba32float, read>` or `write`.
    Texture {
        /// True for `read`.
        read_only: bool,
    },
}

/// One bound resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Name of the variable.
    pub name: String,
    /// Binding number in group 0.
    pub binding: u32,
    /// Kind of the resource.
    pub kind: ResourceKind,
}

/// Type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// `u32`
    U32,
    /// `i32`
    I32,
    /// `f32`
    F32,
}

/// One member of the parameter struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name of the member.
    pub name: String,
    /// Offset in bytes.
    pub offset: u32,
    /// Type of the member.
    pub kind: ScalarKind,
}

/// The interface of a shader: everything needed to call it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// All bound resources of group 0.
    pub resources: Vec<Resource>,
    /// Members of the uniform parameter struct, if any.
    pub params: Vec<Member>,
    /// Entry points with their workgroup sizes.
    pub entries: Vec<(String, [u32; 3])>,
    /// For each entry point, the names of the resources that it uses.
    pub uses: Vec<Vec<String>>,
    /// For each entry point, the bytes of workgroup memory that it uses.
    pub workgroup_bytes: Vec<u32>,
}

/// True if WGSL text uses subgroups, ignoring comments.
pub fn needs_subgroups(text: &str) -> bool {
    text.lines().any(|line| line.split("//").next().unwrap_or("").contains("subgroup"))
}

/// True if WGSL text uses cooperative matrices, and with them f16.
pub fn needs_coop_matrix(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "enable wgpu_cooperative_matrix;")
}

/// Extensions of core WGSL that a shader uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// Subgroup operations.
    pub subgroups: bool,
    /// Cooperative matrices and f16.
    pub coop_matrix: bool,
}

impl Extensions {
    /// Detects the extensions that a text uses.
    pub fn of(text: &str) -> Self {
        Self { subgroups: needs_subgroups(text), coop_matrix: needs_coop_matrix(text) }
    }

    /// Creates a validator with the capabilities that the program's shaders may use. They are defined only here.
    #[must_use]
    pub fn validator(self) -> Validator {
        // `unpack2x16float` (f16 storage, f32 arithmetic) is core WGSL; only old OpenGL lacks it.
        let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        capabilities.set(Capabilities::SUBGROUP, self.subgroups);
        capabilities.set(Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16, self.coop_matrix);
        let mut validator = Validator::new(ValidationFlags::all(), capabilities);
        if self.subgroups {
            validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        }
        validator
    }
}

impl Interface {
    /// Reads the interface of a WGSL text.
    ///
    /// # Errors
    /// [`Error::Shader`] with naga's message if the text is invalid, or binds resources of a kind that the program's
    /// kernels don't use.
    pub fn reflect(name: &str, text: &str) -> Result<Self> {
        let refuse = |message: String| Error::shader(name, message);
        let module =
            naga::front::wgsl::parse_str(text).map_err(|error| refuse(error.emit_to_string(text)))?;
        let mut validator = Extensions { subgroups: true, ..Extensions::of(text) }.validator();
        let info = validator.validate(&module).map_err(|error| refuse(error.emit_to_string(text)))?;
        let mut found = Self::default();
        for (_, variable) in module.global_variables.iter() {
            let inner = &module.types[variable.ty].inner;
            if variable.space == naga::AddressSpace::WorkGroup {
                continue;
            }
            let (Some(binding), Some(label)) = (&variable.binding, &variable.name) else { continue };
            let kind = match (variable.space, inner) {
                (naga::AddressSpace::Storage { access }, _) => {
                    ResourceKind::Storage { read_only: !access.contains(naga::StorageAccess::STORE) }
                }
                (naga::AddressSpace::Uniform, naga::TypeInner::Struct { members, span }) => {
                    for member in members {
                        found.params.push(scalar_member(&module, member).map_err(refuse)?);
                    }
                    ResourceKind::Uniform { size: *span }
                }
                (
                    naga::AddressSpace::Handle,
                    naga::TypeInner::Image { class: naga::ImageClass::Storage { access, .. }, .. },
                ) => ResourceKind::Texture { read_only: !access.contains(naga::StorageAccess::STORE) },
                (space, _) => return Err(refuse(format!("`{label}` in {space:?} is not supported"))),
            };
            found.resources.push(Resource { name: label.clone(), binding: binding.binding, kind });
        }
        for (index, entry) in module.entry_points.iter().enumerate() {
            found.entries.push((entry.name.clone(), entry.workgroup_size));
            let usage = info.get_entry_point(index);
            let used = || module.global_variables.iter().filter(|(handle, _)| !usage[*handle].is_empty());
            let bound = used().filter(|(_, variable)| variable.binding.is_some());
            found.uses.push(bound.filter_map(|(_, variable)| variable.name.clone()).collect());
            let shared = used().filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup);
            // Drivers may round up the size of each variable.
            let sizes = shared.map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()));
            found.workgroup_bytes.push(sizes.map(|size| size.next_multiple_of(16)).sum());
        }
        Ok(found)
    }

    /// Returns the bytes of workgroup memory that an entry point uses.
    ///
    /// # Errors
    /// As [`Interface::entry`].
    pub fn workgroup_bytes(&self, entry: &str) -> Result<u32> {
        Ok(self.workgroup_bytes[self.index(entry)?])
    }

    fn index(&self, entry: &str) -> Result<usize> {
        self.entries
            .iter()
            .position(|(name, _)| name == entry)
            .ok_or_else(|| Error::shader(entry, "there is no such entry point"))
    }

    /// Returns the resources that an entry point uses, and its workgroup size.
    ///
    /// # Errors
    /// [`Error::Shader`] if there is no such entry point.
    pub fn entry(&self, entry: &str) -> Result<(Vec<&Resource>, [u32; 3])> {
        let index = self.index(entry)?;
        let used = &self.uses[index];
        let resources = self.resources.iter().filter(|resource| used.contains(&resource.name)).collect();
        Ok((resources, self.entries[index].1))
    }
}

fn scalar_member(module: &naga::Module, member: &naga::StructMember) -> Result<Member, String> {
    let name = member.name.clone().unwrap_or_default();
    let kind = match module.types[member.ty].inner {
        naga::TypeInner::Scalar(naga::Scalar::U32) => ScalarKind::U32,
        naga::TypeInner::Scalar(naga::Scalar::I32) => ScalarKind::I32,
        naga::TypeInner::Scalar(naga::Scalar::F32) => ScalarKind::F32,
        _ => return Err(format!("parameter `{name}` is not a u32, i32 or f32")),
    };
    Ok(Member { name, offset: member.offset, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Features that browsers lack are rejected, so no variant needs a counterpart for browsers.
    #[test]
    fn features_missing_on_the_web_are_refused() {
        let around = |declaration: &str, statement: &str| {
            format!(
                "{declaration}
                 @group(0) @binding(0) var<storage, read_write> output: array<u32>;
                 @compute @workgroup_size(1) fn main() {{ {statement} }}"
            )
        };
        Interface::reflect("t", &around("", "output[0] = 1u;")).unwrap();
        for (declaration, statement) in [
            ("var<immediate> count: u32;", "output[0] = count;"),
            ("", "let long = u64(output[0]); output[0] = u32(long * long);"),
            ("", "let long = i64(output[0]); output[0] = u32(long * long);"),
            ("", "let double = f64(output[0]); output[0] = u32(double * double);"),
            ("enable f16;", "let half = f16(output[0]); output[0] = u32(half * half);"),
        ] {
            let text = around(declaration, statement);
            assert!(Interface::reflect("t", &text).is_err(), "{declaration} {statement}");
        }
    }
}
