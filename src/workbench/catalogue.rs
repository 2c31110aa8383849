//! Catalogue of all kernels and their resources.

use crate::error::Result;
use crate::gpu::Profile;
use crate::graph::candidates;
use crate::ops::{Case, Dispatch, Kernel, Operand, REGISTRY, Shape, Signature, Storage};
use crate::shader::{ResourceKind, Shader, needs_subgroups};
use serde::Serialize;
use std::collections::BTreeSet;

/// One kernel of one op.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Name of the op.
    pub op: &'static str,
    /// Name of the kernel.
    pub variant: &'static str,
    /// True if this kernel is the first choice at `shapes`.
    pub preferred: bool,
    /// Input shapes of the op's largest test case that runs this kernel.
    pub shapes: Vec<String>,
    /// Operations at these shapes. A multiply-add counts as two.
    pub flops: u64,
    /// Bytes of inputs, output and weights at these shapes.
    pub bytes: u64,
    /// Bytes of scratch memory at these shapes.
    pub scratch: u64,
    /// Distinct dispatched entry points.
    pub passes: Vec<Pass>,
}

/// An entry point with its constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// Name of the shader file, without extension.
    pub shader: &'static str,
    /// Name of the entry point.
    pub entry: &'static str,
    /// Constants that differ from the file's.
    pub consts: Vec<(&'static str, u32)>,
    /// Size of a workgroup along each axis, in invocations.
    pub workgroup: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Binding number, name and kind of each bound variable.
    pub bindings: Vec<String>,
    /// True if it uses subgroup operations.
    pub subgroups: bool,
}

impl Pass {
    /// Describes the pass of a dispatch.
    ///
    /// # Errors
    /// As [`Shader::load`].
    pub fn of(dispatch: &Dispatch) -> Result<Self> {
        let shader = Shader::load(dispatch.shader, &dispatch.consts)?;
        let (resources, workgroup) = shader.interface.entry(dispatch.entry)?;
        let bindings = resources.iter().map(|resource| {
            let kind = match resource.kind {
                ResourceKind::Storage { read_only: true } => "buffer, read".to_owned(),
                ResourceKind::Storage { read_only: false } => "buffer, written".to_owned(),
                ResourceKind::Texture { read_only: true } => "texture, read".to_owned(),
                ResourceKind::Texture { read_only: false } => "texture, written".to_owned(),
                ResourceKind::Uniform { size } => format!("uniform of {size} bytes"),
            };
            format!("{} {} ({kind})", resource.binding, resource.name)
        });
        Ok(Self {
            shader: dispatch.shader,
            entry: dispatch.entry,
            consts: dispatch.consts.clone(),
            workgroup,
            workgroup_bytes: shader.interface.workgroup_bytes(dispatch.entry)?,
            bindings: bindings.collect(),
            subgroups: needs_subgroups(&shader.source),
        })
    }

    /// Returns `shader/entry NAME=value ...`, which distinguishes passes.
    pub fn name(&self) -> String {
        let consts = self.consts.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("{}/{}{}", self.shader, self.entry, consts.collect::<String>())
    }

    /// Returns the final shader.
    ///
    /// # Errors
    /// As [`Shader::load`].
    pub fn source(&self) -> Result<std::sync::Arc<Shader>> {
        Shader::load(self.shader, &self.consts)
    }
}

/// Lists all kernels, on a device with this profile, of the ops for which `wanted` is true. Includes every family
/// unless the profile forces one.
///
/// # Errors
/// As [`crate::ops::Op::kernels`] and [`Shader::load`].
pub fn catalogue(device: &Profile, wanted: impl Fn(&str) -> bool) -> Result<Vec<Listed>> {
    let mut listed: Vec<Listed> = Vec::new();
    for entry in REGISTRY.iter().filter(|entry| wanted(entry.name)) {
        for case in (entry.cases)() {
            let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
            let signature = Signature::of(case.op.as_ref(), &shapes)?;
            for (rank, kernel) in candidates(case.op.as_ref(), &signature, device)?.iter().enumerate() {
                add(&mut listed, entry.name, &case, &signature, kernel, rank == 0)?;
            }
        }
    }
    listed.sort_by_key(|kernel| kernel.op);
    Ok(listed)
}

fn add(
    listed: &mut Vec<Listed>,
    op: &'static str,
    case: &Case,
    signature: &Signature,
    kernel: &Kernel,
    preferred: bool,
) -> Result<()> {
    let passes = kernel.dispatches.iter().map(Pass::of).collect::<Result<Vec<_>>>()?;
    let size = |signature: &Signature| case.op.flops(signature);
    let fresh = Listed {
        op,
        variant: kernel.variant,
        preferred,
        shapes: signature.inputs.iter().map(ToString::to_string).collect(),
        flops: size(signature),
        bytes: bytes(signature, kernel),
        scratch: kernel.scratch.iter().sum(),
        passes: Vec::new(),
    };
    let found = listed.iter().position(|other| other.op == op && other.variant == kernel.variant);
    let at = found.unwrap_or_else(|| {
        listed.push(fresh.clone());
        listed.len() - 1
    });
    let kept = &mut listed[at];
    if fresh.flops > kept.flops {
        *kept = Listed { passes: std::mem::take(&mut kept.passes), ..fresh };
    }
    for pass in passes {
        if !kept.passes.contains(&pass) {
            kept.passes.push(pass);
        }
    }
    Ok(())
}

/// Bytes of the tensors and constants, each counted once.
pub(super) fn bytes(signature: &Signature, kernel: &Kernel) -> u64 {
    let tensors = signature.inputs.iter().chain([&signature.output]).map(Shape::bytes).sum::<u64>();
    let mut seen = BTreeSet::new();
    let operands = kernel.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
    let constants = operands.filter_map(|(_, operand)| match operand {
        Operand::Constant(constant) => Some(constant),
        _ => None,
    });
    let constants = constants
        .filter(|constant| seen.insert((constant.key.clone(), constant.storage == Storage::Texture)));
    tensors + constants.map(|constant| constant.bytes).sum::<u64>()
}

/// Profile to list kernels for if no device can be opened: WebGPU's default limits, subgroups of 8.
pub fn typical() -> Profile {
    Profile { software: true, lanes: Some(8), ..Profile::minimal() }
}
