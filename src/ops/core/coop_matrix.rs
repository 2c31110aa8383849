//! What the kernels on cooperative matrices have in common: the block of a product that a workgroup computes, and maps as
//! columns of matrices in f16 (`half_scale.wgsl`, `half_rows.wgsl`). Such kernels come after all others but the naive one, so
//! that only a measurement chooses them, after a comparison with that one.

use super::shape::MapLayout;
use super::{Dispatch, Operand};
use crate::gpu::{CoopMatrix, Family, Profile};

/// Invocations per workgroup of the other shaders; as there.
const GROUP: usize = 64;
/// Workgroups that look for the largest magnitude of a map, at most.
const SEARCHERS: usize = 256;

/// A block of matrices, which one workgroup computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Block {
    matrix: CoopMatrix,
    /// CoopMatrix along the rows of the product, and along its columns.
    across: [usize; 2],
}

impl Block {
    /// For a product of `rows` or more rows and just so many `columns`, of sums over `inner`. `None` where the device has no
    /// such matrices, accuracy matters more, or `inner` or `columns` is no multiple of a matrix's side.
    pub fn choose(device: &Profile, rows: usize, inner: usize, columns: usize) -> Option<Self> {
        let matrix = device.coop_matrix?;
        let side = matrix.side as usize;
        let whole = |size: usize| size > 0 && size.is_multiple_of(side);
        let fits = !device.exact
            && device.prefers(Family::Buffer)
            && matrix.lanes <= device.max_invocations
            && whole(inner)
            && whole(columns);
        let high = [1, 2].into_iter().find(|count| rows <= count * side).unwrap_or(4);
        let wide = [4, 2].into_iter().find(|count| columns.is_multiple_of(count * side)).unwrap_or(1);
        fits.then_some(Self { matrix, across: [high, wide] })
    }

    /// Rows and columns of a matrix.
    pub fn side(self) -> usize {
        self.matrix.side as usize
    }

    /// The same with as many matrices along the rows as along the columns.
    pub fn square(self) -> Self {
        Self { across: [self.across[1]; 2], ..self }
    }

    /// Rows of the block, of which the product has a multiple.
    pub fn height(self) -> usize {
        self.across[0] * self.side()
    }

    /// Columns of the block.
    pub fn width(self) -> usize {
        self.across[1] * self.side()
    }

    /// The constants of both shaders that say so.
    pub fn consts(self) -> [(&'static str, u32); 4] {
        let CoopMatrix { side, lanes } = self.matrix;
        [("SIDE", side), ("ROWS", self.across[0] as u32), ("LANES", lanes), ("HALF", 1)]
    }

    /// A dispatch of `coop_products.wgsl` for a product of `rows` rows, whole blocks.
    pub fn products(self, product: &Product, operands: [Operand; 3]) -> Dispatch {
        let [input, weights, output] = operands;
        let [inner, columns] = product.channels;
        Dispatch::new("coop_products", "multiply")
            .consts(&self.consts())
            .consts(&[
                ("COLUMNS", self.across[1] as u32),
                ("TAPS", product.taps as u32),
                ("ADJOINT", u32::from(product.adjoint)),
            ])
            .bind("input", input)
            .bind("weights", weights)
            .bind("output", output)
            .size("inner", inner / self.side())
            .size("input_rows", product.input_rows)
            .size("rows", product.rows)
            .size("filters", if product.adjoint { inner } else { columns })
            .size("pitch", product.pitch)
            .size("input_stride", product.strides[0] / self.side())
            .size("weight_stride", inner * columns / self.side())
            .size("output_stride", product.strides[1] / self.side())
            .groups([product.rows / self.height(), columns / self.width(), product.positions])
            .loops(product.taps * (inner / self.side() + 1))
    }

    /// True if the device takes so many workgroups.
    pub fn fits(self, product: &Product, device: &Profile) -> bool {
        let most = device.max_groups as usize;
        product.rows / self.height() <= most
            && product.channels[1] / self.width() <= most
            && product.positions <= most
    }
}

/// Sizes of a product of `coop_products.wgsl`.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Product {
    /// Rows of the output, a multiple of the block's.
    pub rows: usize,
    /// Rows of the input.
    pub input_rows: usize,
    /// Channels of input and output.
    pub channels: [usize; 2],
    /// 1 or 9.
    pub taps: usize,
    /// With nine taps, texels per row of the map.
    pub pitch: usize,
    /// Products side by side.
    pub positions: usize,
    /// Values from one of them to the next, in input and output; multiples of a matrix's side.
    pub strides: [usize; 2],
    /// The weights' inputs and outputs change places.
    pub adjoint: bool,
}

/// Bytes of the two scratch buffers of [`scale`].
pub(in crate::ops) const SCALE_BYTES: [u64; 2] = [SEARCHERS as u64 * 4, 16];

/// The dispatches that find the factor by which `map`, as a whole in one binding, is multiplied before it becomes f16.
/// `scratch` are the buffers of [`SCALE_BYTES`], of which the second then holds the factor and its inverse.
pub(in crate::ops) fn scale(
    map: MapLayout,
    operand: &Operand,
    scratch: [usize; 2],
    device: &Profile,
) -> [Dispatch; 2] {
    let groups = map.texels().div_ceil(GROUP).min(SEARCHERS).min(device.max_groups as usize);
    let [largest, scales] = scratch.map(Operand::Scratch);
    let dispatch = |entry, count| {
        Dispatch::new("half_scale", entry)
            .bind("largest", largest.clone())
            .size("count", count)
            .size("stride", groups * GROUP)
    };
    let partial = dispatch("partial", map.texels())
        .bind("input", operand.clone())
        .loops(map.texels().div_ceil(groups * GROUP) + GROUP)
        .groups([groups, 1, 1]);
    [partial, dispatch("finish", groups).bind("scales", scales)]
}

/// The dispatch that writes a map as columns of matrices into a scratch buffer: `front` rows of zeros, one for each texel of
/// the plane, and zeros up to `rows` in all.
pub(in crate::ops) fn pack(
    map: MapLayout,
    operand: Operand,
    [front, rows]: [usize; 2],
    block: Block,
    [to, scales]: [usize; 2],
    device: &Profile,
) -> Dispatch {
    rows_of("pack", map, rows, block)
        .bind("input", operand)
        .bind("rows", Operand::Scratch(to))
        .bind("scales", Operand::Scratch(scales))
        .size("front", front)
        .linear(map.quads() * rows, GROUP, device)
}

/// The dispatch that makes a map of columns of so many sums, with a bias for each quad.
pub(in crate::ops) fn unpack(
    map: MapLayout,
    (rows, block): (usize, Block),
    [from, scales]: [usize; 2],
    bias: Operand,
    relu: bool,
    device: &Profile,
) -> Dispatch {
    rows_of("unpack", map, rows, block)
        .consts(&[("RELU", u32::from(relu))])
        .bind("sums", Operand::Scratch(from))
        .bind("scales", Operand::Scratch(scales))
        .bind("bias", bias)
        .bind("output", Operand::Output)
        .size("front", 0)
        .linear(map.texels(), GROUP, device)
}

fn rows_of(entry: &'static str, map: MapLayout, rows: usize, block: Block) -> Dispatch {
    Dispatch::new("half_rows", entry)
        .consts(&[("ROW_QUADS", block.side() as u32 / 4)])
        .size("rows", rows)
        .size("quads", map.quads())
        .size("plane", map.plane())
        .size("pitch", map.pitch())
}

/// Weights by inputs of a filter and its outputs, as columns of matrices of this side: for each of so many inputs in a
/// column, all outputs, each with its `side` weights.
pub(in crate::ops) fn columns(
    side: usize,
    [outs, ins]: [usize; 2],
    weight: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let inputs = |first: usize| first..(first + side).min(ins);
    let column = |first: usize| (0..outs).flat_map(move |o| inputs(first).map(move |i| (o, i)));
    (0..ins).step_by(side).flat_map(column).map(|(o, i)| weight(o, i)).collect()
}

/// Bytes of so many rows of all channels in f16.
pub(in crate::ops) fn row_bytes(rows: usize, channels: usize) -> u64 {
    (rows * channels) as u64 * 2
}

/// True if this map is bound as a whole.
pub(in crate::ops) fn is_whole(map: MapLayout, device: &Profile) -> bool {
    map.texels() as u64 * 16 <= device.max_binding
}
