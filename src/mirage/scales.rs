//! Coarse to fine: the sequence of sizes at which a picture is optimised.

use crate::error::{Error, Result};
use crate::image_io::fit;

/// Number of scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaleCount {
    /// As many as fit between the picture's own size and the smallest size, or the smallest that the network's layers
    /// accept.
    Auto,
    /// Exactly this many, regardless of the smallest size.
    Exactly(u32),
}

/// Sizes, and the iterations at each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scales {
    /// Number of scales.
    pub count: ScaleCount,
    /// Minimum of the longest side at the smallest scale, in pixels, with [`ScaleCount::Auto`].
    pub min_size: u32,
    /// Iterations at each scale, the smallest first. The last number applies to all further scales.
    pub iterations: Vec<u32>,
}

/// One scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scale {
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// Iterations of the whole run before this scale.
    pub first: u32,
    /// Iterations of the whole run up to the end of this scale.
    pub end: u32,
    /// Pixels that an iteration computes, forward and backward: those of the picture, or more in tiles.
    pub pixels: u64,
    /// Pixels computed at the start of the scale to measure weights and to capture targets. (The first scale's targets
    /// are captured before the run.)
    pub preparing: u64,
}

impl Scale {
    /// Creates a scale whose iterations compute exactly the picture's pixels.
    pub(crate) fn new(size: [usize; 2], first: u32, end: u32) -> Self {
        Self { size, first, end, pixels: size[0] as u64 * size[1] as u64, preparing: 0 }
    }
}

/// Ratio of lengths between one scale and the previous one (Crowson's `style-transfer-pytorch`).
pub(super) const STEP: f64 = std::f64::consts::SQRT_2;
/// Largest number of scales: with more, the smallest would be below one pixel even for the largest picture.
const MOST: u32 = 32;

impl Scales {
    /// Creates a single scale at full size.
    pub fn single(iterations: u32) -> Self {
        Self { count: ScaleCount::Exactly(1), min_size: 1, iterations: vec![iterations] }
    }

    /// Returns the scales for a picture of this height and width, the smallest first and full size last. With
    /// [`ScaleCount::Auto`], the shorter side of all but the last is at least `shortest`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option that is out of range.
    pub fn plan(&self, [height, width]: [usize; 2], shortest: usize) -> Result<Vec<Scale>> {
        let longest = height.max(width) as f64;
        let count = match self.count {
            ScaleCount::Exactly(0) => return Err(Error::usage("--scales must be at least 1")),
            ScaleCount::Exactly(count) if count > MOST => {
                return Err(Error::usage(format!("--scales is {count}: it must be at most {MOST}")));
            }
            ScaleCount::Exactly(count) => count,
            ScaleCount::Auto => {
                let side = |steps: u32| (longest / STEP.powi(steps as i32)).round();
                let above = |steps: &u32| {
                    let (scaled_width, scaled_height) = fit(width, height, side(*steps) as usize);
                    side(*steps) >= f64::from(self.min_size.max(1))
                        && scaled_width.min(scaled_height) >= shortest
                };
                (1..MOST).take_while(above).count() as u32 + 1
            }
        };
        let mut scales: Vec<Scale> = Vec::new();
        let mut first = 0_u32;
        for index in 0..count {
            let side = (longest / STEP.powi((count - 1 - index) as i32)).round().max(1.0);
            let (scaled_width, scaled_height) = fit(width, height, side as usize);
            let size = if index + 1 == count { [height, width] } else { [scaled_height, scaled_width] };
            let iterations = self.iterations.get(index as usize).or(self.iterations.last());
            let end = first.checked_add(iterations.copied().unwrap_or(0));
            let end = end.ok_or_else(|| Error::usage("--iterations add up to more than 4 billion"))?;
            scales.push(Scale::new(size, first, end));
            first = end;
        }
        // Without iterations at the last scale, the run would end with a smaller picture.
        if scales.last().is_some_and(|last| last.first == last.end && last.end > 0) {
            return Err(Error::usage("--iterations: the last scale needs at least one iteration"));
        }
        Ok(scales)
    }
}

/// Returns the index of the scale of iteration `iteration` (counted from 0); after the end, of the last scale.
pub fn scale_at(scales: &[Scale], iteration: u32) -> usize {
    let found = scales.iter().position(|scale| iteration < scale.end);
    found.unwrap_or(scales.len().saturating_sub(1))
}

/// Returns the number of pixels that the first `iterations` of a run compute.
pub fn work(scales: &[Scale], iterations: u32) -> u64 {
    let of_scale = |scale: &Scale| match iterations.min(scale.end).saturating_sub(scale.first) {
        0 => 0,
        done => u64::from(done).saturating_mul(scale.pixels).saturating_add(scale.preparing),
    };
    scales.iter().map(of_scale).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(scales: &[Scale]) -> Vec<usize> {
        scales.iter().map(|scale| scale.size[1]).collect()
    }

    #[test]
    fn sizes_grow_by_root_two_to_full_size() {
        let auto = Scales { count: ScaleCount::Auto, min_size: 128, iterations: vec![100, 50] };
        let scales = auto.plan([341, 512], 32).unwrap();
        assert_eq!(sizes(&scales), [128, 181, 256, 362, 512]);
        assert_eq!(scales[0].size, [85, 128]);
        assert_eq!(scales[4].size, [341, 512]);
        let ends: Vec<u32> = scales.iter().map(|scale| scale.end).collect();
        assert_eq!(ends, [100, 150, 200, 250, 300]);
        assert_eq!(
            sizes(&Scales { min_size: 129, ..auto.clone() }.plan([341, 512], 32).unwrap()),
            [181, 256, 362, 512]
        );
        assert_eq!(sizes(&auto.plan([50, 60], 1).unwrap()), [60]);
        // A panorama has fewer: its shorter side would be too small for the network.
        assert_eq!(sizes(&auto.plan([64, 512], 32).unwrap()), [256, 362, 512]);
        assert_eq!(sizes(&auto.plan([16, 512], 32).unwrap()), [512]);
        let three = Scales { count: ScaleCount::Exactly(3), ..auto };
        assert_eq!(sizes(&three.plan([60, 60], 60).unwrap()), [30, 42, 60]);
    }

    #[test]
    fn every_iteration_belongs_to_a_scale() {
        let scales = Scales { count: ScaleCount::Exactly(2), min_size: 1, iterations: vec![3, 2] };
        let plan = scales.plan([8, 8], 1).unwrap();
        assert_eq!([0, 2, 3, 4, 5, 9].map(|at| scale_at(&plan, at)), [0, 0, 1, 1, 1, 1]);
        assert_eq!(plan[0].size, [6, 6]);
        assert_eq!([0, 2, 3, 4, 9].map(|at| work(&plan, at)), [0, 72, 108, 172, 236]);
        let measured: Vec<Scale> = plan.iter().map(|scale| Scale { preparing: 7, ..*scale }).collect();
        assert_eq!([0, 2, 3, 4, 9].map(|at| work(&measured, at)), [0, 79, 115, 186, 250]);
    }

    #[test]
    fn invalid_numbers_are_refused() {
        let good = Scales::single(5);
        assert_eq!(good.plan([3, 2], 1).unwrap(), [Scale::new([3, 2], 0, 5)]);
        for bad in [
            Scales { count: ScaleCount::Exactly(0), ..good.clone() },
            Scales { count: ScaleCount::Exactly(99), ..good.clone() },
            Scales { count: ScaleCount::Exactly(2), iterations: vec![u32::MAX, 1], ..good.clone() },
            Scales { count: ScaleCount::Exactly(3), iterations: vec![5, 1, 0], ..good },
        ] {
            assert!(bad.plan([64, 64], 1).is_err(), "{bad:?}");
        }
    }
}
