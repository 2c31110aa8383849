//! Writing pictures: whole or not at all.

use std::borrow::Cow;
use std::io::{Cursor, Error as IoError, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use tiff::TiffResult;
use tiff::encoder::{Compression, Predictor, TiffEncoder, TiffKind, TiffValue, colortype};
use tiff::tags::{ExtraSamples, Tag};

use super::{Alpha, Picture, metadata};
use crate::files::{check_name, check_place, complete, temporary};
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

/// How [`write()`] writes.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    /// Bits per channel.
    pub bit_depth: BitDepth,
    /// Texts to embed: keys and values. Keys are 1 to 79 printable ASCII characters such as
    /// "neural-mirage:options", without outer or double spaces; values are any Unicode, of any sensible
    /// length. PNG holds them as iTXt chunks, the other formats as XMP.
    pub metadata: Vec<(String, String)>,
    /// Replace a file that exists.
    pub overwrite: bool,
    /// Quality of JPEG files, 1 to 100; colour isn't subsampled. PNG, WebP and TIFF are lossless.
    pub jpeg_quality: u8,
    /// How opaque the pixels are; all, if there is none. The picture is taken as composited on white, and its colours are
    /// stored so that compositing the file on white gives the picture again. JPEG holds none.
    pub alpha: Option<Arc<Alpha>>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            bit_depth: BitDepth::Eight,
            metadata: Vec::new(),
            overwrite: false,
            jpeg_quality: 95,
            alpha: None,
        }
    }
}

/// Formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    WebP,
    Tiff,
}

impl Format {
    /// The format that a file name asks for.
    fn of(path: &Path) -> Result<Self> {
        const REMEDY: &str = "End the name in .png, .jpg, .jpeg, .webp, .tif or .tiff";
        let Some(extension) = path.extension() else {
            return Err(Error::file(path, "the name has no extension to tell the format by", REMEDY));
        };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            "tif" | "tiff" => Ok(Self::Tiff),
            other => Err(Error::file(path, format!("pictures can't be written as .{other}"), REMEDY)),
        }
    }

    /// Name and longest side in pixels that the format can hold.
    fn limit(self) -> (&'static str, usize) {
        match self {
            Self::Png => ("PNG", super::MAX_SIDE),
            Self::Jpeg => ("JPEG", super::MAX_SIDE),
            // What libwebp allows; 14 bits could say one more, which decoders take for 0.
            Self::WebP => ("WebP", 16_383),
            Self::Tiff => ("TIFF", super::MAX_SIDE),
        }
    }
}

/// True if the format that a file name asks for can hold alpha.
///
/// # Errors
/// [`Error::File`] if [`write()`] doesn't know the ending of the name.
pub fn holds_alpha(path: &Path) -> Result<bool> {
    Format::of(path).map(|format| format != Format::Jpeg)
}

/// True if [`write()`] knows this ending of a name: `png`, `jpg` and so on, in any case.
pub fn writes(ending: &str) -> bool {
    Format::of(&Path::new("picture").with_extension(ending)).is_ok()
}

/// Finds out, before any work is done, whether [`write()`] will be able to write here: the extension is
/// known and can hold the bit depth, the folder exists and a file can be made in it (one is, and removed
/// again), the name is no folder, and an existing file may be replaced. The one thing that can't be
/// known yet is the picture's size: WebP ends at 16,383 pixels a side.
///
/// # Errors
/// [`Error::File`] for what is wrong with the path, [`Error::Usage`] for what is wrong with the options.
pub fn check_writable(path: &Path, options: &WriteOptions) -> Result<()> {
    let (_, target) = check(path, options)?;
    check_name(path)?;
    temporary(path, &target).map(drop)
}

/// Writes a picture: `path`'s extension says the format (`png`, `jpg`, `jpeg`, `webp` lossless, `tif`,
/// `tiff`).
///
/// The file is encoded in memory, written under a temporary name in the same folder, flushed to the
/// disk and then renamed, so that a reader, or a crash, sees the old file or the new one but never half
/// of one. It gets the permissions of any new file; if `path` is a symbolic link, the file that it
/// points to is replaced. Values are clamped to [0, 1] and rounded to the nearest level.
///
/// # Errors
/// All of [`check_writable`]'s; [`Error::Usage`] if the picture is malformed; [`Error::File`] if it is
/// too large for the format; [`Error::Io`] if it holds NaN or infinite values, or the system fails,
/// e.g. when the disk is full. No temporary file stays behind.
pub fn write(path: &Path, picture: &Picture, options: &WriteOptions) -> Result<()> {
    let (format, target) = check(path, options)?;
    picture.check()?;
    let (name, longest) = format.limit();
    if picture.width.max(picture.height) > longest {
        return Err(Error::file(
            path,
            format!(
                "{}x{} pixels are too many for {name}, which ends at {longest} a side",
                picture.width, picture.height
            ),
            "Write a PNG or TIFF instead",
        ));
    }
    check_finite(path, picture)?;
    if let Some(alpha) = &options.alpha {
        alpha.check()?;
        if (alpha.width, alpha.height) != (picture.width, picture.height) {
            let problem = "the alpha is not of the picture's size. This is a mistake in the calling code";
            return Err(Error::usage(problem));
        }
    }
    let bytes = encode(format, picture, options)
        .map_err(|reason| Error::io(path, "encoding")(IoError::other(reason)))?;

    let mut file = temporary(path, &target)?;
    file.write_all(&bytes).map_err(Error::io(path, "writing"))?;
    complete(path, file, &target, options.overwrite)
}

/// Refuses values that no file can hold.
pub(super) fn check_finite(path: &Path, picture: &Picture) -> Result<()> {
    let Some((x, y)) = picture.first_not_finite() else { return Ok(()) };
    let count = picture.rgb.iter().filter(|v| !v.is_finite()).count();
    let reason = format!("the picture holds {count} values that are NaN or infinite, the first at {x},{y}");
    Err(Error::io(path, "writing")(IoError::new(ErrorKind::InvalidData, reason)))
}

/// All checks that leave the disk alone: the format, and the path to write to, symbolic links resolved.
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

/// Refuses a path that is a folder; `example` is a name that would do inside it.
pub(super) fn check_no_folder(path: &Path, example: &str) -> Result<()> {
    if path.is_dir() {
        let remedy = format!("Add a file name to the path, such as {example}");
        return Err(Error::file(path, "it is a folder", remedy));
    }
    Ok(())
}

/// The bytes of the file, or why there are none.
fn encode(
    format: Format,
    picture: &Picture,
    options: &WriteOptions,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    // check_size has seen these: both fit.
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
                let jfif = usize::from(u16::from_be_bytes([out[4], out[5]]));
                let at = if out[2..4] == [0xff, 0xe0] { 4 + jfif } else { 2 };
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

/// The one page of a TIFF, with texts.
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

/// The values of a file's channels: the picture's, or with alpha those that composited on white give the picture.
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

/// Values as levels of 0 to 255. They are finite here.
pub(super) fn levels8(values: &[f32]) -> Vec<u8> {
    values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}

/// Values as levels of 0 to 65535.
fn levels16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.clamp(0.0, 1.0) * 65535.0).round() as u16).collect()
}
