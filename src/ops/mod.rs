//! The kernels: one file per op with its shape rule, kernels, adjoint, reference and test cases; the
//! shader of the same name is under `shaders/`.

mod adam;
mod add;
mod case;
mod conv;
mod flatten;
mod linear;
mod op;
mod reduce;
mod registry;
mod relu;
mod shape;
mod softmax;
mod tiles;

pub use adam::Adam;
pub use add::Add;
pub use case::{Case, CaseInput};
pub use conv::{Conv, ConvBackward, Filter, Loader, Padding};
pub use flatten::{Flatten, Unflatten};
pub use linear::{Linear, LinearBackward, Matrix, MatrixValues, RowLoader};
pub use op::{Adjoint, Constant, Dispatch, Kernel, Op, Operand, Signature, Source, Storage, Value};
pub use reduce::{Dot, Reduce, ReduceKind};
pub use registry::{Entry, REGISTRY};
pub use relu::{Relu, ReluBackward};
pub use shape::{MapLayout, Shape, TEXTURE_WIDTH};
pub use softmax::{Softmax, SoftmaxBackward};
