//! The ops: one file (or directory) per op with its shape rule, kernels, adjoint, reference and test cases. The shaders
//! are in `shaders/`. `core` holds the building blocks of all ops.

mod accumulate;
mod adam;
mod adaptive_pool;
mod add;
mod average;
mod channel_moments;
mod conv;
mod core;
mod count_non_finite;
mod covariance;
mod crop;
mod cross_entropy;
mod deviation;
mod flatten;
mod gram;
mod half_map;
mod interleave;
mod lbfgs;
mod linear;
mod linear_combination;
mod matmul;
mod matrix_root;
mod mse;
mod multiply;
mod peaks;
mod pool;
mod preprocess;
mod projected_gradient;
mod reduce;
mod registry;
mod relu;
mod resize;
mod scale_by;
mod softmax;
mod total_variation;
mod weighted_sum;

pub use self::core::pool_windows::PoolKind;
pub use self::core::{
    Adjoint, AdjointOperand, Case, CaseInput, Constant, ConstantPart, CpuCall, CpuConstant, CpuKernel,
    CpuValues, Dispatch, Initializer, Kernel, Loader, MapLayout, Op, Operand, Shape, Signature, Storage,
    TEXTURE_WIDTH, TexelCopy, Value,
};
use self::core::{
    coop_matrix, cpu, epilogue, half_precision, lanes, pool_windows, product, shape, sum, vectors, window,
};
pub(crate) use self::core::{release_scratch, scratch_of};
pub use accumulate::Accumulate;
pub use adam::Adam;
pub use adaptive_pool::{AdaptivePool, AdaptivePoolBackward};
pub use add::Add;
pub use average::Average;
pub use channel_moments::{ChannelDeviation, ChannelDeviationBackward, ChannelMean, ChannelMeanBackward};
pub use conv::{Conv, ConvBackward, Filter, GradientEpilogue, Padding, WinogradTile, WinogradWeights};
pub use count_non_finite::CountNonFinite;
pub use covariance::{Covariance, CovarianceMeanBackward, Trace, TraceBackward};
pub use crop::{Crop, CropBackward};
pub use cross_entropy::{CrossEntropy, CrossEntropyBackward};
pub use deviation::{Deviation, DeviationBackward};
pub use flatten::{Flatten, Unflatten};
pub use gram::{Gram, GramBackward};
pub use half_map::{FromHalf, HalfMask, ToHalf};
pub use interleave::Interleave;
pub use lbfgs::{LbfgsJudge, LbfgsMove, LbfgsProducts, LbfgsRecursion, LbfgsStore, Ring};
pub use linear::{Linear, LinearBackward, Matrix, MatrixValues, RowLoader};
pub use linear_combination::LinearCombination;
pub use matmul::MatMul;
pub use matrix_root::{MatrixRoot, RootTrace};
pub use mse::{MeanSquaredError, MseBackward};
pub use multiply::Multiply;
pub use peaks::{MultiplyAdd, Triad};
pub use pool::{Pool, PoolBackward};
pub use preprocess::{Preprocess, PreprocessBackward};
pub use projected_gradient::ProjectedGradient;
pub use reduce::{Dot, Reduce, ReduceKind};
pub use registry::{Entry, REGISTRY};
pub use relu::{Relu, ReluBackward};
pub use resize::{Resize, ResizeMode, resize_in_host_memory};
pub use scale_by::{Reciprocal, ScaleBy};
pub use softmax::{Softmax, SoftmaxBackward};
pub use total_variation::{TotalVariation, TotalVariationBackward, VariationKind};
pub use weighted_sum::WeightedSum;
