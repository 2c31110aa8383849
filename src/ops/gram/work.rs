//! Splits a Gram matrix into partial matrices, and adds them up.

use crate::gpu::Profile;
use crate::ops::{Dispatch, Kernel, MapLayout, Operand};

/// Channels (and texels) of a block in `gram_blocks.wgsl`.
pub(super) const BLOCK_SIDE: usize = 64;
/// Texels per step in `gram_blocks.wgsl`.
pub(super) const BLOCK_DEPTH: usize = 16;
/// Partial matrices that `gram_sum.wgsl` sums at a time.
const FOLD: usize = 32;

/// Factor of the products.
pub(super) fn scale(map: MapLayout) -> f64 {
    1.0 / (map.channels * map.pixels()) as f64
}

/// Split of a Gram matrix: pairs of channel blocks times chunks of the run of texels.
pub(super) struct Work {
    /// Number of channel blocks.
    pub blocks: usize,
    /// Number of pairs of blocks with row block <= column block.
    pub pairs: usize,
    /// Number of chunks of the run.
    pub splits: usize,
    /// Texels per chunk.
    pub chunk: usize,
}

impl Work {
    /// Splits the run into chunks of whole `step`s: enough for `units` work items in total, with the number of steps
    /// per chunk between the two of `steps`. Short chunks cost partial matrices; long ones lose precision, since an
    /// invocation sums a chunk in one f32.
    pub fn split(map: MapLayout, side: usize, step: usize, steps: [usize; 2], units: usize) -> Self {
        let blocks = map.channels.div_ceil(side);
        let pairs = blocks * (blocks + 1) / 2;
        let total = map.plane().div_ceil(step);
        let splits = units.div_ceil(pairs).min(total.div_ceil(steps[0])).max(total.div_ceil(steps[1]));
        let chunk = total.div_ceil(splits);
        Self { blocks, pairs, splits: total.div_ceil(chunk), chunk: chunk * step }
    }

    /// One chunk: for kernels that need only the number of channel blocks.
    pub fn whole(map: MapLayout, side: usize) -> Self {
        Self::split(map, side, map.plane(), [1, 1], 1)
    }

    /// Sets the parameters shared by the kernels of all families.
    pub fn params(&self, dispatch: Dispatch, map: MapLayout) -> Dispatch {
        dispatch
            .size("quads", map.quads())
            .size("plane", map.plane())
            .size("blocks", self.blocks)
            .size("pairs", self.pairs)
            .size("splits", self.splits)
            .size("chunk", self.chunk)
    }

    /// Kernel of `partials`, which writes `splits` partial matrices to the first scratch buffer, followed by the
    /// dispatches that add them up.
    pub fn finish(
        &self,
        variant: &'static str,
        partials: Dispatch,
        map: MapLayout,
        side: usize,
        device: &Profile,
    ) -> Kernel {
        let quads = map.quads();
        let count = self.pairs * side * side / 4;
        let sum = |entry, splits| {
            Dispatch::new("gram_sum", entry)
                .consts(&[("QUADS", (side / 4) as u32), ("FOLD", FOLD as u32)])
                .size("channels", map.channels)
                .size("quads", quads)
                .size("blocks", self.blocks)
                .size("splits", splits)
                .size("count", count)
                .float("scale", scale(map) as f32)
        };
        let mut splits = self.splits;
        let mut dispatches = vec![partials];
        let mut scratch = vec![(splits * count) as u64 * 16];
        while splits > FOLD {
            let folded = splits.div_ceil(FOLD);
            let dispatch = sum("fold", splits)
                .bind("partials", Operand::Scratch(scratch.len() - 1))
                .bind("output", Operand::Scratch(scratch.len()))
                .linear(folded * count, 64, device);
            dispatches.push(dispatch);
            scratch.push((folded * count) as u64 * 16);
            splits = folded;
        }
        let last = sum("finish", splits)
            .bind("partials", Operand::Scratch(scratch.len() - 1))
            .bind("output", Operand::Output)
            .linear(quads * quads, 64, device);
        dispatches.push(last);
        Kernel { variant, dispatches, scratch }
    }
}
