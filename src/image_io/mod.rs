//! Reads and writes pictures.
//!
//! [`read`] accepts PNG, JPEG, WebP, TIFF, GIF and BMP, recognised by content rather than file name, and
//! always returns the same kind of picture: upright, opaque, three channels of `f32`, sRGB.
//! [`Decoded::alpha`] holds the original opacity, [`Decoded::notes`] lists the conversions. [`write()`]
//! writes a file atomically and can embed text [metadata](WriteOptions::metadata), which [`read_metadata`]
//! reads. A [`Film`] is an animation that is written during a run, a [`Sheet`] is a labelled grid of pictures.
//!
//! # Values
//! All values are *sRGB-encoded*, as in the files, not linear light: the networks were trained on
//! encoded values. [`resize`] works on encoded values too, as PIL, torchvision and the other style
//! transfer programs do; that is not photometrically exact, but it is what the weights expect.
#![warn(missing_docs)]

mod checksum;
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

pub use decode::{ReadOptions, is_unchanged, read, read_bytes, read_metadata, read_with};
pub use encode::{BitDepth, WriteOptions, check_writable, holds_alpha, write, writes};
#[cfg(feature = "film")]
pub use film::{Film, FilmMark, FilmOptions, MAX_FRAME_MILLISECONDS, check_film};
pub use resize::{fit, resize};
pub use sheet::{Cell, Sheet};

/// Longest side, in pixels, of a picture that can be read, written or resized.
pub const MAX_SIDE: usize = 32_768;

/// Maximum number of pixels of a picture that can be read, written or resized: 256 Mi, more than any
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
    /// Creates a picture from its values.
    ///
    /// # Errors
    /// [`Error::Usage`] if a side is 0 or beyond the limits, or `rgb` doesn't hold
    /// `width * height * 3` values.
    pub fn new(width: usize, height: usize, rgb: Vec<f32>) -> Result<Self> {
        let picture = Self { width, height, rgb };
        picture.check()?;
        Ok(picture)
    }

    /// Checks that the sides are within the limits and match the number of values (the fields are public,
    /// so a caller may have changed one).
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

    /// Checks as [`Picture::check`], and that all values are finite. `what` names the picture in the message.
    pub(crate) fn check_values(&self, what: &str) -> Result<()> {
        self.check()?;
        let Some((column, row)) = self.first_not_finite() else { return Ok(()) };
        Err(Error::usage(format!("{what} has a value that is not finite, in row {row}, column {column}")))
    }

    /// Returns column and row of the first pixel with a NaN or infinite value.
    fn first_not_finite(&self) -> Option<(usize, usize)> {
        let at = self.rgb.iter().position(|value| !value.is_finite())?;
        Some((at / 3 % self.width, at / 3 / self.width))
    }
}

/// The alpha channel of a picture.
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
    /// Checks that the sides are within the limits and match the number of values.
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

/// The result of [`read`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Decoded {
    /// The picture: upright, opaque, sRGB.
    pub picture: Picture,
    /// The alpha channel at the picture's size; `None` if the picture was opaque everywhere.
    pub alpha: Option<Alpha>,
    /// Width and height in the file, upright. The picture is smaller only if [`ReadOptions::longest`] allows it.
    pub size: (usize, usize),
    /// Conversions applied to the file's content, as text for the user, e.g. "EXIF orientation 6 applied" or
    /// "alpha composited on white". Empty for a plain photo.
    pub notes: Vec<String>,
    /// Peak memory used for reading, in bytes: the file, the decoder's largest buffer and the picture.
    pub memory: u64,
}

/// Checks that a picture of this size is within the limits.
///
/// # Errors
/// A sentence with the reason, without a full stop.
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
