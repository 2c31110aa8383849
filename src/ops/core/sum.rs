//! Last step of every op whose output is one number (`shaders/sum.wgsl`): adds up partial sums in a fixed order, so
//! that the same inputs give the same bits.

use super::op::{Dispatch, Kernel, Operand};
use crate::gpu::Profile;

/// Most partial sums that the last dispatch, a single workgroup, adds up.
const LAST: usize = 16 * 1024;
/// Invocations per workgroup of the earlier levels; matches the shader.
const GROUP: usize = 64;
/// Numbers that those levels sum to one; 4 times the shader's `TERMS`.
const FOLD: usize = 64;

/// Kernel of the dispatches `first`, which write `count` partial sums to the first scratch buffer, followed by
/// dispatches that add them up and multiply the sum by `scale`. `count` must be a multiple of 4.
pub(in crate::ops) fn total(first: Vec<Dispatch>, count: usize, scale: f64, device: &Profile) -> Kernel {
    let mut count = count;
    let mut dispatches = first;
    let mut scratch = vec![count as u64 * 4];
    while count > LAST {
        let outputs = count.div_ceil(FOLD).next_multiple_of(GROUP);
        let fold = Dispatch::new("sum", "fold")
            .bind("partials", Operand::Scratch(scratch.len() - 1))
            .bind("sums", Operand::Scratch(scratch.len()))
            .size("count", count / 4)
            .size("outputs", outputs)
            .float("scale", 1.0)
            .linear(outputs, GROUP, device);
        dispatches.push(fold);
        scratch.push(outputs as u64 * 4);
        count = outputs;
    }
    let finish = Dispatch::new("sum", "finish")
        .bind("partials", Operand::Scratch(scratch.len() - 1))
        .bind("output", Operand::Output)
        .size("count", count / 4)
        .size("outputs", 1)
        .float("scale", scale as f32);
    dispatches.push(finish);
    Kernel { variant: "naive", dispatches, scratch }
}
