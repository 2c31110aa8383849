//! Reads WebP: the picture, or the first frame of an animation.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::super::structure;
use super::failure::Failure;
use super::reading::{Reading, Stored, orientation};

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    structure::webp(bytes)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    let size = decoder.dimensions();
    reading.check_whole(size)?;
    // For chunks, which aren't compressed.
    decoder.set_memory_limit(bytes.len());
    reading.note_frames(decoder.num_frames() as usize);
    let opacity = if decoder.has_alpha() { Opacity::Straight } else { Opacity::Opaque };
    let layout = Layout { sample: Sample::U8, colors: Colors::Rgb, opacity };
    let exif = decoder.exif_metadata().ok().flatten();
    let mut rows = reading.start(size, layout, decoder.icc_profile().ok().flatten().into())?;
    let row_bytes = rows.row_bytes();
    let mut all = reading.buffer(row_bytes * size.1 as usize)?;
    decoder.read_image(&mut all)?;
    all.chunks_exact(row_bytes).try_for_each(|row| rows.push(row))?;
    Ok(Stored { rows, orientation: orientation(exif.as_deref()) })
}

impl From<DecodingError> for Failure {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) => Self::of_io(&error),
            DecodingError::MemoryLimitExceeded => Self::limits(),
            DecodingError::UnsupportedFeature(feature) => Self::Unsupported(feature),
            error => Self::damaged(&error),
        }
    }
}
