//! Resizing of pictures.

use fast_image_resize as fir;
use fir::images::{Image, ImageRef};

use super::{Alpha, Picture, check_size};
use crate::allocation::zeros;
use crate::{Error, Result};

/// Resizes a picture: Lanczos3 along a side that shrinks, Catmull-Rom along one that grows; a side that
/// keeps its length isn't filtered. Filters are widened when shrinking (no aliasing) and renormalised at
/// the border, so a constant picture stays constant.
///
/// Works on the sRGB-encoded values (see the [module](super)). Values may overshoot [0, 1] slightly next
/// to sharp edges; they are not clamped, so a picture in the middle of an optimisation loses nothing.
///
/// `width` and `height` are in pixels. The aspect ratio is not preserved; see [`fit`].
///
/// # Errors
/// [`Error::Usage`] if a side is 0 or beyond [`MAX_SIDE`](super::MAX_SIDE) and
/// [`MAX_PIXELS`](super::MAX_PIXELS), if `picture` is malformed, or if memory runs out.
pub fn resize(picture: &Picture, width: usize, height: usize) -> Result<Picture> {
    picture.check()?;
    let from = (picture.width, picture.height);
    let rgb = resample(&picture.rgb, fir::PixelType::F32x3, from, (width, height))?;
    Ok(Picture { width, height, rgb })
}

impl Alpha {
    /// Resizes like [`resize`], but clamps to [0, 1].
    ///
    /// # Errors
    /// The errors of [`resize`].
    pub fn resize(&self, width: usize, height: usize) -> Result<Self> {
        self.check()?;
        let mut values =
            resample(&self.values, fir::PixelType::F32, (self.width, self.height), (width, height))?;
        values.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        Ok(Self { width, height, values })
    }
}

/// Resamples pixels; sizes are (width, height).
fn resample(
    values: &[f32],
    kind: fir::PixelType,
    from: (usize, usize),
    to: (usize, usize),
) -> Result<Vec<f32>> {
    let (width, height) = to;
    check_size(width, height)
        .map_err(|problem| Error::usage(format!("can't resize to {width}x{height}: {problem}")))?;
    match (filter(from.0, width), filter(from.1, height)) {
        (None, None) => Ok(values.to_vec()),
        (Some(filter), None) | (None, Some(filter)) => pass(values, kind, from, to, filter),
        (Some(a), Some(b)) if a == b => pass(values, kind, from, to, a),
        // One side grows and the other shrinks: shrinking first is less work.
        (Some(a), Some(b)) if width < from.0 => {
            let half = (width, from.1);
            pass(&pass(values, kind, from, half, a)?, kind, half, to, b)
        }
        (Some(a), Some(b)) => {
            let half = (from.0, height);
            pass(&pass(values, kind, from, half, b)?, kind, half, to, a)
        }
    }
}

/// Returns (width, height) of a picture of `width` x `height` pixels scaled up or down so that its longest
/// side is `longest`: same aspect ratio, rounded to the nearest pixel, each side at least 1.
pub fn fit(width: usize, height: usize, longest: usize) -> (usize, usize) {
    let (width, height, longest) = (width.max(1), height.max(1), longest.max(1));
    let long = width.max(height) as u128;
    // Rounds half up, in integers, so exact halves don't depend on floating-point rounding.
    let scale = |side: usize| {
        let scaled = (side as u128 * longest as u128 + long / 2) / long;
        usize::try_from(scaled).unwrap_or(usize::MAX).max(1)
    };
    (scale(width), scale(height))
}

/// Returns the filter for resizing a side, None if the length stays.
fn filter(from: usize, to: usize) -> Option<fir::FilterType> {
    match to.cmp(&from) {
        std::cmp::Ordering::Less => Some(fir::FilterType::Lanczos3),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(fir::FilterType::CatmullRom),
    }
}

/// Resizes with a single filter.
fn pass(
    values: &[f32],
    kind: fir::PixelType,
    from: (usize, usize),
    to: (usize, usize),
    filter: fir::FilterType,
) -> Result<Vec<f32>> {
    let failed = |reason: String| {
        let ((width, height), (to_width, to_height)) = (from, to);
        Error::usage(format!(
            "can't resize {width}x{height} to {to_width}x{to_height} pixels: {reason}. Choose a smaller size"
        ))
    };
    let mut resized = zeros(to.0 * to.1 * (kind.size() / size_of::<f32>())).map_err(failed)?;
    let source = ImageRef::new(side(from.0), side(from.1), bytemuck::cast_slice(values), kind)
        .map_err(|e| failed(e.to_string()))?;
    let mut target =
        Image::from_slice_u8(side(to.0), side(to.1), bytemuck::cast_slice_mut(&mut resized), kind)
            .map_err(|e| failed(e.to_string()))?;
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter));
    fir::Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(e.to_string()))?;
    Ok(resized)
}

/// Converts a side to the type of the crate. Sides are at most [`MAX_SIDE`](super::MAX_SIDE) here.
fn side(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: usize, height: usize) -> Picture {
        let rgb = (0..width * height)
            .flat_map(|i| {
                let x = (i % width) as f32 / width as f32;
                let y = (i / width) as f32 / height as f32;
                [x, y, (x * 7.0 + y * 3.0).sin() * 0.5 + 0.5]
            })
            .collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn resizing_to_the_same_size_is_identity() {
        let picture = gradient(17, 5);
        assert_eq!(resize(&picture, 17, 5).unwrap(), picture);
    }

    #[test]
    fn constant_pictures_stay_constant() {
        for (w, h) in [(1, 1), (1, 9), (9, 1), (2, 2), (13, 7), (64, 48)] {
            let picture = Picture { width: w, height: h, rgb: [0.25, 0.5, 0.999].repeat(w * h) };
            for (tw, th) in [(1, 1), (3, 1), (1, 3), (5, 11), (31, 2), (100, 77), (640, 3)] {
                let resized = resize(&picture, tw, th).unwrap();
                assert_eq!((resized.width, resized.height, resized.rgb.len()), (tw, th, tw * th * 3));
                for pixel in resized.rgb.chunks_exact(3) {
                    for (value, expected) in pixel.iter().zip([0.25f32, 0.5, 0.999]) {
                        assert!((value - expected).abs() < 2e-6, "{w}x{h} -> {tw}x{th}: {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn resizing_commutes_with_mirroring() {
        let mirror = |p: &Picture| Picture {
            width: p.width,
            height: p.height,
            rgb: p
                .rgb
                .chunks_exact(p.width * 3)
                .flat_map(|row| row.chunks_exact(3).rev().flatten().copied().collect::<Vec<_>>())
                .collect(),
        };
        let picture = gradient(23, 15);
        for (w, h) in [(7, 5), (11, 40), (46, 30), (101, 3), (1, 1)] {
            let a = mirror(&resize(&picture, w, h).unwrap());
            let b = resize(&mirror(&picture), w, h).unwrap();
            for (a, b) in a.rgb.iter().zip(&b.rgb) {
                assert!((a - b).abs() < 1e-5, "{w}x{h}: {a} {b}");
            }
        }
    }

    /// Taps of Catmull-Rom at scale 2, derived by hand: (-3, 29, 111, -9)/128 for even pixels, mirrored for odd.
    #[test]
    fn doubling_an_edge_gives_catmull_rom_values() {
        let values = [0.0f32, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        let picture = Picture { width: 8, height: 1, rgb: values.iter().flat_map(|v| [*v; 3]).collect() };
        let resized = resize(&picture, 16, 1).unwrap();
        let expected = [0.0f32, -3.0, -9.0, 26.0, 102.0, 137.0, 131.0, 128.0];
        for (pixel, expected) in resized.rgb.chunks_exact(3).skip(4).zip(expected) {
            for value in pixel {
                assert!((value - expected / 128.0).abs() < 1e-6, "{value} for {expected}/128");
            }
        }
    }

    #[test]
    fn halving_keeps_mean_and_slow_ramp() {
        let picture = gradient(64, 64);
        let resized = resize(&picture, 32, 32).unwrap();
        let mean = |p: &Picture, c: usize| {
            p.rgb.iter().skip(c).step_by(3).map(|v| f64::from(*v)).sum::<f64>() / (p.width * p.height) as f64
        };
        for channel in 0..3 {
            assert!((mean(&picture, channel) - mean(&resized, channel)).abs() < 2e-3);
        }
        // Away from the border a linear ramp is reproduced: pixel x of 32 sits at 2x + 0.5 of 64.
        for x in 4..28 {
            let value = resized.rgb[(16 * 32 + x) * 3];
            assert!((value - (2.0 * x as f32 + 0.5) / 64.0).abs() < 1e-3, "{x}: {value}");
        }
    }

    #[test]
    fn alpha_stays_within_its_range() {
        let alpha = Alpha { width: 8, height: 1, values: [0.0, 1.0].repeat(4) };
        let wide = alpha.resize(32, 2).unwrap();
        assert_eq!((wide.width, wide.height, wide.values.len()), (32, 2, 64));
        assert!(wide.values.iter().all(|v| (0.0..=1.0).contains(v)), "{:?}", wide.values);
        assert!(wide.values.contains(&0.0) && wide.values.contains(&1.0));
        assert_eq!(alpha.resize(8, 1).unwrap(), alpha);
        assert!(Alpha { width: 2, height: 2, values: vec![0.0; 3] }.resize(1, 1).is_err());
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let picture = gradient(4, 4);
        for (w, h) in [(0, 4), (4, 0), (super::super::MAX_SIDE + 1, 1), (usize::MAX, usize::MAX)] {
            let error = resize(&picture, w, h).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let torn = Picture { width: 4, height: 4, rgb: vec![0.0; 47] };
        assert!(resize(&torn, 2, 2).is_err());
    }

    #[test]
    fn fit_keeps_the_aspect_ratio() {
        assert_eq!(fit(4000, 3000, 512), (512, 384));
        assert_eq!(fit(3000, 4000, 512), (384, 512));
        assert_eq!(fit(100, 100, 7), (7, 7));
        assert_eq!(fit(10_000, 1, 512), (512, 1));
        assert_eq!(fit(1, 1, 512), (512, 512));
        assert_eq!(fit(3, 2, 100), (100, 67));
        assert_eq!(fit(4, 1, 2), (2, 1), "exactly half goes up");
        assert_eq!(fit(8, 3, 4), (4, 2), "1.5 goes up");
        assert_eq!(fit(512, 384, 512), (512, 384));
        assert_eq!(fit(0, 0, 0), (1, 1));
        assert_eq!(fit(usize::MAX, 1, usize::MAX), (usize::MAX, 1));
    }
}
