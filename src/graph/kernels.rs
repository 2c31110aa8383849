//! Choice of a kernel for each node, and the entry points to compile.

use super::choices::{Choices, Verdict, look_up};
use super::ir::Node;
use super::lowered::Entry;
use super::options::PrepareOptions;
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::{Dispatch, Kernel, Operand, Signature, Storage};
use crate::shader::Shader;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the kernels of a graph are chosen.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    /// Profile of the device.
    pub profile: &'a Profile,
    /// Options that determine the candidates.
    pub options: PrepareOptions,
    /// Picks one of a node's kernels if none was chosen by measurement.
    pub pick: &'a dyn Fn(&[Kernel]) -> usize,
    /// Choices by measurement, and a counter of those found to be outdated.
    pub(super) measured: Option<(&'a Choices, &'a AtomicUsize)>,
}

impl<'a> Selection<'a> {
    /// Selects the kernel that each op prefers on this device.
    pub fn preferred(profile: &'a Profile) -> Self {
        Self { profile, options: PrepareOptions::default(), pick: &|_| 0, measured: None }
    }

    /// Chooses the kernel of a node.
    ///
    /// # Errors
    /// As [`crate::ops::Op::kernels`].
    pub(super) fn choose(&self, node: &Node, signature: &Signature) -> Result<Kernel> {
        let op = node.op.as_ref();
        if self.options.tuned
            && let Some((choices, outdated)) = self.measured
        {
            match look_up(choices, op, signature, self.profile)? {
                Verdict::Chosen(kernel) => return Ok(kernel),
                Verdict::Outdated => drop(outdated.fetch_add(1, Ordering::Relaxed)),
                Verdict::Unknown => {}
            }
        }
        let mut candidates = self.options.candidates(op, signature, self.profile)?;
        let picked = (self.pick)(&candidates).min(candidates.len() - 1);
        // If the picked kernel exceeds the binding limit, another one may bind the map in windows.
        let fits = |kernel: &Kernel| largest_binding(kernel, signature) <= self.profile.max_binding;
        let index = Some(picked).filter(|index| fits(&candidates[*index]));
        let index = index.or_else(|| candidates.iter().position(fits)).unwrap_or(picked);
        Ok(candidates.swap_remove(index))
    }
}

/// Size in bytes of a kernel's largest binding, not counting saved outputs.
fn largest_binding(kernel: &Kernel, signature: &Signature) -> u64 {
    let bytes = |operand: &Operand| match operand {
        Operand::Input(input) => signature.inputs.get(*input).map_or(0, |shape| shape.bytes()),
        Operand::Output => signature.output.bytes(),
        Operand::Scratch(scratch) => kernel.scratch.get(*scratch).copied().unwrap_or(0),
        Operand::Constant(constant) if constant.storage == Storage::Buffer => constant.bytes,
        Operand::Window { bytes, .. } => *bytes,
        // These are textures.
        Operand::Constant(_) | Operand::Texture { .. } | Operand::Staged { .. } | Operand::Saved => 0,
    };
    let bindings = kernel.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
    bindings.map(|(_, operand)| bytes(operand)).max().unwrap_or(0)
}

/// Shader, entry point and constants.
pub(super) type EntryKey = (&'static str, &'static str, Vec<(&'static str, u32)>);

/// Distinct entry points.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub list: Vec<Entry>,
    index: HashMap<EntryKey, usize>,
}

impl Entries {
    /// Returns the index of a dispatch's entry point, after checking that the dispatch matches it.
    ///
    /// # Errors
    /// [`crate::Error::Shader`] if the two do not match.
    pub fn of(&mut self, dispatch: &Dispatch, unroll: bool) -> Result<usize> {
        let key = (dispatch.shader, dispatch.entry, dispatch.consts.clone());
        let index = match self.index.get(&key) {
            Some(index) => *index,
            None => {
                let text = Shader::load_form(dispatch.shader, &dispatch.consts, unroll)?;
                let (shader, entry, consts) = key.clone();
                self.list.push(Entry { shader, entry, consts, text });
                self.index.insert(key, self.list.len() - 1);
                self.list.len() - 1
            }
        };
        dispatch.check(&self.list[index].text.interface)?;
        Ok(index)
    }
}
