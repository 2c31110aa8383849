//! Writing pictures atomically.

use std::borrow::Cow;
use std::io::{Cursor, Error as IoError, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use tiff::TiffResult;
use tiff::encoder::{Compression, Predictor, TiffEncoder, TiffKind, TiffValue, colortype};
use tiff::tags::{ExtraSamples, Tag};

use super::{Alpha, Picture, checksum, metadata, structure};
use crate::files::{Overwrite, check_name, check_place, complete, temporary};
use crate::{Error, Result};

/// Bits per channel in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BitDepth {
    /// 8 bits: all formats.
    #[default]
    Eight,
    /// 16 bits: PNG and TIFF.
    Sixteen,
}

/// Options of [`write()`].
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    /// Bits per channel.
    pub bit_depth: BitDepth,
    /// Texts to embed: keys and values. Keys are 1 to 79 printable ASCII characters such as
    /// "neural-mirage:options", without outer or double spaces; values are any Unicode text of reasonable
    /// length. They are stored as iTXt chunks in PNG and as XMP in the other formats. A file with texts also gets a
    /// checksum of itself, see [`is_unchanged`](super::is_unchanged).
    pub metadata: Vec<(String, String)>,
    /// Whether an existing file is replaced.
    pub overwrite: Overwrite,
    /// Quality of JPEG files, 1 to 100; colour isn't subsampled. PNG, WebP and TIFF are lossless.
    pub jpeg_quality: u8,
    /// Alpha channel; `None` is fully opaque. The picture is assumed to be composited on white, and its colours are
    /// stored so that compositing the file on white reproduces it. JPEG has no alpha.
    pub alpha: Option<Arc<Alpha>>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            bit_depth: BitDepth::Eight,
            metadata: Vec::new(),
            overwrite: Overwrite::Never,
            jpeg_quality: 95,
            alpha: None,
        }
    }
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    WebP,
    Tiff,
}

impl Format {
    /// Returns the format for the extension of a file name.
    fn of(path: &Path) -> Result<Self> {
        const REMEDY: &str = "End the name in .png, .jpg, .jpeg, .webp, .tif or .tiff";
        let Some(extension) = path.extension() else {
            return Err(Error::file(path, "the name has no extension, which selects the format", REMEDY));
        };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            "tif" | "tiff" => Ok(Self::Tiff),
            other => Err(Error::file(path, format!("pictures can't be written as .{other}"), REMEDY)),
        }
    }

    /// Returns the format's name and its longest side in pixels.
    fn limit(self) -> (&'static str, usize) {
        match self {
            Self::Png => ("PNG", super::MAX_SIDE),
            Self::Jpeg => ("JPEG", super::MAX_SIDE),
            // The limit of libwebp; 14 bits could encode one more, but decoders read that as 0.
            Self::WebP => ("WebP", 16_383),
            Self::Tiff => ("TIFF", super::MAX_SIDE),
        }
    }
}

/// Returns true if the format for this file name supports alpha.
///
/// # Errors
/// [`Error::File`] if [`write()`] doesn't support the extension.
pub fn holds_alpha(path: &Path) -> Result<bool> {
    Format::of(path).map(|format| format != Format::Jpeg)
}

/// Returns true if [`write()`] supports this extension (`png`, `jpg`, ..., in upper or lower case).
pub fn writes(ending: &str) -> bool {
    Format::of(&Path::new("picture").with_extension(ending)).is_ok()
}

/// Checks, before any work is done, that [`write()`] will be able to write here: the extension is supported
/// and its format has the bit depth, the folder exists and is writable (a temporary file is created and
/// removed), the path is not a folder, and an existing file may be replaced. The picture's size is not
/// checked: WebP is limited to 16,383 pixels a side.
///
/// # Errors
/// [`Error::File`] for problems with the path, [`Error::Usage`] for problems with the options.
pub fn check_writable(path: &Path, options: &WriteOptions) -> Result<()> {
    let (_, target) = check(path, options)?;
    check_name(path)?;
    temporary(path, &target).map(drop)
}

/// Writes a picture. The extension of `path` selects the format (`png`, `jpg`, `jpeg`, `webp` lossless,
/// `tif`, `tiff`).
///
/// The file is encoded in memory, written under a temporary name in the same folder, flushed to disk and
/// then renamed, so a reader sees the old file or the new one, never a partial one, even after a crash. A new
/// file gets the usual permissions, one that replaces another gets that one's; if `path` is a symbolic link, the file it points to is replaced.
/// Values are clamped to [0, 1] and rounded to the nearest level.
///
/// Returns what may be replaced when the picture is written again: the version written now.
///
/// # Errors
/// The errors of [`check_writable`]; [`Error::Usage`] if the picture is malformed; [`Error::File`] if it is
/// too large for the format; [`Error::Io`] if it holds NaN or infinite values, or on an I/O error such as a
/// full disk. The temporary file is removed.
pub fn write(path: &Path, picture: &Picture, options: &WriteOptions) -> Result<Overwrite> {
    let (format, target) = check(path, options)?;
    picture.check()?;
    let (name, longest) = format.limit();
    if picture.width.max(picture.height) > longest {
        return Err(Error::file(
            path,
            format!(
                "{}x{} pixels are too many for {name}; the limit is {longest} a side",
                picture.width, picture.height
            ),
            "Write a PNG or TIFF instead",
        ));
    }
    check_finite(path, picture)?;
    if let Some(alpha) = &options.alpha {
        alpha.check()?;
        if (alpha.width, alpha.height) != (picture.width, picture.height) {
            let problem = "alpha and picture differ in size. This is a mistake in the calling code";
            return Err(Error::usage(problem));
        }
    }
    let mut bytes = encode(format, picture, options)
        .map_err(|reason| Error::io(path, "encoding")(IoError::other(reason)))?;
    if !options.metadata.is_empty() {
        checksum::add(&mut bytes);
    }

    let mut file = temporary(path, &target)?;
    file.write_all(&bytes).map_err(Error::io(path, "writing"))?;
    complete(path, file, &target, options.overwrite)
}

/// Rejects pictures with NaN or infinite values.
pub(super) fn check_finite(path: &Path, picture: &Picture) -> Result<()> {
    let Some((x, y)) = picture.first_not_finite() else { return Ok(()) };
    let count = picture.rgb.iter().filter(|v| !v.is_finite()).count();
    let reason = format!("the picture holds {count} values that are NaN or infinite, the first at {x},{y}");
    Err(Error::io(path, "writing")(IoError::new(ErrorKind::InvalidData, reason)))
}

/// Does the checks that don't write to disk. Returns the format and the path to write to, symbolic links resolved.
fn check(path: &Path, options: &WriteOptions) -> Result<(Format, PathBuf)> {
    if !(1..=100).contains(&options.jpeg_quality) {
        return Err(Error::usage(format!(
            "JPEG quality {} is out of range: choose 1 to 100",
            options.jpeg_quality
        )));
    }
    for (key, _) in &options.metadata {
        metadata::check_key(key).map_err(Error::Usage)?;
    }
    check_no_folder(path, "result.png")?;
    let format = Format::of(path)?;
    if options.bit_depth == BitDepth::Sixteen && !matches!(format, Format::Png | Format::Tiff) {
        return Err(Error::file(
            path,
            format!("{} can't hold 16 bits per channel", format.limit().0),
            "Choose .png or .tiff, or write 8 bits",
        ));
    }
    if options.alpha.is_some() && format == Format::Jpeg {
        return Err(Error::file(path, "JPEG can't hold alpha", "Choose .png, .webp or .tiff"));
    }
    Ok((format, check_place(path, options.overwrite)?))
}

/// Rejects a path that is a folder; `example` is a file name to suggest.
pub(super) fn check_no_folder(path: &Path, example: &str) -> Result<()> {
    if path.is_dir() {
        let remedy = format!("Add a file name to the path, such as {example}");
        return Err(Error::file(path, "it is a folder", remedy));
    }
    Ok(())
}

/// Encodes the picture; returns the bytes of the file.
fn encode(
    format: Format,
    picture: &Picture,
    options: &WriteOptions,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    // check_size has limited both.
    let (width, height) = (picture.width as u32, picture.height as u32);
    let pairs = &options.metadata;
    let values = channels(picture, options.alpha.as_deref());
    let has_alpha = options.alpha.is_some();
    let mut out = Vec::new();
    match format {
        Format::Png => {
            let mut encoder = png::Encoder::new(&mut out, width, height);
            encoder.set_color(if has_alpha { png::ColorType::Rgba } else { png::ColorType::Rgb });
            encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
            for (key, value) in pairs {
                encoder.add_itxt_chunk(key.clone(), value.clone())?;
            }
            let samples = match options.bit_depth {
                BitDepth::Eight => levels8(&values),
                BitDepth::Sixteen => {
                    encoder.set_depth(png::BitDepth::Sixteen);
                    levels16(&values).into_iter().flat_map(u16::to_be_bytes).collect()
                }
            };
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&samples)?;
            writer.finish()?;
        }
        Format::Jpeg => {
            JpegEncoder::new_with_quality(&mut out, options.jpeg_quality).encode(
                &levels8(&values),
                width,
                height,
                ExtendedColorType::Rgb8,
            )?;
            if !pairs.is_empty() {
                // After the start marker and the JFIF segment, which must come first.
                let at = structure::after_jfif(&out).unwrap_or(2);
                out.splice(at..at, metadata::jpeg_segments(pairs));
            }
        }
        Format::WebP => {
            let mut encoder = image_webp::WebPEncoder::new(&mut out);
            if !pairs.is_empty() {
                encoder.set_xmp_metadata(metadata::packet(pairs).into_bytes());
            }
            let color = if has_alpha { image_webp::ColorType::Rgba8 } else { image_webp::ColorType::Rgb8 };
            encoder.encode(&levels8(&values), width, height, color)?;
        }
        Format::Tiff => {
            let mut encoder = TiffEncoder::new(Cursor::new(&mut out))?
                .with_compression(Compression::Lzw)
                .with_predictor(Predictor::Horizontal);
            let (file, size) = (&mut encoder, (width, height));
            match (options.bit_depth, has_alpha) {
                (BitDepth::Eight, false) => {
                    tiff_page::<colortype::RGB8, _, _>(file, size, pairs, &levels8(&values))?;
                }
                (BitDepth::Eight, true) => {
                    tiff_page::<colortype::RGBA8, _, _>(file, size, pairs, &levels8(&values))?;
                }
                (BitDepth::Sixteen, false) => {
                    tiff_page::<colortype::RGB16, _, _>(file, size, pairs, &levels16(&values))?;
                }
                (BitDepth::Sixteen, true) => {
                    tiff_page::<colortype::RGBA16, _, _>(file, size, pairs, &levels16(&values))?;
                }
            }
        }
    }
    Ok(out)
}

/// Writes the single page of a TIFF, with metadata.
fn tiff_page<C: colortype::ColorType, W: Write + Seek, K: TiffKind>(
    file: &mut TiffEncoder<W, K>,
    (width, height): (u32, u32),
    pairs: &[(String, String)],
    samples: &[C::Inner],
) -> TiffResult<()>
where
    [C::Inner]: TiffValue,
{
    let mut page = file.new_image::<C>(width, height)?;
    if C::BITS_PER_SAMPLE.len() == 4 {
        page.encoder().write_tag(Tag::ExtraSamples, ExtraSamples::UnassociatedAlpha.to_u16())?;
    }
    if !pairs.is_empty() {
        page.encoder().write_tag(Tag::Unknown(metadata::TIFF_XMP), metadata::packet(pairs).as_bytes())?;
    }
    page.write_data(samples)
}

/// Returns the channel values to store: the picture's or, with alpha, the RGBA values that give the picture when
/// composited on white.
fn channels<'a>(picture: &'a Picture, alpha: Option<&Alpha>) -> Cow<'a, [f32]> {
    let Some(alpha) = alpha else { return Cow::Borrowed(&picture.rgb) };
    let pixels = picture.rgb.as_chunks::<3>().0.iter().zip(&alpha.values);
    let straight = |color: f32, alpha: f32| {
        if alpha > 0.0 { (color.clamp(0.0, 1.0) - (1.0 - alpha)) / alpha } else { color }
    };
    pixels
        .flat_map(|(rgb, a)| [straight(rgb[0], *a), straight(rgb[1], *a), straight(rgb[2], *a), *a])
        .collect()
}

/// Converts values to levels from 0 to 255. They must be finite.
pub(super) fn levels8(values: &[f32]) -> Vec<u8> {
    values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

/// Converts values to levels from 0 to 65535.
fn levels16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.clamp(0.0, 1.0) * 65535.0).round() as u16).collect()
}
