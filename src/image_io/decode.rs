//! Reading pictures: files in, upright opaque sRGB out.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

use image::codecs::{
    bmp::BmpDecoder, jpeg::JpegDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder,
};
use image::metadata::Orientation;
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, Limits};

use super::color::{self, Profile, ToSrgb};
use super::resize::zeros;
use super::{Decoded, Picture, check_size, metadata, structure};
use crate::{Error, Result};

/// The largest file that is read, in bytes: 16 bit RGBA at [`MAX_PIXELS`](super::MAX_PIXELS), uncompressed.
const MAX_FILE: u64 = 1 << 31;

/// What a decoder may allocate beside the pixels, in bytes: rows, tables, inflated profiles and text.
const MAX_EXTRA: u64 = 1 << 29;

const REPLACE: &str = "Get a complete copy of the file";
const RESAVE: &str = "Save it as an 8 or 16 bit RGB PNG, or as a JPEG, and try again";

/// Reads the picture in a file: PNG, JPEG, WebP, TIFF or BMP, recognised by content, not by name.
///
/// Whatever the file holds (1 to 16 bits, palette, gray, alpha, CMYK, 32 bit float RGB TIFF), the
/// picture is RGB `f32` in [0, 1] at the file's full precision (float samples as they are), with
/// EXIF orientation applied, alpha composited on white (on the encoded values, as browsers do), and
/// an embedded colour profile converted to sRGB. An animation or multi-page file gives its first
/// frame. A picture of 1x1 is fine here. Each of these deeds is named in [`Decoded::notes`].
///
/// # Errors
/// [`Error::File`], and nothing else: the file is missing, a folder, empty, no picture, of an
/// unsupported kind, damaged, cut short, or larger than [`MAX_SIDE`](super::MAX_SIDE),
/// [`MAX_PIXELS`](super::MAX_PIXELS) or 2 GiB. Sizes are checked before memory is taken.
pub fn read(path: &Path) -> Result<Decoded> {
    let (bytes, format) = load(path)?;
    let mut notes = Vec::new();
    let cut = |_| cut_short(path, format);
    match format {
        ImageFormat::Png => {
            let png = structure::png(&bytes).map_err(cut)?;
            check_stated(path, png.size)?;
            let limits = limits();
            let decoder =
                PngDecoder::with_limits(Cursor::new(&bytes), limits).map_err(refused(path, format))?;
            if decoder.is_apng().unwrap_or(false) {
                notes.push("animation: only the first frame is used".to_owned());
            }
            if png.palette {
                notes.push("palette expanded".to_owned());
            }
            if png.cicp {
                notes.push("cICP colour description ignored: values taken as sRGB".to_owned());
            }
            finish(path, format, decoder, false, notes)
        }
        ImageFormat::Jpeg => {
            let jpeg = structure::jpeg(&bytes).map_err(cut)?;
            check_stated(path, jpeg.size)?;
            if jpeg.components == 4 {
                notes.push("CMYK converted to RGB".to_owned());
            }
            let decoder = JpegDecoder::new(Cursor::new(&bytes)).map_err(refused(path, format))?;
            finish(path, format, decoder, false, notes)
        }
        ImageFormat::WebP => {
            structure::webp(&bytes).map_err(cut)?;
            let decoder = WebPDecoder::new(Cursor::new(&bytes)).map_err(refused(path, format))?;
            if decoder.has_animation() {
                notes.push("animation: only the first frame is used".to_owned());
            }
            finish(path, format, decoder, false, notes)
        }
        ImageFormat::Tiff => {
            let associated = tiff_extras(&bytes, &mut notes);
            let decoder = TiffDecoder::new(Cursor::new(&bytes)).map_err(refused(path, format))?;
            finish(path, format, decoder, associated, notes)
        }
        // Known by its metadata only.
        ImageFormat::Gif => {
            let (problem, remedy) = structure::guess(&bytes);
            Err(Error::file(path, problem, remedy))
        }
        _ => {
            let decoder = BmpDecoder::new(Cursor::new(&bytes)).map_err(refused(path, format))?;
            finish(path, format, decoder, false, notes)
        }
    }
}

/// The text that [`write`](super::write()) or a [`Film`](super::Film) embedded in a file: the pairs of
/// [`WriteOptions::metadata`](super::WriteOptions::metadata) in order; empty if there are none. GIF files, whose
/// pictures aren't read, have text too.
/// From a PNG of another program, its iTXt chunks. Pixels aren't decoded.
///
/// # Errors
/// [`Error::File`] if the file can't be read, is no picture, or its metadata is damaged.
pub fn read_metadata(path: &Path) -> Result<Vec<(String, String)>> {
    let (bytes, format) = load(path)?;
    metadata::extract(&bytes, format).map_err(|problem| Error::file(path, problem, REPLACE))
}

/// The content of a picture file and its format.
fn load(path: &Path) -> Result<(Vec<u8>, ImageFormat)> {
    let unreadable = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => {
            Error::file(path, "there is no such file", "Check the path for a typing mistake")
        }
        ErrorKind::PermissionDenied => Error::file(
            path,
            "it may not be read",
            "Change its permissions, or those of the folders above it",
        ),
        _ => Error::file(path, format!("it can't be read ({e})"), "Check the path and the disk it is on"),
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(Error::file(path, "it is a folder, not a picture", "Name a picture file inside it"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::file(path, "the file is larger than 2 GiB", "Scale the picture down first"));
    }
    if bytes.is_empty() {
        return Err(Error::file(path, "the file is empty (0 bytes)", REPLACE));
    }
    match image::guess_format(&bytes) {
        Ok(
            format @ (ImageFormat::Png
            | ImageFormat::Jpeg
            | ImageFormat::WebP
            | ImageFormat::Tiff
            | ImageFormat::Bmp
            | ImageFormat::Gif),
        ) => Ok((bytes, format)),
        _ => {
            let (problem, remedy) = structure::guess(&bytes);
            Err(Error::file(path, problem, remedy))
        }
    }
}

/// The part that is the same for all formats.
fn finish(
    path: &Path,
    format: ImageFormat,
    mut decoder: impl ImageDecoder,
    associated_alpha: bool,
    mut notes: Vec<String>,
) -> Result<Decoded> {
    let (width, height) = decoder.dimensions();
    check_stated(path, Some((width, height)))?;
    decoder.set_limits(limits()).map_err(refused(path, format))?;
    let color = decoder.color_type();
    if matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16) {
        notes.push("CMYK converted to RGB".to_owned());
    }
    let gray = !color.has_color();
    if gray {
        notes.push("grayscale expanded".to_owned());
    }
    match color {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            notes.push("16 bit".to_owned());
        }
        ColorType::Rgb32F | ColorType::Rgba32F => {
            notes.push("32 bit float, taken as sRGB-encoded".to_owned());
        }
        _ => {}
    }
    let mut to_srgb = None;
    match decoder.icc_profile() {
        Ok(Some(icc)) => match color::judge(&icc, if gray { 1 } else { 3 }) {
            Profile::Srgb => {}
            Profile::Convert(conversion, name) => {
                notes.push(format!("converted from the embedded colour profile{name} to sRGB"));
                to_srgb = Some(conversion);
            }
            Profile::Ignored(reason) => notes.push(format!("embedded colour profile ignored: {reason}")),
        },
        Ok(None) => {}
        Err(_) => notes.push("embedded colour profile ignored: it is malformed".to_owned()),
    }
    let orientation = orientation(&mut decoder, format);

    let short = |reason: String| Error::file(path, reason, "Scale the picture down first");
    let bytes = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
    let mut raw = zeros::<u8>(bytes).map_err(short)?;
    decoder.read_image(&mut raw).map_err(refused(path, format))?;

    let (width, height) = (width as usize, height as usize);
    let mut rgb = zeros::<f32>(width * height * 3).map_err(short)?;
    let transparent =
        convert(&raw, color, width, associated_alpha, to_srgb, &mut rgb).map_err(|problem| {
            Error::file(path, problem, "Export the picture again from the program that made it")
        })?;
    drop(raw);
    if transparent {
        notes.push("alpha composited on white".to_owned());
    }
    let mut picture = Picture { width, height, rgb };
    if orientation != Orientation::NoTransforms {
        notes.push(format!("EXIF orientation {} applied", orientation.to_exif()));
        picture = turn(&picture, orientation).map_err(short)?;
    }
    Ok(Decoded { picture, notes })
}

/// Decoded samples to opaque sRGB, row by row; whether any pixel let white through.
fn convert(
    raw: &[u8],
    color: ColorType,
    width: usize,
    associated_alpha: bool,
    mut to_srgb: Option<ToSrgb>,
    rgb: &mut [f32],
) -> Result<bool, &'static str> {
    let channels = usize::from(color.channel_count());
    let colors = if color.has_color() { 3 } else { 1 };
    let sample_bytes = usize::from(color.bytes_per_pixel()) / channels;
    let mut samples = vec![0.0f32; width * channels];
    let mut source = vec![0.0f32; width * colors];
    let mut transparent = false;
    let rows = raw.chunks_exact(width * channels * sample_bytes);
    for (row, target) in rows.zip(rgb.chunks_exact_mut(width * 3)) {
        match sample_bytes {
            1 => samples.iter_mut().zip(row).for_each(|(to, v)| *to = f32::from(*v) / 255.0),
            2 => samples
                .iter_mut()
                .zip(row.as_chunks::<2>().0)
                .for_each(|(to, v)| *to = f32::from(u16::from_ne_bytes(*v)) / 65535.0),
            _ => samples
                .iter_mut()
                .zip(row.as_chunks::<4>().0)
                .for_each(|(to, v)| *to = f32::from_ne_bytes(*v)),
        }
        if sample_bytes == 4 && !samples.iter().all(|v| v.is_finite()) {
            return Err("it holds values that are not finite numbers");
        }
        for (pixel, to) in samples.chunks_exact(channels).zip(source.chunks_exact_mut(colors)) {
            to.copy_from_slice(&pixel[..colors]);
            if associated_alpha && channels > colors {
                // Stored multiplied by alpha: undo that, so that all kinds go one way from here.
                let alpha = pixel[colors];
                to.iter_mut().for_each(|v| *v = if alpha > 0.0 { *v / alpha } else { 0.0 });
            }
        }
        match &mut to_srgb {
            Some(conversion) => {
                if !conversion.row(&source, target) {
                    return Err("its embedded colour profile gives no usable values");
                }
            }
            None if colors == 3 => target.copy_from_slice(&source),
            None => target.chunks_exact_mut(3).zip(&source).for_each(|(to, v)| to.fill(*v)),
        }
        if channels > colors {
            for (pixel, to) in samples.chunks_exact(channels).zip(target.chunks_exact_mut(3)) {
                let alpha = pixel[colors].clamp(0.0, 1.0);
                if alpha < 1.0 {
                    transparent = true;
                    to.iter_mut().for_each(|v| *v = *v * alpha + (1.0 - alpha));
                }
            }
        }
    }
    Ok(transparent)
}

/// The orientation that the file asks for; none if it doesn't, or asks for nonsense.
fn orientation(decoder: &mut impl ImageDecoder, format: ImageFormat) -> Orientation {
    let found =
        if format == ImageFormat::Tiff {
            decoder.orientation().ok()
        } else {
            // Some writers leave the prefix that JPEG needs in PNG and WebP too.
            decoder.exif_metadata().ok().flatten().and_then(|exif| {
                Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif))
            })
        };
    found.unwrap_or(Orientation::NoTransforms)
}

/// A picture turned upright.
fn turn(picture: &Picture, orientation: Orientation) -> Result<Picture, String> {
    use Orientation as O;
    let (w, h) = (picture.width, picture.height);
    let swapped = matches!(orientation, O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH);
    let (width, height) = if swapped { (h, w) } else { (w, h) };
    let mut rgb = zeros::<f32>(picture.rgb.len())?;
    for (y, row) in rgb.chunks_exact_mut(width * 3).enumerate() {
        for (x, to) in row.chunks_exact_mut(3).enumerate() {
            // Where in the stored picture the upright pixel (x, y) is.
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
            let at = (sy * w + sx) * 3;
            to.copy_from_slice(&picture.rgb[at..at + 3]);
        }
    }
    Ok(Picture { width, height, rgb })
}

/// What the crate `image` does not say about a TIFF: notes further pages, and returns whether colours are stored
/// multiplied by alpha.
fn tiff_extras(bytes: &[u8], notes: &mut Vec<String>) -> bool {
    let Ok(mut decoder) = tiff::decoder::Decoder::new(Cursor::new(bytes)) else { return false };
    if decoder.more_images() {
        notes.push("several pages: only the first is used".to_owned());
    }
    let extra = decoder.find_tag_unsigned_vec::<u16>(tiff::tags::Tag::ExtraSamples);
    extra.ok().flatten().is_some_and(|samples| samples.first() == Some(&1))
}

/// Refuses a size beyond the limits, as the header states it.
fn check_stated(path: &Path, size: Option<(u32, u32)>) -> Result<()> {
    let Some((width, height)) = size else { return Ok(()) };
    check_size(width as usize, height as usize)
        .map_err(|problem| Error::file(path, problem, "Scale the picture down first, or get an intact copy"))
}

/// Limits for the decoders; pixel counts are checked by [`check_size`].
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(super::MAX_SIDE as u32);
    limits.max_image_height = Some(super::MAX_SIDE as u32);
    // Up to 16 bytes a pixel (float RGBA) and the decoder's own needs.
    limits.max_alloc = Some(super::MAX_PIXELS as u64 * 16 + MAX_EXTRA);
    limits
}

/// The user's word for a format.
fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        _ => "BMP",
    }
}

/// The error for a file that ends before its picture does.
fn cut_short(path: &Path, format: ImageFormat) -> Error {
    Error::file(path, format!("the {} is cut short: its end is missing", name(format)), REPLACE)
}

/// A decoder's refusal in the user's terms.
fn refused(path: &Path, format: ImageFormat) -> impl Fn(ImageError) -> Error {
    move |error| {
        let name = name(format);
        match &error {
            ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => cut_short(path, format),
            ImageError::Limits(_) => Error::file(
                path,
                format!("decoding this {name} needs more memory than is allowed"),
                "Scale the picture down first",
            ),
            ImageError::Unsupported(_) => {
                Error::file(path, format!("this kind of {name} isn't read ({})", detail(&error)), RESAVE)
            }
            _ => Error::file(path, format!("the {name} is damaged ({})", detail(&error)), REPLACE),
        }
    }
}

/// The decoder's own words: the innermost cause, on one line, short.
fn detail(error: &ImageError) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text: String =
        innermost.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    text.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `image`'s own turning, on a picture without any symmetry.
    #[test]
    fn all_eight_turns_agree_with_image() {
        let stored = image::RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 50, y as u8 * 80, 7]));
        let picture = |image: &image::RgbImage| Picture {
            width: image.width() as usize,
            height: image.height() as usize,
            rgb: image.as_raw().iter().map(|v| f32::from(*v)).collect(),
        };
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let mut expected = image::DynamicImage::ImageRgb8(stored.clone());
            expected.apply_orientation(orientation);
            let turned = turn(&picture(&stored), orientation).unwrap();
            assert_eq!(turned, picture(&expected.to_rgb8()), "{exif}");
        }
    }
}
