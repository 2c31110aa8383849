//! The kernels: one file per op with its shape rule, kernels, adjoint, reference and test cases; the
//! shader of the same name is under `shaders/`.

mod adam;
mod adaptive_pool;
mod add;
mod blocks;
mod call;
mod case;
mod codes;
mod conv;
mod finish;
mod flatten;
mod gram;
mod linear;
mod mse;
mod op;
mod peaks;
mod picture;
mod pool;
mod reduce;
mod registry;
mod relu;
mod resize;
mod shape;
mod softmax;
mod sum;
mod tiles;
mod total_variation;
mod weighted_sum;
mod window;
mod winograd;

pub use adam::Adam;
pub use adaptive_pool::{AdaptivePool, AdaptivePoolBackward};
pub use add::Add;
pub use case::{Case, CaseInput};
pub use conv::{Conv, ConvBackward, Filter, Loader, Padding, Then};
pub use finish::{Absorbed, LastStep};
pub use flatten::{Flatten, Unflatten};
pub use gram::{Gram, GramBackward};
pub use linear::{Linear, LinearBackward, Matrix, MatrixValues, RowLoader};
pub use mse::{MeanSquaredError, MseBackward};
pub use op::{
    Adjoint, Constant, Dispatch, Kernel, Making, Op, Operand, Part, Run, Signature, Source, Storage, Value,
};
pub use peaks::{MultiplyAdd, Triad};
pub use picture::{Affine, AffineBackward, Deinterleave, Interleave};
pub use pool::{Pool, PoolBackward, PoolKind};
pub use reduce::{Dot, Reduce, ReduceKind};
pub use registry::{Entry, REGISTRY};
pub use relu::{Relu, ReluBackward};
pub use resize::{Resize, ResizeBackward, ResizeMode};
pub use shape::{MapLayout, Shape, TEXTURE_WIDTH};
pub use softmax::{Softmax, SoftmaxBackward};
pub use total_variation::{TotalVariation, TotalVariationBackward};
pub use weighted_sum::WeightedSum;
pub use winograd::{WinogradTile, WinogradWeights};
