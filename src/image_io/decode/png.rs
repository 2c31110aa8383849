//! PNG, row by row.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use super::super::color::MAX_PROFILE;
use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::super::structure;
use super::failure::Failure;
use super::reading::{Embedded, Reading, Stored, orientation};

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    let found = structure::png(bytes)?;
    if let Some(size) = found.size {
        reading.check_size(size)?;
    }
    // A chunk is no larger than the file, and a profile is what expands.
    let limits = Limits { bytes: bytes.len().saturating_add(MAX_PROFILE) };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info()?;
    let info = reader.info();
    let size = (info.width, info.height);
    reading.note_frames(info.animation_control.as_ref().map_or(1, |control| control.num_frames as usize));
    if found.palette {
        reading.notes.push("palette expanded".to_owned());
    }
    // The code points take precedence over a profile.
    let embedded = match (found.cicp, &info.icc_profile) {
        (Some(points), _) => Embedded::CodePoints(points),
        (None, Some(icc)) => Embedded::Profile(icc.to_vec()),
        (None, None) if found.profile => Embedded::Unreadable,
        (None, None) => Embedded::Nothing,
    };
    let orientation = orientation(info.exif_metadata.as_deref());
    let interlaced = info.interlaced;
    let (color, depth) = reader.output_color_type();
    let (colors, opacity) = match color {
        ColorType::Grayscale => (Colors::Gray, Opacity::Opaque),
        ColorType::GrayscaleAlpha => (Colors::Gray, Opacity::Straight),
        ColorType::Rgba => (Colors::Rgb, Opacity::Straight),
        _ => (Colors::Rgb, Opacity::Opaque),
    };
    let sample = if depth == BitDepth::Sixteen { Sample::U16 } else { Sample::U8 };
    let mut rows = reading.start(size, Layout { sample, colors, opacity }, embedded)?;
    let row_bytes = rows.row_bytes();
    let mut push = |row: &mut [u8]| {
        if sample == Sample::U16 {
            let values = row.as_chunks_mut().0.iter_mut();
            values.for_each(|value| *value = u16::from_be_bytes(*value).to_ne_bytes());
        }
        rows.push(row)
    };
    if interlaced {
        reading.check_whole(size)?;
        let mut all = reading.buffer(row_bytes * size.1 as usize)?;
        reader.next_frame(&mut all)?;
        all.chunks_exact_mut(row_bytes).try_for_each(&mut push)?;
    } else {
        let mut row = reading.buffer(row_bytes)?;
        for _ in 0..size.1 {
            if reader.read_row(&mut row)?.is_none() {
                return Err(Failure::CutShort);
            }
            push(&mut row)?;
        }
    }
    Ok(Stored { rows, orientation })
}

impl From<DecodingError> for Failure {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) => Self::of_io(&error),
            DecodingError::LimitsExceeded => Self::limits(),
            error => Self::damaged(&error),
        }
    }
}
