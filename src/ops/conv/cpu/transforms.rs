//! Transforms of Winograd's F(4x4, 3x3) with the points 0, +-3/4, +-3/2 and infinity, as in the shaders (see
//! `winograd_filter.wgsl` for the method): of a filter, of input tiles and of the products.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators that are not inlined are compiled without the vector instructions"
)]

use super::epilogue::Epilogue;
use super::layout::{BLOCK, Placement, QUADS};
use crate::ops::MapLayout;
use multiversion::multiversion;
use std::ops::{Add, Mul, Range, Sub};

/// Side of a tile's output, and of its input.
pub(super) const TILE: usize = 4;
pub(super) const SIDE: usize = 6;
/// Taps of a filter.
pub(super) const TAPS: usize = 9;
/// Number of products per tile and pair of channels.
pub(super) const POSITIONS: usize = SIDE * SIDE;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// Floats of one quad's texels under a tile.
const EDGE: usize = POSITIONS * 4;

/// Tiles per pack. The transformed tiles of a block of channels lie in packs, each `[position][tile][channel]`.
pub(super) const PACKED: usize = 12;
/// Floats from one position to the next.
pub(super) const POSITION: usize = PACKED * BLOCK;
/// Floats from one pack to the next. A cache line more than a pack, so that one position of many packs, which a product
/// reads, spreads over all cache sets.
pub(super) const PACK: usize = POSITIONS * POSITION + BLOCK;

/// Channels that are transformed together: two quads, so that a line of six values stays in registers.
const LANES: usize = 8;

/// Values of several channels with lane-by-lane arithmetic. Plain index loops, no iterators, closures or `array::map`:
/// those that are not inlined are compiled without the vector instructions.
#[derive(Debug, Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    const ZERO: Self = Self([0.0; LANES]);

    /// Zero where `other` is not positive.
    #[inline(always)]
    fn where_positive(mut self, other: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = if other.0[lane] > 0.0 { self.0[lane] } else { 0.0 };
        }
        self
    }
}

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] += other.0[lane];
        }
        self
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] -= other.0[lane];
        }
        self
    }
}

impl Mul<Lanes> for f32 {
    type Output = Lanes;

    #[inline(always)]
    fn mul(self, mut lanes: Lanes) -> Lanes {
        for lane in 0..LANES {
            lanes.0[lane] *= self;
        }
        lanes
    }
}

/// `G` of F(4, 3).
pub(super) const FILTER: [[f64; 3]; SIDE] = {
    let points = [0.0, A as f64, -A as f64, B as f64, -B as f64];
    let mut matrix = [[0.0, 0.0, 1.0]; SIDE];
    let mut row = 0;
    while row < points.len() {
        let (x, mut divisor, mut other) = (points[row], 1.0, 0);
        while other < points.len() {
            if other != row {
                divisor *= x - points[other];
            }
            other += 1;
        }
        matrix[row] = [1.0 / divisor, x / divisor, x * x / divisor];
        row += 1;
    }
    matrix
};

/// `G g G^T` of a block of filters, computed in f64 and rounded once, with one filter per lane: `taps[tap][filter]`,
/// `result[position][filter]`.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn transform_filters(taps: &[[f32; BLOCK]; TAPS], result: &mut [[f32; BLOCK]; POSITIONS]) {
    for r in 0..SIDE {
        let mut line = [[0.0; BLOCK]; 3];
        for c in 0..3 {
            for k in 0..3 {
                for lane in 0..BLOCK {
                    line[c][lane] += FILTER[r][k] * f64::from(taps[k * 3 + c][lane]);
                }
            }
        }
        for c in 0..SIDE {
            let mut sum = [0.0; BLOCK];
            for k in 0..3 {
                for lane in 0..BLOCK {
                    sum[lane] += line[k][lane] * FILTER[c][k];
                }
            }
            for lane in 0..BLOCK {
                result[r * SIDE + c][lane] = sum[lane] as f32;
            }
        }
    }
}

/// `B^T` of F(4, 3).
#[inline(always)]
fn input_line(d: [Lanes; SIDE]) -> [Lanes; SIDE] {
    let even_a = d[4] - B2 * d[2];
    let odd_a = A * (d[3] - B2 * d[1]);
    let even_b = d[4] - A2 * d[2];
    let odd_b = B * (d[3] - A2 * d[1]);
    [
        (A2 * B2) * d[0] - (A2 + B2) * d[2] + d[4],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        (A2 * B2) * d[1] - (A2 + B2) * d[3] + d[5],
    ]
}

/// `A^T` of F(4, 3).
#[inline(always)]
fn output_line(m: [Lanes; SIDE]) -> [Lanes; TILE] {
    let (even_a, odd_a) = (m[1] + m[2], m[1] - m[2]);
    let (even_b, odd_b) = (m[3] + m[4], m[3] - m[4]);
    [
        m[0] + even_a + even_b,
        A * odd_a + B * odd_b,
        A2 * even_a + B2 * even_b,
        (A2 * A) * odd_a + (B2 * B) * odd_b + m[5],
    ]
}

/// Input map of the transform.
#[derive(Debug, Clone, Copy)]
pub(super) struct WinogradInput<'a> {
    pub map: &'a [f32],
    /// Activation map: the input is taken as zero where this is not positive.
    pub activation: Option<&'a [f32]>,
    pub place: Placement,
    /// True for the adjoint: tiles are rotated by 180 degrees instead of the filter.
    pub turned: bool,
}

impl WinogradInput<'_> {
    /// Start of a tile's first row in both quads, or `None` if the tile reaches beyond the map and its border.
    #[inline(always)]
    fn inside(&self, quad: usize, [top, left]: [isize; 2]) -> Option<[usize; 2]> {
        let layout = self.place.input;
        // Texels include the zero borders: row 0 and column 0 of a plane, and those of the next plane.
        let [top, left] = [usize::try_from(top + 1).ok()?, usize::try_from(left + 1).ok()?];
        let whole = top + SIDE <= layout.height + 2 && left + SIDE <= layout.width + 2;
        let first = (quad * layout.plane() + top * layout.pitch() + left) * 4;
        (whole && quad + 1 < layout.quads()).then_some([first, first + layout.plane() * 4])
    }

    /// Copies the texels of two quads under a tile row by row, with zeros beyond the border and for a missing second
    /// quad.
    #[cold]
    #[inline(never)]
    fn copy_edge(&self, map: &[f32], quad: usize, [top, left]: [isize; 2]) -> [f32; 2 * EDGE] {
        let layout = self.place.input;
        let inside = |at: isize, size: usize| (-1..=size as isize).contains(&at);
        let mut copied = [0.0; 2 * EDGE];
        for (quad, texels) in (quad..layout.quads()).zip(copied.chunks_exact_mut(EDGE)) {
            for (index, texel) in texels.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let (y, x) = (top + (index / SIDE) as isize, left + (index % SIDE) as isize);
                if inside(y, layout.height) && inside(x, layout.width) {
                    let within = y * layout.pitch() as isize + x;
                    let start = layout.texel(quad, 0, 0).wrapping_add_signed(within) * 4;
                    texel.copy_from_slice(&map[start..start + 4]);
                }
            }
        }
        copied
    }
}

/// Texels of a tile in the map's memory.
#[derive(Clone, Copy)]
struct Texels<'a> {
    map: &'a [f32],
    activation: &'a [f32],
    /// Start of the first row in both quads.
    starts: [usize; 2],
    /// Floats from one row to the next.
    pitch: usize,
}

impl Texels<'_> {
    /// Loads and transforms one row, mirrored for the adjoint.
    #[inline(always)]
    fn line<const TURNED: bool, const MASKED: bool>(&self, r: usize) -> [Lanes; SIDE] {
        let [lower, upper] = self.starts;
        let starts = [lower + r * self.pitch, upper + r * self.pitch];
        let mut row = texels(self.map, starts);
        if MASKED {
            let activation = texels(self.activation, starts);
            for c in 0..SIDE {
                row[c] = row[c].where_positive(activation[c]);
            }
        }
        input_line(turn::<TURNED, _>(row))
    }
}

/// Six consecutive texels of two quads.
#[inline(always)]
fn texels(map: &[f32], [lower, upper]: [usize; 2]) -> [Lanes; SIDE] {
    let rows = [&map[lower..lower + SIDE * 4], &map[upper..upper + SIDE * 4]];
    [texel(rows, 0), texel(rows, 1), texel(rows, 2), texel(rows, 3), texel(rows, 4), texel(rows, 5)]
}

/// One texel of two quads. The lanes are combined in registers: storing two halves and reading them back would stall on
/// both stores.
#[inline(always)]
fn texel([lower, upper]: [&[f32]; 2], x: usize) -> Lanes {
    let (l, u) = (&lower[x * 4..x * 4 + 4], &upper[x * 4..x * 4 + 4]);
    Lanes([l[0], l[1], l[2], l[3], u[0], u[1], u[2], u[3]])
}

/// Reverses a line for the adjoint.
#[inline(always)]
fn turn<const TURNED: bool, T: Copy>(line: [T; SIDE]) -> [T; SIDE] {
    let [a, b, c, d, e, f] = line;
    if TURNED { [f, e, d, c, b, a] } else { line }
}

/// A range of a map's tiles.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    /// Indices of the tiles, row by row.
    pub numbers: Range<usize>,
    /// Tiles per row.
    pub across: usize,
}

impl Tiles {
    /// Floats of the tiles' transformed values in a block of channels.
    pub fn packed(&self) -> usize {
        self.numbers.len().div_ceil(PACKED) * PACK
    }

    /// For each pack, the slots of its tiles with the row and column of the first pixel of their output.
    #[inline(always)]
    fn packs(&self) -> impl Iterator<Item = impl Iterator<Item = (usize, [usize; 2])>> {
        let Self { numbers, across } = self.clone();
        numbers.clone().step_by(PACKED).map(move |first| {
            let tiles = (first..numbers.end).take(PACKED).enumerate();
            tiles.map(move |(place, number)| (place, [number / across * TILE, number % across * TILE]))
        })
    }
}

/// Transforms 16 channels of tiles and stores them in packs.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn transform_input(source: WinogradInput<'_>, block: usize, tiles: &Tiles, to: &mut [f32]) {
    match (source.turned, source.activation.is_some()) {
        (false, false) => input_tiles::<false, false>(source, block, tiles, to),
        (false, true) => input_tiles::<false, true>(source, block, tiles, to),
        (true, false) => input_tiles::<true, false>(source, block, tiles, to),
        (true, true) => input_tiles::<true, true>(source, block, tiles, to),
    }
}

#[inline(always)]
fn input_tiles<const TURNED: bool, const MASKED: bool>(
    source: WinogradInput<'_>,
    block: usize,
    tiles: &Tiles,
    to: &mut [f32],
) {
    for (pack, to) in tiles.packs().zip(to.as_chunks_mut::<PACK>().0) {
        for (place, corner) in pack {
            let corner = corner.map(|start| start as isize + source.place.origin);
            for half in 0..2 {
                let quad = block * QUADS + half * 2;
                let (map, activation);
                let texels = match source.inside(quad, corner) {
                    Some(starts) => {
                        let pitch = source.place.input.pitch() * 4;
                        Texels {
                            map: source.map,
                            activation: source.activation.unwrap_or(&[]),
                            starts,
                            pitch,
                        }
                    }
                    None => {
                        map = source.copy_edge(source.map, quad, corner);
                        activation = source.activation.map(|from| source.copy_edge(from, quad, corner));
                        let activation = activation.as_ref().map_or(&[][..], |copied| copied);
                        Texels { map: &map, activation, starts: [0, EDGE], pitch: SIDE * 4 }
                    }
                };
                let rows = turn::<TURNED, _>([
                    texels.line::<TURNED, MASKED>(0),
                    texels.line::<TURNED, MASKED>(1),
                    texels.line::<TURNED, MASKED>(2),
                    texels.line::<TURNED, MASKED>(3),
                    texels.line::<TURNED, MASKED>(4),
                    texels.line::<TURNED, MASKED>(5),
                ]);
                for c in 0..SIDE {
                    let [a, b, d, e, f, g] = &rows;
                    let column = input_line([a[c], b[c], d[c], e[c], f[c], g[c]]);
                    for (r, value) in column.iter().enumerate() {
                        let at = (r * SIDE + c) * POSITION + place * BLOCK + half * LANES;
                        to[at..at + LANES].copy_from_slice(&value.0);
                    }
                }
            }
        }
    }
}

/// Destination of a block of 16 channels of tiles.
pub(super) struct Target<'a, 'b> {
    pub layout: MapLayout,
    pub block: usize,
    /// The first output row in `rows`.
    pub first_row: usize,
    /// Rows of the block, each with its border texel: those of its first quad, then of its second, and so on.
    pub rows: &'a mut [&'b mut [f32]],
    /// Rows per quad.
    pub per_quad: usize,
    pub epilogue: &'a Epilogue<'a>,
    pub turned: bool,
}

/// Transforms 16 channels of products, packed as by [`transform_input`], to tiles of the output and writes the pixels.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn transform_output(from: &[f32], tiles: &Tiles, target: &mut Target<'_, '_>) {
    let quads = target.rows.len() / target.per_quad;
    for (pack, from) in tiles.packs().zip(from.as_chunks::<PACK>().0) {
        for (place, corner) in pack {
            for half in 0..quads.div_ceil(2) {
                let load = |position: usize| {
                    let mut lanes = Lanes::ZERO;
                    let at = position * POSITION + place * BLOCK + half * LANES;
                    lanes.0.copy_from_slice(&from[at..at + LANES]);
                    lanes
                };
                let column = |c: usize| {
                    output_line([
                        load(c),
                        load(c + 6),
                        load(c + 12),
                        load(c + 18),
                        load(c + 24),
                        load(c + 30),
                    ])
                };
                let [a, b, c, d, e, f] = [column(0), column(1), column(2), column(3), column(4), column(5)];
                let row = |r: usize| output_line([a[r], b[r], c[r], d[r], e[r], f[r]]);
                let rows = [row(0), row(1), row(2), row(3)];
                for quad in half * 2..quads.min(half * 2 + 2) {
                    target.write(quad, corner, &rows, quad % 2 * 4);
                }
            }
        }
    }
}

impl Target<'_, '_> {
    /// Writes the pixels of one quad, whose lanes start at `lane`.
    #[inline(always)]
    fn write(&mut self, quad: usize, [top, left]: [usize; 2], rows: &[[Lanes; TILE]; TILE], lane: usize) {
        for (r, row) in rows.iter().enumerate() {
            let y = top + if self.turned { TILE - 1 - r } else { r };
            if y >= self.layout.height {
                continue;
            }
            let texel = |x: usize| {
                let lanes = &row[x].0[lane..lane + 4];
                [lanes[0], lanes[1], lanes[2], lanes[3]]
            };
            let mut values = [texel(0), texel(1), texel(2), texel(3)];
            if self.turned {
                values.reverse();
            }
            let to =
                &mut self.rows[quad * self.per_quad + y - self.first_row].as_chunks_mut::<4>().0[1 + left..];
            let quad = self.block * QUADS + quad;
            let texel = self.layout.texel(quad, y, left);
            if let Some(to) = to.first_chunk_mut::<TILE>() {
                self.epilogue.write(quad, texel, values, to);
            } else {
                for (x, (to, value)) in to.iter_mut().zip(values).enumerate() {
                    self.epilogue.write(quad, texel + x, [value], std::array::from_mut(to));
                }
            }
        }
    }
}
