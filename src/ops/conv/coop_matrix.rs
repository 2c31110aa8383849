//! The direct convolution on cooperative matrices: the map as columns of matrices in f16 (`half_rows.wgsl`), a product
//! over channels and taps (`coop_products.wgsl`), and its columns as a map again.

use super::filter::{Filter, Packing};
use crate::gpu::Profile;
use crate::ops::coop_matrix::{
    Block, Product, SCALE_BYTES, columns, is_whole, pack, row_bytes, scale, unpack,
};
use crate::ops::{Constant, Initializer, Kernel, MapLayout, Operand, Storage};
use std::sync::Arc;

/// Scratch buffers of the kernel: rows of the input and of the sums, and those of the scale.
pub(super) const SCRATCH: usize = 4;

/// One convolution: from which map to which, and what is done to each value before it is stored.
pub(super) struct Direct {
    /// The map that is read, and its layout.
    pub input: (Operand, MapLayout),
    pub output: MapLayout,
    pub bias: Operand,
    pub relu: bool,
    /// 1 or 9.
    pub taps: u32,
    /// The transposed filter.
    pub adjoint: bool,
}

impl Direct {
    /// The kernel, where a device has matrices that fit both maps' channels.
    pub fn kernel(&self, filter: &Arc<Filter>, device: &Profile) -> Option<Kernel> {
        let (operand, input) = &self.input;
        let output = self.output;
        let block = Block::choose(device, output.plane(), input.channels, output.channels)?;
        // A tap is a constant distance in the run of texels; the first lies a line and a texel before.
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

    /// The weights in f16: for each tap the columns of matrices of this side.
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
                // The adjoint swaps inputs with outputs and turns the kernel by 180 degrees.
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
