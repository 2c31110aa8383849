//! Building blocks of all ops: the op trait and its kernels, shapes, windows over large tensors, and steps shared by
//! kernels.

mod call;
mod case;
pub(in crate::ops) mod coop_matrix;
pub(in crate::ops) mod cpu;
pub(in crate::ops) mod epilogue;
pub(in crate::ops) mod half_precision;
pub(in crate::ops) mod lanes;
mod op;
pub(in crate::ops) mod pool_windows;
pub(in crate::ops) mod product;
mod sample;
pub(in crate::ops) mod shape;
pub(in crate::ops) mod sum;
pub(in crate::ops) mod vectors;
pub(in crate::ops) mod window;

pub use case::Case;
pub use cpu::{CpuCall, CpuConstant, CpuKernel, CpuValues};
pub(crate) use cpu::{release_scratch, scratch_of};
pub use op::{
    Adjoint, AdjointOperand, Constant, ConstantPart, Dispatch, Initializer, Kernel, Loader, Op, Operand,
    Signature, Storage, TexelCopy, Value,
};
pub use sample::CaseInput;
pub use shape::{MapLayout, Shape, TEXTURE_WIDTH};
