//! Transforms a filter once, on the device; the transformed weights are a constant.

use super::tile::{BLOCK, GROUP, TEXEL, WinogradTile};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::conv::filter::{Filter, Packing};
use crate::ops::shape::takes;
use crate::ops::{
    Case, Constant, ConstantPart, CpuKernel, Dispatch, Initializer, Kernel, Op, Operand, Shape, Signature,
    Storage, TexelCopy, coop_matrix,
};
use std::sync::Arc;

/// Transformed weights are computed in parts of about this many bytes.
const PART_BYTES: usize = 8 << 20;

/// Transform of a filter: `U = G g G^T` for each pair of channels, packed for the products. Input: the filter's weights
/// as a vector in the order `[out, in, 3, 3]`. Runs once per filter, on the device.
#[derive(Debug, Clone, Copy)]
pub struct WinogradWeights {
    /// Tile size.
    pub tile: WinogradTile,
    /// Output channels of the filter.
    pub out_channels: usize,
    /// Input channels of the filter.
    pub in_channels: usize,
}

impl WinogradWeights {
    pub(super) fn texels(&self) -> usize {
        self.tile.positions() * self.padded() * self.in_channels.div_ceil(4)
    }

    /// Parts of the transform, each of whole blocks of output channels and about [`PART_BYTES`].
    fn parts(&self) -> Vec<ConstantPart> {
        let (blocks, quads) = (self.padded() / BLOCK, self.in_channels.div_ceil(4));
        let positions = self.tile.positions();
        let run = quads * BLOCK; // texels of a block at one position
        let most = (PART_BYTES / (positions * run * TEXEL)).max(1);
        let part = |first: usize| {
            let count = most.min(blocks - first);
            let outs = first * BLOCK..((first + count) * BLOCK).min(self.out_channels);
            let at = |position| TexelCopy {
                from: (position * count * run) as u64,
                to: ((position * blocks + first) * run) as u64,
                texels: (count * run) as u64,
            };
            ConstantPart {
                op: Arc::new(Self { out_channels: outs.len(), ..*self }),
                values: outs.start * self.in_channels * 9..outs.end * self.in_channels * 9,
                copies: (0..positions).map(at).collect(),
            }
        };
        (0..blocks).step_by(most).map(part).collect()
    }

    /// Transform in f64: columns, then rows.
    fn transform(&self, weights: &[f64]) -> Vec<f64> {
        let matrix = filter_matrix(self.tile);
        let side = matrix.len();
        let (blocks, quads) = (self.padded() / BLOCK, self.in_channels.div_ceil(4));
        let mut packed = vec![0.0; self.texels() * 4];
        for (index, filter) in weights.chunks_exact(9).enumerate() {
            let (o, i) = (index / self.in_channels, index % self.in_channels);
            for (row, g) in matrix.iter().enumerate() {
                let line: [f64; 3] = std::array::from_fn(|c| (0..3).map(|r| g[r] * filter[r * 3 + c]).sum());
                for (column, g) in matrix.iter().enumerate() {
                    let position = row * side + column;
                    let block = position * blocks + o / BLOCK;
                    let value = line[0] * g[0] + line[1] * g[1] + line[2] * g[2];
                    packed[((block * quads + i / 4) * BLOCK + o % BLOCK) * 4 + i % 4] = value;
                }
            }
        }
        packed
    }

    /// [`WinogradWeights::transform`] of f32 weights, rounded to f32.
    fn rounded(&self, weights: &[f32]) -> Vec<f32> {
        let wide: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        self.transform(&wide[..self.out_channels * self.in_channels * 9])
            .into_iter()
            .map(|value| value as f32)
            .collect()
    }

    /// Repacks transformed weights as columns of matrices of side `side` for each position.
    fn columns(&self, packed: &[f32], side: usize) -> Vec<f32> {
        let (blocks, quads) = (self.padded() / BLOCK, self.in_channels.div_ceil(4));
        let of_position = |position| {
            coop_matrix::columns(side, [self.out_channels, self.in_channels], |o, i| {
                let block = position * blocks + o / BLOCK;
                packed[((block * quads + i / 4) * BLOCK + o % BLOCK) * 4 + i % 4]
            })
        };
        (0..self.tile.positions()).flat_map(of_position).collect()
    }

    fn padded(&self) -> usize {
        self.out_channels.next_multiple_of(BLOCK)
    }
}

/// `G` of F(4, 3) with the points 0, +-3/4, +-3/2, infinity; and of F(2, 3) with 0, +-1, infinity.
fn filter_matrix(tile: WinogradTile) -> Vec<[f64; 3]> {
    let points: &[f64] = match tile {
        WinogradTile::Four => &[0.0, 0.75, -0.75, 1.5, -1.5],
        WinogradTile::Two => &[0.0, 1.0, -1.0],
    };
    let mut rows: Vec<[f64; 3]> = points
        .iter()
        .map(|x| {
            let divisor: f64 = points.iter().filter(|y| *y != x).map(|y| x - y).product();
            // F(2, 3) is usually written with the sign of the first row flipped.
            let divisor = if tile == WinogradTile::Two { divisor.abs() } else { divisor };
            [1.0 / divisor, x / divisor, x * x / divisor]
        })
        .collect();
    rows.push([0.0, 0.0, 1.0]);
    rows
}

impl Op for WinogradWeights {
    fn name(&self) -> &'static str {
        "winograd_weights"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let expected = self.out_channels * self.in_channels * 9;
        if inputs[0].expect_vector("winograd_weights")? != expected {
            return Err(takes("winograd_weights", &format!("{expected} weights"), inputs[0]));
        }
        Ok(Shape::Vector(self.texels() * 4))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let quads = self.in_channels.div_ceil(4);
        let dispatch = Dispatch::new("winograd_filter", "transform")
            .consts(&self.tile.consts())
            .bind("filters", Operand::Input(0))
            .bind("output", Operand::Output)
            .size("out_channels", self.out_channels)
            .size("in_channels", self.in_channels)
            .size("in_quads", quads)
            .linear(self.padded() * quads, GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let op = *self;
        Ok(CpuKernel::new(move |call| call.output.copy_from_slice(&op.rounded(call.inputs[0]))))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        self.transform(inputs[0])
    }
}

/// The filter's transformed weights: computed on the device in f32, on the host in f16.
pub(super) fn weights(tile: WinogradTile, filter: &Arc<Filter>, packing: Packing) -> Operand {
    let op = WinogradWeights { tile, out_channels: filter.out_channels, in_channels: filter.in_channels };
    let (id, values) = (filter.id.clone(), filter.weights.clone());
    Operand::Constant(Constant {
        key: format!("{} Winograd {}{}", filter.id, tile.side(), packing.key()),
        storage: packing.storage(),
        bytes: packing.bytes(op.texels()),
        initializer: match packing {
            Packing::Half => Initializer::host(move || packing.pack(&id, &op.rounded(&values()?))),
            _ => Initializer::Device { parts: op.parts(), values },
        },
    })
}

/// Bytes of [`column_weights`].
pub(super) fn row_bytes(tile: WinogradTile, filter: &Filter) -> u64 {
    coop_matrix::row_bytes(tile.positions() * filter.out_channels, filter.in_channels)
}

/// The filter's transformed weights in f16 as columns of cooperative matrices of side `side`, for each position.
pub(super) fn column_weights(tile: WinogradTile, filter: &Arc<Filter>, side: usize) -> Operand {
    let op = WinogradWeights { tile, out_channels: filter.out_channels, in_channels: filter.in_channels };
    let (id, values) = (filter.id.clone(), filter.weights.clone());
    Operand::Constant(Constant {
        key: format!("{} Winograd {} matrices of {side} in f16", filter.id, tile.side()),
        storage: Storage::Buffer,
        bytes: row_bytes(tile, filter),
        initializer: Initializer::host(move || {
            Packing::Half.pack(&id, &op.columns(&op.rounded(&values()?), side))
        }),
    })
}

/// Sums of nine products and a few roundings of the constants.
const TOLERANCE: f64 = 1e-6;

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for tile in [WinogradTile::Four, WinogradTile::Two] {
        for (out_channels, in_channels) in [(1, 1), (3, 5), (33, 6), (64, 3)] {
            let op = WinogradWeights { tile, out_channels, in_channels };
            cases.push(Case::normal(op, &[Shape::Vector(out_channels * in_channels * 9)], TOLERANCE));
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_concatenate_to_the_whole() {
        for (out_channels, in_channels) in [(1, 1), (70, 5), (512, 512), (200, 513)] {
            let whole = WinogradWeights { tile: WinogradTile::Four, out_channels, in_channels };
            let mut found = vec![0; whole.texels()];
            let mut values = 0;
            for part in whole.parts() {
                assert_eq!(part.values.start, values);
                values = part.values.end;
                let output = part.op.output(&[Shape::Vector(part.values.len())]).unwrap().bytes();
                assert!(
                    output <= PART_BYTES as u64
                        || part.copies[0].texels == in_channels.div_ceil(4) as u64 * 32
                );
                for copy in part.copies {
                    assert!((copy.from + copy.texels) * TEXEL as u64 <= output);
                    (copy.to..copy.to + copy.texels).for_each(|texel| found[texel as usize] += 1);
                }
            }
            assert_eq!(values, out_channels * in_channels * 9);
            assert!(found.iter().all(|count| *count == 1), "{out_channels} {in_channels}");
        }
    }
}
