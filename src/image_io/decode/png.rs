//! Reads PNG row by row.

use std::io::Cursor;

use png::{BitDepth, ColorType, DecodingError, Info, Limits, ScaledFloat, Transformations};

use super::super::color::{Gamma, MAX_PROFILE};
use super::super::metadata::{MAX_TEXTS, latin1_texts};
use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::super::structure::{self, EXIF_KEYS};
use super::failure::Failure;
use super::reading::{Embedded, Reading, Stored, orientation};

/// Limit in bytes for EXIF in a text chunk after decompression: two digits for each of the 64 KiB that EXIF can have in
/// a JPEG, with room for spaces.
const MAX_EXIF_TEXT: usize = 1 << 18;

/// Limit in bytes for a chunk with EXIF after the pixels.
const MAX_LATE_EXIF: usize = 1 << 24;

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    let found = structure::png(bytes)?;
    if let Some(size) = found.size {
        reading.check_size(size)?;
    }
    // A chunk is no larger than the file; only the profile is decompressed.
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
    // The order of precedence of the specification.
    let gamma = gamma(info).filter(|_| info.srgb.is_none());
    let embedded = match (found.cicp, &info.icc_profile) {
        (Some(points), _) => Embedded::CodePoints(points),
        (None, Some(icc)) => Embedded::Profile(icc.to_vec(), gamma),
        (None, None) => {
            if found.profile {
                let note = "ignored the embedded colour profile: it is malformed or too large";
                reading.notes.push(note.to_owned());
            }
            gamma.map_or(Embedded::Nothing, Embedded::Gamma)
        }
    };
    let exif = match &info.exif_metadata {
        Some(exif) => Some(exif.to_vec()),
        None if found.exif_text && found.texts <= MAX_TEXTS => exif_of_text(bytes),
        None => None,
    };
    let exif = exif.or_else(|| exif_after_pixels(found.late_exif?));
    let orientation = orientation(exif.as_deref());
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

/// Reads `gAMA` and `cHRM`; None if the file has neither.
fn gamma(info: &Info<'_>) -> Option<Gamma> {
    let at = |(x, y): (ScaledFloat, ScaledFloat)| (x.into_value(), y.into_value());
    let exponent = info.gama_chunk.map(ScaledFloat::into_value);
    let chromaticities = info.chrm_chunk.map(|c| [c.white, c.red, c.green, c.blue].map(at));
    (exponent.is_some() || chromaticities.is_some()).then_some(Gamma { exponent, chromaticities })
}

/// Reads EXIF from a text chunk: a name, a length, and hexadecimal digits. Returns `None` if it is malformed, because
/// EXIF is optional.
fn exif_of_text(bytes: &[u8]) -> Option<Vec<u8>> {
    let limits = Limits { bytes: bytes.len().saturating_add(MAX_EXIF_TEXT) };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_iccp_chunk(true);
    let reader = decoder.read_info().ok()?;
    let mut found = latin1_texts(reader.info(), |key| EXIF_KEYS.contains(&key), MAX_EXIF_TEXT);
    let (_, text) = found.next()?.ok()?;
    let mut words = text.split_ascii_whitespace().skip(1);
    let length: usize = words.next()?.parse().ok()?;
    let digits: Vec<u8> = words
        .flat_map(str::bytes)
        .map(|digit| (digit as char).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let exif: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (exif.len() == length).then_some(exif)
}

/// Reads EXIF from a chunk after the pixels, where the decoder doesn't look for it: before the pixels of another PNG.
/// Returns `None` if it is malformed.
fn exif_after_pixels(chunk: &[u8]) -> Option<Vec<u8>> {
    const START: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55";
    const END: &[u8] = b"\0\0\0\0IDAT\x35\xaf\x06\x1e";
    if chunk.len() > MAX_LATE_EXIF {
        return None;
    }
    let bytes = [START, chunk, END].concat();
    let limits = Limits { bytes: bytes.len() + MAX_EXIF_TEXT };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(&bytes), limits);
    decoder.set_ignore_text_chunk(true);
    let reader = decoder.read_info().ok()?;
    reader.info().exif_metadata.as_ref().map(|exif| exif.to_vec()).or_else(|| exif_of_text(&bytes))
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

#[cfg(test)]
mod tests {
    use super::*;
    use png::text_metadata::{TEXtChunk, ZTXtChunk};

    #[test]
    fn exif_in_png_text_chunks_is_found() {
        let found = |text: &str, compressed: bool| {
            let mut bytes = Vec::new();
            let mut writer = png::Encoder::new(&mut bytes, 1, 1).write_header().unwrap();
            let key = EXIF_KEYS[usize::from(compressed)];
            match compressed {
                true => writer.write_text_chunk(&ZTXtChunk::new(key, text)),
                false => writer.write_text_chunk(&TEXtChunk::new(key, text)),
            }
            .unwrap();
            writer.write_image_data(&[0]).unwrap();
            writer.finish().unwrap();
            assert!(structure::png(&bytes).is_ok_and(|found| found.exif_text && found.texts == 1));
            exif_of_text(&bytes)
        };
        for compressed in [false, true] {
            assert_eq!(
                found("\nexif\n      6\n49492a\n0008fF\n", compressed),
                Some(b"II*\0\x08\xff".to_vec())
            );
            for broken in ["", "exif", "exif six 49492a000800", "exif 7 49492a000800", "exif 6 49492a0008zz"]
            {
                assert_eq!(found(broken, compressed), None, "{broken}");
            }
        }
    }
}
