//! Options for preparing a graph.

use super::choices::{candidates, cpu};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::{Kernel, Op, Signature};

/// Options for preparing a graph. All normal work uses the defaults; tests compare the other options with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Let tensors with disjoint lifetimes share memory.
    pub share: bool,
    /// Unroll the marked loops of shaders.
    pub unroll: bool,
    /// Use the engine's kernels chosen by measurement.
    pub tuned: bool,
    /// Choose among the kernels of all families; see [`super::candidates`].
    pub all_families: bool,
}

impl PrepareOptions {
    /// Returns the kernels available for a node.
    pub(super) fn candidates(
        &self,
        op: &dyn Op,
        signature: &Signature,
        device: &Profile,
    ) -> Result<Vec<Kernel>> {
        if self.all_families {
            candidates(op, signature, device)
        } else if device.cpu {
            Ok(cpu())
        } else {
            op.kernels(signature, device)
        }
    }
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self { share: true, unroll: true, tuned: true, all_families: false }
    }
}
