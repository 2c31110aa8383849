//! How long a run takes, by a few of its iterations at a small size.

use crate::error::Result;
use crate::graph::Engine;
use crate::mirage::request::{Request, Tiling};
use crate::mirage::run::session::Session;
use crate::mirage::scales::{STEP, Scale, ScaleCount, Scales, work};
use crate::vgg::Network;
use std::sync::Arc;

/// The longest sides of the pictures that are timed, on the CPU and on a GPU, in pixels. From two sizes follow what an
/// iteration costs at any size (matrix roots, for one) and what a pixel costs, which on the CPU is nearly the same from here to
/// 2048 px (docs/performance.md); a GPU needs more pixels to be busy. Below 160 px the CPU spends most of its time on
/// reading weights, and two such sizes differ by less than one timing varies.
const SIDES: [[u32; 2]; 2] = [[64, 160], [256, 512]];
/// Iterations that are timed at either size, of which the fastest counts; those before compile kernels and touch memory.
const TIMED: [usize; 2] = [1, 2];
const WARM: usize = 1;

/// What iterations of a request cost on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Height and width of the larger picture that was timed.
    pub size: [usize; 2],
    /// Seconds of an iteration for each pixel that it computes.
    pub per_pixel: f64,
    /// Seconds of an iteration besides.
    pub per_iteration: f64,
    /// Seconds until the first iteration could begin.
    pub preparing: f64,
}

impl Speed {
    /// Times iterations of a request at its smallest scales of about 64 and 160 pixels (256 and 512 on a GPU), the whole
    /// picture at once. Packed weights stay on the device, for the run.
    ///
    /// # Errors
    /// As [`Session::new`], and if the device fails.
    pub fn measure(engine: &Arc<Engine>, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let sides = sides(engine);
        let (mut timed, mut size) = (Vec::new(), [0; 2]);
        let mut preparing: f64 = 0.0;
        for (side, count) in sides.into_iter().zip(TIMED) {
            let mut session = Session::new(engine, network, at_side(request, side))?;
            // Weights that only a smaller size reads.
            engine.forget_unused_constants();
            // The first one packs the weights, which the run finds packed, too.
            preparing = preparing.max(session.started.prepared_in);
            let times = session.time_iterations(WARM + count)?;
            let least = times[WARM..].iter().copied().fold(f64::INFINITY, f64::min);
            let scale = session.scales[0];
            size = scale.size;
            timed.push((scale.pixels, least));
        }
        let (per_pixel, per_iteration) = through(timed[0], timed[1]);
        Ok(Self { size, per_pixel, per_iteration, preparing })
    }

    /// What takes the most memory of what [`Speed::measure`] runs.
    pub fn largest(engine: &Engine, request: &Request) -> Request {
        let [_, side] = sides(engine);
        // The first scale from a side on is at most a step longer.
        let longest = (f64::from(side) * STEP).ceil() as usize;
        let own = request.photo.width.max(request.photo.height);
        let mut request = request.at_size(longest.min(own));
        request.tiling = Tiling::Whole;
        request.scales = Scales::single(1);
        request
    }

    /// Seconds of the iterations of these scales after the first `done`, and of the preparation.
    pub fn seconds(&self, scales: &[Scale], done: u32) -> f64 {
        let left = work(scales, u32::MAX).saturating_sub(work(scales, done));
        let iterations = scales.last().map_or(0, |last| last.end.saturating_sub(done));
        self.preparing + self.per_iteration * f64::from(iterations) + self.per_pixel * left as f64
    }
}

fn sides(engine: &Engine) -> [u32; 2] {
    SIDES[usize::from(!engine.profile().software)]
}

/// The request with scales from this side on, without tiles: so small a picture has tiles of its first layers only.
fn at_side(request: &Request, side: u32) -> Request {
    let mut request = request.clone();
    request.tiling = Tiling::Whole;
    request.scales = Scales { count: ScaleCount::Auto, min_size: side, iterations: vec![1] };
    request
}

/// What a pixel and what an iteration costs, from the seconds of an iteration of two numbers of pixels, the smaller first.
fn through((few, short): (u64, f64), (many, long): (u64, f64)) -> (f64, f64) {
    let [fewer, pixels] = [few, many].map(|count| count as f64);
    // The smaller one may be the slower by chance, and both are one for a small photo.
    let per_pixel = if many > few { ((long - short) / (pixels - fewer)).max(0.0) } else { long / pixels };
    (per_pixel, (long - per_pixel * pixels).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_count_by_their_pixels() {
        let scales = Scales { count: ScaleCount::Exactly(2), min_size: 1, iterations: vec![3, 2] };
        let plan = scales.plan([8, 8], 1).unwrap();
        let speed = Speed { size: [4, 4], per_pixel: 0.5, per_iteration: 3.0, preparing: 2.0 };
        assert_eq!(speed.seconds(&plan, 0), 2.0 + 5.0 * 3.0 + 0.5 * (3.0 * 36.0 + 2.0 * 64.0));
        assert_eq!(speed.seconds(&plan, 4), 2.0 + 3.0 + 0.5 * 64.0);
    }

    #[test]
    fn two_sizes_give_what_a_pixel_and_what_an_iteration_costs() {
        assert_eq!(through((4, 3.0), (16, 9.0)), (0.5, 1.0));
        // A smaller picture that took no less: all of it is the iteration's.
        assert_eq!(through((4, 9.5), (16, 9.0)), (0.0, 9.0));
        // The photo is smaller than both.
        assert_eq!(through((4, 3.0), (4, 2.0)), (0.5, 0.0));
        // Costs that grow faster than pixels leave nothing for the iteration.
        assert_eq!(through((4, 1.0), (16, 16.0)), (1.25, 0.0));
    }
}
