//! The planes of a JPEG at the requested resolution. They hold all or the lowest frequencies of each block, and compute
//! means of areas of pixels from them.

use super::super::failure::Failure;
use crate::allocation::zeros;

/// Pixels per side of a block, and frequencies in each direction.
pub(super) const SIDE: usize = 8;

/// Number of lowest frequencies in each direction that are kept for a block of a reduced picture.
const LOW: usize = 4;

/// A damaged segment of a JPEG.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem(pub &'static str);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Damaged(problem.0.to_owned())
    }
}

/// A colour component, with the kept frequencies of its blocks.
pub(super) struct Component {
    pub id: u8,
    /// Index of its quantization table.
    pub table: usize,
    /// Quantization steps of its coefficients, once known.
    pub steps: Option<[u16; SIDE * SIDE]>,
    /// Sampling factors: its blocks per MCU, across and down.
    pub sampling: (usize, usize),
    /// Number of MCUs in the picture, across and down.
    pub parts: (usize, usize),
    /// Number of its blocks, across and down, without the padding of the last MCUs.
    pub own: (usize, usize),
    /// Number of stored blocks per row.
    pub stride: usize,
    /// Samples computed for a block, across and down.
    samples: (usize, usize),
    /// Repetitions of each sample, across and down, to match the resolution of the picture.
    repeats: (usize, usize),
    /// Number of kept frequencies in each direction; 1 if only the mean of a block is needed.
    pub low: usize,
    /// `low * low` coefficients for each block, row by row.
    values: Vec<i16>,
    /// A bit mask of the nonzero coefficients of each block; empty if it isn't needed.
    known: Vec<u64>,
}

impl Component {
    /// Returns true if only the means of blocks are kept.
    pub(super) fn is_mean(&self) -> bool {
        self.low == 1
    }

    fn kept(&self) -> usize {
        self.low * self.low
    }

    /// Returns the kept coefficients of a block.
    #[inline]
    pub(super) fn values(&mut self, block: usize) -> &mut [i16] {
        let kept = self.kept();
        &mut self.values[block * kept..][..kept]
    }

    /// Returns the masks of nonzero coefficients, starting with those of `block`.
    pub(super) fn known(&self, block: usize) -> &[u64] {
        &self.known[block..]
    }

    /// Returns the kept coefficients of a block of a progressive JPEG, and the mask of its nonzero coefficients.
    #[inline]
    pub(super) fn values_and_mask(&mut self, block: usize) -> (&mut [i16], &mut u64) {
        let kept = self.kept();
        (&mut self.values[block * kept..][..kept], &mut self.known[block])
    }
}

/// The planes of a picture.
pub(super) struct Planes {
    /// Width and height in pixels at the requested resolution.
    pub size: (usize, usize),
    pub components: Vec<Component>,
    /// Pixel rows per row of MCUs.
    part_rows: usize,
    /// Width in pixels, including the padding of the last MCU.
    width: usize,
    /// Samples of the current row of MCUs, one vector per component.
    lines: Vec<Vec<f32>>,
    /// Index of the current row of MCUs.
    at: Option<usize>,
    bases: Vec<[Basis; 2]>,
}

/// The contribution of each frequency, at amplitude 1, to each sample along a side of a block.
type Basis = [[f32; SIDE]; SIDE];

/// Returns the basis for the means of `samples` equal parts of a block's side.
fn basis(samples: usize) -> Basis {
    let mut basis = [[0.0; SIDE]; SIDE];
    let area = SIDE / samples;
    for (sample, row) in basis.iter_mut().enumerate().take(samples) {
        for (frequency, to) in row.iter_mut().enumerate() {
            let scale = if frequency == 0 { 0.125f64.sqrt() } else { 0.5 };
            let wave = |x: usize| ((2 * x + 1) as f64 * frequency as f64 * std::f64::consts::PI / 16.0).cos();
            let sum: f64 = (sample * area..(sample + 1) * area).map(wave).sum();
            *to = (scale * sum / area as f64) as f32;
        }
    }
    basis
}

/// Returns the number of samples to compute along a side of a block if `wanted` are needed; each is repeated to fill
/// the rest.
fn computed(wanted: usize) -> usize {
    [8, 4, 2].into_iter().find(|samples| wanted.is_multiple_of(*samples)).unwrap_or(1)
}

impl Planes {
    /// Allocates planes for a JPEG's frame header, with one pixel for each `step` x `step` pixels; `step` is 1, 2, 4 or
    /// 8. Returns None if the resolution of the finest component is not a multiple of every other's.
    ///
    /// # Errors
    /// If the header is damaged, or there is not enough memory.
    pub(super) fn new(header: &[u8], step: usize, progressive: bool) -> Result<Option<Self>, Failure> {
        const WRONG: Problem = Problem("its frame header is damaged");
        let (&[_, h0, h1, w0, w1, count], rest) = header.split_first_chunk().ok_or(WRONG)?;
        let size = [[w0, w1], [h0, h1]].map(|side| usize::from(u16::from_be_bytes(side)));
        let stated = rest.as_chunks::<3>().0;
        let stated = stated.get(..usize::from(count)).filter(|all| !all.is_empty()).ok_or(WRONG)?;
        // The sampling factors of a single component have no meaning.
        let sampling = |stated: &[u8; 3]| match stated[1] {
            _ if count == 1 => (1, 1),
            both => (usize::from(both >> 4), usize::from(both & 15)),
        };
        let (h, v) =
            stated.iter().map(sampling).fold((1, 1), |most, own| (most.0.max(own.0), most.1.max(own.1)));
        let fine = SIDE / step;
        let parts = (size[0].div_ceil(SIDE * h), size[1].div_ceil(SIDE * v));
        let mut components = Vec::new();
        for stated in stated {
            let own = sampling(stated);
            if own.0 == 0 || own.1 == 0 || own.0 > 4 || own.1 > 4 {
                return Err(WRONG.into());
            }
            if h % own.0 != 0 || v % own.1 != 0 {
                return Ok(None);
            }
            let wanted = (fine * h / own.0, fine * v / own.1);
            let samples = (computed(wanted.0), computed(wanted.1));
            let low = match (step, samples) {
                (1, _) => SIDE,
                (_, (1, 1)) => 1,
                _ => LOW,
            };
            let mut component = Component {
                id: stated[0],
                table: stated[2].into(),
                steps: None,
                sampling: own,
                parts,
                own: ((size[0] * own.0).div_ceil(h * SIDE), (size[1] * own.1).div_ceil(v * SIDE)),
                stride: parts.0 * own.0,
                samples,
                repeats: (wanted.0 / samples.0, wanted.1 / samples.1),
                low,
                values: Vec::new(),
                known: Vec::new(),
            };
            let blocks = component.stride * parts.1 * own.1;
            component.values = zeros(blocks * component.kept()).map_err(Failure::Memory)?;
            if progressive && !component.is_mean() {
                component.known = zeros(blocks).map_err(Failure::Memory)?;
            }
            components.push(component);
        }
        let (part_rows, width) = (fine * v, parts.0 * h * fine);
        Ok(Some(Self {
            size: (size[0].div_ceil(step), size[1].div_ceil(step)),
            lines: vec![vec![0.0; part_rows * width]; components.len()],
            bases: components.iter().map(|c| [basis(c.samples.0), basis(c.samples.1)]).collect(),
            components,
            part_rows,
            width,
            at: None,
        }))
    }

    /// Returns the allocated bytes.
    pub(super) fn bytes(&self) -> usize {
        let kept = |c: &Component| size_of_val(&c.values[..]) + size_of_val(&c.known[..]);
        self.components.iter().map(kept).sum::<usize>() + self.lines.len() * self.part_rows * self.width * 4
    }

    /// Returns the samples (0 to 255) of a row of pixels, one slice per component.
    pub(super) fn row(&mut self, y: usize) -> impl Iterator<Item = &[f32]> + Clone {
        let (part, row) = (y / self.part_rows, y % self.part_rows);
        if self.at != Some(part) {
            self.at = Some(part);
            for ((component, lines), bases) in self.components.iter().zip(&mut self.lines).zip(&self.bases) {
                fill(component, part, lines, self.width, bases);
            }
        }
        let (start, end) = (row * self.width, row * self.width + self.size.0);
        self.lines.iter().map(move |lines| &lines[start..end])
    }
}

/// Computes the samples of the blocks in a row of MCUs.
fn fill(component: &Component, part: usize, lines: &mut [f32], width: usize, bases: &[Basis; 2]) {
    let steps = component.steps.unwrap_or([0; SIDE * SIDE]);
    let ((wide, high), (across, down)) = (component.samples, component.repeats);
    let kept = component.kept();
    let mut samples = [[0.0; SIDE]; SIDE];
    for row in 0..component.sampling.1 {
        let first = (part * component.sampling.1 + row) * component.stride * kept;
        let blocks = component.values[first..][..component.stride * kept].chunks_exact(kept);
        let lines = &mut lines[row * high * down * width..][..high * down * width];
        for (x, block) in blocks.enumerate() {
            let at = x * wide * across;
            transform(block, component, &steps, bases, &mut samples);
            for (lines, samples) in lines.chunks_exact_mut(down * width).zip(&samples[..high]) {
                for line in lines.chunks_exact_mut(width) {
                    let to = line[at..][..wide * across].chunks_exact_mut(across);
                    to.zip(samples).for_each(|(to, sample)| to.fill(*sample));
                }
            }
        }
    }
}

/// Computes the samples of a block, 0 to 255, row by row, as many as the component wants.
fn transform(
    block: &[i16],
    Component { low, samples: (wide, high), .. }: &Component,
    steps: &[u16; SIDE * SIDE],
    [across, down]: &[Basis; 2],
    samples: &mut [[f32; SIDE]; SIDE],
) {
    let mean = f32::from(block[0]) * f32::from(steps[0]) / 8.0 + 128.0;
    if block[1..].iter().all(|value| *value == 0) {
        samples[..*high].iter_mut().for_each(|row| row[..*wide].fill(mean.clamp(0.0, 255.0)));
        return;
    }
    // First along the rows, then along the columns.
    let mut half = [[0.0f32; SIDE]; SIDE];
    for ((half, values), steps) in
        half.iter_mut().zip(block.chunks_exact(*low)).zip(steps.as_chunks::<SIDE>().0)
    {
        for (frequency, (value, step)) in
            values.iter().zip(steps).enumerate().filter(|(_, (value, _))| **value != 0)
        {
            let amplitude = f32::from(*value) * f32::from(*step);
            for (to, wave) in half.iter_mut().zip(across).take(*wide) {
                *to += amplitude * wave[frequency];
            }
        }
    }
    for (row, wave) in samples.iter_mut().zip(down).take(*high) {
        for (x, to) in row.iter_mut().enumerate().take(*wide) {
            let sum: f32 = half.iter().zip(wave).take(*low).map(|(half, wave)| half[x] * wave).sum();
            *to = (sum + 128.0).clamp(0.0, 255.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_determines_reducible_components() {
        let planes = |sampling: u8, step: usize| {
            // 100 rows of 70 pixels.
            let header = [8, 0, 100, 0, 70, 3, 1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0];
            Planes::new(&header, step, true)
        };
        let samples = |sampling: u8, step: usize| {
            planes(sampling, step)
                .unwrap()
                .map(|p| (p.size, p.components[0].samples, p.components[1].samples, p.components[1].repeats))
        };
        assert_eq!(samples(0x11, 8), Some(((9, 13), (1, 1), (1, 1), (1, 1))));
        assert_eq!(samples(0x22, 8), Some(((9, 13), (1, 1), (2, 2), (1, 1))));
        assert_eq!(samples(0x21, 2), Some(((35, 50), (4, 4), (8, 4), (1, 1))));
        assert_eq!(samples(0x41, 4), Some(((18, 25), (2, 2), (8, 2), (1, 1))));
        // Sixteen samples for eight pixels, and three.
        assert_eq!(samples(0x41, 2), Some(((35, 50), (4, 4), (8, 4), (2, 1))));
        assert_eq!(samples(0x31, 8), Some(((9, 13), (1, 1), (1, 1), (3, 1))));
        assert_eq!(samples(0x22, 1), Some(((70, 100), (8, 8), (8, 8), (2, 2))));
        // Luminance with two thirds of the other component's resolution.
        let header = [8, 0, 100, 0, 70, 2, 1, 0x21, 0, 2, 0x31, 0];
        assert!(Planes::new(&header, 8, true).unwrap().is_none());
        for sampling in [0x01, 0x10, 0x51] {
            assert!(planes(sampling, 8).is_err());
        }
        assert!(Planes::new(&[8, 0, 100, 0, 70, 3, 1, 0x11, 0], 8, true).is_err());
        assert!(Planes::new(&[8, 0, 100, 0, 70, 0], 8, true).is_err());
        // One bit per coefficient, only where it is needed.
        let [luma, chroma] = [0, 1].map(|i| planes(0x22, 8).unwrap().unwrap().components.swap_remove(i));
        assert_eq!((luma.values.len(), luma.known.len()), (2 * 5 * 2 * 7, 0));
        assert_eq!((chroma.values.len(), chroma.known.len()), (5 * 7 * 16, 5 * 7));
    }

    /// Compared with the definition of the transform, for a block of pseudo-random low frequencies.
    #[test]
    fn reduced_samples_are_area_means() {
        for (wide, high, low) in [(1, 2, 4), (2, 2, 4), (4, 8, 4), (8, 1, 4), (8, 8, 8)] {
            let values: Vec<i16> = (0..low * low).map(|i| ((i * 37 + 11) % 61) as i16 - 30).collect();
            let component = Component {
                id: 1,
                table: 0,
                steps: Some([2; SIDE * SIDE]),
                sampling: (1, 1),
                parts: (1, 1),
                own: (1, 1),
                stride: 1,
                samples: (wide, high),
                repeats: (1, 1),
                low,
                values: values.clone(),
                known: Vec::new(),
            };
            let mut lines = vec![0.0; wide * high];
            fill(&component, 0, &mut lines, wide, &[basis(wide), basis(high)]);
            let pixel = |x: usize, y: usize| -> f64 {
                let wave = |at: usize, frequency: usize| {
                    let scale = if frequency == 0 { 0.5f64.sqrt() } else { 1.0 };
                    scale * ((2 * at + 1) as f64 * frequency as f64 * std::f64::consts::PI / 16.0).cos()
                };
                let term = |i: usize| f64::from(values[i]) * 2.0 * wave(x, i % low) * wave(y, i / low);
                (0..low * low).map(term).sum::<f64>() / 4.0 + 128.0
            };
            let (across, down) = (SIDE / wide, SIDE / high);
            for (index, found) in lines.iter().enumerate() {
                let (left, top) = (index % wide * across, index / wide * down);
                let area = (0..across * down).map(|i| pixel(left + i % across, top + i / across));
                let expected = area.sum::<f64>() / (across * down) as f64;
                let difference = (f64::from(*found) - expected.clamp(0.0, 255.0)).abs();
                // Sixteen terms of up to a thousand, in f32.
                assert!(difference <= 1e-3, "{wide}x{high} {index}: {found} {expected}");
            }
        }
    }
}
