//! The format-independent part of reading a picture.

use std::cell::Cell;

use image::metadata::Orientation;

use super::super::color::{self, Gamma, Profile};
use super::super::rows::{Colors, Keep, Layout, Rows, Sample};
use super::super::{MAX_PIXELS, check_size, structure};
use super::failure::Failure;
use crate::allocation::zeros;

/// Maximum pixels per byte of the file for a picture that is decoded in one piece: more than in any photo, and more
/// than JPEG can encode.
const MOST_PER_BYTE: usize = 1024;

/// A decoder may always decode this many times [`ReadOptions::plain_pixels`] at once: 64 Mi pixels, which take up to
/// 800 MB.
const WHOLE: usize = 4;

/// Options of [`read_with`](super::read_with).
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Longest side in pixels that the caller needs. A picture of more than 16 Mi pixels that is longer than four
    /// times this side is averaged down to four times it while it is read, so it is never in memory as a whole. For a
    /// JPEG of more than 64 Mi pixels this includes the decoder's buffer.
    pub longest: Option<usize>,
    /// Background colour for transparent pixels: sRGB, each channel from 0 to 1.
    pub background: [f32; 3],
    /// Pictures with more pixels are rejected. Hidden: for tests with limits of time and memory, which a large picture
    /// may exceed.
    #[doc(hidden)]
    pub most_pixels: usize,
    /// Pictures of up to this many pixels are never averaged. Hidden: for tests of how large pictures are reduced.
    #[doc(hidden)]
    pub plain_pixels: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { longest: None, background: [1.0; 3], most_pixels: MAX_PIXELS, plain_pixels: 1 << 24 }
    }
}

/// A file's colour space.
#[derive(Debug)]
pub(super) enum Embedded {
    Nothing,
    /// An ICC profile. If it can't be used, a PNG may have gAMA and cHRM instead.
    Profile(Vec<u8>, Option<Gamma>),
    /// The code points of PNG's cICP.
    CodePoints([u8; 4]),
    /// PNG's gAMA and cHRM.
    Gamma(Gamma),
}

impl From<Option<Vec<u8>>> for Embedded {
    fn from(profile: Option<Vec<u8>>) -> Self {
        profile.map_or(Self::Nothing, |icc| Self::Profile(icc, None))
    }
}

/// A completely read picture and its EXIF orientation.
pub(super) struct Stored {
    pub rows: Rows,
    pub orientation: Orientation,
}

/// A picture that is being read.
pub(super) struct Reading<'a> {
    options: &'a ReadOptions,
    /// Size of the file in bytes.
    file: usize,
    /// Conversions applied to the file's content.
    pub notes: Vec<String>,
    /// Size of the largest buffer so far, in bytes.
    largest: Cell<usize>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(options: &'a ReadOptions, file: usize) -> Self {
        Self { options, file, notes: Vec::new(), largest: Cell::new(0) }
    }

    /// Rejects a size from a file's header that exceeds the limits.
    pub(super) fn check_size(&self, (width, height): (u32, u32)) -> Result<(), Failure> {
        let size = (width as usize, height as usize);
        let within = check_size(size.0, size.1).and_then(|()| match self.options.most_pixels {
            most if size.0 * size.1 > most => Err(format!("the picture has more than {most} pixels")),
            _ => Ok(()),
        });
        let remedy = match size {
            (0, _) | (_, 0) => "Get an intact copy of the file",
            _ => "Scale the picture down first, or get an intact copy",
        };
        within.map_err(|problem| Failure::Refused(problem, remedy))
    }

    /// Checks as [`Reading::check_size`], for pixels that are decoded in one piece: also rejects a size that is
    /// implausibly large for the file.
    pub(super) fn check_whole(&self, size: (u32, u32)) -> Result<(), Failure> {
        self.check_size(size)?;
        let pixels = size.0 as usize * size.1 as usize;
        if pixels > ReadOptions::default().plain_pixels && pixels / MOST_PER_BYTE > self.file {
            let problem =
                format!("its header says {}x{} pixels, but it has only {} bytes", size.0, size.1, self.file);
            return Err(Failure::Refused(problem, "Get an intact copy of the file"));
        }
        Ok(())
    }

    /// Allocates a decoder's output buffer.
    pub(super) fn buffer(&self, bytes: usize) -> Result<Vec<u8>, Failure> {
        self.note_buffer(bytes);
        zeros(bytes).map_err(Failure::Memory)
    }

    /// Accounts for a buffer that a decoder allocates itself.
    pub(super) fn note_buffer(&self, bytes: usize) {
        self.largest.set(self.largest.get().max(bytes));
    }

    fn keep(&self) -> Keep {
        Keep { longest: self.options.longest, pixels: self.options.plain_pixels }
    }

    /// Returns the side (1, 2, 4 or 8) of the blocks of pixels that a decoder may reduce to their mean to save memory;
    /// 1 for pictures that it can hold as a whole.
    pub(super) fn step(&self, (width, height): (u32, u32)) -> usize {
        let size = (width as usize, height as usize);
        if size.0 * size.1 / WHOLE > self.options.plain_pixels { self.keep().step(size) } else { 1 }
    }

    /// Returns the peak memory in bytes for reading a picture of this many floats. Turning it needs a second copy.
    pub(super) fn memory(&self, floats: usize, turned: bool) -> u64 {
        let picture = floats as u64 * 4;
        let besides = if turned { picture.max(self.largest.get() as u64) } else { self.largest.get() as u64 };
        self.file as u64 + picture + besides
    }

    /// Adds a note if only the first of several frames is used.
    pub(super) fn note_frames(&mut self, count: usize) {
        if count > 1 {
            self.notes.push(format!("animation: only the first of {count} frames is used"));
        }
    }

    /// Starts collecting the rows of a picture.
    pub(super) fn start(
        &mut self,
        size: (u32, u32),
        layout: Layout,
        embedded: Embedded,
    ) -> Result<Rows, Failure> {
        self.start_reduced(size, 1, layout, embedded)
    }

    /// Like [`Reading::start`], for rows whose pixels are means of `step` x `step` pixels of the picture; `step` is the
    /// result of [`Reading::step`].
    pub(super) fn start_reduced(
        &mut self,
        (width, height): (u32, u32),
        step: usize,
        layout: Layout,
        embedded: Embedded,
    ) -> Result<Rows, Failure> {
        let mut note = |text: &str| self.notes.push(text.to_owned());
        match layout.colors {
            Colors::Gray => note("grayscale expanded"),
            Colors::Rgb => {}
            Colors::Cmyk => note("CMYK converted to RGB"),
        }
        match layout.sample {
            Sample::U8 => {}
            Sample::U16 => note("16 bit"),
            Sample::F32 => note("32 bit float, taken as sRGB-encoded"),
        }
        const PROFILE: &str = "the embedded colour profile";
        let (profile, what) = match embedded {
            Embedded::Nothing => (Profile::Srgb, PROFILE),
            Embedded::Profile(icc, gamma) => match (color::judge(&icc, layout.colors.count()), gamma) {
                (Profile::Ignored(reason), Some(gamma)) => {
                    note(&format!("ignored {PROFILE}: {reason}"));
                    judge_gamma(gamma, &mut note)
                }
                (judged, _) => (judged, PROFILE),
            },
            Embedded::CodePoints(points) => {
                let judged = color::judge_code_points(points).map_err(|problem| {
                    Failure::Refused(problem, "Export it as an sRGB PNG or JPEG and try again")
                })?;
                (judged, "the colours of its cICP")
            }
            Embedded::Gamma(gamma) => judge_gamma(gamma, &mut note),
        };
        let mut to_srgb = None;
        match profile {
            Profile::Srgb => {}
            Profile::Convert(conversion, name) => {
                note(&format!("converted from {what}{name} to sRGB"));
                to_srgb = Some(conversion);
            }
            Profile::Ignored(reason) => note(&format!("ignored {what}: {reason}")),
        }
        let size = (width as usize, height as usize);
        Rows::new(layout, size, step, self.keep(), self.options.background, to_srgb).map_err(Failure::Memory)
    }

    /// Adds a note that pixels were not opaque.
    pub(super) fn note_alpha(&mut self) {
        let [red, green, blue] = self.options.background.map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8);
        let on = match [red, green, blue] {
            [255, 255, 255] => "white".to_owned(),
            [0, 0, 0] => "black".to_owned(),
            _ => format!("#{red:02x}{green:02x}{blue:02x}"),
        };
        self.notes.push(format!("alpha composited on {on}"));
    }
}

/// Classifies the colours of a PNG's gAMA and cHRM, and names them. A cHRM that can't be used is noted.
fn judge_gamma(mut gamma: Gamma, note: &mut impl FnMut(&str)) -> (Profile, &'static str) {
    if let Some(problem) = gamma.chromaticities.and_then(color::fault) {
        note(&format!("ignored its cHRM: {problem}"));
        gamma.chromaticities = None;
    }
    (color::judge_gamma(gamma), "the colours of its gAMA or cHRM")
}

/// Returns the orientation in an EXIF block; no transform if it is missing or invalid.
pub(super) fn orientation(exif: Option<&[u8]>) -> Orientation {
    // Some writers leave the prefix that JPEG needs in PNG and WebP too.
    exif.and_then(|exif| orientation_tag(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)))
        .unwrap_or(Orientation::NoTransforms)
}

/// Reads the orientation tag of an EXIF block. `image` does so only for 16 bit numbers (SHORT), as the standard has it,
/// but some programs write 32 bit ones (LONG).
fn orientation_tag(exif: &[u8]) -> Option<Orientation> {
    let is_big_endian = match exif.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let number = |at: usize, length: usize| structure::number(exif, at, length, is_big_endian);
    let at = usize::try_from(number(4, 4)?).ok()?;
    for index in 0..number(at, 2)? as usize {
        let entry = at + 2 + index * 12;
        let value = match (number(entry, 2)?, number(entry + 2, 2)?, number(entry + 4, 4)?) {
            (0x112, 3, 1) => number(entry + 8, 2)?,
            (0x112, 4, 1) => number(entry + 8, 4)?,
            _ => continue,
        };
        return Orientation::from_exif(u8::try_from(value).ok()?);
    }
    None
}
