//! Last steps that a kernel can do where it writes its result: of a gradient the sum with another one and the
//! mask of a ReLU, of a convolution the max pool behind it. `graph/fuse.rs` hands them to the ops.

use super::{Dispatch, Op, Operand, Shape, window};
use crate::gpu::Profile;
use std::sync::Arc;

/// A step that may be done where a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastStep {
    /// Add a tensor like the result.
    Add,
    /// Zero the result where a tensor like it is not positive.
    Mask,
    /// Keep the maxima of 2x2 windows side by side, and in a second output which they were (`codes.rs`).
    Halve,
}

/// An op that does a last step too.
#[derive(Debug, Clone)]
pub struct Absorbed {
    /// The op.
    pub op: Arc<dyn Op>,
    /// True if it takes the step's operand as one more input, the last; false if it has it already.
    pub takes_operand: bool,
}

/// The dispatches that add and mask `output` in place, for kernels that can't themselves.
pub(super) fn dispatches(
    shape: Shape,
    add: Option<&Operand>,
    mask: Option<&Operand>,
    device: &Profile,
) -> Vec<Dispatch> {
    let Some(some) = add.or(mask) else { return Vec::new() };
    let dispatch = Dispatch::new("finish", "finish")
        .consts(&[("ADD", u32::from(add.is_some())), ("MASK", u32::from(mask.is_some()))])
        .bind("addend", add.unwrap_or(some).clone())
        .bind("activation", mask.unwrap_or(some).clone())
        .bind("output", Operand::Output);
    window::elementwise(&dispatch, &["addend", "activation", "output"], shape.stored() / 4, device)
}

/// The mask for the references: zeroes values where `by` is not positive.
pub(super) fn mask(values: &mut [f64], by: &[f64]) {
    values.iter_mut().zip(by).for_each(|(value, y)| *value = if *y > 0.0 { *value } else { 0.0 });
}
