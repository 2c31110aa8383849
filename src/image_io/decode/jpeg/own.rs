//! Decodes the JPEGs that zune-jpeg is not suited for: very large ones, at a half, a quarter or an eighth of their
//! size, and at full size those that it decodes wrongly.
//!
//! zune-jpeg holds all pixels and, for a progressive JPEG, all coefficients: 1.2 GB for 200 megapixels, 2.4 GB for
//! CMYK. This decoder needs, for each block of 8x8 pixels of a reduced picture, at most 40 bytes, or 2 if only its mean
//! is used; at full size 128 bytes for each component, and 8 more if progressive.

use zune_jpeg::zune_core::colorspace::ColorSpace;

use super::super::super::structure;
use super::super::failure::Failure;
use super::planes::{Planes, Problem};
use super::scans::Tables;

/// Decodes the planes of a JPEG at one pixel for each `step` x `step` pixels; `step` is 1, 2, 4 or 8. Returns None if
/// the resolutions of its components don't divide each other.
///
/// # Errors
/// If the file is damaged before its first scan or in a header, or if there is not enough memory.
pub(super) fn decode(bytes: &[u8], step: usize) -> Result<Option<Planes>, Failure> {
    let mut tables = Tables::default();
    let mut frame: Option<(Planes, bool)> = None;
    let mut at = 2;
    while let Some((marker, data)) = structure::segment(bytes, &mut at)? {
        match (marker, &mut frame) {
            (0xc0..=0xc2, None) => match Planes::new(data, step, marker == 0xc2)? {
                Some(planes) => frame = Some((planes, marker == 0xc2)),
                None => return Ok(None),
            },
            (0xc0..=0xc2, Some(_)) => return Err(Problem("it has two frame headers").into()),
            (0xda, Some((planes, progressive))) => {
                if !tables.read_scan(data, bytes, &mut at, &mut planes.components, *progressive)? {
                    break;
                }
            }
            (0xda, None) => return Err(Problem("a scan comes before the frame header").into()),
            _ => tables.take(marker, data)?,
        }
    }
    Ok(frame.map(|(planes, _)| planes))
}

/// Converts YCbCr (0 to 255) to RGB; the result may lie outside of 0 to 255.
pub(super) fn rgb([y, cb, cr]: [f32; 3]) -> [f32; 3] {
    let (cb, cr) = (cb - 128.0, cr - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
}

/// Converts the samples of a pixel (0 to 255) to its colours (0 to 1): gray, RGB or amounts of ink.
pub(super) fn color(space: ColorSpace, [a, b, c, d]: [f32; 4]) -> [f32; 4] {
    let rgb = || rgb([a, b, c]).map(|v| v.clamp(0.0, 255.0));
    let color = match space {
        ColorSpace::YCbCr => {
            let [red, green, blue] = rgb();
            [red, green, blue, 0.0]
        }
        // CMYK is stored inverted; YCCK converts to the right values.
        ColorSpace::CMYK => [a, b, c, d].map(|v| 255.0 - v),
        ColorSpace::YCCK => {
            let [cyan, magenta, yellow] = rgb();
            [cyan, magenta, yellow, 255.0 - d]
        }
        _ => [a, b, c, d],
    };
    color.map(|v| v / 255.0)
}
