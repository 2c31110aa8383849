//! Reads BMP.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;
use image::{ImageDecoder, ImageError};

use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::failure::Failure;
use super::reading::{Embedded, Reading, Stored};

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    let decoder = BmpDecoder::new(Cursor::new(bytes))?;
    let size = decoder.dimensions();
    reading.check_whole(size)?;
    let color = decoder.color_type();
    let layout = Layout {
        sample: Sample::U8,
        colors: if color.has_color() { Colors::Rgb } else { Colors::Gray },
        opacity: if color.has_alpha() { Opacity::Straight } else { Opacity::Opaque },
    };
    let mut rows = reading.start(size, layout, Embedded::Nothing)?;
    let row_bytes = rows.row_bytes();
    let mut all = reading.buffer(row_bytes * size.1 as usize)?;
    decoder.read_image(&mut all)?;
    all.chunks_exact(row_bytes).try_for_each(|row| rows.push(row))?;
    Ok(Stored { rows, orientation: Orientation::NoTransforms })
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::IoError(error) => Self::of_io(&error),
            ImageError::Limits(_) => Self::limits(),
            ImageError::Unsupported(error) => Self::Unsupported(error.to_string()),
            error => Self::damaged(&error),
        }
    }
}
