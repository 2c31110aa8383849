//! Chooses a kernel for each node, and collects the entry points to compile.

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
    /// For which device.
    pub profile: &'a Profile,
    /// Among which kernels.
    pub options: PrepareOptions,
    /// Which of a node's kernels, where measurement has chosen none.
    pub pick: &'a dyn Fn(&[Kernel]) -> usize,
    /// Choices by measurement, and how many were found to be outdated.
    pub(super) measured: Option<(&'a Choices, &'a AtomicUsize)>,
}

impl<'a> Selection<'a> {
    /// The kernel that each op prefers on this device.
    pub fn preferred(profile: &'a Profile) -> Self {
        Self { profile, options: PrepareOptions::default(), pick: &|_| 0, measured: None }
    }

    /// The kernel of a node.
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
        // Another one may bind the map in windows.
        let fits = |kernel: &Kernel| largest_binding(kernel, signature) <= self.profile.max_binding;
        let index = Some(picked).filter(|index| fits(&candidates[*index]));
        let index = index.or_else(|| candidates.iter().position(fits)).unwrap_or(picked);
        Ok(candidates.swap_remove(index))
    }
}

/// Bytes of the largest buffer that a kernel binds at once, second outputs aside.
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

/// Entry points, each once.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub list: Vec<Entry>,
    index: HashMap<EntryKey, usize>,
}

impl Entries {
    /// The index of a dispatch's entry point, which is checked against the call.
    ///
    /// # Errors
    /// [`crate::Error::Shader`] if the two do not fit together.
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
