//! Rows of samples, as decoders give them, become a picture of opaque sRGB. One that is to be much smaller is averaged
//! while its rows come, so that it is never held at its full size.

use super::color::ToSrgb;
use super::resize::fit;
use super::{Alpha, Picture};
use crate::allocation::with_capacity;

/// The largest float that is taken as a colour, of which 1 is white: brighter ones are measurements of some other kind.
const BRIGHTEST: f32 = 1000.0;

/// How much longer than the picture that is wanted an averaged one is: the filter that follows then decides what is
/// seen, and the averaging takes less than 3 % of the finest detail that the wanted picture can hold.
const LONGER: usize = 4;

/// How a sample is stored, in this machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    U8,
    U16,
    F32,
}

/// The samples of a colour.
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

/// The sample after a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opacity {
    /// There is none.
    Opaque,
    Straight,
    /// Colours are stored multiplied by it.
    Associated,
}

/// What a row of samples is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub sample: Sample,
    pub colors: Colors,
    pub opacity: Opacity,
}

impl Layout {
    /// Samples of a pixel.
    pub(super) fn channels(self) -> usize {
        self.colors.count() + usize::from(self.opacity != Opacity::Opaque)
    }

    /// Bytes of a pixel.
    pub(super) fn pixel_bytes(self) -> usize {
        self.channels()
            * match self.sample {
                Sample::U8 => 1,
                Sample::U16 => 2,
                Sample::F32 => 4,
            }
    }
}

/// Up to which size a picture is read as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// The longest side of the picture that is wanted of it.
    pub longest: Option<usize>,
    /// Pictures of up to this many pixels are always read as they are.
    pub pixels: usize,
}

impl Keep {
    /// The size at which a picture of `size` is kept.
    fn kept(self, size: (usize, usize)) -> (usize, usize) {
        let (width, height) = size;
        match self.longest.and_then(|longest| longest.checked_mul(LONGER)) {
            Some(longest) if width * height > self.pixels && width.max(height) > longest => {
                fit(width, height, longest)
            }
            _ => size,
        }
    }

    /// The largest step of 1, 2, 4 and 8 for which the mean of `step` x `step` pixels of a picture of `size` will do in
    /// their place: the picture is kept with no more detail.
    pub(super) fn step(self, size: (usize, usize)) -> usize {
        let kept = self.kept(size);
        let fits = |step: &usize| kept.0 * step <= size.0 && kept.1 * step <= size.1;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }
}

/// Takes the rows of a picture from its top to its bottom.
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
    /// For a picture of `size`, width first, whose rows come with a pixel for `step` x `step` of it: 1, or what
    /// [`Keep::step`] gave. The last pixels of a side stand for what is left of it.
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

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        self.samples.len() / self.layout.channels() * self.layout.pixel_bytes()
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// If its values can't be used.
    pub(super) fn push(&mut self, row: &[u8]) -> Result<(), &'static str> {
        self.widen(row);
        self.take()
    }

    /// Takes the next row of samples from 0 to 1.
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
                // Undone, so that all kinds go one way from here.
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

    /// The row's colours as sRGB.
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

    /// Width and height of the picture that comes.
    pub(super) fn size(&self) -> (usize, usize) {
        self.canvas.from
    }

    /// The picture, and its alpha if a pixel lets the background through; nothing if rows are missing.
    pub(super) fn finish(self) -> Option<(Picture, Option<Alpha>)> {
        self.canvas.finish()
    }
}

/// A picture that grows row by row, each pixel the mean of an area.
struct Canvas {
    from: (usize, usize),
    /// Pixels a side that one of those that come stands for.
    step: usize,
    to: (usize, usize),
    /// Rows so far.
    rows: usize,
    rgb: Vec<f32>,
    alpha: Option<Vec<f32>>,
    /// For each column that comes, the column that it is part of, and its share there and in the next.
    columns: Vec<(usize, [f32; 2])>,
    /// The row that comes, averaged along itself, and the sum of such rows that becomes the next: colours, then alpha.
    line: Vec<f32>,
    sum: Vec<f32>,
}

/// Which of `to` parts of a side of `from` pixels the `step` pixels from number `at * step` on begin in, how many of them
/// lie there and how many in the next, and whether that part ends with them.
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
        // A mean of ones may miss 1 by rounding.
        let opaque = 1.0 - 1e-5;
        let alpha = self.alpha.filter(|values| values.iter().any(|v| *v < opaque));
        let alpha = alpha.map(|values| Alpha { width, height, values });
        Some((Picture { width, height, rgb: self.rgb }, alpha))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of an area of a picture, corners in pixels, by the definition.
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

    /// As if all pixels that one stands for had come.
    #[test]
    fn pixels_that_stand_for_several_weigh_as_many() {
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
    fn missing_rows_are_no_picture() {
        let layout = Layout { sample: Sample::U8, colors: Colors::Rgb, opacity: Opacity::Opaque };
        let mut rows =
            Rows::new(layout, (2, 2), 1, Keep { longest: None, pixels: 0 }, [1.0; 3], None).unwrap();
        assert_eq!(rows.row_bytes(), 6);
        rows.push(&[0; 6]).unwrap();
        assert!(rows.finish().is_none());
    }
}
