//! Goals of a program, by name: the sections that it can run and the values that it can read back.

use super::ir::TensorId;

/// The sections and read-backs of a program.
#[derive(Debug, Clone, Default)]
pub struct Goals {
    /// Name of each section and the tensors that it computes. A submission runs each node that any of its sections
    /// needs, once. A section may be empty.
    pub sections: Vec<(String, Vec<TensorId>)>,
    /// Read-backs.
    pub readbacks: Vec<Readback>,
}

/// Tensors that are read back together.
#[derive(Debug, Clone)]
pub struct Readback {
    /// Name of the read-back.
    pub name: String,
    /// Name and tensor of each value. The tensor is either bound or computed by a section. A tensor that is not bound
    /// gets memory of its own, which keeps its last value.
    pub tensors: Vec<(String, TensorId)>,
    /// When the tensors are copied.
    pub when: When,
    /// Number of reads of this name that may be in flight at once. Each has its own staging buffers.
    pub in_flight: usize,
}

/// When the tensors of a read-back are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the submission's first node.
    Before,
    /// After the submission's last node.
    After,
    /// After the submission's last node, and only once: the submission computes the tensors, and the next submission
    /// overwrites them. For a single tensor in the program's own memory, the CPU device hands over that memory instead
    /// of a copy.
    AfterOnce,
}

impl Goals {
    /// Name of the only section of [`Goals::all`].
    pub const ALL: &'static str = "all";

    /// Creates goals with the single section [`Goals::ALL`] and no read-backs.
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

    /// Returns the tensors of all read-backs. [`Graph::fuse`](super::Graph::fuse) has to keep them.
    pub fn read(&self) -> impl Iterator<Item = TensorId> {
        self.readbacks.iter().flat_map(|readback| &readback.tensors).map(|(_, tensor)| *tensor)
    }

    /// Returns the tensors of all sections.
    pub(super) fn tensors(&self) -> Vec<TensorId> {
        self.sections.iter().flat_map(|(_, tensors)| tensors).copied().collect()
    }
}
