//! The list of all ops. Tests, benches and the kernel commands iterate over it.

use super::Case;

/// One op of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name, as [`super::Op::name`] gives it.
    pub name: &'static str,
    /// Its test cases: odd, tiny and prime shapes, and each branch of its kernels.
    pub cases: fn() -> Vec<Case>,
}

/// All ops.
pub const REGISTRY: &[Entry] = &[
    Entry { name: "adam", cases: super::adam::cases },
    Entry { name: "adaptive_pool", cases: super::adaptive_pool::cases },
    Entry { name: "adaptive_pool_backward", cases: super::adaptive_pool::backward_cases },
    Entry { name: "add", cases: super::add::cases },
    Entry { name: "average", cases: super::average::cases },
    Entry { name: "channel_deviation", cases: super::channel_moments::deviation_cases },
    Entry { name: "channel_deviation_backward", cases: super::channel_moments::deviation_backward_cases },
    Entry { name: "channel_mean", cases: super::channel_moments::mean_cases },
    Entry { name: "channel_mean_backward", cases: super::channel_moments::mean_backward_cases },
    Entry { name: "conv", cases: super::conv::cases },
    Entry { name: "conv_backward", cases: super::conv::backward_cases },
    Entry { name: "covariance", cases: super::covariance::cases },
    Entry { name: "covariance_mean_backward", cases: super::covariance::mean_backward_cases },
    Entry { name: "cross_entropy", cases: super::cross_entropy::cases },
    Entry { name: "cross_entropy_backward", cases: super::cross_entropy::backward_cases },
    Entry { name: "dot", cases: super::reduce::dot_cases },
    Entry { name: "flatten", cases: super::flatten::cases },
    Entry { name: "free_gradient", cases: super::free_gradient::cases },
    Entry { name: "gram", cases: super::gram::cases },
    Entry { name: "gram_backward", cases: super::gram::backward_cases },
    Entry { name: "interleave", cases: super::picture::interleave_cases },
    Entry { name: "lbfgs_judge", cases: super::lbfgs::judge_cases },
    Entry { name: "lbfgs_move", cases: super::lbfgs::move_cases },
    Entry { name: "lbfgs_products", cases: super::lbfgs::products_cases },
    Entry { name: "lbfgs_recursion", cases: super::lbfgs::recursion_cases },
    Entry { name: "lbfgs_store", cases: super::lbfgs::store_cases },
    Entry { name: "linear", cases: super::linear::cases },
    Entry { name: "linear_backward", cases: super::linear::backward_cases },
    Entry { name: "linear_combination", cases: super::linear_combination::cases },
    Entry { name: "matmul", cases: super::matmul::cases },
    Entry { name: "matrix_root", cases: super::matrix_root::cases },
    Entry { name: "mse", cases: super::mse::cases },
    Entry { name: "mse_backward", cases: super::mse::backward_cases },
    Entry { name: "multiply_add", cases: super::peaks::multiply_add_cases },
    Entry { name: "pool", cases: super::pool::cases },
    Entry { name: "pool_backward", cases: super::pool::backward_cases },
    Entry { name: "preprocess", cases: super::picture::cases },
    Entry { name: "preprocess_backward", cases: super::picture::backward_cases },
    Entry { name: "reciprocal", cases: super::scale_by::reciprocal_cases },
    Entry { name: "reduce", cases: super::reduce::cases },
    Entry { name: "relu", cases: super::relu::cases },
    Entry { name: "relu_backward", cases: super::relu::backward_cases },
    Entry { name: "resize", cases: super::resize::cases },
    Entry { name: "resize_backward", cases: super::resize::backward_cases },
    Entry { name: "root_trace", cases: super::matrix_root::trace_cases },
    Entry { name: "scale_by", cases: super::scale_by::cases },
    Entry { name: "softmax", cases: super::softmax::cases },
    Entry { name: "softmax_backward", cases: super::softmax::backward_cases },
    Entry { name: "total_variation", cases: super::total_variation::cases },
    Entry { name: "total_variation_backward", cases: super::total_variation::backward_cases },
    Entry { name: "trace", cases: super::covariance::trace_cases },
    Entry { name: "trace_backward", cases: super::covariance::trace_backward_cases },
    Entry { name: "triad", cases: super::peaks::triad_cases },
    Entry { name: "unflatten", cases: super::flatten::unflatten_cases },
    Entry { name: "watch", cases: super::watch::cases },
    Entry { name: "weighted_sum", cases: super::weighted_sum::cases },
    Entry { name: "winograd_weights", cases: super::conv::winograd::cases },
];
