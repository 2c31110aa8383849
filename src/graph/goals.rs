//! What a program is prepared for, by name.

use super::ir::TensorId;

/// The sections and read-backs of a program.
#[derive(Debug, Clone, Default)]
pub struct Goals {
    /// Named sections: the tensors that each is to compute. A submission runs every node that one of its sections
    /// needs, once. A section may be empty.
    pub sections: Vec<(String, Vec<TensorId>)>,
    /// Named read-backs.
    pub readbacks: Vec<Readback>,
}

/// Tensors that are read together.
#[derive(Debug, Clone)]
pub struct Readback {
    /// Name of the read-back.
    pub name: String,
    /// Name of each value, and its tensor: bound from outside, or computed by a section. A tensor that is not bound
    /// gets memory of its own, in which its last value stays.
    pub tensors: Vec<(String, TensorId)>,
    /// When the tensors are copied.
    pub when: When,
    /// How many reads of this name may be in flight at once: each takes staging buffers of its own.
    pub in_flight: usize,
}

/// When the tensors of a read-back are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the submission's first node.
    Before,
    /// After its last node.
    After,
    /// After its last node, which has computed them anew, and never again: what comes next overwrites them. So the CPU
    /// device hands over the memory of a single tensor of the program's own, instead of a copy.
    AfterOnce,
}

impl Goals {
    /// Name of the only section of [`Goals::all`].
    pub const ALL: &'static str = "all";

    /// One section, [`Goals::ALL`], and no read-backs.
    pub fn all(tensors: impl Into<Vec<TensorId>>) -> Self {
        Self::default().section(Self::ALL, tensors)
    }

    /// Adds a section.
    pub fn section(mut self, name: impl Into<String>, tensors: impl Into<Vec<TensorId>>) -> Self {
        self.sections.push((name.into(), tensors.into()));
        self
    }

    /// Adds a read-back.
    pub fn readback(mut self, readback: Readback) -> Self {
        self.readbacks.push(readback);
        self
    }

    /// Tensors of all read-backs: among those that [`Graph::fuse`](super::Graph::fuse) has to keep.
    pub fn read(&self) -> impl Iterator<Item = TensorId> {
        self.readbacks.iter().flat_map(|readback| &readback.tensors).map(|(_, tensor)| *tensor)
    }

    /// The goals of all sections.
    pub(super) fn tensors(&self) -> Vec<TensorId> {
        self.sections.iter().flat_map(|(_, tensors)| tensors).copied().collect()
    }
}
