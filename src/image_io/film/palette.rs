//! Quantization of a picture to 256 colours.
//!
//! The box of colours with the largest squared error is split at its mean, along the channel with the largest variance
//! (Wan, Wong, Prusinkiewicz 1988). The resulting colours are refined with Lloyd's algorithm (Lloyd 1982).

/// Maximum number of colours.
const COLOURS: usize = 256;

/// Number of Lloyd iterations. Most of the gain comes from the first two.
const ROUNDS: usize = 3;

/// Pixels of nearly the same colour: their mean and number.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    colour: [f32; 3],
    weight: f32,
}

/// Returns the palette for 8 bit RGB pixels: at most 256 colours, 3 bytes each.
pub(super) fn palette(levels: &[u8]) -> Vec<u8> {
    let mut clusters = clusters(levels);
    let mut colours = split(&mut clusters);
    for _ in 0..ROUNDS {
        improve(&clusters, &mut colours);
    }
    colours.iter().flatten().map(|v| v.round().clamp(0.0, 255.0) as u8).collect()
}

/// Groups the pixels by cells of 4x4x4 levels, each with its exact mean.
fn clusters(levels: &[u8]) -> Vec<Cluster> {
    let mut cells = vec![([0u64; 3], 0u64); 1 << 18];
    for pixel in levels.chunks_exact(3) {
        let cell = pixel.iter().fold(0, |at, v| at << 6 | usize::from(v >> 2));
        let (sums, count) = &mut cells[cell];
        sums.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += u64::from(*v));
        *count += 1;
    }
    let used = cells.into_iter().filter(|(_, count)| *count > 0);
    used.map(|(sums, count)| Cluster {
        colour: sums.map(|sum| (sum as f64 / count as f64) as f32),
        weight: count as f32,
    })
    .collect()
}

/// A box of colours: a range of clusters and its best split.
struct ColourBox {
    start: usize,
    end: usize,
    mean: [f32; 3],
    /// Channel with the largest squared error, and that error.
    channel: usize,
    error: f64,
}

impl ColourBox {
    fn new(clusters: &[Cluster], start: usize, end: usize) -> Self {
        let (mut weights, mut sums, mut squares) = (0f64, [0f64; 3], [0f64; 3]);
        for cluster in &clusters[start..end] {
            let weight = f64::from(cluster.weight);
            weights += weight;
            for (c, v) in cluster.colour.into_iter().enumerate() {
                sums[c] += weight * f64::from(v);
                squares[c] += weight * f64::from(v).powi(2);
            }
        }
        let mean = sums.map(|sum| sum / weights.max(1.0));
        let errors: [f64; 3] = std::array::from_fn(|c| squares[c] - sums[c] * mean[c]);
        let channel = (0..3).max_by(|a, b| errors[*a].total_cmp(&errors[*b])).unwrap_or(0);
        // The error of a single cluster is only rounding.
        let error = if end - start > 1 { errors[channel] } else { 0.0 };
        Self { start, end, mean: mean.map(|v| v as f32), channel, error }
    }
}

/// Splits the clusters into up to 256 boxes and returns their means.
fn split(clusters: &mut [Cluster]) -> Vec<[f32; 3]> {
    let mut boxes = vec![ColourBox::new(clusters, 0, clusters.len())];
    while boxes.len() < COLOURS {
        let worst = (0..boxes.len()).max_by(|a, b| boxes[*a].error.total_cmp(&boxes[*b].error));
        let Some(worst) = worst.filter(|worst| boxes[*worst].error > 0.0) else { break };
        let ColourBox { start, end, mean, channel, .. } = boxes[worst];
        let inside = &mut clusters[start..end];
        inside.sort_unstable_by(|a, b| a.colour[channel].total_cmp(&b.colour[channel]));
        let low = inside.partition_point(|c| c.colour[channel] <= mean[channel]);
        // If all are on one side of the mean, they differ only by rounding, and any split will do.
        let middle = start + low.clamp(1, end - start - 1);
        boxes[worst] = ColourBox::new(clusters, start, middle);
        boxes.push(ColourBox::new(clusters, middle, end));
    }
    boxes.into_iter().map(|colours| colours.mean).collect()
}

/// Does one Lloyd iteration: moves each colour to the mean of the clusters nearest to it.
fn improve(clusters: &[Cluster], colours: &mut [[f32; 3]]) {
    let mut sums = vec![([0f64; 3], 0f64); colours.len()];
    for cluster in clusters {
        let (sum, weights) = &mut sums[nearest(colours, cluster.colour)];
        let weight = f64::from(cluster.weight);
        sum.iter_mut().zip(cluster.colour).for_each(|(sum, v)| *sum += weight * f64::from(v));
        *weights += weight;
    }
    for (colour, (sum, weight)) in colours.iter_mut().zip(sums).filter(|(_, (_, weight))| *weight > 0.0) {
        *colour = sum.map(|sum| (sum / weight) as f32);
    }
}

/// Returns the index of the nearest colour; 0 if there are no colours.
fn nearest(colours: &[[f32; 3]], to: [f32; 3]) -> usize {
    let (mut best, mut least) = (0, f32::INFINITY);
    for (index, colour) in colours.iter().enumerate() {
        let [r, g, b]: [f32; 3] = std::array::from_fn(|c| colour[c] - to[c]);
        let distance = r * r + g * g + b * b;
        if distance < least {
            (best, least) = (index, distance);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_separated_colours_are_found_exactly() {
        let wanted: Vec<[u8; 3]> = (0..200u8).map(|i| [i.wrapping_mul(7), i, 255 - i]).collect();
        let levels: Vec<u8> = wanted.iter().cycle().take(3000).flatten().copied().collect();
        let mut found: Vec<[u8; 3]> = palette(&levels).chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
        found.sort_unstable();
        let mut wanted = wanted;
        wanted.sort_unstable();
        assert_eq!(found, wanted);
    }

    #[test]
    fn palettes_of_one_and_no_colour() {
        assert_eq!(palette(&[1, 2, 3, 1, 2, 3]), [1, 2, 3]);
        assert_eq!(palette(&[]).len(), 3);
    }

    #[test]
    fn many_colours_give_256_spanning_the_range() {
        let levels: Vec<u8> = (0..1u32 << 16)
            .flat_map(|i| [(i >> 8) as u8, i as u8, (i.wrapping_mul(2_654_435_761) >> 24) as u8])
            .collect();
        let palette = palette(&levels);
        assert_eq!(palette.len(), 768);
        assert!(palette.iter().any(|v| *v < 32) && palette.iter().any(|v| *v > 223));
    }
}
