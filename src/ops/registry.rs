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
    Entry { name: "add", cases: super::add::cases },
    Entry { name: "conv", cases: super::conv::cases },
    Entry { name: "conv_backward", cases: super::conv::backward_cases },
    Entry { name: "dot", cases: super::reduce::dot_cases },
    Entry { name: "flatten", cases: super::flatten::cases },
    Entry { name: "linear", cases: super::linear::cases },
    Entry { name: "linear_backward", cases: super::linear::backward_cases },
    Entry { name: "reduce", cases: super::reduce::cases },
    Entry { name: "relu", cases: super::relu::cases },
    Entry { name: "relu_backward", cases: super::relu::backward_cases },
    Entry { name: "softmax", cases: super::softmax::cases },
    Entry { name: "softmax_backward", cases: super::softmax::backward_cases },
    Entry { name: "unflatten", cases: super::flatten::unflatten_cases },
];
