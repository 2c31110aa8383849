//! The texture family's kernels of fully connected layers (`linear_tiles.wgsl`).

use super::matrix::{Matrix, ROWS};
use crate::error::Result;
use crate::gpu::{Family, Profile};
use crate::ops::{Dispatch, Kernel, Operand, Storage, TEXTURE_WIDTH};
use std::sync::Arc;

/// Largest chunk of weights, in bytes: chunks go to their texture through a buffer, so a large one would double the
/// peak memory at startup.
const CHUNK: u64 = 32 << 20;
/// Runs of lanes along the columns in the backward pass; as in the shader.
const WORDS: usize = 4;

/// Subgroup size, or `None` unless this device prefers the family and supports the weights' precision and size.
fn lanes(matrix: &Matrix, device: &Profile) -> Option<usize> {
    let lanes = device.lanes? as usize;
    // Each quad of rows needs a lane to write it; a vector must fit a texture.
    let fits = lanes.is_power_of_two()
        && (4..=64).contains(&lanes)
        && TEXTURE_WIDTH <= device.max_texture_side
        && matrix.rows.max(matrix.columns) / 4 < (TEXTURE_WIDTH as usize).pow(2);
    (device.prefers(Family::Texture) && fits && !matrix.half).then_some(lanes)
}

/// Kernel of the forward or backward pass, or `None` if this device does not support it.
///
/// # Errors
/// Same as [`Matrix::chunks`].
pub(super) fn kernel(
    matrix: &Arc<Matrix>,
    relu: bool,
    backward: bool,
    device: &Profile,
) -> Result<Option<Kernel>> {
    let matrix = matrix.on(device);
    let Some(lanes) = lanes(&matrix, device) else { return Ok(None) };
    let dispatches = matrix
        .chunks(device, CHUNK)?
        .into_iter()
        .map(|rows| {
            let entry = if backward { "backward" } else { "forward" };
            let dispatch = Dispatch::new("linear_tiles", entry)
                .consts(&[("LANES", lanes as u32), ("RELU", u32::from(relu))])
                .bind("weights", Arc::clone(&matrix).constant(rows.clone(), Storage::Texture))
                .bind("output", Operand::Output)
                .size("rows", rows.len())
                .size("first", rows.start)
                .size("words", matrix.words());
            if backward {
                dispatch
                    .bind("activation", Operand::Input(0).staged_in(0))
                    .bind("upstream", Operand::Input(1).staged_in(1))
                    .loops(rows.len().div_ceil(4))
                    .linear(matrix.words(), lanes * WORDS, device)
            } else {
                dispatch
                    .bind("input", Operand::Input(0).staged())
                    .bind("bias", matrix.bias_constant())
                    .loops(matrix.words().div_ceil(lanes))
                    .linear(rows.len(), ROWS, device)
            }
        })
        .collect();
    Ok(Some(Kernel::of("texture", dispatches)))
}
