//! The kernels: one file (or folder) per op with its shape rule, kernels, adjoint, reference and test cases. Its
//! shaders are under `shaders/`. `core` holds what all ops are built from.

mod accumulate;
mod adam;
mod adaptive_pool;
mod add;
mod average;
mod channel_moments;
mod conv;
mod core;
mod covariance;
mod crop;
mod cross_entropy;
mod deviation;
mod flatten;
mod free_gradient;
mod gram;
mod lbfgs;
mod linear;
mod linear_combination;
mod matmul;
mod matrices;
mod matrix_root;
mod mse;
mod multiply;
mod peaks;
mod picture;
mod pool;
mod pool_windows;
mod reduce;
mod registry;
mod relu;
mod resize;
mod scale_by;
mod softmax;
mod total_variation;
mod watch;
mod weighted_sum;

pub use self::core::{
    Adjoint, AdjointOperand, Case, CaseInput, Constant, ConstantPart, Dispatch, Initializer, Kernel, Loader,
    MapLayout, NativeCall, NativeConstant, NativeKernel, NativeValues, Op, Operand, Shape, Signature,
    Storage, TEXTURE_WIDTH, TexelCopy, Value,
};
use self::core::{finish, half_precision, lanes, native, product, shape, sum, vectors, window};
pub(crate) use self::core::{release_scratch, scratch_of};
pub use accumulate::Accumulate;
pub use adam::Adam;
pub use adaptive_pool::{AdaptivePool, AdaptivePoolBackward};
pub use add::Add;
pub use average::Average;
pub use channel_moments::{ChannelDeviation, ChannelDeviationBackward, ChannelMean, ChannelMeanBackward};
pub use conv::{Conv, ConvBackward, Filter, Padding, Then, WinogradTile, WinogradWeights};
pub use covariance::{Covariance, CovarianceMeanBackward, Trace, TraceBackward};
pub use crop::{Crop, CropBackward};
pub use cross_entropy::{CrossEntropy, CrossEntropyBackward};
pub use deviation::{Deviation, DeviationBackward};
pub use flatten::{Flatten, Unflatten};
pub use free_gradient::FreeGradient;
pub use gram::{Gram, GramBackward};
pub use lbfgs::{LbfgsJudge, LbfgsMove, LbfgsProducts, LbfgsRecursion, LbfgsStore, Ring};
pub use linear::{Linear, LinearBackward, Matrix, MatrixValues, RowLoader};
pub use linear_combination::LinearCombination;
pub use matmul::MatMul;
pub use matrix_root::{MatrixRoot, RootTrace};
pub use mse::{MeanSquaredError, MseBackward};
pub use multiply::Multiply;
pub use peaks::{MultiplyAdd, Triad};
pub use picture::{Affine, AffineBackward, Interleave};
pub use pool::{Pool, PoolBackward};
pub use pool_windows::PoolKind;
pub use reduce::{Dot, Reduce, ReduceKind};
pub use registry::{Entry, REGISTRY};
pub use relu::{Relu, ReluBackward};
pub use resize::{Resize, ResizeMode, resize_in_host_memory};
pub use scale_by::{Reciprocal, ScaleBy};
pub use softmax::{Softmax, SoftmaxBackward};
pub use total_variation::{TotalVariation, TotalVariationBackward, VariationKind};
pub use watch::Watch;
pub use weighted_sum::WeightedSum;
