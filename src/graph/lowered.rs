//! A program as plain data, for any executor: memory by index, copies and dispatches in order, sections and
//! read-backs by name. [`lower`](super::lower) builds it without a device, and it refers to none.

use super::goals::When;
use super::ir::TensorId;
use super::plan::MemoryUse;
use crate::ops::{Constant, CpuKernel, Op, Shape, Signature, TexelCopy};
use crate::shader::Shader;
use std::sync::Arc;

/// A set of sections; bit `n` stands for the `n`-th section.
pub type Sections = u64;

/// A graph with a kernel for each node and a place for each tensor.
#[derive(Debug)]
pub struct Lowered {
    /// All buffers; a [`Location`] names one by index.
    pub buffers: Vec<Buffer>,
    /// All linear textures of `vec4<f32>`; bindings name them by index.
    pub textures: Vec<Texture>,
    /// Contents of the constant buffers and textures, written before the first run.
    pub constants: Vec<LoweredConstant>,
    /// Parameters of all dispatches: the contents of one uniform buffer.
    pub params: Vec<u8>,
    /// Entry points to compile.
    pub entries: Vec<Entry>,
    /// Functions to call, on the CPU device. There are then no textures, constants, parameters or entries.
    pub functions: Vec<CpuKernel>,
    /// Steps in execution order.
    pub steps: Vec<Step>,
    /// Names of the sections.
    pub sections: Vec<String>,
    /// The read-backs.
    pub readbacks: Vec<LoweredReadback>,
    /// Nodes in execution order. An executor with functions of its own may run these instead of the steps.
    pub nodes: Vec<PreparedNode>,
    /// Operands of each node.
    pub operands: Vec<Operands>,
    /// Device memory needed to run the steps.
    pub memory: MemoryUse,
}

/// A buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// Name for labels and messages.
    pub label: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Origin of its memory.
    pub origin: Origin,
}

/// A linear texture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texture {
    /// Name for labels and messages.
    pub label: String,
    /// Size in texels.
    pub texels: u64,
    /// Origin of its memory; never [`Origin::Bound`].
    pub origin: Origin,
}

/// Origin of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The program's own memory, zero-filled at first.
    Own,
    /// Memory that the caller has bound to this tensor.
    Bound(TensorId),
    /// The constant with this index.
    Constant(usize),
}

/// A constant and the programs that compute it on a device.
#[derive(Debug)]
pub struct LoweredConstant {
    /// Key, storage, size and source of the values.
    pub constant: Constant,
    /// For [`Initializer::Device`](crate::ops::Initializer::Device): the program of each of its parts.
    pub parts: Vec<PartProgram>,
}

/// Program that computes one part of a constant: one op on one vector.
#[derive(Debug)]
pub struct PartProgram {
    /// The program. Its only section is [`Goals::ALL`](super::Goals::ALL).
    pub program: Lowered,
    /// Input tensor, which is bound.
    pub input: TensorId,
    /// Output tensor, which is bound.
    pub output: TensorId,
}

/// An entry point of a shader, with the values of its constants.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name of the shader file, without folder and extension.
    pub shader: &'static str,
    /// Name of the entry point.
    pub entry: &'static str,
    /// Values of `const` lines that differ from the file's.
    pub consts: Vec<(&'static str, u32)>,
    /// Final text and its bindings.
    pub text: Arc<Shader>,
}

/// One copy, dispatch or call.
#[derive(Debug, Clone)]
pub struct Step {
    /// Sections that need the step.
    pub sections: Sections,
    /// Index of the node that it belongs to.
    pub node: usize,
    /// Name for labels and reports.
    pub label: String,
    /// Work of the step.
    pub action: Action,
}

/// The work of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs an entry point.
    Dispatch {
        /// Index of the entry.
        entry: usize,
        /// Binding number in group 0, and the resource bound to it.
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
        /// Range of texels, relative to the buffer's start.
        copy: TexelCopy,
    },
    /// Copies bytes from one buffer to another.
    Copy {
        /// Source.
        from: Location,
        /// Destination.
        to: Location,
        /// Number of bytes.
        bytes: u64,
    },
}

/// A bound resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// A range of a buffer: its location and its size in bytes.
    Buffer(Location, u64),
    /// A range of the parameters.
    Params {
        /// Offset in bytes.
        offset: u64,
        /// Size in bytes.
        bytes: u64,
    },
    /// A texture.
    Texture(usize),
}

/// A position in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// Index of the buffer.
    pub buffer: usize,
    /// Offset in bytes from its start.
    pub offset: u64,
}

/// A [`Readback`](super::Readback) with the locations of its tensors.
#[derive(Debug, Clone)]
pub struct LoweredReadback {
    /// Name of the read-back.
    pub name: String,
    /// Name, shape and location of each value.
    pub values: Vec<(String, Shape, Location)>,
    /// When the values are copied.
    pub when: When,
    /// Number of reads that may be in flight at once.
    pub in_flight: usize,
}

/// A node with its chosen kernel.
#[derive(Debug, Clone)]
pub struct PreparedNode {
    /// Label of the node's output.
    pub label: String,
    /// For a node of the backward pass: label of the forward node that it differentiates.
    pub adjoint_of: Option<String>,
    /// The node's op.
    pub op: Arc<dyn Op>,
    /// Shapes of inputs and output.
    pub signature: Signature,
    /// Name of the kernel.
    pub variant: &'static str,
}

/// Operands of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operands {
    /// Sections that need the node.
    pub sections: Sections,
    /// Locations of the inputs.
    pub inputs: Vec<Location>,
    /// Location of the output.
    pub output: Location,
    /// Location of the saved output, for ops that have one.
    pub saved: Option<Location>,
}
