//! The buffer family's matrix product (`shaders/conv_blocks.wgsl`): choice of block sizes and dispatch. Used by
//! convolutions and by the adjoint of the Gram matrix.

use super::tiles::Matrix;
use crate::gpu::{Family, Profile};
use crate::ops::{Dispatch, MapLayout, Operand};

/// Block sizes of a workgroup. Few combinations, so that few pipelines serve all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Blocks {
    /// Name of the kernel variant that uses these sizes.
    pub variant: &'static str,
    positions: usize,
    /// Output channels per workgroup: the block size in which weights are packed.
    pub channels: usize,
    /// Positions and channels per invocation.
    each: [usize; 2],
    /// Number of shared-memory buffers: 2 for double buffering.
    buffers: usize,
    /// Quads per step with one tap. (With nine taps a step is one quad and three rows of it.)
    quads: usize,
}

/// 64 sums per invocation, 15.1 KiB: as much reuse as WebGPU's default 16 KiB allow, single-buffered.
const LARGE: Blocks =
    Blocks { variant: "buffer", positions: 128, channels: 64, each: [8, 8], buffers: 1, quads: 4 };
/// `LARGE` double-buffered, 30.2 KiB: one barrier per step instead of two, for adapters with enough shared memory.
/// Listed after `LARGE`, for tuning: it halves the number of workgroups that a core holds at once.
const DOUBLE: Blocks = Blocks { variant: "buffer_double", buffers: 2, ..LARGE };
/// Four times as many workgroups, double-buffered: for small maps, which would otherwise leave cores idle.
const SMALL: Blocks =
    Blocks { variant: "buffer_small", positions: 64, channels: 32, each: [8, 4], buffers: 2, quads: 4 };
/// For the gradient of the picture and other maps of up to four channels. The fastest of six sizes on an NVIDIA H200:
/// 0.17 ms at 512x512, against 0.35 ms with 128 positions, two per invocation and two buffers, and 0.31 ms for the
/// naive kernel.
const FEW: Blocks =
    Blocks { variant: "buffer_few", positions: 256, channels: 4, each: [1, 4], buffers: 1, quads: 2 };

/// Fewer large workgroups than this leave cores of a discrete GPU idle (they have 20 to 150).
const ENOUGH: usize = 128;

impl Blocks {
    /// Block sizes for an output map, the preferred first; empty if this device does not prefer the buffer family. Each
    /// has its own packing of the weights.
    pub fn choices(output: MapLayout, device: &Profile) -> Vec<Self> {
        let positions = output.plane() + output.pitch() + 1;
        let groups = positions.div_ceil(LARGE.positions) * output.channels.div_ceil(LARGE.channels);
        let candidates: &[Self] = match output.channels {
            0..=4 => &[FEW],
            5..=32 => &[SMALL, LARGE, DOUBLE],
            _ if groups < ENOUGH => &[SMALL, LARGE, DOUBLE],
            _ => &[LARGE, DOUBLE, SMALL],
        };
        let fits = |blocks: &&Self| {
            device.prefers(Family::Buffer)
                && blocks.invocations() <= device.max_invocations as usize
                && blocks.workgroup_bytes() <= device.max_workgroup_storage as usize
        };
        candidates.iter().filter(fits).copied().collect()
    }

    fn invocations(self) -> usize {
        self.positions / self.each[0] * (self.channels / self.each[1])
    }

    /// Bytes of shared memory with nine taps or with one, whichever is more.
    fn workgroup_bytes(self) -> usize {
        let nine = 3 * (self.positions + 2) + 9 * self.channels;
        let one = self.quads * (self.positions + self.channels);
        nine.max(one) * self.buffers * 16
    }

    /// Dispatch of `output = matrix * input` (or a 3x3 convolution) with all operands bound. With a `mask`, a map of
    /// the input's shape, the input is taken as zero where the mask is not positive: this fuses the adjoint of a ReLU.
    pub fn dispatch(
        self,
        input: MapLayout,
        output: MapLayout,
        matrix: Matrix,
        mask: Option<Operand>,
        device: &Profile,
    ) -> Dispatch {
        let positions = output.plane() + output.pitch() + 1;
        let [rows, columns] = if matrix.taps == 9 { [3, 3] } else { [self.quads, 1] };
        let mut dispatch = Dispatch::new("conv_blocks", "forward")
            .consts(&[
                ("POSITIONS", self.positions as u32),
                ("CHANNELS", self.channels as u32),
                ("PIXELS", self.each[0] as u32),
                ("OUTS", self.each[1] as u32),
                ("ROWS", rows as u32),
                ("COLUMNS", columns as u32),
                ("BUFFERS", self.buffers as u32),
                ("RELU", u32::from(matrix.relu)),
                ("MASK", u32::from(mask.is_some())),
                ("HALF", u32::from(matrix.half)),
            ])
            .bind("input", matrix.input)
            .bind("weights", matrix.weights)
            .bind("bias", matrix.bias)
            .bind("output", Operand::Output)
            .size("in_quads", input.quads())
            .size("in_texels", input.texels())
            .size("out_quads", output.quads())
            .size("pitch", output.pitch())
            .size("plane", output.plane())
            .linear(positions, self.positions, device);
        dispatch.groups[2] = output.channels.div_ceil(self.channels) as u32;
        match mask {
            Some(mask) => dispatch.bind("activation", mask),
            None => dispatch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(family: Family) -> Profile {
        Profile { family, ..Profile::minimal() }
    }

    fn first(channels: usize, side: usize) -> Option<&'static str> {
        let output = MapLayout { channels, height: side, width: side };
        Blocks::choices(output, &profile(Family::Auto)).first().map(|blocks| blocks.variant)
    }

    #[test]
    fn every_block_fits_default_limits() {
        for blocks in [LARGE, SMALL, FEW, DOUBLE] {
            assert!(blocks.workgroup_bytes() <= if blocks == DOUBLE { 32 << 10 } else { 16 << 10 });
            assert!(blocks.invocations() <= 256 && blocks.invocations().is_multiple_of(32), "{blocks:?}");
        }
    }

    #[test]
    fn block_choice_depends_on_output_size() {
        assert_eq!(first(3, 512), Some("buffer_few"));
        assert_eq!(first(32, 512), Some("buffer_small"));
        assert_eq!(first(64, 512), Some("buffer"));
        assert_eq!(first(512, 16), Some("buffer_small"));
        let output = MapLayout { channels: 64, height: 9, width: 9 };
        assert!(Blocks::choices(output, &profile(Family::Texture)).is_empty());
        let small = Profile { max_workgroup_storage: 8 << 10, ..profile(Family::Buffer) };
        assert!(Blocks::choices(output, &small).is_empty());
    }
}
