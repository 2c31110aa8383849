//! The samples of TIFFs that the crate doesn't convert itself: palettes, and channels besides the colours.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use tiff::ColorType;
use tiff::decoder::Decoder;
use tiff::tags::{ByteOrder, PhotometricInterpretation as Kind, Tag};

use super::super::rows::{Colors, Layout, Opacity, Sample};
use super::super::structure;
use super::failure::Failure;

/// A TIFF being decoded.
pub(super) type File<'a> = Decoder<Source<'a>>;

/// Bytes that a stored pixel may have.
const MAX_PIXEL: usize = 32;

/// A TIFF as the crate reads it.
pub(super) struct Source<'a> {
    bytes: Cursor<&'a [u8]>,
    /// Offset of a byte that is replaced, and what it is replaced by.
    replaced: Option<(u64, u8)>,
    /// Whether the bits of each byte are reversed.
    pub(super) is_reversed: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: Cursor::new(bytes), replaced: None, is_reversed: false }
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = self.bytes.position();
        let length = self.bytes.read(buffer)?;
        let read = &mut buffer[..length];
        if let Some((at, value)) = self.replaced {
            let index = at.checked_sub(start).and_then(|index| usize::try_from(index).ok());
            if let Some(byte) = index.and_then(|index| read.get_mut(index)) {
                *byte = value;
            }
        }
        if self.is_reversed {
            read.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        Ok(length)
    }
}

impl Seek for Source<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

/// What the samples of a stored pixel are.
pub(super) struct Samples {
    /// How many samples a pixel has.
    count: usize,
    /// Indices of those that become the picture: its colours, or the index into the palette, and its alpha.
    used: Vec<usize>,
    colors: Colors,
    opacity: Opacity,
    /// Whether 0 is white.
    is_inverted: bool,
    /// The colour for each value of 8 bits, to which others are widened.
    palette: Option<Vec<[u8; 3]>>,
}

impl Samples {
    /// The samples of a picture that the crate converts.
    pub(super) fn plain(layout: Layout) -> Self {
        Self {
            count: layout.channels(),
            used: (0..layout.channels()).collect(),
            colors: layout.colors,
            opacity: layout.opacity,
            is_inverted: false,
            palette: None,
        }
    }

    /// Reads the tags of a picture with a palette or with more channels than its colours, and makes the crate return its
    /// samples as they are stored. Returns None for other pictures.
    ///
    /// The crate refuses palettes, leaves out all channels behind the colours unless the first is alpha, and then uses
    /// the predictor wrongly (tiff 0.11.3).
    pub(super) fn of(file: &mut File<'_>, bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let unsupported = |what: String| Err(Failure::Unsupported(what));
        let kind = file.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation)?.and_then(Kind::from_u16);
        let count = file.find_tag_unsigned::<u16>(Tag::SamplesPerPixel)?.map_or(1, usize::from);
        let extra = file.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples)?.unwrap_or_default();
        let bits = file.find_tag_unsigned_vec::<u8>(Tag::BitsPerSample)?.and_then(|all| all.first().copied());
        let bits = bits.unwrap_or(1);
        let colors = count.saturating_sub(extra.len());
        let alpha = extra.iter().position(|kind| matches!(kind, 1 | 2));
        let (stated, is_inverted) = match (kind, colors) {
            (Some(Kind::RGBPalette), 1) => (Colors::Rgb, false),
            (Some(kind @ (Kind::BlackIsZero | Kind::WhiteIsZero)), 1)
                if extra.len() == 1 || alpha.is_some() =>
            {
                (Colors::Gray, kind == Kind::WhiteIsZero)
            }
            (Some(Kind::RGB), 3) if !extra.is_empty() => (Colors::Rgb, false),
            (Some(Kind::CMYK), 4) if !extra.is_empty() => (Colors::Cmyk, false),
            _ => return Ok(None),
        };
        let opacity = match alpha.map(|index| extra[index]) {
            None => Opacity::Opaque,
            Some(1) => Opacity::Associated,
            Some(_) => Opacity::Straight,
        };
        if stated == Colors::Cmyk && opacity != Opacity::Opaque {
            return unsupported("CMYK with alpha".to_owned());
        }
        if is_inverted && opacity == Opacity::Associated {
            return unsupported("gray from white to black with associated alpha".to_owned());
        }
        if count > 1 && bits < 8 || count * usize::from(bits).div_ceil(8) > MAX_PIXEL {
            return unsupported(format!("{count} channels of {bits} bits"));
        }
        let palette = match kind {
            Some(Kind::RGBPalette) => Some(palette(file, bits)?),
            _ => None,
        };
        let used = (0..colors).chain(alpha.map(|index| colors + index)).collect();
        return_stored_samples(file, bytes)?;
        Ok(Some(Self { count, used, colors: stated, opacity, is_inverted, palette }))
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn used(&self) -> &[usize] {
        &self.used
    }

    /// Index of the last sample that is used.
    pub(super) fn last(&self) -> usize {
        self.used.last().copied().unwrap_or(0)
    }

    pub(super) fn are_all_used(&self) -> bool {
        self.used.len() == self.count
    }

    /// Adds notes on what is done to them.
    pub(super) fn note(&self, notes: &mut Vec<String>) {
        if self.palette.is_some() {
            notes.push("palette expanded".to_owned());
        }
        match self.count - self.used.len() {
            0 => {}
            1 => notes.push("one extra channel ignored".to_owned()),
            ignored => notes.push(format!("{ignored} extra channels ignored")),
        }
    }

    /// Returns the layout of the picture.
    pub(super) fn layout(&self, sample: Sample) -> Result<Layout, Failure> {
        if self.palette.is_some() && sample != Sample::U8 {
            return Err(Failure::Unsupported("a palette of more than 256 colours".to_owned()));
        }
        Ok(Layout { sample, colors: self.colors, opacity: self.opacity })
    }

    /// Returns the layout of the samples that are used, as they are stored.
    pub(super) fn stored(&self, layout: Layout) -> Layout {
        if self.palette.is_some() { Layout { colors: Colors::Gray, ..layout } } else { layout }
    }

    /// Converts a row of used samples to the picture's layout.
    pub(super) fn convert(&self, stored: &mut Vec<u8>, layout: Layout, row: &mut Vec<u8>) {
        if let Some(palette) = &self.palette {
            let pixels = stored.chunks_exact(self.used.len());
            for (to, from) in row.chunks_exact_mut(layout.pixel_bytes()).zip(pixels) {
                to[..3].copy_from_slice(&palette[usize::from(from[0])]);
                to[3..].copy_from_slice(&from[1..]);
            }
            return;
        }
        if self.is_inverted {
            let sample = layout.pixel_bytes() / layout.channels();
            let grays = stored.chunks_exact_mut(layout.pixel_bytes()).map(|pixel| &mut pixel[..sample]);
            for gray in grays {
                if layout.sample == Sample::F32 {
                    let values = gray.as_chunks_mut().0.iter_mut();
                    values.for_each(|value| *value = (1.0 - f32::from_ne_bytes(*value)).to_ne_bytes());
                } else {
                    gray.iter_mut().for_each(|byte| *byte = !*byte);
                }
            }
        }
        std::mem::swap(stored, row);
    }
}

/// Reads the palette, with a colour for each value of 8 bits.
fn palette(file: &mut File<'_>, bits: u8) -> Result<Vec<[u8; 3]>, Failure> {
    if !matches!(bits, 1 | 2 | 4 | 8) {
        return Err(Failure::Unsupported(format!("a palette of {bits} bits")));
    }
    let colors = 1 << bits;
    let count = file.image_ifd().find_entry(Tag::ColorMap).map_or(0, |entry| entry.count());
    let levels = match usize::try_from(count) {
        Ok(count) if count == 3 * colors => file.find_tag_unsigned_vec::<u16>(Tag::ColorMap)?,
        _ => None,
    };
    let levels = levels.unwrap_or_default();
    if levels.len() != 3 * colors {
        return Err(Failure::Damaged("its palette doesn't have a colour for each value".to_owned()));
    }
    // Some programs write levels of 8 bits, as libtiff notices too.
    let shift = if levels.iter().all(|level| *level < 256) { 0 } else { 8 };
    let color = |index: usize| [0, 1, 2].map(|channel| (levels[channel * colors + index] >> shift) as u8);
    Ok((0..256).map(|value| color(value * (colors - 1) / 255)).collect())
}

/// Makes the crate return samples as they are stored, by having it read gray instead of the colours of the file.
fn return_stored_samples(file: &mut File<'_>, bytes: &[u8]) -> Result<(), Failure> {
    let at = file.ifd_pointer().and_then(|ifd| {
        let is_big_endian = file.byte_order() == ByteOrder::BigEndian;
        color_tag_value(bytes, usize::try_from(ifd.0).ok()?, is_big_endian)
    });
    file.inner().replaced = at.map(|at| (at as u64, Kind::BlackIsZero.to_u16() as u8));
    file.seek_to_image(0)?;
    match file.colortype()? {
        ColorType::Gray(_) | ColorType::Multiband { .. } => Ok(()),
        _ => Err(Failure::Damaged("its tags contradict each other".to_owned())),
    }
}

/// Returns the offset of the byte with the value of PhotometricInterpretation in a directory.
fn color_tag_value(bytes: &[u8], ifd: usize, is_big_endian: bool) -> Option<usize> {
    let number = |at: usize, length: usize| structure::number(bytes, at, length, is_big_endian);
    let (count_bytes, entry_bytes, value_at) =
        if structure::is_big_tiff(bytes) { (8, 20, 12) } else { (2, 12, 8) };
    let entries = bytes.get(ifd..)?.get(count_bytes..)?.chunks_exact(entry_bytes);
    let count = usize::try_from(number(ifd, count_bytes)?).ok()?;
    let tag = u64::from(Tag::PhotometricInterpretation.to_u16());
    let is_it = |entry: &[u8]| structure::number(entry, 0, 2, is_big_endian) == Some(tag);
    let entry = ifd + count_bytes + entries.take(count).position(is_it)? * entry_bytes;
    // Bytes of a number of this type.
    let length = match number(entry + 2, 2)? {
        1 => 1,
        3 => 2,
        4 => 4,
        16 => 8,
        _ => return None,
    };
    Some(entry + value_at + if is_big_endian { length - 1 } else { 0 })
}
