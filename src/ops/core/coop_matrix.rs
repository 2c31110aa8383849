//! Shared code of the kernels on cooperative matrices: the block of a product that a workgroup computes, and maps as
//! columns of f16 matrices (`half_scale.wgsl`, `half_rows.wgsl`). These kernels come after all others except the naive
//! one, so that only tuning selects them, after comparing their results with the naive kernel's.

use super::shape::MapLayout;
use super::{Dispatch, Operand};
use crate::gpu::{CoopMatrix, Family, Profile};

/// Invocations per workgroup of the scale and packing shaders; matches them.
const GROUP: usize = 64;
/// Most workgroups that search a map for its largest magnitude.
const SEARCHERS: usize = 256;

/// The block of matrices that one workgroup computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Block {
    matrix: CoopMatrix,
    /// Matrices along the rows of the product, and along its columns.
    across: [usize; 2],
}

impl Block {
    /// Block for a product of at least `rows` rows and exactly `columns` columns, summed over `inner`. Returns `None`
    /// if the device has no cooperative matrices, exactness is requested, or `inner` or `columns` is no multiple of a
    /// matrix's side.
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

    /// Same block with as many matrices along the rows as along the columns.
    pub fn square(self) -> Self {
        Self { across: [self.across[1]; 2], ..self }
    }

    /// Rows of the block; a product's rows are a multiple of it.
    pub fn height(self) -> usize {
        self.across[0] * self.side()
    }

    /// Columns of the block.
    pub fn width(self) -> usize {
        self.across[1] * self.side()
    }

    /// Constants of both shaders for this block.
    pub fn consts(self) -> [(&'static str, u32); 4] {
        let CoopMatrix { side, lanes } = self.matrix;
        [("SIDE", side), ("ROWS", self.across[0] as u32), ("LANES", lanes), ("HALF", 1)]
    }

    /// Dispatch of `coop_products.wgsl` for a product whose rows are whole blocks.
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

    /// True if the device allows the number of workgroups.
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
    /// Number of products computed side by side.
    pub positions: usize,
    /// Values from one product to the next, in input and output; multiples of a matrix's side.
    pub strides: [usize; 2],
    /// True to swap the weights' inputs and outputs.
    pub adjoint: bool,
}

/// Bytes of the two scratch buffers of [`scale`].
pub(in crate::ops) const SCALE_BYTES: [u64; 2] = [SEARCHERS as u64 * 4, 16];

/// Dispatches that compute the factor by which `map`, bound as a whole, is scaled before rounding to f16. `scratch` are
/// buffers of [`SCALE_BYTES`]; the second receives the factor and its inverse.
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

/// Dispatch that packs a map as columns of matrices in a scratch buffer: `front` rows of zeros, one row per texel of
/// the plane, and zeros up to `rows` in total.
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

/// Dispatch that unpacks columns of `rows` sums to a map, adding a bias per channel.
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

/// Weights of a filter as columns of matrices of side `side`. `[outs, ins]` are its channel counts and `weight(o, i)`
/// returns a weight. A column covers `side` inputs and lists all outputs, each with its weights of these inputs.
pub(in crate::ops) fn columns(
    side: usize,
    [outs, ins]: [usize; 2],
    weight: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let inputs = |first: usize| first..(first + side).min(ins);
    let column = |first: usize| (0..outs).flat_map(move |o| inputs(first).map(move |i| (o, i)));
    (0..ins).step_by(side).flat_map(column).map(|(o, i)| weight(o, i)).collect()
}

/// Bytes of `rows` rows of all channels in f16.
pub(in crate::ops) fn row_bytes(rows: usize, channels: usize) -> u64 {
    (rows * channels) as u64 * 2
}

/// True if this map fits one binding.
pub(in crate::ops) fn is_whole(map: MapLayout, device: &Profile) -> bool {
    map.texels() as u64 * 16 <= device.max_binding
}
