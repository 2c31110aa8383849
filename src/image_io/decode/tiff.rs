//! Reads TIFF and BigTIFF, one strip or one row of tiles at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use tiff::decoder::ifd::Value;
use tiff::decoder::{ChunkType, Decoder, Limits, TiffCodingUnit};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError, TiffUnsupportedError};

use super::super::color::MAX_PROFILE;
use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::super::structure;
use super::failure::Failure;
use super::reading::{Reading, Stored};
use super::tiff_samples::{File, Samples, Source};

/// Tags without a name in the crate.
const COEFFICIENTS: Tag = Tag::Unknown(529);
const REFERENCE: Tag = Tag::Unknown(532);
/// Value of the compression tag for JPEG data whose tables are in a separate tag.
const JPEG: u16 = 7;
/// Markers of camera raw files, whose first page is a small preview: DNG's version tag, and the bytes after TIFF's
/// header in Canon's CR2.
const DNG_VERSION: Tag = Tag::Unknown(50_706);
const CR2: &[u8] = b"CR";

/// Value of the tag FillOrder for bytes whose first pixel is in the lowest bits.
const LOWEST_FIRST: u16 = 2;

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<Stored, Failure> {
    let mut limits = Limits::default();
    // Stored data are no larger than the file; decoded data have a limit of their own. A tag may have as many values as
    // the file has bytes, up to eight million; the crate needs 32 bytes for each.
    limits.intermediate_buffer_size = bytes.len();
    limits.decoding_buffer_size = bytes.len().saturating_mul(size_of::<Value>()).min(1 << 28);
    let mut file: File<'_> = Decoder::new(Source::new(bytes))?.with_limits(limits);
    let size = file.dimensions()?;
    reading.check_size(size)?;
    if is_raw(&mut file, bytes) {
        return Err(Failure::Unsupported("a camera's raw picture".to_owned()));
    }
    if file.more_images() {
        reading.notes.push("several pages: only the first is used".to_owned());
    }
    let samples = Samples::of(&mut file, bytes)?;
    let color = file.colortype()?;
    let (layout, samples) = match samples {
        Some(samples) => (samples.layout(sample(&mut file, color.bit_depth())?)?, samples),
        None => {
            let layout = layout(&mut file, color)?;
            (layout, Samples::plain(layout))
        }
    };
    samples.note(&mut reading.notes);
    let luma = match color {
        ColorType::YCbCr(_) => Some(Luma::of(&mut file)),
        _ => None,
    };
    let icc = profile(&mut file, bytes.len());
    let orientation = file.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    let mut rows = reading.start(size, layout, icc.into())?;

    let chunk = file.chunk_dimensions();
    // A strip may declare more rows than the picture has.
    let (across, down) = (size.0.div_ceil(chunk.0), size.1.div_ceil(chunk.1));
    reading.check_whole((chunk.0.min(size.0), chunk.1.min(size.1)))?;
    check_jpegs(&mut file, bytes, chunk)?;
    let is_jpeg = file.find_tag_unsigned::<u16>(Tag::Compression)? == Some(JPEG);
    // As in libtiff, the bits of JPEG data are never reversed.
    let is_reversed =
        !is_jpeg && file.find_tag_unsigned::<u16>(Tag::FillOrder).ok().flatten() == Some(LOWEST_FIRST);
    file.inner().is_reversed = is_reversed;
    let stored = samples.stored(layout);
    let mut line = vec![0; size.0 as usize * stored.pixel_bytes()];
    let mut row = vec![0; rows.row_bytes()];
    for band in 0..down {
        let chunks = (0..across).map(|x| Chunk::read(&mut file, band * across + x, &samples, reading));
        let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
        for y in 0..chunk.1.min(size.1 - band * chunk.1) as usize {
            let mut at = 0;
            for chunk in &chunks {
                let end = at + chunk.width * stored.pixel_bytes();
                chunk.copy_row(y, color.bit_depth(), stored, &samples, &mut line[at..end]);
                at = end;
            }
            samples.convert(&mut line, layout, &mut row);
            if let Some(luma) = &luma {
                row.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = luma.rgb(*pixel));
            }
            rows.push(&row)?;
        }
    }
    Ok(Stored { rows, orientation })
}

/// Returns true for a camera raw file, whose first page is only a preview.
fn is_raw(file: &mut File<'_>, bytes: &[u8]) -> bool {
    let kind = file.find_tag_unsigned::<u32>(Tag::NewSubfileType).ok().flatten().unwrap_or(0);
    bytes.get(8..10) == Some(CR2) || kind & 1 == 1 || file.find_tag(DNG_VERSION).ok().flatten().is_some()
}

/// Reads the embedded profile, up to one byte more than the limit. Read as a `Value` it would take 32 times its size.
fn profile(file: &mut File<'_>, most: usize) -> Option<Vec<u8>> {
    let mut icc = vec![0; most.min(MAX_PROFILE + 1)];
    let length = file.image_ifd().find_tag_bytes(Tag::IccProfile, &mut icc, 0).ok()??;
    icc.truncate(length);
    Some(icc)
}

/// Returns how a sample of this many bits is stored.
fn sample(file: &mut File<'_>, bits: u8) -> Result<Sample, Failure> {
    let format = file.find_tag_unsigned_vec::<u16>(Tag::SampleFormat)?.and_then(|all| all.first().copied());
    // Without the tag samples are unsigned integers.
    let (kind, sample) = match (format.unwrap_or(1), bits) {
        (1 | 4, 1 | 2 | 4 | 8) => ("", Some(Sample::U8)),
        (1 | 4, 16) => ("", Some(Sample::U16)),
        (3, 32) => ("", Some(Sample::F32)),
        (1 | 4, _) => ("whole numbers", None),
        (2, _) => ("signed whole numbers", None),
        (3, _) => ("floating point numbers", None),
        _ => ("numbers of another kind", None),
    };
    sample.ok_or_else(|| Failure::Unsupported(format!("{bits} bit {kind}")))
}

/// What a pixel is made of.
fn layout(file: &mut File<'_>, color: ColorType) -> Result<Layout, Failure> {
    let bits = color.bit_depth();
    let sample = sample(file, bits)?;
    let extra = file.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).ok().flatten().unwrap_or_default();
    let opacity = if extra.first() == Some(&1) { Opacity::Associated } else { Opacity::Straight };
    let unsupported = |what: &str| Err(Failure::Unsupported(what.to_owned()));
    let (colors, opacity) = match color {
        ColorType::Gray(_) => (Colors::Gray, Opacity::Opaque),
        ColorType::RGB(8..) => (Colors::Rgb, Opacity::Opaque),
        ColorType::RGBA(8..) => (Colors::Rgb, opacity),
        ColorType::YCbCr(8) => (Colors::Rgb, Opacity::Opaque),
        ColorType::CMYK(8 | 16) => (Colors::Cmyk, Opacity::Opaque),
        ColorType::CMYKA(_) => return unsupported("CMYK with alpha"),
        ColorType::Lab(_) => return unsupported("CIE L*a*b*"),
        ColorType::YCbCr(_) => return unsupported("YCbCr of more than 8 bits"),
        ColorType::Multiband { num_samples, .. } => {
            return unsupported(&format!("{num_samples} channels without a colour space"));
        }
        _ => return unsupported(&format!("{bits} bits per channel")),
    };
    Ok(Layout { sample, colors, opacity })
}

/// Rejects JPEG data whose header has a larger size than their strip or tile: the decoder would allocate for it.
fn check_jpegs(file: &mut File<'_>, bytes: &[u8], chunk: (u32, u32)) -> Result<(), Failure> {
    if file.find_tag_unsigned::<u16>(Tag::Compression)? != Some(JPEG) {
        return Ok(());
    }
    let offsets = match file.get_chunk_type() {
        ChunkType::Strip => Tag::StripOffsets,
        ChunkType::Tile => Tag::TileOffsets,
    };
    for offset in file.find_tag_unsigned_vec::<u64>(offsets)?.unwrap_or_default() {
        let data = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let header = structure::jpeg_header(data);
        if header.size.is_some_and(|(width, height)| width > chunk.0 || height > chunk.1) {
            return Err(Failure::Damaged("its JPEG data are larger than their strip or tile".to_owned()));
        }
        if !matches!(header.precision, 0 | 8) {
            return Err(Failure::Unsupported(format!("JPEG of {} bits per channel", header.precision)));
        }
    }
    Ok(())
}

/// A strip, or a tile without its padding.
struct Chunk {
    width: usize,
    bytes: Vec<u8>,
    row_bytes: usize,
    planes: usize,
    /// Whether each sample of a pixel is in a plane of its own.
    is_planar: bool,
}

impl Chunk {
    fn read(
        file: &mut File<'_>,
        index: u32,
        samples: &Samples,
        reading: &Reading<'_>,
    ) -> Result<Self, Failure> {
        let unit = TiffCodingUnit(index);
        let stored = file.image_coding_unit_layout(unit)?;
        let planes = stored.planes.max(1);
        // The crate reads as many planes as there is room for.
        let used = planes.min(samples.last() + 1);
        let mut bytes = reading.buffer(stored.complete_len / planes * used)?;
        // The crate asserts that a damaged file's tags agree (tiff 0.11.3, `expand_chunk`).
        let read = AssertUnwindSafe(|| file.read_coding_unit_bytes(unit, &mut bytes));
        match catch_unwind(read) {
            Ok(read) => read?,
            Err(_) => return Err(Failure::Damaged("its tags contradict each other".to_owned())),
        }
        let width = file.chunk_data_dimensions(index).0 as usize;
        let row_bytes = stored.row_stride.map_or(0, usize::from);
        Ok(Self { width, bytes, row_bytes, planes: used, is_planar: planes > 1 })
    }

    /// Copies a row to `to` with interleaved samples, those of less than 8 bits widened to 8.
    fn copy_row(&self, y: usize, bits: u8, layout: Layout, samples: &Samples, to: &mut [u8]) {
        let plane_bytes = self.bytes.len() / self.planes;
        let row = |plane: usize| {
            let at = plane * plane_bytes + y * self.row_bytes;
            self.bytes.get(at..at + self.row_bytes).unwrap_or_default()
        };
        let sample = layout.pixel_bytes() / layout.channels();
        if bits < 8 {
            let (per_byte, most) = (8 / usize::from(bits), (1u16 << bits) - 1);
            for (x, value) in to.iter_mut().enumerate() {
                let shift = 8 - usize::from(bits) * (x % per_byte + 1);
                let level = row(0).get(x / per_byte).map_or(0, |byte| u16::from(*byte) >> shift & most);
                *value = (level * 255 / most) as u8;
            }
        } else if self.is_planar {
            for (index, plane) in samples.used().iter().enumerate() {
                let pixels = to.chunks_exact_mut(layout.pixel_bytes()).zip(row(*plane).chunks_exact(sample));
                pixels.for_each(|(pixel, v)| pixel[index * sample..(index + 1) * sample].copy_from_slice(v));
            }
        } else if samples.are_all_used() {
            to.iter_mut().zip(row(0)).for_each(|(to, v)| *to = *v);
        } else {
            let pixels = row(0).chunks_exact(samples.count() * sample);
            for (pixel, stored) in to.chunks_exact_mut(layout.pixel_bytes()).zip(pixels) {
                for (to, index) in pixel.chunks_exact_mut(sample).zip(samples.used()) {
                    to.copy_from_slice(&stored[index * sample..(index + 1) * sample]);
                }
            }
        }
    }
}

/// The conversion from YCbCr to RGB.
struct Luma {
    /// Contributions of red, green and blue to luminance.
    weights: [f32; 3],
    /// Codes of black and white of each channel.
    reference: [f32; 6],
}

impl Luma {
    fn of(file: &mut File<'_>) -> Self {
        let weights = ratios(file, COEFFICIENTS).filter(|w: &[f32; 3]| w.iter().all(|w| *w > 0.0));
        let reference =
            ratios(file, REFERENCE).filter(|r: &[f32; 6]| r[1] > r[0] && r[3] > r[2] && r[5] > r[4]);
        Self {
            weights: weights.unwrap_or([0.299, 0.587, 0.114]),
            reference: reference.unwrap_or([0.0, 255.0, 128.0, 255.0, 128.0, 255.0]),
        }
    }

    fn rgb(&self, pixel: [u8; 3]) -> [u8; 3] {
        let range = [255.0, 127.0, 127.0];
        let [y, cb, cr] = [0, 1, 2].map(|i| {
            let (black, white) = (self.reference[2 * i], self.reference[2 * i + 1]);
            (f32::from(pixel[i]) - black) * range[i] / (white - black)
        });
        let [red, green, blue] = self.weights;
        let (r, b) = (y + cr * (2.0 - 2.0 * red), y + cb * (2.0 - 2.0 * blue));
        [r, (y - red * r - blue * b) / green, b].map(|v| v.round() as u8)
    }
}

/// Reads a tag with exactly `N` fractions.
fn ratios<const N: usize>(file: &mut File<'_>, tag: Tag) -> Option<[f32; N]> {
    let Ok(Some(Value::List(values))) = file.find_tag(tag) else { return None };
    let ratio = |value: &Value| match value {
        Value::Rational(above, below) if *below > 0 => Some(*above as f32 / *below as f32),
        _ => None,
    };
    values.iter().map(ratio).collect::<Option<Vec<_>>>()?.try_into().ok()
}

impl From<TiffError> for Failure {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::IoError(error) => Self::of_io(&error),
            TiffError::LimitsExceeded => Self::limits(),
            TiffError::UnsupportedError(error) => Self::Unsupported(kind(&error)),
            error => Self::damaged(&error),
        }
    }
}

/// Names the kind of TIFF that the crate doesn't read.
fn kind(error: &TiffUnsupportedError) -> String {
    use tiff::tags::{CompressionMethod as Method, PhotometricInterpretation as Color};
    let text = match error {
        TiffUnsupportedError::ChromaSubsampling => {
            "YCbCr with colours of lower resolution, not compressed as JPEG"
        }
        TiffUnsupportedError::InterpretationWithBits(color, bits) => match color {
            Color::CIELab | Color::IccLab | Color::ItuLab => "CIE L*a*b*",
            Color::TransparencyMask => "a transparency mask",
            Color::RGBPalette => "a palette with several channels",
            Color::RGB => return format!("{} channels of RGB", bits.len()),
            Color::CMYK => return format!("{} channels of CMYK", bits.len()),
            _ => return format!("{} channels of YCbCr", bits.len()),
        },
        TiffUnsupportedError::UnsupportedCompressionMethod(method) => match method {
            Method::Huffman => "CCITT modified Huffman compression",
            Method::Fax3 => "CCITT Group 3 compression",
            Method::JPEG => "JPEG compression of the old kind",
            Method::ZSTD => "Zstandard compression",
            Method::WebP => "WebP compression",
            method => return format!("compression of kind {}", method.to_u16()),
        },
        TiffUnsupportedError::UnknownInterpretation => "colours of no known kind",
        TiffUnsupportedError::InconsistentBitsPerSample(_) => "channels with different numbers of bits",
        TiffUnsupportedError::UnsupportedSampleFormat(_) => "channels with different kinds of numbers",
        TiffUnsupportedError::HorizontalPredictor(color)
        | TiffUnsupportedError::FloatingPointPredictor(color) => {
            return format!("a predictor of {} bit values", color.bit_depth());
        }
        TiffUnsupportedError::MisalignedTileBoundaries => "tiles whose rows end within a byte",
        error => return error.to_string(),
    };
    text.to_owned()
}
