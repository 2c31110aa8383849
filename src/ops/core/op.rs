//! What an op is: shape rule, kernels, adjoint, and an f64 reference, all in one place.

use super::cpu::CpuKernel;
use super::sample::CaseInput;
use super::shape::Shape;
use crate::error::Result;
use crate::gpu::Profile;
use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// A node's function in a graph: from input tensors to one output tensor, and for a few ops to a second one that is
/// saved for the backward pass.
///
/// Ops are immutable values; whatever may change between iterations (loss weights, the learning rate)
/// is an input tensor.
pub trait Op: Any + Debug + Send + Sync {
    /// Name of the op, e.g. `conv`. The registry lists each once.
    fn name(&self) -> &'static str;

    /// Shape of the output.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] if the inputs have shapes that the op does not take.
    fn output(&self, inputs: &[Shape]) -> Result<Shape>;

    /// The kernels that can do this on such a device, the preferred first and the naive one always last.
    ///
    /// # Errors
    /// As [`Op::output`].
    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>>;

    /// The function that does this on the CPU device.
    ///
    /// # Errors
    /// As [`Op::output`].
    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel>;

    /// The same in f64 on the CPU, on values in logical order. Written for clarity: it is what kernels
    /// are tested against. For ops that change inputs in place (see [`Op::mutates`]) this returns the new
    /// values of the mutated inputs, one after the other, instead of an output.
    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64>;

    /// Shape of the saved output, of ops that have one: a second output that only the backward pass reads.
    fn saved(&self, _inputs: &[Shape]) -> Option<Shape> {
        None
    }

    /// The saved output in f64, as [`Op::reference`] is the output.
    fn reference_saved(&self, _inputs: &[&[f64]], _shapes: &[Shape]) -> Option<Vec<f64>> {
        None
    }

    /// What is wrong with a kernel's saved output, if anything is. It holds decisions, which may differ from those of
    /// [`Op::reference_saved`] where values that differ by no more than `tolerance` of the largest one decide.
    fn saved_fault(
        &self,
        _inputs: &[&[f64]],
        _shapes: &[Shape],
        _saved: &[f32],
        _tolerance: f64,
    ) -> Option<String> {
        None
    }

    /// How the values of an input are drawn where a kernel runs on random ones.
    fn sample(&self, _input: usize) -> CaseInput {
        CaseInput::Normal
    }

    /// How the gradient flows back to one input, given the shapes of all inputs; `None` if this input gets
    /// none (targets, weights).
    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        None
    }

    /// The input over which the output is written, of ops that have one: when a kernel starts, the output's memory
    /// holds that input's values, and no kernel binds the input itself. It has the output's shape. The graph gives
    /// both one buffer where nothing reads the input later, and copies it where something does.
    fn overwrites(&self) -> Option<usize> {
        None
    }

    /// Inputs that the op changes in place. Only persistent tensors may be mutated.
    fn mutates(&self) -> &'static [usize] {
        &[]
    }

    /// Floating-point operations (a multiply-add counts two).
    fn flops(&self, signature: &Signature) -> u64 {
        signature.output.elements() as u64
    }
}

/// The op that carries an upstream gradient back to an input, and what it reads.
#[derive(Debug, Clone)]
pub struct Adjoint {
    /// Op whose output is the gradient.
    pub op: Arc<dyn Op>,
    /// Its inputs in order.
    pub operands: Vec<AdjointOperand>,
}

/// Where an adjoint's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdjointOperand {
    /// An input of the forward op.
    Input(usize),
    /// The forward op's output.
    Output,
    /// The forward op's saved output.
    Saved,
    /// The gradient with respect to the forward op's output.
    Upstream,
}

impl Adjoint {
    /// An adjoint op with its operands.
    pub fn new(op: impl Op + 'static, operands: &[AdjointOperand]) -> Option<Self> {
        Some(Self { op: Arc::new(op), operands: operands.to_vec() })
    }
}

/// Shapes of one use of an op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Shapes of the inputs.
    pub inputs: Vec<Shape>,
    /// Shape of the output.
    pub output: Shape,
}

impl Signature {
    /// The signature of an op on these inputs.
    ///
    /// # Errors
    /// As [`Op::output`].
    pub fn of(op: &dyn Op, inputs: &[Shape]) -> Result<Self> {
        Ok(Self { inputs: inputs.to_vec(), output: op.output(inputs)? })
    }
}

/// One way to compute an op: dispatches in order, and the scratch memory between them.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Name of the variant: `naive`, `texture`, `buffer`, ...
    pub variant: &'static str,
    /// What is run, in order.
    pub dispatches: Vec<Dispatch>,
    /// Bytes of each scratch buffer that the dispatches name by [`Operand::Scratch`].
    pub scratch: Vec<u64>,
}

impl Kernel {
    /// A kernel of a single dispatch without scratch memory.
    pub fn single(variant: &'static str, dispatch: Dispatch) -> Self {
        Self::of(variant, vec![dispatch])
    }

    /// A kernel of several dispatches without scratch memory.
    pub fn of(variant: &'static str, dispatches: Vec<Dispatch>) -> Self {
        Self { variant, dispatches, scratch: Vec::new() }
    }

    /// True if it rounds weights or factors to f16.
    pub fn is_half(&self) -> bool {
        self.dispatches.iter().any(|dispatch| dispatch.consts.contains(&("HALF", 1)))
    }

    /// Replaces the output by another operand wherever it is bound so far.
    pub(in crate::ops) fn redirect_output(&mut self, to: &Operand) {
        let operands = self.dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings);
        operands.for_each(|(_, operand)| operand.redirect_output(to));
    }
}

/// One dispatch of one entry point.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// Shader file, without folder and ending.
    pub shader: &'static str,
    /// Entry point in it.
    pub entry: &'static str,
    /// Values of `const` lines that differ from the file's.
    pub consts: Vec<(&'static str, u32)>,
    /// What is bound to each variable that the entry point uses, by the variable's name in the shader.
    pub bindings: Vec<(&'static str, Operand)>,
    /// Value of each member of the shader's `Params` struct, by name.
    pub params: Vec<(&'static str, Value)>,
    /// Number of workgroups along each axis.
    pub groups: [u32; 3],
    /// Iterations of all loops of one invocation, at most, where they depend on sizes without a bound; else 0.
    pub loops: usize,
}

impl Dispatch {
    /// A dispatch of `entry` in `shader`, to be filled by the builder methods.
    pub fn new(shader: &'static str, entry: &'static str) -> Self {
        Self {
            shader,
            entry,
            consts: Vec::new(),
            bindings: Vec::new(),
            params: Vec::new(),
            groups: [1, 1, 1],
            loops: 0,
        }
    }

    /// Sets constants.
    pub fn consts(mut self, consts: &[(&'static str, u32)]) -> Self {
        self.consts.extend_from_slice(consts);
        self
    }

    /// Binds an operand to a variable.
    pub fn bind(mut self, name: &'static str, operand: Operand) -> Self {
        self.bindings.push((name, operand));
        self
    }

    /// Sets an unsigned parameter. Sizes above `u32::MAX` do not occur: no buffer is that large.
    pub fn size(mut self, name: &'static str, value: usize) -> Self {
        self.params.push((name, Value::U32(u32::try_from(value).unwrap_or(u32::MAX))));
        self
    }

    /// Sets a float parameter.
    pub fn float(mut self, name: &'static str, value: f32) -> Self {
        self.params.push((name, Value::F32(value)));
        self
    }

    /// States how many iterations all loops of one invocation make at most.
    pub fn loops(mut self, iterations: usize) -> Self {
        self.loops = iterations;
        self
    }

    /// Sets the number of workgroups along each axis.
    pub fn groups(mut self, groups: [usize; 3]) -> Self {
        self.groups = groups.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        self
    }

    /// Enough workgroups of `size` invocations for `invocations`, folded into rows where the device
    /// allows fewer than that along one axis. The shader numbers its groups
    /// `workgroup_id.y * num_workgroups.x + workgroup_id.x` and checks the end.
    pub fn linear(self, invocations: usize, size: usize, device: &Profile) -> Self {
        let count = invocations.div_ceil(size).max(1);
        let columns = count.min(device.max_groups as usize);
        self.groups([columns, count.div_ceil(columns), 1])
    }
}

/// A scalar parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// `u32`
    U32(u32),
    /// `f32`
    F32(f32),
}

/// Memory bound to a shader variable.
#[derive(Debug, Clone)]
pub enum Operand {
    /// The n-th input tensor.
    Input(usize),
    /// The output tensor.
    Output,
    /// The saved output tensor.
    Saved,
    /// The n-th scratch buffer of the kernel.
    Scratch(usize),
    /// Weights and other data that never change.
    Constant(Constant),
    /// A part of one of the above.
    Window {
        /// Of what.
        inner: Box<Operand>,
        /// Where it starts, in bytes; a multiple of the device's binding alignment.
        offset: u64,
        /// How long it is, in bytes.
        bytes: u64,
    },
    /// One of the above, read through a linear texture (see [`super::shape::TEXTURE_WIDTH`]).
    Staged {
        /// Of what.
        inner: Box<Operand>,
        /// Which of the program's staging textures; those of one dispatch differ.
        slot: usize,
    },
    /// A staging texture by itself: an earlier dispatch of the same kernel has written to it or staged something in
    /// it, or this dispatch writes to it.
    Texture {
        /// Which of the program's staging textures.
        slot: usize,
        /// How much of it, in bytes.
        bytes: u64,
    },
}

impl Operand {
    /// The operand, read through the first staging texture.
    pub fn staged(self) -> Self {
        self.staged_in(0)
    }

    /// The operand, read through this staging texture.
    pub fn staged_in(self, slot: usize) -> Self {
        Self::Staged { inner: Box::new(self), slot }
    }

    fn redirect_output(&mut self, to: &Self) {
        match self {
            Self::Output => *self = to.clone(),
            Self::Window { inner, .. } | Self::Staged { inner, .. } => inner.redirect_output(to),
            _ => {}
        }
    }

    /// The staging texture that the operand is bound through, if it is.
    pub(crate) fn slot(&self) -> Option<usize> {
        match self {
            Self::Staged { slot, .. } | Self::Texture { slot, .. } => Some(*slot),
            _ => None,
        }
    }
}

/// Reads values on demand.
pub type Loader = Arc<dyn Fn() -> Result<Vec<f32>> + Send + Sync>;

/// Where a constant lives on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// A storage buffer.
    Buffer,
    /// A linear texture of `vec4<f32>`.
    Texture,
}

/// Data that never changes while the device is open, e.g. packed weights. Uploaded once per key.
#[derive(Clone)]
pub struct Constant {
    /// Identity: the same key means the same bytes. Holds the source's id and the packing's name.
    pub key: String,
    /// Buffer or texture.
    pub storage: Storage,
    /// Its size in bytes, known before it is made.
    pub bytes: u64,
    /// Where the bytes come from.
    pub initializer: Initializer,
}

/// How a constant is made.
#[derive(Clone)]
pub enum Initializer {
    /// By the CPU, ready to be uploaded.
    Host(Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>),
    /// By the device, in parts.
    Device {
        /// The parts.
        parts: Vec<ConstantPart>,
        /// Reads the values of all of them.
        values: Loader,
    },
}

/// A part of a constant: the output of an op on one vector. Parts bound the memory that a large constant takes
/// besides its own while it is made.
#[derive(Clone)]
pub struct ConstantPart {
    /// The op.
    pub op: Arc<dyn Op>,
    /// Its input's range of the values.
    pub values: Range<usize>,
    /// Which texels of its output go where in the constant.
    pub copies: Vec<TexelCopy>,
}

/// Consecutive texels that are copied from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TexelCopy {
    /// The first of them in the source.
    pub from: u64,
    /// And in the destination.
    pub to: u64,
    /// How many.
    pub texels: u64,
}

impl Initializer {
    /// Bytes that the CPU computes.
    pub fn host(make: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::Host(Arc::new(make))
    }
}

impl Debug for Constant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Constant({}, {:?}, {} bytes)", self.key, self.storage, self.bytes)
    }
}
