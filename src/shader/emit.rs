//! The final form of a shader for each target: WGSL for wgpu and browsers, and SPIR-V, HLSL and MSL as wgpu passes
//! them to Vulkan, DirectX 12 and Metal, with the same binding numbers and all checks (indices, divisions, infinite
//! loops).

use super::reflect::{Extensions, Interface, Resource, ResourceKind, needs_coop_matrix, needs_subgroups};
use super::variant::Shader;
use crate::error::{Error, Result};
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use std::borrow::Cow;

/// Target that a shader is emitted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// WGSL for wgpu.
    Wgpu,
    /// WGSL for browsers.
    Web,
    /// SPIR-V 1.3, for Vulkan 1.1 and later.
    Spirv,
    /// HLSL for DirectX 12: shader model 5.1, or 6.0 if subgroups are used.
    Hlsl,
    /// Metal Shading Language 2.4.
    Msl,
}

impl Target {
    /// All targets.
    pub const ALL: [Self; 5] = [Self::Wgpu, Self::Web, Self::Spirv, Self::Hlsl, Self::Msl];

    /// True if shaders with cooperative matrices can be emitted for it.
    pub fn has_coop_matrix(self) -> bool {
        !matches!(self, Self::Web | Self::Hlsl)
    }

    /// Name on command lines, parsed by [`std::str::FromStr`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Wgpu => "wgsl",
            Self::Web => "web",
            Self::Spirv => "spirv",
            Self::Hlsl => "hlsl",
            Self::Msl => "msl",
        }
    }
}

impl std::str::FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|target| target.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("unknown shader target '{text}': choose one of {names}"))
        })
    }
}

/// Code of a shader for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// WGSL, HLSL or MSL.
    Text(String),
    /// SPIR-V.
    Words(Vec<u32>),
}

impl Code {
    /// Returns the content of a file with the code. SPIR-V words are little-endian, as its tools expect.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) => text.as_bytes().into(),
            Self::Words(words) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }
}

/// A parsed and validated shader that can be emitted for any target.
#[derive(Debug)]
pub struct Emitter {
    name: String,
    source: std::sync::Arc<str>,
    interface: Interface,
    module: naga::Module,
    info: naga::valid::ModuleInfo,
}

impl Emitter {
    /// Parses and validates a shader with only the capabilities that it needs: subgroups and cooperative matrices are
    /// enabled only if its text uses them. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Shader`] with naga's message if the text is invalid.
    pub fn new(name: &str, shader: &Shader) -> Result<Self> {
        let source = shader.source.clone();
        let refuse = |message: String| Error::shader(name, message);
        let module =
            naga::front::wgsl::parse_str(&source).map_err(|error| refuse(error.emit_to_string(&source)))?;
        let info = Extensions::of(&source)
            .validator()
            .validate(&module)
            .map_err(|error| refuse(error.emit_to_string(&source)))?;
        Ok(Self { name: name.to_owned(), source, interface: shader.interface.clone(), module, info })
    }

    /// Emits the code for a target. WGSL contains all entry points of the file, the other languages only `entry`.
    ///
    /// # Errors
    /// [`Error::Shader`] if there is no such entry point, or the target can't express the shader.
    pub fn emit(&self, entry: &str, target: Target) -> Result<Code> {
        let (resources, _) = self.interface.entry(entry)?;
        let refuse =
            |message: String| Error::shader(format!("{}/{entry} as {}", self.name, target.name()), message);
        if needs_coop_matrix(&self.source) && !target.has_coop_matrix() {
            return Err(refuse("it has no cooperative matrices".to_owned()));
        }
        match target {
            Target::Wgpu => return Ok(Code::Text(self.source.to_string())),
            Target::Web => return Ok(Code::Text(web(&self.source))),
            Target::Spirv | Target::Hlsl | Target::Msl => {}
        }
        let stage = naga::ShaderStage::Compute;
        let only = Some((stage, entry));
        // Removes everything that the entry point does not use, as wgpu does.
        let (module, info) = naga::back::pipeline_constants::process_overrides(
            &self.module,
            &self.info,
            only,
            &Default::default(),
        )
        .map_err(|error| refuse(error.to_string()))?;
        let only = Some((stage, entry.to_owned()));
        match target {
            Target::Wgpu | Target::Web | Target::Spirv => {
                let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point: entry.to_owned() };
                spv::write_vec(&module, &info, &spirv_options(&resources), Some(&pipeline))
                    .map(Code::Words)
                    .map_err(|error| refuse(error.to_string()))
            }
            Target::Hlsl => {
                let options = hlsl_options(&resources, needs_subgroups(&self.source));
                let mut text = String::new();
                hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions { entry_point: only })
                    .write(&module, &info, None)
                    .map_err(|error| refuse(error.to_string()))?;
                Ok(Code::Text(text))
            }
            Target::Msl => {
                let options = msl_options(&resources, entry);
                let pipeline = msl::PipelineOptions { entry_point: only, ..Default::default() };
                msl::write_string(&module, &info, &options, &pipeline)
                    .map(|(text, _)| Code::Text(text))
                    .map_err(|error| refuse(error.to_string()))
            }
        }
    }
}

/// Returns WGSL for browsers, which require a directive to enable subgroups that naga 30 rejects.
fn web(source: &str) -> String {
    if needs_subgroups(source) { format!("enable subgroups;\n{source}") } else { source.to_owned() }
}

/// Clamp indices that may be out of range, as for a driver without guarantees of its own.
const CHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    binding_array: BoundsCheckPolicy::Unchecked,
};

fn place(resource: &Resource) -> naga::ResourceBinding {
    naga::ResourceBinding { group: 0, binding: resource.binding }
}

fn spirv_options(resources: &[&Resource]) -> spv::Options<'static> {
    let target = |binding| spv::BindingInfo { descriptor_set: 0, binding, binding_array_size: None };
    spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::LABEL_VARYINGS,
        fake_missing_bindings: false,
        binding_map: resources.iter().map(|resource| (place(resource), target(resource.binding))).collect(),
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    }
}

/// Numbers the registers by kind in the order of the bindings; the number of workgroups comes last.
fn hlsl_options(resources: &[&Resource], subgroups: bool) -> hlsl::Options {
    let (mut constants, mut read, mut written) = (0, 0, 0);
    let take = |counter: &mut u32| {
        *counter += 1;
        *counter - 1
    };
    let mut ordered = resources.to_vec();
    ordered.sort_by_key(|resource| resource.binding);
    let binding_map = ordered
        .into_iter()
        .map(|resource| {
            let register = match resource.kind {
                ResourceKind::Uniform { .. } => take(&mut constants),
                ResourceKind::Storage { read_only: true } => take(&mut read),
                ResourceKind::Texture { .. } | ResourceKind::Storage { read_only: false } => {
                    take(&mut written)
                }
            };
            (place(resource), hlsl::BindTarget { register, ..Default::default() })
        })
        .collect();
    hlsl::Options {
        shader_model: if subgroups { hlsl::ShaderModel::V6_0 } else { hlsl::ShaderModel::V5_1 },
        binding_map,
        fake_missing_bindings: false,
        special_constants_binding: Some(hlsl::BindTarget { register: constants, ..Default::default() }),
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    }
}

/// Numbers the slots by kind in the order of the bindings; the sizes of the buffers come last.
fn msl_options(resources: &[&Resource], entry: &str) -> msl::Options {
    let (mut buffers, mut textures) = (0, 0);
    let mut ordered = resources.to_vec();
    ordered.sort_by_key(|resource| resource.binding);
    let mut slots = msl::EntryPointResources::default();
    for resource in ordered {
        let mut target = msl::BindTarget::default();
        match resource.kind {
            ResourceKind::Uniform { .. } | ResourceKind::Storage { .. } => {
                target.buffer = Some(buffers);
                target.mutable = resource.kind == ResourceKind::Storage { read_only: false };
                buffers += 1;
            }
            ResourceKind::Texture { read_only } => {
                target.texture = Some(textures);
                target.mutable = !read_only;
                textures += 1;
            }
        }
        slots.resources.insert(place(resource), target);
    }
    slots.sizes_buffer = Some(buffers);
    msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(entry.to_owned(), slots)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        struct Params { count: u32 }
        @group(0) @binding(0) var<storage, read> input: array<f32>;
        @group(0) @binding(1) var<storage, read_write> spare: array<f32>;
        @group(0) @binding(2) var<storage, read_write> output: array<f32>;
        @group(0) @binding(3) var<uniform> params: Params;
        @group(0) @binding(4) var image: texture_storage_2d<rgba32float, read>;
        // subgroups in a comment do not count
        @compute @workgroup_size(8)
        fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
            output[id.x] = input[id.x / params.count] + textureLoad(image, id.xy).x + f32(groups.x);
        }
        @compute @workgroup_size(8) fn second() { spare[0] = 1.0; }
    ";

    fn text(source: &str, entry: &str, target: Target) -> String {
        let shader = Shader::build("t", source, &[], true).unwrap();
        match Emitter::new("t", &shader).unwrap().emit(entry, target).unwrap() {
            Code::Text(text) => text,
            Code::Words(words) => panic!("{} words", words.len()),
        }
    }

    #[test]
    fn bindings_are_numbered_as_wgpu_numbers_them() {
        let hlsl = text(TEXT, "main", Target::Hlsl);
        for register in ["(t0)", "(u0)", "(b0)", "(u1)", "(b1)"] {
            assert!(hlsl.contains(register), "{register} in\n{hlsl}");
        }
        let msl = text(TEXT, "main", Target::Msl);
        for slot in ["[[buffer(0)]]", "[[buffer(1)]]", "[[buffer(2)]]", "[[texture(0)]]", "[[buffer(3)]]"] {
            assert!(msl.contains(slot), "{slot} in\n{msl}");
        }
        assert!(!hlsl.contains("spare") && !msl.contains("spare"), "{hlsl}\n{msl}");
    }

    #[test]
    fn spirv_is_in_the_byte_order_of_its_tools() {
        let shader = Shader::build("t", TEXT, &[], true).unwrap();
        let code = Emitter::new("t", &shader).unwrap().emit("second", Target::Spirv).unwrap();
        assert_eq!(code.bytes()[..8], [0x03, 0x02, 0x23, 0x07, 0, 3, 1, 0]);
    }

    #[test]
    fn web_text_enables_subgroups_if_used() {
        assert_eq!(text(TEXT, "main", Target::Web), text(TEXT, "main", Target::Wgpu));
        let with = TEXT.replace("spare[0] = 1.0", "spare[0] = subgroupAdd(1.0)");
        let web = text(&with, "second", Target::Web);
        assert!(web.starts_with("enable subgroups;\n") && web.ends_with(&with), "{web}");
        assert!(text(&with, "second", Target::Hlsl).contains("WaveActiveSum"));
    }

    #[test]
    fn target_names_round_trip() {
        for target in Target::ALL {
            assert_eq!(target.name().parse::<Target>().unwrap(), target);
        }
        let message = "glsl".parse::<Target>().unwrap_err().to_string();
        assert!(message.contains("wgsl, web, spirv, hlsl, msl"), "{message}");
    }

    #[test]
    fn cooperative_matrices_emit_for_wgpu_vulkan_and_metal() {
        let source = "
            enable f16;
            enable wgpu_cooperative_matrix;
            const SIDE: u32 = 16u;
            @group(0) @binding(0) var<storage, read> input: array<f16>;
            @group(0) @binding(1) var<storage, read_write> output: array<f32>;
            @compute @workgroup_size(32) fn main() {
                let left = coopLoadT<coop_mat16x16<f16, A>>(&input[0], SIDE);
                let right = coopLoad<coop_mat16x16<f16, B>>(&input[0], SIDE);
                coopStoreT(coopMultiplyAdd(left, right, coop_mat16x16<f32, C>()), &output[0], SIDE);
            }";
        // Constants are at the start of their lines.
        let source: String = source.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
        for side in [16, 8] {
            let shader = Shader::build("t", &source, &[("SIDE", side)], true).unwrap();
            assert_eq!(shader.source.contains("coop_mat8x8"), side == 8);
            assert_eq!(shader.source.contains("coop_mat16x16"), side == 16);
            let emitter = Emitter::new("t", &shader).unwrap();
            for target in Target::ALL {
                let code = emitter.emit("main", target);
                assert_eq!(code.is_ok(), target.has_coop_matrix(), "{code:?}");
            }
        }
        let without = Shader::build("t", &source.replace("enable f16;", ""), &[], true);
        assert!(without.is_err());
    }

    #[test]
    fn unknown_entry_point_is_refused() {
        let shader = Shader::build("t", TEXT, &[], true).unwrap();
        let emitter = Emitter::new("t", &shader).unwrap();
        assert!(Target::ALL.iter().all(|target| emitter.emit("third", *target).is_err()));
    }
}
