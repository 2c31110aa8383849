//! The op trait: shape rule, kernels, adjoint, and an f64 reference, all in one place.

use super::cpu::CpuKernel;
use super::sample::CaseInput;
use super::shape::Shape;
use crate::error::Result;
use crate::gpu::Profile;
use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// Function of a graph node: maps input tensors to one output tensor and, for a few ops, a second one that is saved for
/// the backward pass.
///
/// Ops are immutable values; anything that may change between iterations (loss weights, the learning rate) is an input
/// tensor.
pub trait Op: Any + Debug + Send + Sync {
    /// Name of the op, e.g. `conv`. Unique in the registry.
    fn name(&self) -> &'static str;

    /// Shape of the output.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] if the op does not support the inputs' shapes.
    fn output(&self, inputs: &[Shape]) -> Result<Shape>;

    /// Kernels of this op for such a device, the preferred first and the naive one always last.
    ///
    /// # Errors
    /// Same as [`Op::output`].
    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>>;

    /// CPU kernel of this op.
    ///
    /// # Errors
    /// Same as [`Op::output`].
    fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel>;

    /// Computes the output in f64 on the CPU, on values in logical order. Written for clarity: kernels are tested
    /// against it. For ops that change inputs in place (see [`Op::mutates`]) it returns the new values of the mutated
    /// inputs, one after the other, instead of an output.
    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64>;

    /// Shape of the saved output, a second output that only the backward pass reads; `None` for ops without one.
    fn saved(&self, _inputs: &[Shape]) -> Option<Shape> {
        None
    }

    /// Saved output in f64; the counterpart of [`Op::reference`].
    fn reference_saved(&self, _inputs: &[&[f64]], _shapes: &[Shape]) -> Option<Vec<f64>> {
        None
    }

    /// Describes what is wrong with a kernel's saved output, if anything. It holds decisions, which may differ from
    /// those of [`Op::reference_saved`] between values that differ by no more than `tolerance` of the largest one.
    fn saved_fault(
        &self,
        _inputs: &[&[f64]],
        _shapes: &[Shape],
        _saved: &[f32],
        _tolerance: f64,
    ) -> Option<String> {
        None
    }

    /// Distribution of an input's values where a kernel runs on random inputs.
    fn sample(&self, _input: usize) -> CaseInput {
        CaseInput::Normal
    }

    /// Adjoint with respect to one input, given the shapes of all inputs; `None` if the input gets no gradient
    /// (targets, weights).
    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        None
    }

    /// Index of the input that the output overwrites, if any: when a kernel starts, the output's memory holds that
    /// input's values, and no kernel binds the input itself. It has the output's shape. The graph shares one buffer if
    /// nothing reads the input later, and copies the input otherwise.
    fn overwrites(&self) -> Option<usize> {
        None
    }

    /// Inputs that the op changes in place. Only persistent tensors may be mutated.
    fn mutates(&self) -> &'static [usize] {
        &[]
    }

    /// Number of floating-point operations (a multiply-add counts as two).
    fn flops(&self, signature: &Signature) -> u64 {
        signature.output.elements() as u64
    }
}

/// The op that propagates an upstream gradient to an input, and its operands.
#[derive(Debug, Clone)]
pub struct Adjoint {
    /// Op whose output is the gradient.
    pub op: Arc<dyn Op>,
    /// Its inputs in order.
    pub operands: Vec<AdjointOperand>,
}

/// Source of an adjoint's input.
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
    /// Creates an adjoint from an op and its operands.
    pub fn new(op: impl Op + 'static, operands: &[AdjointOperand]) -> Option<Self> {
        Some(Self { op: Arc::new(op), operands: operands.to_vec() })
    }
}

/// Input and output shapes of one use of an op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Shapes of the inputs.
    pub inputs: Vec<Shape>,
    /// Shape of the output.
    pub output: Shape,
}

impl Signature {
    /// Signature of an op on these inputs.
    ///
    /// # Errors
    /// Same as [`Op::output`].
    pub fn of(op: &dyn Op, inputs: &[Shape]) -> Result<Self> {
        Ok(Self { inputs: inputs.to_vec(), output: op.output(inputs)? })
    }
}

/// One way to compute an op: dispatches in order, and the scratch memory they share.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Name of the variant: `naive`, `texture`, `buffer`, ...
    pub variant: &'static str,
    /// Dispatches in the order they run.
    pub dispatches: Vec<Dispatch>,
    /// Size in bytes of each scratch buffer that the dispatches refer to by [`Operand::Scratch`].
    pub scratch: Vec<u64>,
}

impl Kernel {
    /// Creates a kernel with a single dispatch and no scratch memory.
    pub fn single(variant: &'static str, dispatch: Dispatch) -> Self {
        Self::of(variant, vec![dispatch])
    }

    /// Creates a kernel with several dispatches and no scratch memory.
    pub fn of(variant: &'static str, dispatches: Vec<Dispatch>) -> Self {
        Self { variant, dispatches, scratch: Vec::new() }
    }

    /// True if the kernel rounds weights or factors to f16.
    pub fn is_half(&self) -> bool {
        self.dispatches.iter().any(|dispatch| dispatch.consts.contains(&("HALF", 1)))
    }

    /// Replaces the output by another operand in all existing bindings.
    pub(in crate::ops) fn redirect_output(&mut self, to: &Operand) {
        let operands = self.dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.bindings);
        operands.for_each(|(_, operand)| operand.redirect_output(to));
    }
}

/// One dispatch of an entry point.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// Shader file, without directory and extension.
    pub shader: &'static str,
    /// Entry point of the shader.
    pub entry: &'static str,
    /// Values of `const` lines that differ from the file's.
    pub consts: Vec<(&'static str, u32)>,
    /// Operand of each variable that the entry point uses, by the variable's name in the shader.
    pub bindings: Vec<(&'static str, Operand)>,
    /// Value of each member of the shader's `Params` struct, by name.
    pub params: Vec<(&'static str, Value)>,
    /// Number of workgroups along each axis.
    pub groups: [u32; 3],
    /// Upper bound on the iterations of all loops of one invocation if they depend on unbounded sizes; otherwise 0.
    pub loops: usize,
}

impl Dispatch {
    /// Creates a dispatch of `entry` in `shader`, to be completed by the builder methods.
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

    /// Sets an unsigned parameter. Saturates at `u32::MAX`, which no buffer reaches.
    pub fn size(mut self, name: &'static str, value: usize) -> Self {
        self.params.push((name, Value::U32(u32::try_from(value).unwrap_or(u32::MAX))));
        self
    }

    /// Sets a float parameter.
    pub fn float(mut self, name: &'static str, value: f32) -> Self {
        self.params.push((name, Value::F32(value)));
        self
    }

    /// Sets the upper bound on the iterations of all loops of one invocation.
    pub fn loops(mut self, iterations: usize) -> Self {
        self.loops = iterations;
        self
    }

    /// Sets the number of workgroups along each axis.
    pub fn groups(mut self, groups: [usize; 3]) -> Self {
        self.groups = groups.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        self
    }

    /// Sets enough workgroups of `size` invocations for `invocations`, split into rows if the device limits their
    /// number along one axis. The shader computes its group index as `workgroup_id.y * num_workgroups.x +
    /// workgroup_id.x` and checks the bound.
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
    /// Weights and other constant data.
    Constant(Constant),
    /// A part of another operand.
    Window {
        /// The whole operand.
        inner: Box<Operand>,
        /// Start in bytes; a multiple of the device's binding alignment.
        offset: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// Another operand, read through a linear texture (see [`super::shape::TEXTURE_WIDTH`]).
    Staged {
        /// The operand to copy to the texture.
        inner: Box<Operand>,
        /// Index of the program's staging texture; unique within a dispatch.
        slot: usize,
    },
    /// A staging texture without an operand: an earlier dispatch of the same kernel has written or staged its content,
    /// or this dispatch writes it.
    Texture {
        /// Index of the program's staging texture.
        slot: usize,
        /// Length of the content in bytes.
        bytes: u64,
    },
}

impl Operand {
    /// Stages the operand in the first staging texture, unless it is the content of a staging texture already.
    pub fn staged(self) -> Self {
        if matches!(self, Self::Texture { .. }) { self } else { self.staged_in(0) }
    }

    /// Stages the operand in this staging texture.
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

    /// Index of the staging texture that the operand is bound through, if any.
    pub(crate) fn slot(&self) -> Option<usize> {
        match self {
            Self::Staged { slot, .. } | Self::Texture { slot, .. } => Some(*slot),
            _ => None,
        }
    }
}

/// Reads values on demand.
pub type Loader = Arc<dyn Fn() -> Result<Vec<f32>> + Send + Sync>;

/// Kind of device memory of a constant.
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
    /// Identity: the same key means the same bytes. Contains the id of the source and the name of the packing.
    pub key: String,
    /// Buffer or texture.
    pub storage: Storage,
    /// Size in bytes, known before the data is computed.
    pub bytes: u64,
    /// Source of the bytes.
    pub initializer: Initializer,
}

/// How a constant is initialised.
#[derive(Clone)]
pub enum Initializer {
    /// Computed by the CPU, ready for upload.
    Host(Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>),
    /// Computed by the device, in parts.
    Device {
        /// The parts.
        parts: Vec<ConstantPart>,
        /// Reads the source values of all parts.
        values: Loader,
    },
}

/// Part of a constant: the output of an op on one vector. Computing a large constant in parts bounds the temporary
/// memory.
#[derive(Clone)]
pub struct ConstantPart {
    /// The op.
    pub op: Arc<dyn Op>,
    /// Range of the source values that the op reads.
    pub values: Range<usize>,
    /// Copies from the op's output to the constant.
    pub copies: Vec<TexelCopy>,
}

/// Copy of consecutive texels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TexelCopy {
    /// First texel in the source.
    pub from: u64,
    /// First texel in the destination.
    pub to: u64,
    /// Number of texels.
    pub texels: u64,
}

impl Initializer {
    /// Creates an initialiser whose bytes the CPU computes.
    pub fn host(make: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::Host(Arc::new(make))
    }
}

impl Debug for Constant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Constant({}, {:?}, {} bytes)", self.key, self.storage, self.bytes)
    }
}
