//! The grain that a scale begins with. An enlarged picture is smooth, and what grows on it first is what the first layers
//! of the network see best: rows and columns, a grid. Grain holds all directions alike, so texture grows in all of them.

use super::request::Request;
use super::targets::photo_at;
use crate::error::Result;
use crate::image_io::{Picture, resize};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// The photo's detail at a pixel is measured up to this many pixels away, along both axes.
const REACH: usize = 3;

/// What is added to each pixel of scale `scale`, which follows one of size `before`, in all channels alike: normally
/// distributed, with the deviation of the detail that the photo has at this size, not at that before, and near this
/// pixel, times [`Request::grain`]. Plain areas stay plain. `None` without grain. Sizes are height and width.
///
/// # Errors
/// If the photo can't be resized.
pub(super) fn grain(
    request: &Request,
    scale: usize,
    before: [usize; 2],
    size: [usize; 2],
) -> Result<Option<Vec<f32>>> {
    if request.grain == 0.0 {
        return Ok(None);
    }
    let photo = photo_at(request, size)?;
    let enlarged = resize(&photo_at(request, before)?, size[1], size[0])?;
    let deviations = detail(&photo, &enlarged);
    // A stream of its own, so that a scale's grain does not depend on how many there are.
    let mut random = ChaCha8Rng::seed_from_u64(request.seed);
    random.set_stream(scale as u64);
    let drawn = deviations.into_iter().map(|deviation| {
        let value: f32 = StandardNormal.sample(&mut random);
        request.grain * deviation * value
    });
    Ok(Some(drawn.collect()))
}

/// How much two pictures of one size differ near each pixel: the square root of the mean squared difference of their gray
/// values.
fn detail(picture: &Picture, other: &Picture) -> Vec<f32> {
    let gray = |pixel: &[f32; 3]| pixel.iter().sum::<f32>() / 3.0;
    let (pixels, others) = (picture.rgb.as_chunks::<3>().0, other.rgb.as_chunks::<3>().0);
    let squares: Vec<f32> =
        pixels.iter().zip(others).map(|(one, other)| (gray(one) - gray(other)).powi(2)).collect();
    let [width, height] = [picture.width, picture.height];
    let across = means(&squares, [height, width], [width, 1]);
    let near = means(&across, [width, height], [1, width]);
    near.into_iter().map(f32::sqrt).collect()
}

/// The mean over the values up to [`REACH`] away in the same line. There are `lines` lines of `length` values; `steps`
/// are the distances from one line, and from one value of a line, to the next.
fn means(values: &[f32], [lines, length]: [usize; 2], [line_step, step]: [usize; 2]) -> Vec<f32> {
    let mut means = vec![0.0; values.len()];
    for line in 0..lines {
        let at = |n: usize| line * line_step + n * step;
        for n in 0..length {
            let (first, last) = (n.saturating_sub(REACH), (n + REACH).min(length - 1));
            let sum: f32 = (first..=last).map(|n| values[at(n)]).sum();
            means[at(n)] = sum / (last - first + 1) as f32;
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A photo whose left half is plain and whose right half is a checkerboard.
    fn request() -> Request {
        let (width, height) = (80, 40);
        let mut rgb = Vec::new();
        for n in 0..width * height {
            let (x, y) = (n % width, n / width);
            rgb.extend([if x < width / 2 || (x + y) % 2 == 0 { 0.5 } else { 0.9 }; 3]);
        }
        Request { grain: 1.0, ..Request::new(Picture { width, height, rgb }) }
    }

    fn deviation(values: impl Iterator<Item = f32>) -> f32 {
        let values: Vec<f32> = values.collect();
        (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn grain_is_where_the_photo_has_detail_and_as_strong() {
        let request = request();
        let grain = grain(&request, 1, [20, 40], [40, 80]).unwrap().unwrap();
        assert_eq!(grain.len(), 80 * 40);
        let columns = |columns: std::ops::Range<usize>| {
            deviation((0..80 * 40).filter(|n| columns.contains(&(n % 80))).map(|n| grain[n]))
        };
        // At half the size the checkerboard is even gray: all of it is detail, of deviation 0.2. The mean over 1600 draws is
        // off by up to 1 / sqrt(2 * 1600) = 2 % (one deviation).
        let strong = columns(50..80);
        assert!((strong / 0.2 - 1.0).abs() < 0.1, "{strong}");
        let plain = columns(0..30);
        assert!(plain < 1e-4, "{plain}");
    }

    #[test]
    fn grain_depends_on_seed_and_scale_and_is_the_same_again() {
        let request = request();
        let drawn = |request: &Request, scale| grain(request, scale, [20, 40], [40, 80]).unwrap().unwrap();
        assert_eq!(drawn(&request, 1), drawn(&request, 1));
        assert_ne!(drawn(&request, 1), drawn(&request, 2));
        let other = Request { seed: 7, ..request.clone() };
        assert_ne!(drawn(&request, 1), drawn(&other, 1));
        let half = Request { grain: 0.5, ..request.clone() };
        let halves: Vec<f32> = drawn(&request, 1).iter().map(|value| value * 0.5).collect();
        assert_eq!(drawn(&half, 1), halves);
        assert_eq!(grain(&Request { grain: 0.0, ..request }, 1, [20, 40], [40, 80]).unwrap(), None);
    }

    #[test]
    fn means_are_of_what_is_there() {
        // Two lines of five values, side by side.
        let values: Vec<f32> = (0..10).map(|n| n as f32).collect();
        let rows = means(&values, [2, 5], [5, 1]);
        assert_eq!(rows[..3], [1.5, 2.0, 2.0]);
        let columns = means(&values, [5, 2], [1, 5]);
        assert_eq!(columns[..6], [2.5, 3.5, 4.5, 5.5, 6.5, 2.5]);
    }
}
