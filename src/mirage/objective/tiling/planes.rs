//! Pictures in host memory for the tiled case, and tensors of their shape. Values are stored channel after channel, as
//! in checkpoints.

use crate::allocation::zeros;
use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::ops::Shape;
use std::ops::Range;

/// Three channels of rows and columns.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mirage) struct Planes {
    size: [usize; 2],
    /// Row of the picture that the first stored row corresponds to. Methods take rows of the picture.
    first: usize,
    values: Vec<f32>,
}

impl Planes {
    /// Creates zeros; `label` is used in errors.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] of the host.
    pub fn zeros(label: &str, size: [usize; 2]) -> Result<Self> {
        let values = zeroed(label, 3 * size[0] * size[1])?;
        Ok(Self { size, first: 0, values })
    }

    /// Creates planes from the values of a picture of this size.
    pub fn of(size: [usize; 2], values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), 3 * size[0] * size[1]);
        Self { size, first: 0, values }
    }

    /// Returns all values in order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns all values in order, without a copy.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Zeroes all values, and moves the window to the picture's first row.
    pub fn clear(&mut self) {
        self.first = 0;
        self.values.fill(0.0);
    }

    /// Drops the rows before this one: the rows after it move up, and zeros fill the end.
    pub fn advance(&mut self, first: usize) {
        let [height, width] = self.size;
        let gone = first.saturating_sub(self.first).min(height) * width;
        for channel in self.values.chunks_exact_mut((height * width).max(1)) {
            channel.copy_within(gone.., 0);
            let left = channel.len() - gone;
            channel[left..].fill(0.0);
        }
        self.first = first;
    }

    /// Returns the index range of each row of this part.
    fn rows(
        &self,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        self::rows(3, self.size, rows.start - self.first..rows.end - self.first, columns.clone())
    }

    /// Copies the values of these rows and columns, in order.
    pub fn part(&self, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f32> {
        let mut part = Vec::with_capacity(3 * rows.len() * columns.len());
        self.rows(rows, columns).for_each(|range| part.extend_from_slice(&self.values[range]));
        part
    }

    /// Iterates over the values of these rows, in order.
    pub fn of_rows(&self, rows: &Range<usize>) -> impl Iterator<Item = f32> + '_ {
        self.rows(rows, &self.columns()).flat_map(|range| &self.values[range]).copied()
    }

    /// Calls `change` with each row of a part and the values given for it.
    fn each_row(
        &mut self,
        (rows, columns): (&Range<usize>, &Range<usize>),
        part: &[f32],
        change: impl Fn(&mut [f32], &[f32]),
    ) {
        let lines = part.chunks_exact(columns.len().max(1));
        self.rows(rows, columns).zip(lines).for_each(|(range, line)| change(&mut self.values[range], line));
    }

    /// Adds values, times a factor, to these rows and columns.
    pub fn add(&mut self, rows: &Range<usize>, columns: &Range<usize>, part: &[f32], factor: f32) {
        self.each_row((rows, columns), part, |own, line| {
            own.iter_mut().zip(line).for_each(|(own, value)| *own += factor * value);
        });
    }

    /// Returns the range of all columns.
    pub fn columns(&self) -> Range<usize> {
        0..self.size[1]
    }

    /// Replaces the values of these rows.
    pub fn set_rows(&mut self, rows: &Range<usize>, part: &[f32]) {
        let columns = self.columns();
        self.each_row((rows, &columns), part, |own, line| own.copy_from_slice(line));
    }

    /// Returns height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Iterates over red, green and blue of each pixel.
    pub fn interleaved(&self) -> impl Iterator<Item = f32> + '_ {
        let pixels = self.size[0] * self.size[1];
        (0..3 * pixels).map(move |index| self.values[index % 3 * pixels + index / 3])
    }
}

/// Source of the pixels of tiles.
#[derive(Debug, Clone, Copy)]
pub(in crate::mirage) enum Pixels<'a> {
    /// The picture being optimised.
    Planes(&'a Planes),
    /// An image from a file.
    Picture(&'a Picture),
}

impl Pixels<'_> {
    /// Copies the values of these rows and columns, channel after channel.
    pub fn part(&self, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f32> {
        match self {
            Self::Planes(planes) => planes.part(rows, columns),
            Self::Picture(Picture { width, rgb, .. }) => {
                let mut part = Vec::with_capacity(3 * rows.len() * columns.len());
                for channel in 0..3 {
                    for row in rows.clone() {
                        let line = &rgb[3 * (row * width + columns.start)..3 * (row * width + columns.end)];
                        part.extend(line.iter().skip(channel).step_by(3));
                    }
                }
                part
            }
        }
    }
}

/// A map in host memory with 16 bits per value: the upper half of an f32, i.e. bfloat16. The relative rounding error is
/// at most 2^-8.
#[derive(Debug)]
pub(in crate::mirage) struct HalfMap {
    channels: usize,
    size: [usize; 2],
    values: Vec<u16>,
}

impl HalfMap {
    /// Creates zeros for a map of this shape.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] of the host; [`Error::Internal`] if the shape is not a map.
    pub fn zeros(label: &str, shape: Shape) -> Result<Self> {
        let map = shape.expect_map(label)?;
        let values = zeroed(label, shape.elements())?;
        Ok(Self { channels: map.channels, size: [map.height, map.width], values })
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        self.values.len() as u64 * 2
    }

    /// Returns the index range of each row of this part.
    fn rows(
        &self,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        self::rows(self.channels, self.size, rows.clone(), columns.clone())
    }

    /// Rounds and stores the values of these rows and columns.
    pub fn store(&mut self, rows: &Range<usize>, columns: &Range<usize>, part: &[f32]) {
        let lines = part.chunks_exact(columns.len().max(1));
        for (range, line) in self.rows(rows, columns).zip(lines) {
            self.values[range].iter_mut().zip(line).for_each(|(own, value)| *own = rounded(*value));
        }
    }

    /// Copies the values of these rows and columns, in order.
    pub fn part(&self, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f32> {
        let mut part = Vec::with_capacity(self.channels * rows.len() * columns.len());
        for range in self.rows(rows, columns) {
            part.extend(self.values[range].iter().map(|half| f32::from_bits(u32::from(*half) << 16)));
        }
        part
    }
}

/// Returns the index range of each row of a part of a map, for each channel in turn.
fn rows(
    channels: usize,
    [height, width]: [usize; 2],
    rows: Range<usize>,
    columns: Range<usize>,
) -> impl Iterator<Item = Range<usize>> + use<> {
    (0..channels).flat_map(move |channel| {
        let columns = columns.clone();
        rows.clone().map(move |row| {
            let start = (channel * height + row) * width;
            start + columns.start..start + columns.end
        })
    })
}

fn zeroed<Value: bytemuck::Zeroable>(label: &str, count: usize) -> Result<Vec<Value>> {
    zeros(count).map_err(|_| Error::out_of_host_memory(label, (count * size_of::<Value>()) as u64))
}

/// Rounds to bfloat16, to nearest even, and returns the bits. NaN is handled separately because the rounding addition
/// could turn it into a number.
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let near = if value.is_nan() { bits | 0x40_0000 } else { bits + 0x7fff + (bits >> 16 & 1) };
    (near >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates planes with a different value at each index.
    fn numbered(size: [usize; 2]) -> Planes {
        Planes::of(size, (0..3 * size[0] * size[1]).map(|index| index as f32).collect())
    }

    #[test]
    fn parts_can_be_read_added_and_replaced() {
        let mut planes = numbered([4, 5]);
        let (rows, columns) = (1..3, 2..4);
        let part = planes.part(&rows, &columns);
        assert_eq!(part, [7.0, 8.0, 12.0, 13.0, 27.0, 28.0, 32.0, 33.0, 47.0, 48.0, 52.0, 53.0]);
        planes.add(&rows, &columns, &part, 1.0);
        assert_eq!(planes.part(&rows, &columns)[5], 56.0);
        assert_eq!(planes.values()[6], 6.0);
        planes.set_rows(&(3..4), &[1.0; 15]);
        assert_eq!(planes.part(&(2..4), &(0..1)), [10.0, 1.0, 30.0, 1.0, 50.0, 1.0]);
        planes.clear();
        assert!(planes.values().iter().all(|value| *value == 0.0));
    }

    #[test]
    fn finished_rows_are_reused() {
        let mut window = Planes::zeros("a window", [3, 2]).unwrap();
        window.add(&(0..3), &(0..2), &(0..18).map(|index| index as f32).collect::<Vec<_>>(), 1.0);
        window.advance(2);
        assert_eq!(window.part(&(2..5), &(0..2))[..8], [4.0, 5.0, 0.0, 0.0, 0.0, 0.0, 10.0, 11.0]);
        window.add(&(4..5), &(1..2), &[1.0, 2.0, 3.0], 2.0);
        window.advance(4);
        assert_eq!(window.part(&(4..5), &(0..2)), [0.0, 2.0, 0.0, 4.0, 0.0, 6.0]);
        window.advance(50);
        assert!(window.values().iter().all(|value| *value == 0.0));
        window.clear();
        window.add(&(0..1), &(0..1), &[7.0; 3], 1.0);
        assert_eq!(window.part(&(0..1), &(0..1)), [7.0; 3]);
    }

    #[test]
    fn picture_and_planes_have_the_same_parts() {
        let planes = numbered([3, 7]);
        let rgb: Vec<f32> = planes.interleaved().collect();
        assert_eq!(rgb[..4], [0.0, 21.0, 42.0, 1.0]);
        let picture = Picture { width: 7, height: 3, rgb };
        let (rows, columns) = (1..3, 2..6);
        assert_eq!(
            Pixels::Picture(&picture).part(&rows, &columns),
            Pixels::Planes(&planes).part(&rows, &columns)
        );
    }

    #[test]
    fn half_map_keeps_eight_bits_of_precision() {
        let values = [0.0, 1.0, -1.0, 0.1, 3.0e38, 1e-38, -7.7e12, 1.003_906_3, 1.011_718_8];
        let mut map = HalfMap::zeros("a map", Shape::map(1, 3, 6)).unwrap();
        map.store(&(0..3), &(2..5), &values);
        for (back, value) in map.part(&(0..3), &(2..5)).into_iter().zip(values) {
            assert!((back - value).abs() <= value.abs() / 256.0, "{value} {back}");
        }
        assert_eq!(map.part(&(0..3), &(5..6)), [0.0; 3]);
        // Ties round to an even last bit.
        map.store(&(0..1), &(0..3), &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::INFINITY]);
        assert_eq!(map.part(&(0..1), &(0..3)), [1.0, 1.015_625, f32::INFINITY]);
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff, 0xff80_0001] {
            map.store(&(1..2), &(1..2), &[f32::from_bits(bits)]);
            assert!(map.part(&(1..2), &(1..2))[0].is_nan(), "{bits:x}");
        }
    }
}
