//! The transforms of Winograd's F(4x4, 3x3) with the points 0, +-3/4, +-3/2 and infinity, as in the shaders (see
//! `winograd_filter.wgsl` for the method): of a filter, of tiles of the input and of the products.

use super::finish::Finish;
use super::layout::{BLOCK, Placement, QUADS};
use crate::ops::MapLayout;
use multiversion::multiversion;
use std::ops::{Add, Mul, Range, Sub};

/// Side of the output of a tile, and of its input.
pub(super) const TILE: usize = 4;
pub(super) const SIDE: usize = 6;
/// Products of a tile and a pair of channels.
pub(super) const POSITIONS: usize = SIDE * SIDE;

const A: f32 = 0.75;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// Channels that are transformed at once: two quads, so that a line of six values stays in registers.
const LANES: usize = 8;

/// Values of several channels, on which arithmetic is done lane by lane.
#[derive(Debug, Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    const ZERO: Self = Self([0.0; LANES]);
}

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(value, other)| *value += other);
        self
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(value, other)| *value -= other);
        self
    }
}

impl Mul<Lanes> for f32 {
    type Output = Lanes;

    #[inline(always)]
    fn mul(self, mut lanes: Lanes) -> Lanes {
        lanes.0.iter_mut().for_each(|value| *value *= self);
        lanes
    }
}

/// `G g G^T`, in f64 and rounded once.
pub(super) fn transform_filter(taps: &[f32; 9]) -> [f32; POSITIONS] {
    const POINTS: [f64; 5] = [0.0, A as f64, -A as f64, B as f64, -B as f64];
    let row = |r: usize| -> [f64; 3] {
        let Some(x) = POINTS.get(r) else { return [0.0, 0.0, 1.0] };
        let divisor: f64 = POINTS.iter().filter(|y| *y != x).map(|y| x - y).product();
        [1.0 / divisor, x / divisor, x * x / divisor]
    };
    let matrix: [[f64; 3]; SIDE] = std::array::from_fn(row);
    let mut result = [0.0; POSITIONS];
    for (r, left) in matrix.iter().enumerate() {
        let line: [f64; 3] =
            std::array::from_fn(|c| (0..3).map(|k| left[k] * f64::from(taps[k * 3 + c])).sum());
        for (c, right) in matrix.iter().enumerate() {
            let value: f64 = (0..3).map(|k| line[k] * right[k]).sum();
            result[r * SIDE + c] = value as f32;
        }
    }
    result
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

/// The map that is transformed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub map: &'a [f32],
    /// Where this map is not positive, the other one counts as zero.
    pub activation: Option<&'a [f32]>,
    pub place: Placement,
    /// True for the adjoint: tiles are turned by 180 degrees in place of the filter.
    pub turned: bool,
}

impl Source<'_> {
    /// The pixels of two quads under a tile, outside of the map zero.
    #[inline(always)]
    fn load(&self, quad: usize, corner: [isize; 2]) -> [Lanes; POSITIONS] {
        let MapLayout { height, width, .. } = self.place.input;
        // Texels are counted with the borders, which are zero: column 0 and row 0 of a plane, and the next ones'.
        let [top, left] = corner.map(|start| start + 1);
        let columns = (-left).clamp(0, SIDE as isize) as usize
            ..(width as isize + 2 - left).clamp(0, SIDE as isize) as usize;
        let mut loaded = [Lanes::ZERO; POSITIONS];
        for (r, loaded) in loaded.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            let row = top + r as isize;
            if !(0..height as isize + 2).contains(&row) || columns.is_empty() {
                continue;
            }
            for half in 0..2 {
                let Some(start) = self.start(quad + half, row, left + columns.start as isize) else {
                    continue;
                };
                if columns.len() == SIDE {
                    self.load_row(start, half, loaded);
                } else {
                    self.load_row(start, half, &mut loaded[columns.clone()]);
                }
            }
        }
        if self.turned {
            loaded.reverse();
        }
        loaded
    }

    /// Loads consecutive texels from `start` on into one half of the lanes.
    #[inline(always)]
    fn load_row(&self, start: usize, half: usize, to: &mut [Lanes]) {
        let length = to.len() * 4;
        let texels = self.map[start..start + length].as_chunks::<4>().0;
        for (to, texel) in to.iter_mut().zip(texels) {
            to.0[half * 4..half * 4 + 4].copy_from_slice(texel);
        }
        if let Some(activation) = self.activation {
            let texels = activation[start..start + length].as_chunks::<4>().0;
            for (to, texel) in to.iter_mut().zip(texels) {
                for (value, y) in to.0[half * 4..half * 4 + 4].iter_mut().zip(texel) {
                    *value = if *y > 0.0 { *value } else { 0.0 };
                }
            }
        }
    }

    /// Where a row of a quad's plane starts at this column; `None` for quads beyond the last.
    #[inline(always)]
    fn start(&self, quad: usize, row: isize, column: isize) -> Option<usize> {
        let layout = self.place.input;
        let within = row * layout.pitch() as isize + column;
        (quad < layout.quads()).then(|| (quad * layout.plane()).wrapping_add_signed(within) * 4)
    }
}

/// Which tiles of a map, and which of them come from where.
#[derive(Debug, Clone)]
pub(super) struct Tiles {
    /// Their numbers, counted along the rows of tiles.
    pub numbers: Range<usize>,
    /// Tiles in a row.
    pub across: usize,
}

impl Tiles {
    /// Row and column of the first pixel of each tile's output.
    #[inline(always)]
    fn corners(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let across = self.across;
        self.numbers.clone().map(move |number| [number / across * TILE, number % across * TILE])
    }
}

/// Transforms 16 channels of tiles: `to[position]` gets `[tile][channel]`.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn transform_input(source: Source<'_>, block: usize, tiles: &Tiles, to: &mut [&mut [f32]]) {
    for (index, corner) in tiles.corners().enumerate() {
        let corner = corner.map(|start| start as isize + source.place.origin);
        for half in 0..2 {
            let mut tile = source.load(block * QUADS + half * 2, corner);
            for c in 0..SIDE {
                let line = input_line(std::array::from_fn(|r| tile[r * SIDE + c]));
                (0..SIDE).for_each(|r| tile[r * SIDE + c] = line[r]);
            }
            for r in 0..SIDE {
                let line = input_line(std::array::from_fn(|c| tile[r * SIDE + c]));
                for (to, value) in to[r * SIDE..][..SIDE].iter_mut().zip(line) {
                    to[index * BLOCK + half * LANES..][..LANES].copy_from_slice(&value.0);
                }
            }
        }
    }
}

/// Where a block of 16 channels of tiles is written.
pub(super) struct Target<'a, 'b> {
    pub layout: MapLayout,
    pub block: usize,
    /// The output's first row that is here.
    pub first_row: usize,
    /// The block's rows, with their border texel: those of its first quad, of its second, and so on.
    pub rows: &'a mut [&'b mut [f32]],
    pub finish: &'a Finish<'a>,
    pub turned: bool,
}

/// Transforms 16 channels of tiles from the products, `from[position]` as `[tile][channel]`, and writes them.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn transform_output(from: &[&[f32]], tiles: &Tiles, target: &mut Target<'_, '_>) {
    let height = target.layout.height;
    let quads = (target.layout.quads() - target.block * QUADS).min(QUADS);
    let rows = target.rows.len() / quads;
    for (index, [top, left]) in tiles.corners().enumerate() {
        for half in 0..quads.div_ceil(2) {
            let mut lines = [[Lanes::ZERO; SIDE]; TILE];
            for c in 0..SIDE {
                let start = index * BLOCK + half * LANES;
                let mut column = [Lanes::ZERO; SIDE];
                for (r, value) in column.iter_mut().enumerate() {
                    value.0.copy_from_slice(&from[r * SIDE + c][start..start + LANES]);
                }
                let column = output_line(column);
                (0..TILE).for_each(|r| lines[r][c] = column[r]);
            }
            for (r, line) in lines.iter().enumerate() {
                let y = top + if target.turned { TILE - 1 - r } else { r };
                if y >= height {
                    continue;
                }
                let mut line = output_line(*line);
                if target.turned {
                    line.reverse();
                }
                for half_quad in 0..(quads - half * 2).min(2) {
                    let mut values = [[0.0; 4]; TILE];
                    for (to, value) in values.iter_mut().zip(line) {
                        to.copy_from_slice(&value.0[half_quad * 4..half_quad * 4 + 4]);
                    }
                    let quad = half * 2 + half_quad;
                    let row = &mut target.rows[quad * rows + y - target.first_row];
                    let to = &mut row.as_chunks_mut::<4>().0[1 + left..];
                    let quad = target.block * QUADS + quad;
                    let texel = target.layout.texel(quad, y, left);
                    if let Some(to) = to.first_chunk_mut::<TILE>() {
                        target.finish.write(quad, texel, values, to);
                    } else {
                        for (x, (to, value)) in to.iter_mut().zip(values).enumerate() {
                            target.finish.write(quad, texel + x, [value], std::array::from_mut(to));
                        }
                    }
                }
            }
        }
    }
}
