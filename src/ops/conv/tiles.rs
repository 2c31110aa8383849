//! The texture family's matrix product (`shaders/conv_tiles.wgsl`): choice of block sizes and dispatch. Used by
//! convolutions and by the adjoint of the Gram matrix.

use crate::gpu::{Family, Profile};
use crate::ops::{Constant, Dispatch, Initializer, MapLayout, Operand, Storage, TEXTURE_WIDTH, window};
use std::ops::Range;

/// Runs of positions per invocation; as in the shader.
const VECTORS: usize = 8;
/// Largest supported subgroup. A workgroup is one subgroup: software drivers gain nothing from larger ones, and small
/// ones waste less on small maps.
const MOST_LANES: usize = 32;

/// Register block sizes for one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Tiles {
    lanes: usize,
    /// Output channels per invocation: the block size in which weights are packed.
    pub channels: usize,
}

/// The operands of a product.
pub(in crate::ops) struct Matrix {
    /// The map.
    pub input: Operand,
    /// Weights in blocks of [`Tiles::channels`].
    pub weights: Operand,
    /// True for f16 weights; only in the buffer family.
    pub half: bool,
    /// One value per output channel.
    pub bias: Operand,
    /// Number of taps: 9 or 1.
    pub taps: u32,
    /// True to apply a ReLU to the result.
    pub relu: bool,
}

impl Tiles {
    /// Block sizes for an output map, or `None` unless this device prefers the texture family, has one known subgroup
    /// size that fits the blocks, and textures large enough for the input.
    pub fn choose(output: MapLayout, input_texels: usize, device: &Profile) -> Option<Self> {
        let lanes = device.lanes? as usize;
        let fits = lanes.is_power_of_two() && (4..=MOST_LANES).contains(&lanes);
        let rows = input_texels.div_ceil(TEXTURE_WIDTH as usize);
        let large = TEXTURE_WIDTH <= device.max_texture_side && rows <= device.max_texture_side as usize;
        // More sums per load are faster as long as no channels are idle (lavapipe, 2 Zen 4 cores, 8 lanes, 256 to 256
        // channels at 64 x 64: 76 GFLOP/s with 16, 88 with 32).
        let most = match output.channels {
            0..=4 => 4,
            5..=16 => 16,
            _ => 32,
        };
        // A binding holds only a few quads of a large map, and a window is whole blocks of channels.
        let fitting = [32, 16, 4]
            .into_iter()
            .find(|channels| *channels <= most && window::fits(output, channels / 4, device));
        let channels = fitting.unwrap_or(most);
        (device.prefers(Family::Texture) && fits && large).then_some(Self { lanes, channels })
    }

    /// Dispatches of `output = matrix * input` (or a 3x3 convolution) with all operands bound: one, or one for each
    /// window of an output larger than a binding. (The input is read through a texture.)
    pub fn dispatches(
        self,
        input: MapLayout,
        output: MapLayout,
        matrix: &Matrix,
        device: &Profile,
    ) -> Vec<Dispatch> {
        let part = |quads: Range<usize>| {
            let dispatch = self.dispatch(input, output.part(&quads), matrix, device);
            dispatch
                .size("first_block", quads.start * 4 / self.channels)
                .narrow(&[("output", output)], &quads)
        };
        window::quads(&[output], self.channels / 4, device).into_iter().map(part).collect()
    }

    fn dispatch(self, input: MapLayout, output: MapLayout, matrix: &Matrix, device: &Profile) -> Dispatch {
        let Self { lanes, channels } = self;
        let positions = output.plane() + output.pitch() + 1;
        let mut dispatch = Dispatch::new("conv_tiles", "forward")
            .consts(&[
                ("LANES", lanes as u32),
                ("GROUP", lanes as u32),
                ("CHANNELS", channels as u32),
                ("WEIGHT_VECTORS", channels.div_ceil(lanes) as u32),
            ])
            .bind("input", matrix.input.clone().staged())
            .bind("weights", matrix.weights.clone())
            .bind("bias", matrix.bias.clone())
            .bind("output", Operand::Output)
            .size("in_quads", input.quads())
            .size("out_quads", output.quads())
            .size("pitch", output.pitch())
            .size("plane", output.plane())
            .size("taps", matrix.taps as usize)
            .size("relu", usize::from(matrix.relu))
            .linear(positions, VECTORS * lanes, device);
        dispatch.groups[2] = output.channels.div_ceil(channels) as u32;
        dispatch
    }
}

/// A zero bias for this many quads.
pub(in crate::ops) fn no_bias(quads: usize) -> Operand {
    Operand::Constant(Constant {
        key: format!("{quads} zero quads"),
        storage: Storage::Buffer,
        bytes: quads as u64 * 16,
        initializer: Initializer::host(move || Ok(vec![0; quads * 16])),
    })
}
