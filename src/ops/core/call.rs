//! Checks a dispatch against the entry point that it calls: names, kinds and types, as naga reflects them from the
//! shader.

use super::op::{Constant, Dispatch, Operand, Storage, Value};
use crate::error::{Error, Result};
use crate::shader::{Interface, ResourceKind, ScalarKind};

impl Dispatch {
    /// Checks that bindings and parameters match the entry point exactly: each resource is bound once, to a texture or
    /// a buffer as declared, with no constant where the shader writes and no two operands in one staging texture; each
    /// parameter is set once, with its type; nothing else is bound or set.
    ///
    /// # Errors
    /// [`Error::Shader`] naming the mismatch, which is a bug in the op.
    pub fn check(&self, interface: &Interface) -> Result<()> {
        let (resources, _) = interface.entry(self.entry)?;
        for (index, (name, _)) in self.bindings.iter().enumerate() {
            if self.bindings[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(self.fault(format!("`{name}` is bound twice")));
            }
            let used = |resource: &&crate::shader::Resource| resource.name == *name;
            if !resources.iter().any(used) {
                return Err(self.fault(format!("`{name}` is bound, but the entry point does not use it")));
            }
        }
        let mut slots = Vec::new();
        for (name, operand) in &self.bindings {
            if let Some(slot) = operand.slot() {
                if slots.contains(&slot) {
                    return Err(self.fault(format!("`{name}` is staged in another operand's texture")));
                }
                slots.push(slot);
            }
        }
        for resource in &resources {
            if let ResourceKind::Uniform { .. } = resource.kind {
                continue;
            }
            let operand = self.operand(&resource.name)?;
            let texture = operand.slot().is_some()
                || matches!(operand, Operand::Constant(Constant { storage: Storage::Texture, .. }));
            if texture != matches!(resource.kind, ResourceKind::Texture { .. }) {
                return Err(self.fault(format!("`{}` is bound to the wrong kind of memory", resource.name)));
            }
            let (ResourceKind::Storage { read_only } | ResourceKind::Texture { read_only }) = resource.kind
            else {
                continue;
            };
            let fixed = matches!(operand, Operand::Constant(_) | Operand::Staged { .. });
            if !read_only && fixed {
                let message = format!("`{}` is written, but bound to a read-only operand", resource.name);
                return Err(self.fault(message));
            }
        }
        self.uniform(interface).map(drop)
    }

    /// Returns the operand bound to a variable.
    ///
    /// # Errors
    /// [`Error::Shader`] if the variable is not bound.
    pub fn operand(&self, name: &str) -> Result<&Operand> {
        let found = self.bindings.iter().find(|(candidate, _)| *candidate == name);
        found.map(|(_, operand)| operand).ok_or_else(|| self.fault(format!("nothing is bound to `{name}`")))
    }

    /// Returns the bytes of the uniform struct. Every member must be set once, with its type, and nothing else.
    ///
    /// # Errors
    /// [`Error::Shader`] naming the parameter.
    pub fn uniform(&self, interface: &Interface) -> Result<Vec<u8>> {
        let size = interface.resources.iter().find_map(|resource| match resource.kind {
            ResourceKind::Uniform { size } => Some(size as usize),
            _ => None,
        });
        let mut bytes = vec![0; size.unwrap_or(0)];
        for (index, (param, _)) in self.params.iter().enumerate() {
            if !interface.params.iter().any(|member| member.name == *param) {
                return Err(self.fault(format!("the shader has no parameter `{param}`")));
            }
            if self.params[..index].iter().any(|(earlier, _)| earlier == param) {
                return Err(self.fault(format!("parameter `{param}` is set twice")));
            }
        }
        for member in &interface.params {
            let value = self.params.iter().find(|(param, _)| *param == member.name).map(|(_, value)| *value);
            let word = match (value, member.kind) {
                (Some(Value::U32(value)), ScalarKind::U32 | ScalarKind::I32) => value.to_le_bytes(),
                (Some(Value::F32(value)), ScalarKind::F32) => value.to_le_bytes(),
                _ => {
                    let message = format!("parameter `{}` is missing or has another type", member.name);
                    return Err(self.fault(message));
                }
            };
            let start = member.offset as usize;
            bytes[start..start + 4].copy_from_slice(&word);
        }
        Ok(bytes)
    }

    fn fault(&self, message: String) -> Error {
        Error::shader(format!("{}/{}", self.shader, self.entry), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Initializer;

    const TEXT: &str = "
        struct Params { count: u32, scale: f32 }
        @group(0) @binding(0) var<storage, read> input: array<f32>;
        @group(0) @binding(1) var<storage, read> unused: array<f32>;
        @group(0) @binding(2) var<storage, read_write> output: array<f32>;
        @group(0) @binding(3) var<uniform> params: Params;
        @compute @workgroup_size(1) fn main() { output[params.count] = input[0] * params.scale; }
    ";

    fn constant(storage: Storage) -> Operand {
        let initializer = Initializer::host(|| Ok(vec![0; 16]));
        Operand::Constant(Constant { key: "k".to_owned(), storage, bytes: 16, initializer })
    }

    fn good() -> Dispatch {
        let dispatch = Dispatch::new("t", "main").size("count", 1).float("scale", 0.5);
        dispatch.bind("input", Operand::Input(0)).bind("output", Operand::Output)
    }

    #[test]
    fn two_operands_in_one_staging_texture_are_refused() {
        let text = "
            @group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
            @group(0) @binding(1) var b: texture_storage_2d<rgba32float, read>;
            @group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
            @compute @workgroup_size(1) fn main() {
                output[0] = textureLoad(a, vec2<u32>(0u, 0u)) + textureLoad(b, vec2<u32>(0u, 0u));
            }
        ";
        let interface = Interface::reflect("t", text).unwrap();
        let with = |second: Operand| {
            let dispatch = Dispatch::new("t", "main").bind("a", Operand::Input(0).staged());
            dispatch.bind("b", second).bind("output", Operand::Output)
        };
        with(Operand::Input(1).staged_in(1)).check(&interface).unwrap();
        assert!(with(Operand::Input(1).staged()).check(&interface).is_err());
        with(Operand::Texture { slot: 1, bytes: 16 }).check(&interface).unwrap();
        assert!(with(Operand::Texture { slot: 0, bytes: 16 }).check(&interface).is_err());
    }

    #[test]
    fn dispatch_must_match_the_interface() {
        let interface = Interface::reflect("t", TEXT).unwrap();
        good().check(&interface).unwrap();
        assert_eq!(good().uniform(&interface).unwrap(), [1, 0, 0, 0, 0, 0, 0, 0x3f]);
        let without = |name: &str| {
            let mut dispatch = good();
            dispatch.bindings.retain(|(bound, _)| *bound != name);
            dispatch.params.retain(|(param, _)| *param != name);
            dispatch
        };
        let wrong = [
            without("input"),
            without("output"),
            without("count"),
            without("scale"),
            without("input").bind("input", Operand::Input(0).staged()),
            without("input").bind("input", constant(Storage::Texture)),
            without("output").bind("output", constant(Storage::Buffer)),
            without("scale").size("scale", 1),
            without("count").float("count", 1.0),
            good().bind("unused", Operand::Input(0)),
            good().bind("input", Operand::Input(1)),
            good().bind("nothing", Operand::Input(0)),
            good().size("count", 2),
            good().size("nothing", 1),
            Dispatch { entry: "other", ..good() },
        ];
        for dispatch in wrong {
            assert!(dispatch.check(&interface).is_err(), "{dispatch:?}");
        }
    }
}
