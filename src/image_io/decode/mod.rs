//! Reads pictures; the result is upright, opaque and sRGB.

mod bmp;
mod failure;
mod gif;
mod jpeg;
mod png;
mod reading;
mod tiff;
mod tiff_samples;
mod webp;

use std::io::ErrorKind;
use std::path::Path;

use image::ImageFormat;
use image::metadata::Orientation;

use super::{Alpha, Decoded, Picture, checksum, metadata, structure};
use crate::allocation::zeros;
use crate::{Error, Result, files};
use failure::{Failure, REPLACE};
pub use reading::ReadOptions;
use reading::Reading;

/// Largest accepted file, in bytes: 16 bit RGBA at [`MAX_PIXELS`](super::MAX_PIXELS), uncompressed.
const MAX_FILE: u64 = 1 << 31;

/// Reads a picture from a file: PNG, JPEG, WebP, TIFF, GIF or BMP, recognised by content, not by name.
///
/// For all supported kinds (1 to 16 bits, palette, gray, alpha, CMYK, YCbCr, 32 bit float TIFF) the result
/// is RGB `f32` in [0, 1] at the file's full precision (float samples are unchanged), with EXIF orientation
/// applied, alpha composited on white (on the encoded values, as browsers do), and an embedded colour profile,
/// or a PNG's cICP, gAMA and cHRM, converted to sRGB. Of an animation or multi-page file the first frame is
/// read. A picture of 1x1 is accepted. Each of these conversions is listed in [`Decoded::notes`].
///
/// # Errors
/// Only [`Error::File`]: the file is missing, not a regular file, empty, not a picture, of an unsupported
/// kind, damaged, truncated, or larger than [`MAX_SIDE`](super::MAX_SIDE), [`MAX_PIXELS`](super::MAX_PIXELS)
/// or 2 GiB. Sizes are checked before memory is allocated.
pub fn read(path: &Path) -> Result<Decoded> {
    read_with(path, &ReadOptions::default())
}

/// Reads a picture as [`read`] does, with a reduced size or another background.
///
/// # Errors
/// The errors of [`read`].
pub fn read_with(path: &Path, options: &ReadOptions) -> Result<Decoded> {
    let bytes = load(path)?;
    decode(path, &bytes, options)
}

/// Reads a picture from memory as [`read`] does; errors call it `name`.
///
/// # Errors
/// The errors of [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Decoded> {
    decode(Path::new(name), bytes, options)
}

fn decode(path: &Path, bytes: &[u8], options: &ReadOptions) -> Result<Decoded> {
    let format = format_of(path, bytes)?;
    let mut reading = Reading::new(options, bytes.len());
    let stored = match format {
        ImageFormat::Png => png::read(bytes, &mut reading),
        ImageFormat::Jpeg => jpeg::read(bytes, &mut reading),
        ImageFormat::WebP => webp::read(bytes, &mut reading),
        ImageFormat::Tiff => tiff::read(bytes, &mut reading),
        ImageFormat::Gif => gif::read(bytes, &mut reading),
        _ => bmp::read(bytes, &mut reading),
    };
    let decoded = stored.and_then(|stored| {
        let size = stored.rows.size();
        let (picture, alpha) = stored.rows.finish().ok_or(Failure::CutShort)?;
        finish(picture, alpha, size, stored.orientation, reading)
    });
    decoded.map_err(|failure| failure.error(path, name(format)))
}

/// Reads the text metadata that [`write`](super::write()) or a [`Film`](super::Film) embedded in a file: the
/// pairs of [`WriteOptions::metadata`](super::WriteOptions::metadata) in order; empty if there are none. For a
/// PNG of another program, reads its iTXt chunks. Pixels aren't decoded.
///
/// # Errors
/// [`Error::File`] if the file can't be read, is not a picture, or its metadata is damaged.
pub fn read_metadata(path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = load(path)?;
    let format = format_of(path, &bytes)?;
    metadata::extract(&bytes, format).map_err(|problem| Error::file(path, problem, REPLACE))
}

/// True if the file is exactly as [`write`](super::write()) wrote it with
/// [metadata](super::WriteOptions::metadata): it carries its own SHA-256. A file without a checksum counts as changed.
///
/// # Errors
/// [`Error::File`] if the file can't be read.
pub fn is_unchanged(path: &Path) -> Result<bool> {
    Ok(checksum::matches(&load(path)?))
}

/// Reads the content of a picture file.
fn load(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        return Err(Error::file(path, "it is a folder, not a picture", "Use a picture file inside it"));
    }
    files::read_up_to(path, MAX_FILE).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Error::file(path, "there is no such file", "Check the path for a typing mistake")
        }
        ErrorKind::PermissionDenied => Error::file(
            path,
            "there is no permission to read it",
            "Change its permissions, or those of the folders above it",
        ),
        ErrorKind::FileTooLarge => {
            Error::file(path, "the file is larger than 2 GiB", "Scale the picture down first")
        }
        ErrorKind::InvalidInput => Error::file(path, e.to_string(), "Save the picture as a file first"),
        _ => Error::file(path, format!("it can't be read ({e})"), "Check the path and the disk it is on"),
    })
}

/// Recognises the format of a picture file by its content.
fn format_of(path: &Path, bytes: &[u8]) -> Result<ImageFormat> {
    if bytes.is_empty() {
        return Err(Error::file(path, "the file is empty (0 bytes)", REPLACE));
    }
    match image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Png
            | ImageFormat::Jpeg
            | ImageFormat::WebP
            | ImageFormat::Tiff
            | ImageFormat::Bmp
            | ImageFormat::Gif),
        ) => Ok(format),
        _ if structure::is_big_tiff(bytes) => Ok(ImageFormat::Tiff),
        _ => {
            let (problem, remedy) = structure::guess(bytes);
            Err(Error::file(path, problem, remedy))
        }
    }
}

/// Turns the picture upright and adds the remaining notes.
fn finish(
    mut picture: Picture,
    mut alpha: Option<Alpha>,
    mut size: (usize, usize),
    orientation: Orientation,
    mut reading: Reading<'_>,
) -> Result<Decoded, Failure> {
    if alpha.is_some() {
        reading.note_alpha();
    }
    if orientation != Orientation::NoTransforms {
        reading.notes.push(format!("EXIF orientation {} applied", orientation.to_exif()));
        let stored = (picture.width, picture.height);
        let turned = |values: &[f32], channels| turn(values, channels, stored, orientation);
        let ((width, height), rgb) = turned(&picture.rgb, 3).map_err(Failure::Memory)?;
        picture = Picture { width, height, rgb };
        if let Some(alpha) = &mut alpha {
            let ((width, height), values) = turned(&alpha.values, 1).map_err(Failure::Memory)?;
            *alpha = Alpha { width, height, values };
        }
        if is_swapped(orientation) {
            size = (size.1, size.0);
        }
    }
    let floats = picture.rgb.len() + alpha.as_ref().map_or(0, |alpha| alpha.values.len());
    let memory = reading.memory(floats, orientation != Orientation::NoTransforms);
    Ok(Decoded { picture, alpha, size, notes: reading.notes, memory })
}

/// Returns true if the orientation swaps rows and columns.
fn is_swapped(orientation: Orientation) -> bool {
    use Orientation as O;
    matches!(orientation, O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH)
}

/// Turns a picture of `w` x `h` pixels upright; returns its new (width, height) and its values.
fn turn(
    values: &[f32],
    channels: usize,
    (w, h): (usize, usize),
    orientation: Orientation,
) -> Result<((usize, usize), Vec<f32>), String> {
    use Orientation as O;
    let (width, height) = if is_swapped(orientation) { (h, w) } else { (w, h) };
    let mut turned = zeros::<f32>(values.len())?;
    for (y, row) in turned.chunks_exact_mut(width * channels).enumerate() {
        for (x, to) in row.chunks_exact_mut(channels).enumerate() {
            // Position of the upright pixel (x, y) in the stored picture.
            let (sx, sy) = match orientation {
                O::NoTransforms => (x, y),
                O::FlipHorizontal => (w - 1 - x, y),
                O::Rotate180 => (w - 1 - x, h - 1 - y),
                O::FlipVertical => (x, h - 1 - y),
                O::Rotate90FlipH => (y, x),
                O::Rotate90 => (y, h - 1 - x),
                O::Rotate270FlipH => (w - 1 - y, h - 1 - x),
                O::Rotate270 => (w - 1 - y, x),
            };
            let at = (sy * w + sx) * channels;
            to.copy_from_slice(&values[at..at + channels]);
        }
    }
    Ok(((width, height), turned))
}

/// Returns the name of a format for messages.
fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Gif => "GIF",
        _ => "BMP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with the `image` crate, on a picture without any symmetry.
    #[test]
    fn all_orientations_match_the_image_crate() {
        let stored = image::RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 50, y as u8 * 80, 7]));
        let values =
            |image: &image::RgbImage| -> Vec<f32> { image.as_raw().iter().map(|v| f32::from(*v)).collect() };
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let mut expected = image::DynamicImage::ImageRgb8(stored.clone());
            expected.apply_orientation(orientation);
            let expected = expected.to_rgb8();
            let (size, turned) = turn(&values(&stored), 3, (5, 3), orientation).unwrap();
            assert_eq!(size, (expected.width() as usize, expected.height() as usize), "{exif}");
            assert_eq!(turned, values(&expected), "{exif}");
        }
    }
}
