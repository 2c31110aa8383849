//! Winograd convolution (Lavin and Gray 2015): 3x3 kernels that keep the size, and their adjoint with the
//! same transformed weights.
//!
//! `winograd.wgsl` has the transforms: of the filter (the op here), of the input and of the output
//! (`passes`). Between the latter come the products, `winograd_tiles.wgsl` in the texture family (`tiles`)
//! and `winograd_blocks.wgsl` in the buffer family (`blocks`).

mod blocks;
mod passes;
mod tiles;

use super::conv::{Filter, Packing};
use super::shape::{MapLayout, mismatch};
use super::{Case, Constant, Dispatch, Kernel, Making, Op, Operand, Part, Run, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;
use blocks::Blocks;
use passes::Passes;
use std::sync::Arc;
use tiles::Tiles;

pub(super) use passes::Finish;

/// Output channels per block of the transformed weights; as in the shaders.
const BLOCK: usize = 32;
/// Transformed weights are made in parts of about so many bytes.
const PART_BYTES: usize = 8 << 20;
/// Bytes of a texel.
const TEXEL: usize = 16;
/// Invocations per workgroup of the transforms; as in the shader.
const GROUP: usize = 64;

/// Tile size of the output: F(4x4, 3x3) or F(2x2, 3x3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WinogradTile {
    /// 36 products in place of 144.
    Four,
    /// 16 products in place of 36; as accurate as the direct sum.
    Two,
}

impl WinogradTile {
    fn side(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Two => 2,
        }
    }

    /// Positions of a transformed tile.
    fn positions(self) -> usize {
        (self.side() + 2) * (self.side() + 2)
    }

    /// True if the transforms can pool a tile, and route the gradient of what was pooled.
    fn pools(self) -> bool {
        self == Self::Four
    }

    fn consts(self) -> [(&'static str, u32); 2] {
        [("TILE", self.side() as u32), ("SIDE", self.side() as u32 + 2)]
    }
}

/// The transform of a filter: `U = G g G^T` for each pair of channels, packed for the products. Input: the
/// filter's weights as a vector in the order `[out, in, 3, 3]`. Runs once per filter, on the device.
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
    fn texels(&self) -> usize {
        self.tile.positions() * self.padded() * self.in_channels.div_ceil(4)
    }

    /// The transform in parts of whole blocks of output channels, of about [`PART_BYTES`] each.
    fn parts(&self) -> Vec<Part> {
        let (blocks, quads) = (self.padded() / BLOCK, self.in_channels.div_ceil(4));
        let positions = self.tile.positions();
        let run = quads * BLOCK; // texels of a block at one position
        let most = (PART_BYTES / (positions * run * TEXEL)).max(1);
        let part = |first: usize| {
            let count = most.min(blocks - first);
            let outs = first * BLOCK..((first + count) * BLOCK).min(self.out_channels);
            let at = |position| Run {
                from: (position * count * run) as u64,
                to: ((position * blocks + first) * run) as u64,
                texels: (count * run) as u64,
            };
            Part {
                op: Arc::new(Self { out_channels: outs.len(), ..*self }),
                values: outs.start * self.in_channels * 9..outs.end * self.in_channels * 9,
                runs: (0..positions).map(at).collect(),
            }
        };
        (0..blocks).step_by(most).map(part).collect()
    }

    /// The transform in f64: columns, then rows.
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
            // F(2, 3) is usually written with the first row's sign turned.
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
            let message = format!("wants {expected} weights, got {}", inputs[0]);
            return Err(mismatch("winograd_weights", &message));
        }
        Ok(Shape::Vector(self.texels() * 4))
    }

    fn kernels(&self, _signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let quads = self.in_channels.div_ceil(4);
        let dispatch = Dispatch::new("winograd", "weights")
            .consts(&self.tile.consts())
            .bind("filters", Operand::Input(0))
            .bind("output", Operand::Output)
            // The entry point takes the filter's sizes in these.
            .size("height", self.out_channels)
            .size("width", self.in_channels)
            .size("quads", quads)
            .size("first_quad", 0)
            .size("tiles", 0)
            .size("tiles_across", 0)
            .size("first_tile", 0)
            .size("chunk", 0)
            .size("run", 0)
            .size("stride", 0)
            .size("texels", 0)
            .size("turned", 0)
            .size("relu", 0)
            .linear(self.padded() * quads, GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        self.transform(inputs[0])
    }
}

/// A Winograd convolution of one map on one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd {
    passes: Passes,
    products: Products,
}

/// The kernel between the transforms.
#[derive(Debug, Clone, Copy)]
enum Products {
    Tiles(Tiles),
    Blocks(Blocks),
}

impl Winograd {
    /// Tile sizes for a 3x3 convolution from `input` to `output` (maps of one size) on this device, the
    /// preferred first; none where exactness is wanted, or neither family.
    pub fn choices(filter: &Filter, input: MapLayout, output: MapLayout, device: &Profile) -> Vec<Self> {
        if device.exact {
            return Vec::new();
        }
        let choose = |tile| {
            let op =
                WinogradWeights { tile, out_channels: filter.out_channels, in_channels: filter.in_channels };
            // The device makes the weights in a buffer, before they are copied into a texture.
            let made = (op.texels() * TEXEL) as u64 <= device.max_binding;
            let textures = || made.then(|| Tiles::choose(tile, input, output, device)).flatten();
            let blocks = || Blocks::choose(tile, filter, input, output, device);
            textures().map(|(tiles, passes)| Self { passes, products: Products::Tiles(tiles) }).or_else(
                || blocks().map(|(blocks, passes)| Self { passes, products: Products::Blocks(blocks) }),
            )
        };
        [WinogradTile::Four, WinogradTile::Two].into_iter().filter_map(choose).collect()
    }

    /// True if the direct convolution should come before this one.
    pub fn after_direct(&self, input: MapLayout, output: MapLayout) -> bool {
        match self.products {
            Products::Tiles(_) => Tiles::after_direct(input),
            Products::Blocks(_) => Blocks::after_direct(&self.passes, input, output),
        }
    }

    /// True if the kernel can pool what it makes, and route the gradient of that ([`Finish::pool`],
    /// [`Finish::codes`]).
    pub fn pools(&self) -> bool {
        self.passes.tile.pools()
    }

    /// Scratch buffers of the kernel.
    pub fn scratch(&self) -> usize {
        match self.products {
            Products::Tiles(_) => 0,
            Products::Blocks(_) => 2,
        }
    }

    /// The kernel of `output = filter * input`, or with `adjoint` of the transposed filter. Both maps are those
    /// of the convolution itself, whatever is pooled.
    pub fn kernel(
        &self,
        filter: &Arc<Filter>,
        input: (Operand, MapLayout),
        output: MapLayout,
        adjoint: bool,
        finish: &Finish,
        device: &Profile,
    ) -> Kernel {
        let Self { passes, products } = self;
        let maps = [input.1, output];
        let (variant, memory, products) = match (products, passes.tile) {
            (Products::Tiles(tiles), tile) => {
                let variant = match tile {
                    WinogradTile::Four => "texture_winograd4",
                    WinogradTile::Two => "texture_winograd2",
                };
                (variant, tiles::MEMORY, tiles.products(passes, filter, maps, adjoint))
            }
            (Products::Blocks(blocks), tile) => {
                let variant = match tile {
                    WinogradTile::Four => "buffer_winograd4",
                    WinogradTile::Two => "buffer_winograd2",
                };
                (variant, blocks::MEMORY, blocks.products(passes, filter, maps, adjoint, device))
            }
        };
        let scratch =
            if self.scratch() > 0 { maps.map(|map| passes.bytes(map)).to_vec() } else { Vec::new() };
        let dispatches = passes.dispatches(memory, input, output, &products, adjoint, finish, device);
        Kernel { variant, dispatches, scratch }
    }
}

/// The filter's transformed weights: made on the device in f32, on the host in f16.
fn weights(tile: WinogradTile, filter: &Arc<Filter>, packing: Packing) -> Operand {
    let op = WinogradWeights { tile, out_channels: filter.out_channels, in_channels: filter.in_channels };
    let values = filter.weights.clone();
    Operand::Constant(Constant {
        key: format!("{} Winograd {}{}", filter.id, tile.side(), packing.key()),
        storage: packing.storage(),
        bytes: packing.bytes(op.texels()),
        make: match packing {
            Packing::Half => Making::host(move || {
                let values: Vec<f64> = values()?.iter().map(|value| f64::from(*value)).collect();
                let transformed: Vec<f32> = op.transform(&values).iter().map(|value| *value as f32).collect();
                Ok(packing.pack(&transformed))
            }),
            _ => Making::Device { parts: op.parts(), values },
        },
    })
}

/// Sums of nine products and a few roundings of the constants.
const TOLERANCE: f64 = 1e-6;

pub(super) fn cases() -> Vec<Case> {
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
    fn parts_make_the_whole() {
        for (out_channels, in_channels) in [(1, 1), (70, 5), (512, 512), (200, 513)] {
            let whole = WinogradWeights { tile: WinogradTile::Four, out_channels, in_channels };
            let mut found = vec![0; whole.texels()];
            let mut values = 0;
            for part in whole.parts() {
                assert_eq!(part.values.start, values);
                values = part.values.end;
                let output = part.op.output(&[Shape::Vector(part.values.len())]).unwrap().bytes();
                assert!(
                    output <= PART_BYTES as u64 || part.runs[0].texels == in_channels.div_ceil(4) as u64 * 32
                );
                for run in part.runs {
                    assert!((run.from + run.texels) * TEXEL as u64 <= output);
                    (run.to..run.to + run.texels).for_each(|texel| found[texel as usize] += 1);
                }
            }
            assert_eq!(values, out_channels * in_channels * 9);
            assert!(found.iter().all(|count| *count == 1), "{out_channels} {in_channels}");
        }
    }
}
