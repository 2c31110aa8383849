//! Gram matrix on cooperative matrices (`coop_gram.wgsl`), from the map as columns of f16 matrices.

use super::work::{BLOCK_DEPTH, Work};
use crate::gpu::Profile;
use crate::ops::coop_matrix::{Block, SCALE_BYTES, is_whole, pack, row_bytes, scale};
use crate::ops::{Dispatch, Kernel, MapLayout, Operand};

/// Kernel on cooperative matrices, or `None` if the device has none that fit the channels. Listed after others: only
/// tuning selects it.
pub(super) fn kernel(map: MapLayout, device: &Profile) -> Option<Kernel> {
    let block = Block::choose(device, map.channels, map.channels, map.channels)?;
    let block = block.square();
    let side = block.width();
    let work = Work::split(map, side, BLOCK_DEPTH, [16, 128], 512);
    let rows = work.splits * work.chunk;
    let partials = Dispatch::new("coop_gram", "forward")
        .consts(&block.consts())
        .bind("partials", Operand::Scratch(0))
        .size("rows", rows)
        .size("blocks", work.blocks)
        .size("pairs", work.pairs)
        .size("splits", work.splits)
        .size("chunk", work.chunk)
        .linear(work.pairs * work.splits, 1, device);
    let mut kernel = work.finish("buffer_coop", partials, map, side, device);
    let [largest, scales, at] = [0, 1, 2].map(|index| kernel.scratch.len() + index);
    kernel.scratch.extend(SCALE_BYTES.into_iter().chain([row_bytes(rows, map.channels)]));
    kernel.dispatches[0].bindings.push(("rows", Operand::Scratch(at)));
    if let Some(last) = kernel.dispatches.last_mut() {
        last.consts.push(("SCALED", 1));
        last.bindings.push(("scales", Operand::Scratch(scales)));
    }
    let mut before = scale(map, &Operand::Input(0), [largest, scales], device).to_vec();
    before.push(pack(map, Operand::Input(0), [0, rows], block, [at, scales], device));
    kernel.dispatches.splice(0..0, before);
    let fits = is_whole(map, device) && kernel.scratch.iter().all(|bytes| *bytes <= device.max_binding);
    fits.then_some(kernel)
}
