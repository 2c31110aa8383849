//! Converts rows of decoded samples to an opaque sRGB picture. A picture that is needed much smaller is averaged row by
//! row, so it is never in memory at its full size.

use super::color::ToSrgb;
use super::resize::fit;
use super::{Alpha, Picture};
use crate::allocation::with_capacity;

/// Largest float accepted as a colour value (1 is white). Larger values are some other kind of measurement.
const BRIGHTEST: f32 = 1000.0;

/// Ratio of an averaged picture's sides to the requested ones. At this ratio the resize filter that follows determines
/// the result: averaging removes less than 3 % of the finest detail that the requested picture can hold.
const LONGER: usize = 4;

/// Storage type of a sample, in native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    U8,
    U16,
    F32,
}

/// The colour samples of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colors {
    Gray,
    Rgb,
    /// Amounts of ink.
    Cmyk,
}

impl Colors {
    pub(super) fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// The alpha sample of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opacity {
    /// No alpha sample.
    Opaque,
    Straight,
    /// Colours are stored premultiplied by alpha.
    Associated,
}

/// The layout of a row of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub sample: Sample,
    pub colors: Colors,
    pub opacity: Opacity,
}

impl Layout {
    /// Number of samples per pixel.
    pub(super) fn channels(self) -> usize {
        self.colors.count() + usize::from(self.opacity != Opacity::Opaque)
    }

    /// Number of bytes per pixel.
    pub(super) fn pixel_bytes(self) -> usize {
        self.channels()
            * match self.sample {
                Sample::U8 => 1,
                Sample::U16 => 2,
                Sample::F32 => 4,
            }
    }
}

/// Size limits above which a picture is averaged while it is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// Longest side of the picture that the caller needs.
    pub longest: Option<usize>,
    /// Pictures of up to this many pixels are never averaged.
    pub pixels: usize,
}

impl Keep {
    /// Returns the (width, height) at which a picture of `size` is kept.
    fn kept(self, size: (usize, usize)) -> (usize, usize) {
        let (width, height) = size;
        match self.longest.and_then(|longest| longest.checked_mul(LONGER)) {
            Some(longest) if width * height > self.pixels && width.max(height) > longest => {
                fit(width, height, longest)
            }
            _ => size,
        }
    }

    /// Returns the largest step out of 1, 2, 4 and 8 such that a decoder may deliver the mean of `step` x `step` pixels
    /// for each pixel of a picture of `size`, without losing detail that is kept.
    pub(super) fn step(self, size: (usize, usize)) -> usize {
        let kept = self.kept(size);
        let fits = |step: &usize| kept.0 * step <= size.0 && kept.1 * step <= size.1;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }
}

/// Collects the rows of a picture from top to bottom.
pub(super) struct Rows {
    layout: Layout,
    background: [f32; 3],
    to_srgb: Option<ToSrgb>,
    canvas: Canvas,
    samples: Vec<f32>,
    source: Vec<f32>,
    rgb: Vec<f32>,
    alpha: Vec<f32>,
}

impl Rows {
    /// Starts a picture of `size` (width, height). Each pixel of its rows is the mean of `step` x `step` pixels (fewer
    /// at the right and bottom edge); `step` is 1 or the result of [`Keep::step`].
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn new(
        layout: Layout,
        size: (usize, usize),
        step: usize,
        keep: Keep,
        background: [f32; 3],
        to_srgb: Option<ToSrgb>,
    ) -> Result<Self, String> {
        let has_alpha = layout.opacity != Opacity::Opaque;
        let width = size.0.div_ceil(step);
        Ok(Self {
            layout,
            background,
            to_srgb,
            canvas: Canvas::new(size, step, keep.kept(size), has_alpha)?,
            samples: vec![0.0; width * layout.channels()],
            source: vec![0.0; width * layout.colors.count()],
            rgb: vec![0.0; width * 3],
            alpha: vec![1.0; if has_alpha { width } else { 0 }],
        })
    }

    /// Number of bytes per row.
    pub(super) fn row_bytes(&self) -> usize {
        self.samples.len() / self.layout.channels() * self.layout.pixel_bytes()
    }

    /// Adds the next row.
    ///
    /// # Errors
    /// If its values can't be used.
    pub(super) fn push(&mut self, row: &[u8]) -> Result<(), &'static str> {
        self.widen(row);
        self.take()
    }

    /// Adds the next row, given as samples from 0 to 1.
    ///
    /// # Errors
    /// If its values can't be used.
    pub(super) fn push_samples(&mut self, row: impl IntoIterator<Item = f32>) -> Result<(), &'static str> {
        self.samples.iter_mut().zip(row).for_each(|(to, v)| *to = v);
        self.take()
    }

    fn take(&mut self) -> Result<(), &'static str> {
        if self.layout.sample == Sample::F32 && !self.samples.iter().all(|v| v.is_finite()) {
            return Err("it holds values that are not finite numbers");
        }
        if self.layout.sample == Sample::F32 && self.samples.iter().any(|v| v.abs() > BRIGHTEST) {
            return Err("it holds values beyond 1000, where 0 should be black and 1 white");
        }
        if self.to_srgb.is_none()
            && self.layout.colors == Colors::Rgb
            && self.layout.opacity == Opacity::Opaque
        {
            self.canvas.push(&self.samples, &[]);
            return Ok(());
        }
        let (channels, colors) = (self.layout.channels(), self.layout.colors.count());
        let pixels = self.samples.chunks_exact(channels);
        for (pixel, to) in pixels.clone().zip(self.source.chunks_exact_mut(colors)) {
            to.copy_from_slice(&pixel[..colors]);
            if self.layout.opacity == Opacity::Associated {
                // Undo the premultiplication.
                let alpha = pixel[colors];
                to.iter_mut().for_each(|v| *v = if alpha > 0.0 { *v / alpha } else { 0.0 });
            }
        }
        for (pixel, alpha) in pixels.zip(&mut self.alpha) {
            *alpha = pixel[colors].clamp(0.0, 1.0);
        }
        self.convert()?;
        for (alpha, to) in self.alpha.iter().zip(self.rgb.chunks_exact_mut(3)).filter(|(a, _)| **a < 1.0) {
            to.iter_mut()
                .zip(self.background)
                .for_each(|(v, behind)| *v = *v * alpha + behind * (1.0 - alpha));
        }
        self.canvas.push(&self.rgb, &self.alpha);
        Ok(())
    }

    fn widen(&mut self, row: &[u8]) {
        let samples = self.samples.iter_mut();
        match self.layout.sample {
            Sample::U8 => samples.zip(row).for_each(|(to, v)| *to = f32::from(*v) / 255.0),
            Sample::U16 => samples
                .zip(row.as_chunks().0)
                .for_each(|(to, v)| *to = f32::from(u16::from_ne_bytes(*v)) / 65535.0),
            Sample::F32 => samples.zip(row.as_chunks().0).for_each(|(to, v)| *to = f32::from_ne_bytes(*v)),
        }
    }

    /// Converts the row's colours to sRGB.
    fn convert(&mut self) -> Result<(), &'static str> {
        let rgb = self.rgb.chunks_exact_mut(3);
        match (&mut self.to_srgb, self.layout.colors) {
            (Some(conversion), _) => {
                if !conversion.row(&self.source, &mut self.rgb) {
                    return Err("its embedded colour profile gives no usable values");
                }
            }
            (None, Colors::Rgb) => self.rgb.copy_from_slice(&self.source),
            (None, Colors::Gray) => rgb.zip(&self.source).for_each(|(to, v)| to.fill(*v)),
            (None, Colors::Cmyk) => {
                for (to, inks) in rgb.zip(self.source.chunks_exact(4)) {
                    to.iter_mut().zip(inks).for_each(|(to, ink)| *to = (1.0 - ink) * (1.0 - inks[3]));
                }
            }
        }
        Ok(())
    }

    /// Width and height of the picture in the file.
    pub(super) fn size(&self) -> (usize, usize) {
        self.canvas.from
    }

    /// Returns the picture, and its alpha unless all pixels are opaque; None if rows are missing.
    pub(super) fn finish(self) -> Option<(Picture, Option<Alpha>)> {
        self.canvas.finish()
    }
}

/// A picture that is built row by row; each pixel is the mean of an area of the source.
struct Canvas {
    from: (usize, usize),
    /// Source pixels per side covered by one incoming pixel.
    step: usize,
    to: (usize, usize),
    /// Number of rows added so far.
    rows: usize,
    rgb: Vec<f32>,
    alpha: Option<Vec<f32>>,
    /// For each incoming column, the target column it contributes to, and its weights there and in the next one.
    columns: Vec<(usize, [f32; 2])>,
    /// The incoming row reduced to the target width, and the weighted sum of such rows: colours, then alpha.
    line: Vec<f32>,
    sum: Vec<f32>,
}

/// Divides a side of `from` pixels into `to` parts and locates the `step` pixels that start at `at * step`: the part
/// they begin in, how many of them (fractional) lie in it and in the next part, and whether the part ends with them.
fn part(at: usize, step: usize, from: usize, to: usize) -> (usize, [f32; 2], bool) {
    let first = at * step;
    let pixels = step.min(from - first);
    let index = first * to / from;
    // In units of 1/to of a pixel.
    let left = (index + 1) * from - first * to;
    let share = if left < pixels * to { left as f32 / to as f32 } else { pixels as f32 };
    (index, [share, pixels as f32 - share], left <= pixels * to)
}

impl Canvas {
    fn new(from: (usize, usize), step: usize, to: (usize, usize), has_alpha: bool) -> Result<Self, String> {
        let pixels = to.0 * to.1;
        let averages = from != to;
        let line = vec![0.0; if averages { to.0 * (3 + usize::from(has_alpha)) } else { 0 }];
        Ok(Self {
            from,
            step,
            to,
            rows: 0,
            rgb: with_capacity(pixels * 3)?,
            alpha: if has_alpha { Some(with_capacity(pixels)?) } else { None },
            columns: (0..if averages { from.0.div_ceil(step) } else { 0 })
                .map(|x| part(x, step, from.0, to.0))
                .map(|(column, shares, _)| (column, shares))
                .collect(),
            sum: line.clone(),
            line,
        })
    }

    fn push(&mut self, rgb: &[f32], alpha: &[f32]) {
        if self.from == self.to {
            self.rgb.extend_from_slice(rgb);
            if let Some(all) = &mut self.alpha {
                all.extend_from_slice(alpha);
            }
        } else {
            self.average(rgb, alpha);
        }
        self.rows += 1;
    }

    fn average(&mut self, rgb: &[f32], alpha: &[f32]) {
        let colors = self.to.0 * 3;
        self.line.fill(0.0);
        let (line_rgb, line_alpha) = self.line.split_at_mut(colors);
        for (pixel, (column, [share, rest])) in rgb.chunks_exact(3).zip(&self.columns) {
            for (channel, value) in pixel.iter().enumerate() {
                line_rgb[column * 3 + channel] += value * share;
                if *rest > 0.0 {
                    line_rgb[column * 3 + 3 + channel] += value * rest;
                }
            }
        }
        for (value, (column, [share, rest])) in alpha.iter().zip(&self.columns) {
            line_alpha[*column] += value * share;
            if *rest > 0.0 {
                line_alpha[column + 1] += value * rest;
            }
        }
        let (_, [share, rest], ends) = part(self.rows, self.step, self.from.1, self.to.1);
        self.sum.iter_mut().zip(&self.line).for_each(|(sum, v)| *sum += v * share);
        if ends {
            let area = self.from.0 as f64 * self.from.1 as f64 / (self.to.0 as f64 * self.to.1 as f64);
            let mean = |sum: &f32| sum / area as f32;
            self.rgb.extend(self.sum[..colors].iter().map(mean));
            if let Some(all) = &mut self.alpha {
                all.extend(self.sum[colors..].iter().map(mean).map(|v| v.min(1.0)));
            }
            self.sum.iter_mut().zip(&self.line).for_each(|(sum, v)| *sum = v * rest);
        }
    }

    fn finish(self) -> Option<(Picture, Option<Alpha>)> {
        let (width, height) = self.to;
        if self.rows != self.from.1.div_ceil(self.step) || self.rgb.len() != width * height * 3 {
            return None;
        }
        // The mean of ones may differ from 1 by rounding.
        let opaque = 1.0 - 1e-5;
        let alpha = self.alpha.filter(|values| values.iter().any(|v| *v < opaque));
        let alpha = alpha.map(|values| Alpha { width, height, values });
        Some((Picture { width, height, rgb: self.rgb }, alpha))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the mean of an area of a picture by definition; corners in pixels.
    fn mean(picture: &Picture, x: [f64; 2], y: [f64; 2], channel: usize) -> f64 {
        let part =
            |at: usize, [from, to]: [f64; 2]| ((at as f64 + 1.0).min(to) - (at as f64).max(from)).max(0.0);
        let (mut sum, mut area) = (0.0, 0.0);
        for row in 0..picture.height {
            for column in 0..picture.width {
                let share = part(column, x) * part(row, y);
                sum += share * f64::from(picture.rgb[(row * picture.width + column) * 3 + channel]);
                area += share;
            }
        }
        sum / area
    }

    #[test]
    fn areas_are_averaged_exactly() {
        for (from, to) in
            [((23, 17), (7, 5)), ((24, 16), (12, 4)), ((9, 40), (9, 3)), ((5, 3), (4, 1)), ((64, 1), (63, 1))]
        {
            let value = |i: usize| ((i * 37 + i / 5 * 11) % 101) as f32 / 101.0;
            let picture =
                Picture { width: from.0, height: from.1, rgb: (0..from.0 * from.1 * 3).map(value).collect() };
            let mut canvas = Canvas::new(from, 1, to, true).unwrap();
            for row in picture.rgb.chunks_exact(from.0 * 3) {
                let alpha: Vec<f32> = row.chunks_exact(3).map(|pixel| pixel[1]).collect();
                canvas.push(row, &alpha);
            }
            let (found, alpha) = canvas.finish().unwrap();
            let alpha = alpha.unwrap();
            assert_eq!((found.width, found.height), to);
            let side = |at: usize, from: usize, to: usize| {
                [at, at + 1].map(|at| at as f64 * from as f64 / to as f64)
            };
            for (i, found) in found.rgb.iter().enumerate() {
                let (x, y) = (side(i / 3 % to.0, from.0, to.0), side(i / 3 / to.0, from.1, to.1));
                let expected = mean(&picture, x, y, i % 3);
                // Sums of up to a hundred numbers below 1, in f32.
                assert!(
                    (f64::from(*found) - expected).abs() <= 2e-6,
                    "{from:?} {to:?} {i}: {found} {expected}"
                );
                let expected = mean(&picture, x, y, 1);
                assert!((f64::from(alpha.values[i / 3]) - expected).abs() <= 2e-6, "{from:?} {to:?} {i}");
            }
        }
    }

    /// Compares reduced pixels with averaging all the pixels that they cover.
    #[test]
    fn reduced_pixels_are_weighted_by_their_area() {
        for (from, to, step) in
            [((45, 38), (5, 4), 8), ((45, 38), (9, 7), 4), ((24, 16), (12, 8), 2), ((23, 9), (3, 1), 4)]
        {
            let coarse = |side: usize| side.div_ceil(step);
            let value = |i: usize| ((i * 37 + i / 5 * 11) % 101) as f32 / 101.0;
            let pixel =
                |x: usize, y: usize| [0, 1, 2].map(|c| value((y / step * coarse(from.0) + x / step) * 3 + c));
            let average = |step: usize| {
                let mut canvas = Canvas::new(from, step, to, false).unwrap();
                for y in (0..from.1).step_by(step) {
                    let row: Vec<f32> = (0..from.0).step_by(step).flat_map(|x| pixel(x, y)).collect();
                    canvas.push(&row, &[]);
                }
                canvas.finish().unwrap().0
            };
            let (found, expected) = (average(step), average(1));
            for (found, expected) in found.rgb.iter().zip(&expected.rgb) {
                assert!((found - expected).abs() <= 2e-6, "{from:?} {to:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn only_large_pictures_are_averaged() {
        let keep = |longest| Keep { longest, pixels: 1 << 24 };
        assert_eq!(keep(Some(1)).kept((4096, 4096)), (4096, 4096));
        assert_eq!(keep(Some(512)).kept((4096, 4097)), (2048, 2048));
        assert_eq!(keep(Some(320)).kept((16_000, 12_000)), (1280, 960));
        assert_eq!(keep(Some(4000)).kept((16_000, 12_000)), (16_000, 12_000));
        assert_eq!(keep(None).kept((16_000, 12_000)), (16_000, 12_000));
        assert_eq!(keep(Some(1)).kept((32_768, 600)), (4, 1));
        assert_eq!(keep(Some(usize::MAX)).kept((32_768, 600)), (32_768, 600));
        for (longest, step) in
            [(Some(500), 8), (Some(501), 4), (Some(1000), 4), (Some(2000), 2), (Some(2001), 1), (None, 1)]
        {
            assert_eq!(keep(longest).step((16_000, 12_000)), step, "{longest:?}");
        }
        assert_eq!(keep(Some(1)).step((4096, 4096)), 1);
    }

    #[test]
    fn missing_rows_are_an_error() {
        let layout = Layout { sample: Sample::U8, colors: Colors::Rgb, opacity: Opacity::Opaque };
        let mut rows =
            Rows::new(layout, (2, 2), 1, Keep { longest: None, pixels: 0 }, [1.0; 3], None).unwrap();
        assert_eq!(rows.row_bytes(), 6);
        rows.push(&[0; 6]).unwrap();
        assert!(rows.finish().is_none());
    }
}
