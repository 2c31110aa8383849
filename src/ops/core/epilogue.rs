//! Last steps of a gradient, applied where it is written: adding another gradient and applying the mask of a ReLU.
//! `graph/fuse` decides what to fuse.

use super::op::{Dispatch, Kernel, Operand};
use super::shape::Shape;
use super::window;
use crate::gpu::Profile;

/// Appends an in-place pass that adds and masks to a kernel that can't do so itself. With `add`, the output's memory
/// holds the other summand (see [`super::op::Op::overwrites`]), so the kernel's own result goes to scratch memory.
pub(in crate::ops) fn after(
    mut kernel: Kernel,
    shape: Shape,
    add: bool,
    mask: Option<&Operand>,
    device: &Profile,
) -> Kernel {
    let result = add.then_some(Operand::Scratch(kernel.scratch.len()));
    if let Some(result) = &result {
        kernel.redirect_output(result);
        kernel.scratch.push(shape.bytes());
    }
    if result.is_none() && mask.is_none() {
        return kernel;
    }
    let mut dispatch = Dispatch::new("epilogue", "epilogue")
        .consts(&[("ADD", u32::from(add)), ("MASK", u32::from(mask.is_some()))])
        .bind("output", Operand::Output);
    if let Some(result) = result {
        dispatch = dispatch.bind("addend", result);
    }
    if let Some(mask) = mask {
        dispatch = dispatch.bind("activation", mask.clone());
    }
    let names = ["addend", "activation", "output"];
    kernel.dispatches.extend(window::elementwise(&dispatch, &names, shape.stored() / 4, device));
    kernel
}

/// ReLU mask of the references: zeroes values where `by` is not positive.
pub(in crate::ops) fn mask(values: &mut [f64], by: &[f64]) {
    values.iter_mut().zip(by).for_each(|(value, y)| *value = if *y > 0.0 { *value } else { 0.0 });
}
