//! From nodes to kernels, and from these to what is compiled.

use super::engine::Engine;
use super::ir::Node;
use super::options::Options;
use crate::error::Result;
use crate::gpu::PipelineKey;
use crate::ops::{Kernel, Signature};
use crate::shader::Shader;
use std::sync::Arc;

/// The kernel of a node, and whether measurement chose it; else `pick` does.
///
/// # Errors
/// As [`crate::ops::Op::kernels`].
pub(super) fn choose(
    engine: &Engine,
    node: &Node,
    signature: &Signature,
    pick: &impl Fn(&[Kernel]) -> usize,
    options: Options,
) -> Result<(Kernel, bool)> {
    let op = node.op.as_ref();
    if options.tuned
        && let Some(kernel) = engine.chosen(op, signature)?
    {
        return Ok((kernel, true));
    }
    let mut candidates = options.candidates(op, signature, engine.context.profile())?;
    Ok((candidates.swap_remove(pick(&candidates).min(candidates.len() - 1)), false))
}

/// What to compile for each dispatch, and its shader.
///
/// # Errors
/// [`crate::Error::Gpu`] if a kernel and its call do not fit together.
pub(super) fn shaders(kernels: &[Kernel], unroll: bool) -> Result<(Vec<PipelineKey>, Vec<Arc<Shader>>)> {
    let mut keys = Vec::new();
    let mut shaders = Vec::new();
    for dispatch in kernels.iter().flat_map(|kernel| &kernel.dispatches) {
        let shader = Shader::load_form(dispatch.shader, &dispatch.consts, unroll)?;
        dispatch.check(&shader.interface)?;
        let (resources, _) = shader.interface.entry(dispatch.entry)?;
        keys.push(PipelineKey {
            label: format!("{}/{}", dispatch.shader, dispatch.entry),
            source: shader.source.clone(),
            entry: dispatch.entry,
            layout: resources.iter().map(|resource| resource.layout_entry()).collect(),
        });
        shaders.push(shader);
    }
    Ok((keys, shaders))
}
