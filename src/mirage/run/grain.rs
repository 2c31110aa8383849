//! Grain that is added at the start of a scale. An enlarged picture is smooth, and the first structure to grow on it is
//! what the network's first layers respond to most: rows and columns, i.e. a grid. Grain contains all directions
//! equally, so texture grows in all of them.

use crate::error::Result;
use crate::image_io::{Picture, resize};
use crate::mirage::objective::targets::photo_at;
use crate::mirage::request::Request;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Radius, in pixels along both axes, of the window in which detail and direction are measured.
const REACH: usize = 3;
/// Standard deviation, in pixels, of the smoothing of grain along lines, where the photo has a single direction.
const STRETCH: f32 = 2.5;
/// Radius of that smoothing in pixels.
const STROKE: isize = 5;

/// Draws the noise to add to each pixel of scale `scale`, equal in all channels, in the picture's unit (black to white
/// is 1). `before` and `size` are height and width of the previous scale and of this one.
///
/// The standard deviation is [`Request::grain`] times that of the photo's local detail that the previous scale was too
/// small to hold. Plain areas stay plain, and where the photo's lines run one way, so does the grain. `None` if grain
/// is disabled.
///
/// # Errors
/// If the photo can't be resized.
pub(in crate::mirage) fn draw(
    request: &Request,
    scale: usize,
    before: [usize; 2],
    size: [usize; 2],
) -> Result<Option<Vec<f32>>> {
    if request.grain == 0.0 {
        return Ok(None);
    }
    let photo = gray(photo_at(request, size)?.as_ref());
    let enlarged = gray(&resize(photo_at(request, before)?.as_ref(), size[1], size[0])?);
    // One random stream per scale, so that a resumed run draws the same grain.
    let mut random = ChaCha8Rng::seed_from_u64(request.seed);
    random.set_stream(scale as u64);
    let drawn: Vec<f32> = photo.iter().map(|_| StandardNormal.sample(&mut random)).collect();
    let strokes = along(&drawn, &directions(&photo, size), size);
    let detail = detail(&photo, &enlarged, size);
    Ok(Some(strokes.iter().zip(detail).map(|(value, detail)| request.grain * detail * value).collect()))
}

fn gray(picture: &Picture) -> Vec<f32> {
    picture.rgb.as_chunks::<3>().0.iter().map(|pixel| pixel.iter().sum::<f32>() / 3.0).collect()
}

/// Returns the local difference of two gray pictures: the root mean square over a window around each pixel.
fn detail(picture: &[f32], other: &[f32], size: [usize; 2]) -> Vec<f32> {
    let squares: Vec<f32> = picture.iter().zip(other).map(|(one, other)| (one - other).powi(2)).collect();
    near(&squares, size).into_iter().map(f32::sqrt).collect()
}

/// Returns the direction of lines around each pixel of a gray picture. Each is a unit vector (across, down) times the
/// coherence: 0 without lines or with lines in all directions, 1 if all are parallel. Derived from the structure
/// tensor, i.e. the local mean of products of gradient components.
fn directions(picture: &[f32], [height, width]: [usize; 2]) -> Vec<[f32; 2]> {
    let at = |y: usize, x: usize| picture[y * width + x];
    let gradients: Vec<[f32; 2]> = (0..height * width)
        .map(|n| {
            let (y, x) = (n / width, n % width);
            let across = at(y, (x + 1).min(width - 1)) - at(y, x.saturating_sub(1));
            let down = at((y + 1).min(height - 1), x) - at(y.saturating_sub(1), x);
            [across, down]
        })
        .collect();
    let mean = |product: fn([f32; 2]) -> f32| {
        let products: Vec<f32> = gradients.iter().map(|gradient| product(*gradient)).collect();
        near(&products, [height, width])
    };
    let (across, down) = (mean(|[x, _]| x * x), mean(|[_, y]| y * y));
    let both = mean(|[x, y]| x * y);
    (0..height * width)
        .map(|n| {
            // The gradient's direction is half the angle of (difference, 2 both); lines are perpendicular to it.
            let (sum, difference) = (across[n] + down[n], across[n] - down[n]);
            let agreement = difference.hypot(2.0 * both[n]) / sum.max(1e-12);
            let angle = (2.0 * both[n]).atan2(difference) / 2.0;
            [-angle.sin() * agreement, angle.cos() * agreement]
        })
        .collect()
}

/// Smooths values of standard deviation 1 along these directions, and normalises them to deviation 1 again. Values
/// outside the picture are skipped.
fn along(values: &[f32], directions: &[[f32; 2]], [height, width]: [usize; 2]) -> Vec<f32> {
    let smoothed = directions.iter().enumerate().map(|(n, [across, down])| {
        let (y, x) = ((n / width) as f32, (n % width) as f32);
        let agreement = across.hypot(*down);
        let unit = [across / agreement.max(1e-6), down / agreement.max(1e-6)];
        let deviation = STRETCH * agreement;
        let (mut sum, mut squares) = (0.0, 0.0);
        for step in -STROKE..=STROKE {
            let distance = step as f32;
            let weight =
                if step == 0 { 1.0 } else { (-0.5 * (distance / deviation.max(1e-3)).powi(2)).exp() };
            let (at_y, at_x) = ((y + distance * unit[1]).round(), (x + distance * unit[0]).round());
            if at_y >= 0.0 && at_x >= 0.0 && at_y < height as f32 && at_x < width as f32 {
                sum += weight * values[at_y as usize * width + at_x as usize];
                squares += weight * weight;
            }
        }
        sum / squares.sqrt()
    });
    smoothed.collect()
}

/// Returns the mean over the window of radius [`REACH`] around each pixel.
fn near(values: &[f32], [height, width]: [usize; 2]) -> Vec<f32> {
    let across = means(values, [height, width], [width, 1]);
    means(&across, [width, height], [1, width])
}

/// Returns the mean over the values up to [`REACH`] away in the same line. There are `lines` lines of `length` values;
/// `line_step` and `step` are the index distances between lines and between values of a line.
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
    fn grain_follows_the_photos_detail() {
        let request = request();
        let grain = draw(&request, 1, [20, 40], [40, 80]).unwrap().unwrap();
        assert_eq!(grain.len(), 80 * 40);
        let columns = |columns: std::ops::Range<usize>| {
            deviation((0..80 * 40).filter(|n| columns.contains(&(n % 80))).map(|n| grain[n]))
        };
        // At half the size the checkerboard is plain gray, so all of it is detail, of deviation 0.2. The deviation of
        // 1200 samples has a standard error of 1 / sqrt(2 * 1200) = 2 %.
        let strong = columns(50..80);
        assert!((strong / 0.2 - 1.0).abs() < 0.1, "{strong}");
        let plain = columns(0..30);
        assert!(plain < 1e-4, "{plain}");
    }

    #[test]
    fn grain_depends_only_on_seed_and_scale() {
        let request = request();
        let drawn = |request: &Request, scale| draw(request, scale, [20, 40], [40, 80]).unwrap().unwrap();
        assert_eq!(drawn(&request, 1), drawn(&request, 1));
        assert_ne!(drawn(&request, 1), drawn(&request, 2));
        let other = Request { seed: 7, ..request.clone() };
        assert_ne!(drawn(&request, 1), drawn(&other, 1));
        let half = Request { grain: 0.5, ..request.clone() };
        let halves: Vec<f32> = drawn(&request, 1).iter().map(|value| value * 0.5).collect();
        assert_eq!(drawn(&half, 1), halves);
        assert_eq!(draw(&Request { grain: 0.0, ..request }, 1, [20, 40], [40, 80]).unwrap(), None);
    }

    #[test]
    fn directions_follow_lines() {
        let size = [40, 60];
        let picture = |value: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
            (0..size[0] * size[1]).map(|n| value((n % size[1]) as f32, (n / size[1]) as f32)).collect()
        };
        let at = |directions: &[[f32; 2]]| directions[20 * size[1] + 30];
        // Vertical lines, horizontal lines, and lines that rise from left to right; down is positive.
        let [across, down] = at(&directions(&picture(&|x, _| x.sin()), size));
        assert!(across.abs() < 1e-3 && (down.abs() - 1.0).abs() < 1e-3, "{across} {down}");
        let [across, down] = at(&directions(&picture(&|_, y| y.sin()), size));
        assert!((across.abs() - 1.0).abs() < 1e-3 && down.abs() < 1e-3, "{across} {down}");
        let [across, down] = at(&directions(&picture(&|x, y| (x + y).sin()), size));
        assert!((across + down).abs() < 1e-3 && (across.hypot(down) - 1.0).abs() < 1e-3, "{across} {down}");
        assert_eq!(at(&directions(&picture(&|_, _| 0.3), size)), [0.0, 0.0]);
    }

    #[test]
    fn grain_follows_lines_and_keeps_its_strength() {
        let size = [64, 64];
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let values: Vec<f32> = (0..64 * 64).map(|_| StandardNormal.sample(&mut random)).collect();
        assert_eq!(along(&values, &vec![[0.0, 0.0]; 64 * 64], size), values);
        let smoothed = along(&values, &vec![[0.0, 1.0]; 64 * 64], size);
        // The deviation of 4096 samples in strokes of about 4: within 4 standard errors of 1 / sqrt(2 * 1024).
        assert!((deviation(smoothed.iter().copied()) - 1.0).abs() < 0.1);
        let step = |by: usize| {
            deviation((0..64 * 64 - by).filter(|n| n % 64 < 63).map(|n| smoothed[n + by] - smoothed[n]))
        };
        assert!(step(64) < 0.5 * step(1), "{} down, {} across", step(64), step(1));
    }

    #[test]
    fn box_means_shrink_at_the_edges() {
        // Two lines of five values, side by side.
        let values: Vec<f32> = (0..10).map(|n| n as f32).collect();
        let rows = means(&values, [2, 5], [5, 1]);
        assert_eq!(rows[..3], [1.5, 2.0, 2.0]);
        let columns = means(&values, [5, 2], [1, 5]);
        assert_eq!(columns[..6], [2.5, 3.5, 4.5, 5.5, 6.5, 2.5]);
    }
}
