//! Winograd convolution (Lavin and Gray 2015): 3x3 kernels that keep the size, and their adjoint with the
//! same transformed weights. Shaders: `winograd.wgsl` (transforms), `winograd_tiles.wgsl` (products).

use super::conv::Filter;
use super::shape::{MapLayout, mismatch};
use super::tiles::Tiles;
use super::{
    Case, Constant, Dispatch, Kernel, Making, Op, Operand, Shape, Signature, Storage, TEXTURE_WIDTH, window,
};
use crate::error::Result;
use crate::gpu::Profile;
use std::ops::Range;
use std::sync::Arc;

/// Output channels per block of the transformed weights; as in the shaders.
const BLOCK: usize = 32;
/// Bytes of a texel.
const TEXEL: usize = 16;
/// Invocations per workgroup of the transforms; as in the shader.
const GROUP: usize = 64;
/// Transformed values of one chunk of tiles, in bytes, where the chunk is not the smallest there is. Small
/// enough for the caches of a CPU (a chunk is written once and read a few times).
const CHUNK_BYTES: usize = 8 << 20;
/// Staging textures of the kernel: the input map, its transformed tiles, their products.
const MAP: usize = 0;
const TRANSFORMED: usize = 1;
const PRODUCTS: usize = 2;
/// Texels between the positions of the transformed tiles.
const STRIDE_PADDING: usize = 16;

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

    fn consts(self) -> [(&'static str, u32); 2] {
        [("TILE", self.side() as u32), ("SIDE", self.side() as u32 + 2)]
    }

    pub(super) fn variant(self) -> &'static str {
        match self {
            Self::Four => "texture_winograd4",
            Self::Two => "texture_winograd2",
        }
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
            .linear(self.padded() * quads, GROUP, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let matrix = filter_matrix(self.tile);
        let side = matrix.len();
        let (blocks, quads) = (self.padded() / BLOCK, self.in_channels.div_ceil(4));
        let mut packed = vec![0.0; self.texels() * 4];
        for o in 0..self.out_channels {
            for i in 0..self.in_channels {
                let filter = &inputs[0][(o * self.in_channels + i) * 9..][..9];
                for row in 0..side {
                    for column in 0..side {
                        let value: f64 = (0..9)
                            .map(|tap| matrix[row][tap / 3] * matrix[column][tap % 3] * filter[tap])
                            .sum();
                        let position = row * side + column;
                        let block = position * blocks + o / BLOCK;
                        packed[((block * quads + i / 4) * BLOCK + o % BLOCK) * 4 + i % 4] = value;
                    }
                }
            }
        }
        packed
    }
}

/// What is done to each value before it is stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Finish {
    /// One value per output channel.
    pub bias: Option<Operand>,
    /// Rectify.
    pub relu: bool,
    /// Added to the result, a map like it.
    pub add: Option<Operand>,
    /// Where this map is not positive, the result is zero; after the addition.
    pub mask: Option<Operand>,
}

/// A Winograd convolution of one map on one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Winograd {
    tile: WinogradTile,
    lanes: usize,
    /// Runs of lanes per invocation of the products.
    vectors: usize,
    channels: usize,
    tiles: [usize; 2],
    /// Tiles of a chunk, whole runs.
    chunk: usize,
}

impl Winograd {
    /// Tile sizes that this device should use for a 3x3 convolution from `input` to `output` (maps of one
    /// size), the preferred first; none where the texture family is not preferred, or exactness is.
    pub fn choices(input: MapLayout, output: MapLayout, device: &Profile) -> Vec<Self> {
        if device.exact {
            return Vec::new();
        }
        [WinogradTile::Four, WinogradTile::Two]
            .into_iter()
            .filter_map(|tile| Self::choose(tile, input, output, device))
            .collect()
    }

    fn choose(tile: WinogradTile, input: MapLayout, output: MapLayout, device: &Profile) -> Option<Self> {
        Tiles::choose(output, input.texels(), device)?;
        let lanes = device.lanes? as usize;
        let tiles = [output.height, output.width].map(|size| size.div_ceil(tile.side()));
        let count = tiles[0] * tiles[1];
        // Few tiles: fewer a run, so that none idle.
        let vectors = match count.div_ceil(lanes) {
            0..=2 => 2,
            3..=4 => 4,
            _ => 8,
        };
        let run = vectors * lanes;
        let quads = input.quads().max(output.quads());
        let bytes = |chunk: usize| tile.positions() * (quads * chunk + STRIDE_PADDING) * TEXEL;
        let rows = |chunk: usize| bytes(chunk) / TEXEL / TEXTURE_WIDTH as usize;
        let most = (CHUNK_BYTES.min(device.max_binding as usize) / bytes(run)).max(1);
        let fits = rows(run) < device.max_texture_side as usize
            && bytes(run) as u64 <= device.max_binding
            && tile.positions() <= device.max_groups as usize;
        if !fits {
            return None;
        }
        // Chunks of equal size.
        let runs = count.div_ceil(run);
        let chunk = runs.div_ceil(runs.div_ceil(most)) * run;
        let channels = if output.channels <= 4 { 4 } else { 32 };
        Some(Self { tile, lanes, vectors, channels, tiles, chunk })
    }

    /// Texels from one position of the transformed tiles to the next. Not a power of two: a transform
    /// touches all positions of a tile at once, and these must not fall into the same set of a cache.
    fn stride(&self, quads: usize) -> usize {
        quads * self.chunk + STRIDE_PADDING
    }

    /// The variant's name.
    pub fn variant(&self) -> &'static str {
        self.tile.variant()
    }

    /// The kernel of `output = filter * input`, or with `adjoint` of the transposed filter.
    pub fn kernel(
        &self,
        filter: &Arc<Filter>,
        input: (Operand, MapLayout),
        output: MapLayout,
        adjoint: bool,
        finish: &Finish,
        device: &Profile,
    ) -> Kernel {
        let (operand, input) = input;
        let count = self.tiles[0] * self.tiles[1];
        let part = |entry, map: MapLayout, quads: &Range<usize>, first: usize| {
            let all = map.quads();
            let map = map.part(quads);
            Dispatch::new("winograd", entry)
                .consts(&self.tile.consts())
                .size("height", map.height)
                .size("width", map.width)
                .size("quads", map.quads())
                .size("first_quad", quads.start)
                .size("stride", self.stride(all))
                .size("tiles", count)
                .size("tiles_across", self.tiles[1])
                .size("first_tile", first)
                .size("chunk", self.chunk)
                .size("run", self.vectors * self.lanes)
                .size("texels", map.texels())
        };
        let turned = [("TURNED", u32::from(adjoint))];
        let everything = 0..input.quads();
        // Windows of an output larger than a binding. (The input is read through a texture.)
        let windows = window::quads(&[output], 1, device);
        let bias = finish.bias.clone().unwrap_or_else(|| super::tiles::no_bias(output.quads()));
        let mut dispatches = Vec::new();
        for first in (0..count).step_by(self.chunk) {
            let mut load = part("input_tiles", input, &everything, first)
                .consts(&turned)
                .bind("transformed", self.texture(TRANSFORMED, input))
                .linear(self.chunk * input.quads(), GROUP, device);
            // The map goes to its texture once; the later chunks find it there.
            let map = if first == 0 {
                operand.clone().staged_in(MAP)
            } else {
                Operand::Texture { slot: MAP, bytes: (input.texels() * TEXEL) as u64 }
            };
            load = load.bind("input_map", map);
            dispatches.push(load);
            dispatches.push(self.products(filter, input, output, adjoint));
            dispatches.extend(windows.iter().map(|quads| {
                let maps = [("output", output)]
                    .into_iter()
                    .chain(finish.mask.is_some().then_some(("activation", output)))
                    .chain(finish.add.is_some().then_some(("addend", output)));
                part("output_tiles", output, quads, first)
                    .consts(&turned)
                    .consts(&[
                        ("RELU", u32::from(finish.relu)),
                        ("MASK", u32::from(finish.mask.is_some())),
                        ("ADD", u32::from(finish.add.is_some())),
                    ])
                    .bind("products", self.texture(PRODUCTS, output))
                    .bind("output", Operand::Output)
                    // What is not used is still part of the entry point: any readable memory will do.
                    .bind("activation", finish.mask.clone().unwrap_or_else(|| bias.clone()))
                    .bind("addend", finish.add.clone().unwrap_or_else(|| bias.clone()))
                    .bind("bias", bias.clone())
                    .linear(self.chunk * quads.len(), GROUP, device)
                    .narrow(&maps.collect::<Vec<_>>(), quads)
            }));
        }
        dispatches.extend(windows.iter().map(|quads| {
            let texels = quads.len() * (output.pitch() + output.height) + output.pitch() + 1;
            part("border", output, quads, 0)
                .bind("output", Operand::Output)
                .linear(texels, GROUP, device)
                .narrow(&[("output", output)], quads)
        }));
        Kernel { variant: self.variant(), dispatches, scratch: Vec::new() }
    }

    /// The texture of a map's transformed tiles or products, of one chunk.
    fn texture(&self, slot: usize, map: MapLayout) -> Operand {
        let texels = self.tile.positions() * self.stride(map.quads());
        Operand::Texture { slot, bytes: (texels * TEXEL) as u64 }
    }

    fn products(&self, filter: &Arc<Filter>, input: MapLayout, output: MapLayout, adjoint: bool) -> Dispatch {
        let mut dispatch = Dispatch::new("winograd_tiles", "forward")
            .consts(&[
                ("LANES", self.lanes as u32),
                ("VECTORS", self.vectors as u32),
                ("CHANNELS", self.channels as u32),
                ("WEIGHT_VECTORS", self.channels.div_ceil(self.lanes) as u32),
                ("ADJOINT", u32::from(adjoint)),
            ])
            .bind("input", self.texture(TRANSFORMED, input))
            .bind("weights", self.weights(filter))
            .bind("output", self.texture(PRODUCTS, output))
            .size("in_quads", input.quads())
            .size("out_quads", output.quads())
            .size("chunk", self.chunk)
            .size("input_stride", self.stride(input.quads()))
            .size("output_stride", self.stride(output.quads()))
            .size("weight_blocks", filter.out_channels.div_ceil(BLOCK))
            .size("weight_quads", filter.in_channels.div_ceil(4));
        dispatch.groups = [
            (self.chunk / (self.vectors * self.lanes)) as u32,
            output.channels.div_ceil(self.channels) as u32,
            self.tile.positions() as u32,
        ];
        dispatch
    }

    fn weights(&self, filter: &Arc<Filter>) -> Operand {
        let op = WinogradWeights {
            tile: self.tile,
            out_channels: filter.out_channels,
            in_channels: filter.in_channels,
        };
        Operand::Constant(Constant {
            key: format!("{} Winograd {}", filter.id, self.tile.side()),
            storage: Storage::Texture,
            bytes: (op.texels() * TEXEL) as u64,
            make: Making::Device { op: Arc::new(op), values: filter.weights.clone() },
        })
    }
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
