//! Searches for the largest size that fits, for a need that grows with the number of pixels.

use crate::error::Result;

/// Sizes are multiples of this many pixels, except the largest allowed one.
const STEP: u32 = 16;
/// Number of trials after which the search bisects.
const SECANTS: usize = 6;

/// Returns the largest size up to `most` for which `needed` is at most `limit`, or `None` if no size of at least
/// [`STEP`] fits. Uses few trials, starting with `first`. Avoids trials far above the limit, which may be costly.
///
/// # Errors
/// Those of `needed`.
pub(in crate::cli) fn search(
    limit: u64,
    most: u32,
    first: u32,
    mut needed: impl FnMut(u32) -> Result<u64>,
) -> Result<Option<u32>> {
    let (mut fits, mut exceeds): (Option<u32>, Option<u32>) = (None, None);
    // Pixels and needed bytes of each trial.
    let mut trials: Vec<(f64, f64)> = Vec::new();
    let mut size = first.min(most);
    loop {
        let bytes = needed(size)?;
        if bytes <= limit {
            fits = Some(size)
        } else {
            exceeds = Some(size)
        }
        if fits == Some(most) {
            return Ok(fits);
        }
        let least = fits.map_or(STEP, |size| size / STEP * STEP + STEP);
        let largest = exceeds.map_or(most, |size| size.saturating_sub(1) / STEP * STEP);
        if least > largest {
            return Ok(match exceeds {
                Some(_) => fits,
                // Only `most` itself, which is not a multiple of `STEP`, is left.
                None => {
                    if needed(most)? <= limit {
                        Some(most)
                    } else {
                        fits
                    }
                }
            });
        }
        trials.push((f64::from(size).powi(2), bytes as f64));
        let guess = match trials[..] {
            [.., (one, before), (other, now)] if one != other && (now - before) / (other - one) > 0.0 => {
                let slope = (now - before) / (other - one);
                other + (limit as f64 - now) / slope
            }
            // One trial can't separate the part that is the same at all sizes: at most double the side.
            [.., (pixels, bytes)] => (pixels * limit as f64 / bytes).min(pixels * 4.0),
            [] => 0.0,
        };
        let guess = guess.max(0.0).sqrt().min(f64::from(most)) as u32;
        let guess = if guess >= most { most } else { guess / STEP * STEP };
        // The need may jump at the device's binding limits: bisection is then faster.
        let halves = trials.len() > SECANTS || bytes == u64::MAX;
        let middle = (least + largest) / 2 / STEP * STEP;
        size = if halves { middle } else { guess }.clamp(least, largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(limit: u64, most: u32, constant: u64, per_pixel: u64) -> (Option<u32>, usize, u32) {
        let (mut trials, mut largest) = (0, 0);
        let size = search(limit, most, 256, |size| {
            trials += 1;
            largest = largest.max(size);
            Ok(constant + per_pixel * u64::from(size).pow(2))
        });
        (size.unwrap(), trials, largest)
    }

    #[test]
    fn largest_size_is_found_in_few_trials() {
        for constant in [0, 1 << 20, 100 << 20, 500 << 20] {
            for (at, per_pixel) in [(16, 900), (48, 1000), (256, 777), (272, 1), (1000, 2000), (4096, 60_000)]
            {
                let limit = constant + per_pixel * u64::from(at_step(at)).pow(2);
                let (size, trials, largest) = found(limit, 30_000, constant, per_pixel);
                assert_eq!(size, Some(at_step(at)), "{constant} {at} {per_pixel}");
                assert!(trials <= 9, "{trials} trials for {constant} {at} {per_pixel}");
                assert!(largest <= 2 * at_step(at).max(256), "tried {largest} for {at}");
                // One byte less gives one step less.
                let less = found(limit - 1, 30_000, constant, per_pixel).0;
                assert_eq!(less, Some(at_step(at) - STEP).filter(|size| *size > 0));
            }
        }
    }

    fn at_step(size: u32) -> u32 {
        size / STEP * STEP
    }

    #[test]
    fn size_never_exceeds_the_maximum() {
        for most in [1, 15, 16, 100, 256, 257, 300, 1000, 4001] {
            assert_eq!(found(u64::MAX, most, 5, 7).0, Some(most));
        }
        assert_eq!(found(4, 1000, 5, 7).0, None);
        assert_eq!(found(5 + 7 * 999 * 999, 1000, 5, 7).0, Some(992));
        assert_eq!(found(5 + 7 * 999 * 999, 999, 5, 7).0, Some(999));
    }
}
