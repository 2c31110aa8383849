//! Direct convolution on cooperative matrices: the map is packed as columns of f16 matrices (`half_rows.wgsl`),
//! multiplied over channels and taps (`coop_products.wgsl`), and the columns of the product are unpacked to a map.

use super::filter::{Filter, Packing};
use crate::gpu::Profile;
use crate::ops::coop_matrix::{
    Block, Product, SCALE_BYTES, columns, is_whole, pack, row_bytes, scale, unpack,
};
use crate::ops::{Constant, Initializer, Kernel, MapLayout, Operand, Storage};
use std::sync::Arc;

/// Number of scratch buffers of the kernel: rows of the input, rows of the sums, and two for the scale.
pub(super) const SCRATCH: usize = 4;

/// One convolution: input and output maps, and the epilogue.
pub(super) struct Direct {
    /// Operand and layout of the input map.
    pub input: (Operand, MapLayout),
    pub output: MapLayout,
    pub bias: Operand,
    pub relu: bool,
    /// Number of taps: 1 or 9.
    pub taps: u32,
    /// True to use the transposed filter.
    pub adjoint: bool,
}

impl Direct {
    /// Returns the kernel, or `None` if the device has no matrices that fit both maps' channels.
    pub fn kernel(&self, filter: &Arc<Filter>, device: &Profile) -> Option<Kernel> {
        let (operand, input) = &self.input;
        let output = self.output;
        let block = Block::choose(device, output.plane(), input.channels, output.channels)?;
        // A tap is a constant distance in the run of texels; the first is one row and one texel before.
        let front = if self.taps == 9 { input.pitch() + 1 } else { 0 };
        let rows = output.plane().next_multiple_of(block.height());
        let all = rows + 2 * front;
        let product = Product {
            rows,
            input_rows: all,
            channels: [input.channels, output.channels],
            taps: self.taps as usize,
            pitch: input.pitch(),
            positions: 1,
            strides: [0, 0],
            adjoint: false,
        };
        let scratch = vec![
            row_bytes(all, input.channels),
            2 * row_bytes(rows, output.channels),
            SCALE_BYTES[0],
            SCALE_BYTES[1],
        ];
        let weights = self.weights(filter, block.side());
        let fits = block.fits(&product, device)
            && is_whole(*input, device)
            && is_whole(output, device)
            && scratch.iter().chain([&weights.bytes]).all(|bytes| *bytes <= device.max_binding);
        if !fits {
            return None;
        }
        let operands = [Operand::Scratch(0), Operand::Constant(weights), Operand::Scratch(1)];
        let mut dispatches = scale(*input, operand, [2, 3], device).to_vec();
        dispatches.push(pack(*input, operand.clone(), [front, all], block, [0, 3], device));
        dispatches.push(block.products(&product, operands));
        dispatches.push(unpack(output, (rows, block), [1, 3], self.bias.clone(), self.relu, device));
        Some(Kernel { variant: "buffer_coop", dispatches, scratch })
    }

    /// The f16 weights: for each tap, columns of matrices of side `side`.
    fn weights(&self, filter: &Arc<Filter>, side: usize) -> Constant {
        let (adjoint, taps) = (self.adjoint, self.taps as usize);
        let (outs, ins) = (self.output.channels, self.input.1.channels);
        let direction = if adjoint { "adjoint" } else { "forward" };
        let key = format!("{} {direction} matrices of {side} in f16", filter.id);
        let filter = filter.clone();
        Constant {
            key,
            storage: Storage::Buffer,
            bytes: row_bytes(taps * outs, ins),
            initializer: Initializer::host(move || {
                let weights = (filter.weights)()?;
                // The adjoint swaps inputs and outputs and rotates the kernel by 180 degrees.
                let at = |tap: usize, o: usize, i: usize| match adjoint {
                    true => (i * filter.in_channels + o) * taps + (taps - 1 - tap),
                    false => (o * filter.in_channels + i) * taps + tap,
                };
                let of_tap = |tap| columns(side, [outs, ins], |o, i| weights[at(tap, o, i)]);
                Packing::Half.pack(&filter.id, &(0..taps).flat_map(of_tap).collect::<Vec<_>>())
            }),
        }
    }
}
