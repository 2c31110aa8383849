//! Weights of a convolution and their packing for kernels.

use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::half_precision::to_half;
use crate::ops::{Constant, Initializer, Loader, Operand, Storage};
use std::sync::Arc;

/// Weights of a convolution, read from their file only when a kernel needs them.
#[derive(Clone)]
pub struct Filter {
    /// Identity: the same id means the same weights.
    pub id: String,
    /// Output channels.
    pub out_channels: usize,
    /// Input channels.
    pub in_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Reads the weights, `[out, in, height, width]` in row-major order.
    pub weights: Loader,
    /// Reads the biases, one per output channel.
    pub bias: Loader,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [height, width] = self.kernel;
        write!(f, "Filter({}: {}x{}x{height}x{width})", self.id, self.out_channels, self.in_channels)
    }
}

/// Storage format of packed weights on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// f32 in a buffer.
    Buffer,
    /// f32 in a texture.
    Texture,
    /// f16 in a buffer, two texels in 16 bytes.
    Half,
}

impl Packing {
    /// Buffer packing in the precision that the device asks for.
    pub fn buffer(device: &Profile) -> Self {
        if device.half_weights() { Self::Half } else { Self::Buffer }
    }

    pub fn storage(self) -> Storage {
        if self == Self::Texture { Storage::Texture } else { Storage::Buffer }
    }

    /// Suffix of a constant's key.
    pub fn key(self) -> &'static str {
        if self == Self::Half { " in f16" } else { "" }
    }

    /// Bytes of this many texels, an even number.
    pub fn bytes(self, texels: usize) -> u64 {
        texels as u64 * if self == Self::Half { 8 } else { 16 }
    }

    /// Returns the bytes of packed values; `of` is the id of the filter.
    ///
    /// # Errors
    /// Same as [`to_half`].
    pub fn pack(self, of: &str, values: &[f32]) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Half => bytemuck::cast_slice(&to_half(of, values)?).to_vec(),
            Self::Buffer | Self::Texture => bytemuck::cast_slice(values).to_vec(),
        })
    }
}

impl Filter {
    /// Packs the weights for a kernel that computes `block` output channels together: texel `((block * in_quads +
    /// in_quad) * taps + tap) * block_size + channel`, each of four input channels. `adjoint` swaps inputs and outputs
    /// and rotates the kernel by 180 degrees.
    fn pack(&self, weights: &[f32], block: usize, adjoint: bool) -> Vec<f32> {
        let [height, width] = self.kernel;
        let taps = height * width;
        let (outs, ins) = if adjoint {
            (self.in_channels, self.out_channels)
        } else {
            (self.out_channels, self.in_channels)
        };
        let quads = ins.div_ceil(4);
        let mut packed = vec![0.0; outs.div_ceil(block) * quads * taps * block * 4];
        for o in 0..outs {
            for i in 0..ins {
                for tap in 0..taps {
                    let from = if adjoint {
                        (i * self.in_channels + o) * taps + (taps - 1 - tap)
                    } else {
                        (o * self.in_channels + i) * taps + tap
                    };
                    let texel = ((o / block * quads + i / 4) * taps + tap) * block + o % block;
                    packed[texel * 4 + i % 4] = weights[from];
                }
            }
        }
        packed
    }

    /// The packed weights as a constant: f32 in a buffer or a texture, or f16 in a buffer.
    pub(super) fn constant(self: &Arc<Self>, block: usize, adjoint: bool, packing: Packing) -> Operand {
        let filter = self.clone();
        let (outs, ins) = if adjoint {
            (self.in_channels, self.out_channels)
        } else {
            (self.out_channels, self.in_channels)
        };
        let taps = self.kernel[0] * self.kernel[1];
        let texels = outs.div_ceil(block) * ins.div_ceil(4) * taps * block;
        let direction = if adjoint { "adjoint" } else { "forward" };
        Operand::Constant(Constant {
            key: format!("{} {direction} blocks of {block}{}", self.id, packing.key()),
            storage: packing.storage(),
            bytes: packing.bytes(texels),
            initializer: Initializer::host(move || {
                let weights = (filter.weights)()?;
                packing.pack(&filter.id, &filter.pack(&weights, block, adjoint))
            }),
        })
    }

    /// The biases, padded to whole quads.
    pub(super) fn bias_constant(&self) -> Operand {
        let load = self.bias.clone();
        let padded = self.out_channels.next_multiple_of(4);
        Operand::Constant(Constant {
            key: format!("{} bias", self.id),
            storage: Storage::Buffer,
            bytes: padded as u64 * 4,
            initializer: Initializer::host(move || {
                let mut bias = load()?;
                bias.resize(padded, 0.0);
                Ok(bytemuck::cast_slice(&bias).to_vec())
            }),
        })
    }
}
