//! How a graph is prepared.

use super::choices::{candidates, cpu};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::{Kernel, Op, Signature};

/// How a graph is prepared. The default is for all work; tests compare the other options with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Tensors that are not alive at the same time share memory.
    pub share: bool,
    /// Marked loops of the shaders are written out.
    pub unroll: bool,
    /// Where the engine has a kernel chosen by measurement, it is used.
    pub tuned: bool,
    /// The choice is among the kernels of all families, see [`super::candidates`].
    pub all_families: bool,
}

impl PrepareOptions {
    /// The kernels that there are for a node.
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
