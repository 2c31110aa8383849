//! A program as plain data, for any executor: memory by index, copies and dispatches in order, sections and
//! read-backs by name. [`lower`](super::lower) makes it without a device; nothing in it names one.

use super::goals::When;
use super::ir::TensorId;
use super::plan::MemoryUse;
use crate::ops::{Constant, CpuKernel, Op, Shape, Signature, TexelCopy};
use crate::shader::Shader;
use std::sync::Arc;

/// A set of sections: bit `n` stands for the `n`-th.
pub type Sections = u64;

/// A graph with a kernel for each node and a place for each tensor.
#[derive(Debug)]
pub struct Lowered {
    /// All buffers; a [`Location`] names one by index.
    pub buffers: Vec<Buffer>,
    /// All linear textures of `vec4<f32>`; bindings name them by index.
    pub textures: Vec<Texture>,
    /// What the constants among the buffers and textures hold, filled before the first run.
    pub constants: Vec<LoweredConstant>,
    /// The parameters of all dispatches: one uniform buffer.
    pub params: Vec<u8>,
    /// What is compiled.
    pub entries: Vec<Entry>,
    /// What is called, on the CPU device; there are then no textures, constants, parameters and entries.
    pub functions: Vec<CpuKernel>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// Names of the sections.
    pub sections: Vec<String>,
    /// The read-backs.
    pub readbacks: Vec<LoweredReadback>,
    /// The nodes in running order. An executor with functions of its own may run these instead of the steps.
    pub nodes: Vec<PreparedNode>,
    /// What each node works on.
    pub operands: Vec<Operands>,
    /// Device memory that an executor of the steps needs.
    pub memory: MemoryUse,
}

/// A buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// Name for labels and messages.
    pub label: String,
    /// Its size.
    pub bytes: u64,
    /// Where it comes from.
    pub origin: Origin,
}

/// A linear texture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texture {
    /// Name for labels and messages.
    pub label: String,
    /// Its size in texels.
    pub texels: u64,
    /// Where it comes from; never [`Origin::Bound`].
    pub origin: Origin,
}

/// Where memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The program's own, zero-filled at first.
    Own,
    /// Memory that the caller has bound to this tensor.
    Bound(TensorId),
    /// The constant of this index.
    Constant(usize),
}

/// A constant, and how a device makes it.
#[derive(Debug)]
pub struct LoweredConstant {
    /// Key, storage, size and where the values come from.
    pub constant: Constant,
    /// For [`Initializer::Device`](crate::ops::Initializer::Device): the program of each of its parts.
    pub parts: Vec<PartProgram>,
}

/// The program of a part of a constant: one op on one vector.
#[derive(Debug)]
pub struct PartProgram {
    /// The program, with the only section [`Goals::ALL`](super::Goals::ALL).
    pub program: Lowered,
    /// Its input, which is bound.
    pub input: TensorId,
    /// Its output, which is bound.
    pub output: TensorId,
}

/// An entry point of a shader with constants.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Shader file, without folder and ending.
    pub shader: &'static str,
    /// Entry point in it.
    pub entry: &'static str,
    /// Values of `const` lines that differ from the file's.
    pub consts: Vec<(&'static str, u32)>,
    /// The final text, and what it binds.
    pub text: Arc<Shader>,
}

/// One copy, dispatch or call.
#[derive(Debug, Clone)]
pub struct Step {
    /// The sections that need it.
    pub sections: Sections,
    /// The node that it belongs to.
    pub node: usize,
    /// Name for labels and reports.
    pub label: String,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs an entry point.
    Dispatch {
        /// Index of the entry.
        entry: usize,
        /// What is bound to each binding number of group 0.
        bindings: Vec<(u32, Binding)>,
        /// Number of workgroups along each axis.
        groups: [u32; 3],
    },
    /// Calls a function on the operands of the step's node.
    Call {
        /// Index of the function.
        function: usize,
    },
    /// Copies texels of a buffer into a linear texture.
    Stage {
        /// Index of the buffer.
        buffer: usize,
        /// Index of the texture.
        texture: usize,
        /// Which texels, counted from the buffer's start.
        copy: TexelCopy,
    },
    /// Copies bytes from one buffer to another.
    Copy {
        /// From here.
        from: Location,
        /// To there.
        to: Location,
        /// How many.
        bytes: u64,
    },
}

/// What is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// This many bytes of a buffer, from this location.
    Buffer(Location, u64),
    /// A part of the parameters.
    Params {
        /// Its first byte.
        offset: u64,
        /// Its size.
        bytes: u64,
    },
    /// A texture.
    Texture(usize),
}

/// A place in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// Index of the buffer.
    pub buffer: usize,
    /// Bytes from its start.
    pub offset: u64,
}

/// A [`Readback`](super::Readback) with the places of its tensors.
#[derive(Debug, Clone)]
pub struct LoweredReadback {
    /// Its name.
    pub name: String,
    /// Name, shape and place of each value.
    pub values: Vec<(String, Shape, Location)>,
    /// When the values are copied.
    pub when: When,
    /// How many reads may be in flight at once.
    pub in_flight: usize,
}

/// A node as it was prepared.
#[derive(Debug, Clone)]
pub struct PreparedNode {
    /// Label of its output.
    pub label: String,
    /// For a node of the gradient: label of the forward node that it belongs to.
    pub adjoint_of: Option<String>,
    /// What is done.
    pub op: Arc<dyn Op>,
    /// On which shapes.
    pub signature: Signature,
    /// With which kernel.
    pub variant: &'static str,
}

/// What a node works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operands {
    /// The sections that need the node.
    pub sections: Sections,
    /// Where its inputs lie.
    pub inputs: Vec<Location>,
    /// Where its output lies.
    pub output: Location,
    /// Where its second output lies, of ops that have one.
    pub saved: Option<Location>,
}
