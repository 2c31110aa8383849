//! Shapes of tensors and their layout in device memory.
//!
//! | shape | logical order | in memory |
//! | --- | --- | --- |
//! | [`Shape::Map`] | channel, row, column | *bordered quads*, see below |
//! | [`Shape::HalfMap`] | channel, row, column | the same in f16, padded with zeros to a multiple of 8 |
//! | [`Shape::Vector`] | index | f32 each, padded with zeros to a multiple of 4 |
//! | [`Shape::Matrix`] | row, column | row by row, each row padded with zeros to a multiple of 4 |
//!
//! **Bordered quads.** Four channels share a `vec4<f32>`. A quad's plane has `height + 1` rows of `width + 1` texels;
//! its first row and the first column of each row are zero, and one more zero row and texel follow the last plane. So
//! every pixel has a zero on all eight sides, and a 3x3 neighbour is a constant distance away: `n + dy * pitch + dx`.
//! Kernels need no bounds checks at borders, and the whole map is one linear run of texels that is copied to a texture
//! as is. Kernels must write the *whole* run, zeros included, because buffers are reused.

use super::half_precision::{half_bits, half_bits_mut, to_half_bits, to_single};
use crate::error::{Error, Result};

/// Shape of a tensor; sizes are logical, without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Feature map or picture.
    Map {
        /// Number of channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Feature map in half precision.
    HalfMap {
        /// Number of channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Activations of a fully connected layer, or a list of numbers.
    Vector(usize),
    /// Gram matrix or similar.
    Matrix {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
}

/// Texels per row of a linear texture; texel `i` of a run is at column `i % 8192`, row `i / 8192`.
pub const TEXTURE_WIDTH: u32 = 8192;

impl Shape {
    /// Creates the shape of a map.
    pub fn map(channels: usize, height: usize, width: usize) -> Self {
        Self::Map { channels, height, width }
    }

    /// Number of logical elements.
    pub fn elements(&self) -> usize {
        match *self {
            Self::Map { channels, height, width } | Self::HalfMap { channels, height, width } => {
                channels * height * width
            }
            Self::Vector(length) => length,
            Self::Matrix { rows, columns } => rows * columns,
        }
    }

    /// Number of f32 in memory, padding included; always a multiple of 4. In half precision, a f32 holds two values.
    pub fn stored(&self) -> usize {
        match *self {
            Self::Map { channels, height, width } => MapLayout { channels, height, width }.texels() * 4,
            Self::HalfMap { channels, height, width } => {
                MapLayout { channels, height, width }.texels().div_ceil(2) * 4
            }
            Self::Vector(length) => length.next_multiple_of(4).max(4),
            Self::Matrix { rows, columns } => (rows * columns.next_multiple_of(4)).max(4),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.stored() as u64 * 4
    }

    /// Memory layout of a map in single precision; `None` for other shapes.
    pub fn layout(&self) -> Option<MapLayout> {
        match *self {
            Self::Map { channels, height, width } => Some(MapLayout { channels, height, width }),
            _ => None,
        }
    }

    /// Memory layout of a map.
    ///
    /// # Errors
    /// [`Error::Internal`] if this is not a map, which is a bug in the caller; `op` is the op's name.
    pub fn expect_map(&self, op: &str) -> Result<MapLayout> {
        self.layout().ok_or_else(|| takes(op, "a feature map", self))
    }

    /// Memory layout of a map in half precision.
    ///
    /// # Errors
    /// Same as [`Shape::expect_map`].
    pub fn expect_half_map(&self, op: &str) -> Result<MapLayout> {
        match *self {
            Self::HalfMap { channels, height, width } => Ok(MapLayout { channels, height, width }),
            _ => Err(takes(op, "a feature map in half precision", self)),
        }
    }

    /// Length of a vector.
    ///
    /// # Errors
    /// Same as [`Shape::expect_map`].
    pub fn expect_vector(&self, op: &str) -> Result<usize> {
        match *self {
            Self::Vector(length) => Ok(length),
            _ => Err(takes(op, "a vector", self)),
        }
    }

    /// Checks that this is a single number, such as the upstream gradient of a loss: a vector of length 1.
    ///
    /// # Errors
    /// Same as [`Shape::expect_map`].
    pub fn expect_number(&self, op: &str) -> Result<()> {
        match *self {
            Self::Vector(1) => Ok(()),
            _ => Err(takes(op, "one number", self)),
        }
    }

    /// Converts values from logical order to memory order.
    pub fn pack(&self, values: &[f32]) -> Vec<f32> {
        let mut stored = vec![0.0; self.stored()];
        self.place(values, &mut stored);
        stored
    }

    /// Like [`Shape::pack`], into existing memory.
    pub fn pack_into(&self, values: &[f32], stored: &mut [f32]) {
        stored.fill(0.0);
        self.place(values, stored);
    }

    fn place(&self, values: &[f32], stored: &mut [f32]) {
        match self {
            Self::HalfMap { .. } => self.place_by(values, half_bits_mut(stored), to_half_bits),
            _ => self.place_by(values, stored, |value| value),
        }
    }

    fn place_by<T>(&self, values: &[f32], stored: &mut [T], convert: impl Fn(f32) -> T) {
        let mut rest = values;
        for row in self.rows() {
            let (now, later) = rest.split_at(row.count.min(rest.len()));
            let places = stored[row.first..].iter_mut().step_by(row.step);
            places.zip(now).for_each(|(place, value)| *place = convert(*value));
            rest = later;
        }
    }

    /// Converts values from memory order to logical order.
    pub fn unpack(&self, stored: &[f32]) -> Vec<f32> {
        if let Self::HalfMap { channels, height, width } = *self {
            let mut single = vec![0.0; stored.len() * 2];
            to_single(half_bits(stored), &mut single);
            return Self::map(channels, height, width).unpack(&single);
        }
        let mut values = Vec::with_capacity(self.elements());
        for row in self.rows() {
            values.extend(stored[row.first..].iter().step_by(row.step).take(row.count));
        }
        values
    }

    /// Position in memory, in f32, of each logical element in order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + use<> {
        let values_per_float = if matches!(self, Self::HalfMap { .. }) { 2 } else { 1 };
        let of_row = move |row: Row| (0..row.count).map(move |index| row.first + index * row.step);
        self.rows().flat_map(of_row).map(move |position| position / values_per_float)
    }

    /// Rows of logical elements in order; packing by rows is faster than element by element.
    fn rows(&self) -> Box<dyn Iterator<Item = Row>> {
        match *self {
            Self::Map { channels, height, width } | Self::HalfMap { channels, height, width } => {
                let layout = MapLayout { channels, height, width };
                let first = move |c: usize, y| layout.texel(c / 4, y, 0) * 4 + c % 4;
                Box::new((0..channels).flat_map(move |c| {
                    (0..height).map(move |y| Row { first: first(c, y), step: 4, count: width })
                }))
            }
            Self::Vector(length) => Box::new(std::iter::once(Row { first: 0, step: 1, count: length })),
            Self::Matrix { rows, columns } => {
                let stride = columns.next_multiple_of(4);
                Box::new((0..rows).map(move |r| Row { first: r * stride, step: 1, count: columns }))
            }
        }
    }
}

/// Logical elements at equal distances in memory.
#[derive(Clone, Copy)]
struct Row {
    /// Position of the first element, in values.
    first: usize,
    /// Distance from one element to the next, in values.
    step: usize,
    count: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map { channels, height, width } => write!(f, "{channels}x{height}x{width}"),
            Self::HalfMap { channels, height, width } => write!(f, "{channels}x{height}x{width} in f16"),
            Self::Vector(length) => write!(f, "{length}"),
            Self::Matrix { rows, columns } => write!(f, "[{rows}, {columns}]"),
        }
    }
}

/// Creates an [`Error::Internal`] about wrong input shapes of an op.
pub(crate) fn mismatch(op: &str, message: &str) -> Error {
    Error::internal(op, message)
}

/// Creates an [`Error::Internal`] with the input that an op expects and the one found.
pub(crate) fn takes(op: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    mismatch(op, &format!("takes {expected}, not {found}"))
}

/// Checks that the first two inputs of an op have the same shape.
///
/// # Errors
/// [`Error::Internal`] if they differ.
pub(crate) fn expect_same(op: &str, inputs: &[Shape]) -> Result<()> {
    if inputs[0] == inputs[1] {
        return Ok(());
    }
    Err(mismatch(op, &format!("{} and {} differ", inputs[0], inputs[1])))
}

/// Sizes of a map in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLayout {
    /// Number of channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl MapLayout {
    /// Shape of such a map.
    pub fn single(&self) -> Shape {
        Shape::map(self.channels, self.height, self.width)
    }

    /// Shape of such a map in half precision.
    pub fn half(&self) -> Shape {
        Shape::HalfMap { channels: self.channels, height: self.height, width: self.width }
    }

    /// Number of groups of four channels.
    pub fn quads(&self) -> usize {
        self.channels.div_ceil(4)
    }

    /// Texels from one row to the next.
    pub fn pitch(&self) -> usize {
        self.width + 1
    }

    /// Texels from one quad's plane to the next.
    pub fn plane(&self) -> usize {
        (self.height + 1) * self.pitch()
    }

    /// Texels of the whole run, closing border included.
    pub fn texels(&self) -> usize {
        self.quads() * self.plane() + self.pitch() + 1
    }

    /// Index of a pixel's texel.
    pub fn texel(&self, quad: usize, y: usize, x: usize) -> usize {
        quad * self.plane() + (y + 1) * self.pitch() + x + 1
    }

    /// Pixels of one channel.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_elements_and_zero_padding() {
        for shape in [
            Shape::map(5, 3, 7),
            Shape::map(1, 1, 1),
            Shape::Vector(7),
            Shape::Matrix { rows: 3, columns: 5 },
            MapLayout { channels: 5, height: 3, width: 7 }.half(),
        ] {
            let values: Vec<f32> = (1..=shape.elements()).map(|v| v as f32).collect();
            let stored = shape.pack(&values);
            assert_eq!(stored.len() * 4, shape.bytes() as usize);
            let written = match shape {
                Shape::HalfMap { .. } => half_bits(&stored).iter().filter(|bits| **bits != 0).count(),
                _ => stored.iter().filter(|v| **v != 0.0).count(),
            };
            assert_eq!(written, values.len());
            assert_eq!(shape.unpack(&stored), values);
        }
    }

    #[test]
    fn neighbours_of_every_pixel_are_in_bounds() {
        let layout = MapLayout { channels: 8, height: 3, width: 2 };
        let shape = Shape::map(8, 3, 2);
        let stored = shape.pack(&vec![1.0; shape.elements()]);
        for quad in 0..2 {
            for y in 0..3isize {
                for x in 0..2isize {
                    for dy in -1..=1 {
                        for dx in -1..=1 {
                            let texel = layout.texel(quad, y as usize, x as usize) as isize
                                + dy * layout.pitch() as isize
                                + dx;
                            let inside = (0..3).contains(&(y + dy)) && (0..2).contains(&(x + dx));
                            assert_eq!(stored[texel as usize * 4], f32::from(u8::from(inside)));
                        }
                    }
                }
            }
        }
    }
}
