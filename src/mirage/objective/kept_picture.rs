//! Pictures that a run keeps for display or for a setback.

use super::tiling::planes::Planes;
use crate::image_io::Picture;
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// Number of steps from black to white of a value that is kept in 16 bits.
const LEVELS: f32 = 65_535.0;

/// Converts a value that is kept in 16 bits.
fn value_of(level: &u16) -> f32 {
    f32::from(*level) / LEVELS
}

/// A kept picture. Clones share its values.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mirage) enum KeptPicture {
    /// Unchanged, as read from the device.
    Whole(Arc<Picture>),
    /// Clamped to [0, 1] and in 16 bits per value, to save memory in the tiled case.
    Compact(Arc<Compact>),
}

/// A picture with 16 bits per value, interleaved as red, green and blue.
#[derive(Debug, PartialEq)]
pub(in crate::mirage) struct Compact {
    size: [usize; 2],
    values: Vec<u16>,
    /// Number of values that were not finite; they are stored as black.
    non_finite: usize,
}

impl Compact {
    /// Converts from values that are interleaved as red, green and blue.
    fn of(size: [usize; 2], values: impl Iterator<Item = f32>) -> Self {
        let mut non_finite = 0;
        let round = |value: f32| {
            non_finite += usize::from(!value.is_finite());
            (value.clamp(0.0, 1.0) * LEVELS).round() as u16
        };
        let values = values.map(round).collect();
        Self { size, values, non_finite }
    }
}

impl KeptPicture {
    /// Converts from planes: to the compact form if the picture is clamped to [0, 1] anyway.
    pub fn of(planes: &Planes, clamps: bool) -> Self {
        if clamps {
            return Self::Compact(Arc::new(Compact::of(planes.size(), planes.interleaved())));
        }
        let [height, width] = planes.size();
        Self::Whole(Arc::new(Picture { width, height, rgb: planes.interleaved().collect() }))
    }

    /// Converts a whole picture to the compact form.
    pub fn compacted(self) -> Self {
        match self {
            Self::Whole(picture) => {
                let size = [picture.height, picture.width];
                Self::Compact(Arc::new(Compact::of(size, picture.rgb.iter().copied())))
            }
            compact @ Self::Compact(_) => compact,
        }
    }

    /// Returns height and width.
    pub fn size(&self) -> [usize; 2] {
        match self {
            Self::Whole(picture) => [picture.height, picture.width],
            Self::Compact(compact) => compact.size,
        }
    }

    /// Returns the number of values that are not finite.
    pub fn non_finite(&self) -> usize {
        match self {
            Self::Whole(picture) => picture.rgb.iter().filter(|value| !value.is_finite()).count(),
            Self::Compact(compact) => compact.non_finite,
        }
    }

    /// Returns the picture, converted if compact.
    pub fn picture(&self) -> Arc<Picture> {
        match self {
            Self::Whole(picture) => picture.clone(),
            Self::Compact(compact) => {
                let [height, width] = compact.size;
                let rgb = compact.values.iter().map(value_of).collect();
                Arc::new(Picture { width, height, rgb })
            }
        }
    }

    /// Returns all values in pieces of at most `most`, interleaved as red, green and blue.
    pub fn pieces(&self, most: usize) -> Box<dyn Iterator<Item = Cow<'_, [f32]>> + '_> {
        match self {
            Self::Whole(picture) => Box::new(picture.rgb.chunks(most).map(Cow::Borrowed)),
            Self::Compact(compact) => Box::new(
                compact.values.chunks(most).map(|piece| Cow::Owned(piece.iter().map(value_of).collect())),
            ),
        }
    }

    /// Returns a hash of its size and values.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.size().hash(&mut hasher);
        for piece in self.pieces(1 << 16) {
            piece.iter().for_each(|value| value.to_bits().hash(&mut hasher));
        }
        hasher.finish()
    }

    /// Returns at most `most` of its values, evenly spread over pixels and channels; all values if there are no more.
    pub fn some_values(&self, most: usize) -> Vec<f32> {
        let [height, width] = self.size();
        let step = (3 * height * width).div_ceil(most).max(1);
        let step = if step.is_multiple_of(3) { step + 1 } else { step };
        match self {
            Self::Whole(picture) => picture.rgb.iter().step_by(step).copied().collect(),
            Self::Compact(compact) => compact.values.iter().step_by(step).map(value_of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_picture_has_16_bit_precision() {
        let values = vec![0.0, 0.25, 1.5, 1.0, f32::NAN, 0.7, 0.1, -1.0, 0.123_456, 0.5, f32::INFINITY, 0.9];
        let planes = Planes::of([2, 2], values);
        let compact = KeptPicture::of(&planes, true);
        assert_eq!((compact.size(), compact.non_finite()), ([2, 2], 2));
        let picture = compact.picture();
        let pieces: Vec<f32> = compact.pieces(5).flat_map(|piece| piece.into_owned()).collect();
        assert_eq!(pieces, picture.rgb);
        let again = KeptPicture::Whole(picture.clone()).compacted();
        assert_eq!(*again.picture(), *picture);
        let expected = [0.0, 0.0, 0.123_456, 0.25, 0.7, 0.5, 1.0, 0.1, 1.0, 1.0, 0.0, 0.9];
        for (found, expected) in picture.rgb.iter().zip(expected) {
            assert!((found - expected).abs() <= 0.5 / LEVELS + 1e-7, "{found} {expected}");
        }
        // Values from a file with 8 or 16 bits are preserved exactly.
        for level in [0_u16, 1, 257, 30_000, 65_534, 65_535] {
            let value = f32::from(level) / LEVELS;
            let kept = KeptPicture::of(&Planes::of([1, 1], vec![value; 3]), true);
            assert_eq!(kept.picture().rgb, [value; 3]);
        }
    }

    #[test]
    fn sampled_values_are_spread_over_the_picture() {
        let planes = Planes::of([10, 10], (0..300).map(|index| index as f32 / 300.0).collect());
        let rgb: Vec<f32> = planes.interleaved().collect();
        let [whole, compact] = [false, true].map(|clamps| KeptPicture::of(&planes, clamps));
        assert_eq!(whole.some_values(300), rgb);
        for most in [299, 100, 7] {
            let some = whole.some_values(most);
            assert!(some.len() <= most && some.len() > most / 3, "{most}: {}", some.len());
            for (one, other) in some.iter().zip(compact.some_values(most)) {
                assert!((one - other).abs() <= 1e-5);
            }
        }
    }
}
