//! Reads and writes pictures.
//!
//! [`read`] accepts PNG, JPEG, WebP, TIFF, GIF and BMP, recognised by content and not by file name, and
//! returns one kind of picture whatever the file holds: upright, opaque, three channels of
//! `f32`, sRGB. [`Decoded::alpha`] says how opaque it was, [`Decoded::notes`] what had to be changed. [`write()`] makes a file
//! appear whole or not at all, with text [metadata](WriteOptions::metadata) inside, which
//! [`read_metadata`] gives back. A [`Film`] is an animation that grows while a run goes on, a [`Sheet`] a grid of
//! pictures with words around them.
//!
//! # Values
//! All values are *sRGB-encoded*, as in the files, not linear light: the networks were trained on
//! encoded values. [`resize`] works on encoded values too, as PIL, torchvision and the other style
//! transfer programs do; that is not photometrically exact, but it is what the weights expect.
#![warn(missing_docs)]

mod color;
mod decode;
mod encode;
#[cfg(feature = "film")]
mod film;
mod metadata;
mod resize;
mod rows;
mod sheet;
mod structure;

use crate::{Error, Result};

pub use decode::{ReadOptions, read, read_bytes, read_metadata, read_with};
pub use encode::{BitDepth, WriteOptions, check_writable, holds_alpha, write, writes};
#[cfg(feature = "film")]
pub use film::{Film, FilmOptions, MAX_FRAME_MILLISECONDS, check_film};
pub use resize::{fit, resize};
pub use sheet::{Cell, Sheet};

/// The longest side, in pixels, of a picture that is read, written or made by [`resize`].
pub const MAX_SIDE: usize = 32_768;

/// The most pixels of a picture that is read, written or made by [`resize`]: 256 Mi, more than any
/// phone or medium format camera delivers, and 3 GiB as `f32`.
pub const MAX_PIXELS: usize = 1 << 28;

/// An RGB picture: interleaved `f32`, row-major, 3 values per pixel, sRGB-encoded, nominal range
/// [0, 1]. Values may lie outside of the range: resampling overshoots at sharp edges, and so does
/// optimisation. [`write()`] clamps.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height * 3` values: red, green, blue of the top left pixel, then of the next to the
    /// right.
    pub rgb: Vec<f32>,
}

impl Picture {
    /// A picture from its values.
    ///
    /// # Errors
    /// [`Error::Usage`] if a side is 0 or beyond the limits, or `rgb` doesn't hold
    /// `width * height * 3` values.
    pub fn new(width: usize, height: usize, rgb: Vec<f32>) -> Result<Self> {
        let picture = Self { width, height, rgb };
        picture.check()?;
        Ok(picture)
    }

    /// Whether the sides are within the limits and the values match them (the fields are public, so
    /// a caller may have changed one).
    pub(crate) fn check(&self) -> Result<()> {
        check_size(self.width, self.height).map_err(Error::Usage)?;
        let expected = self.width * self.height * 3;
        if self.rgb.len() != expected {
            return Err(Error::usage(format!(
                "a picture of {}x{} pixels needs {expected} values but has {}. This is a mistake in the calling code",
                self.width,
                self.height,
                self.rgb.len()
            )));
        }
        Ok(())
    }

    /// The same, and whether all values are finite. `what` it is stands in the message.
    pub(crate) fn check_values(&self, what: &str) -> Result<()> {
        self.check()?;
        let Some((column, row)) = self.first_not_finite() else { return Ok(()) };
        Err(Error::usage(format!("{what} has a value that is not finite, in row {row}, column {column}")))
    }

    /// Column and row of the first pixel with a value that is NaN or infinite.
    fn first_not_finite(&self) -> Option<(usize, usize)> {
        let at = self.rgb.iter().position(|value| !value.is_finite())?;
        Some((at / 3 % self.width, at / 3 / self.width))
    }
}

/// How opaque the pixels of a picture are.
#[derive(Debug, Clone, PartialEq)]
pub struct Alpha {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` values, row-major, from 0 (transparent) to 1 (opaque).
    pub values: Vec<f32>,
}

impl Alpha {
    /// Whether the sides are within the limits and the values match them.
    pub(crate) fn check(&self) -> Result<()> {
        check_size(self.width, self.height).map_err(Error::Usage)?;
        if self.values.len() != self.width * self.height {
            return Err(Error::usage(format!(
                "the alpha of {}x{} pixels has {} values. This is a mistake in the calling code",
                self.width,
                self.height,
                self.values.len()
            )));
        }
        Ok(())
    }
}

/// A picture as [`read`] found it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Decoded {
    /// The picture: upright, opaque, sRGB.
    pub picture: Picture,
    /// How opaque it was, at the picture's size, if it was not opaque everywhere.
    pub alpha: Option<Alpha>,
    /// Width and height in the file, upright. The picture is smaller only if [`ReadOptions::longest`] allows it.
    pub size: (usize, usize),
    /// What was done to the file's content on the way, for people to read, such as
    /// "EXIF orientation 6 applied" or "alpha composited on white". Empty for a plain photo.
    pub notes: Vec<String>,
    /// Bytes that reading it took at most: the file, what its decoder returned at once, and the picture.
    pub memory: u64,
}

/// Whether a picture of this size is within the limits; else a sentence that says why not, without
/// its full stop.
pub(crate) fn check_size(width: usize, height: usize) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("the picture has no pixels: {width}x{height}"));
    }
    if width > MAX_SIDE || height > MAX_SIDE || width.saturating_mul(height) > MAX_PIXELS {
        return Err(format!(
            "the picture is too large: {width}x{height} pixels; the limits are {MAX_SIDE} pixels a side and {MAX_PIXELS} in all"
        ));
    }
    Ok(())
}
