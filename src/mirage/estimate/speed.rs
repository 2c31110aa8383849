//! Estimates the time of a run from a few iterations at small sizes.

use crate::error::Result;
use crate::graph::Engine;
use crate::mirage::request::{Request, Tiling};
use crate::mirage::run::session::Session;
use crate::mirage::scales::{STEP, Scale, ScaleCount, Scales, work};
use crate::vgg::Network;
use std::sync::Arc;

/// Longest sides of the timed pictures, on the CPU and on a GPU, in pixels. Two sizes separate the cost per iteration
/// (e.g. of matrix roots) from the cost per pixel. On the CPU the latter is nearly constant up to 2048 px
/// (docs/performance.md); a GPU needs more pixels to be busy. Below 160 px the filters cost the CPU more than the
/// pixels, and timings of two such sizes differ by less than their noise.
const SIDES: [[u32; 2]; 2] = [[64, 160], [256, 512]];
/// Timed iterations at each size, of which the fastest counts, and the warm-up before them.
const TIMED: [usize; 2] = [1, 2];
const WARM: usize = 1;

/// Cost of a request's iterations on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Height and width of the larger timed picture.
    pub size: [usize; 2],
    /// Seconds per iteration for each pixel that it computes.
    pub per_pixel: f64,
    /// Seconds per iteration in addition.
    pub per_iteration: f64,
    /// Seconds before the first iteration can start.
    pub preparing: f64,
}

impl Speed {
    /// Times iterations of a request at scales of about 64 and 160 pixels (256 and 512 on a GPU), without tiles. Packed
    /// weights stay on the device for the run.
    ///
    /// # Errors
    /// Same as [`Session::new`], or if the device fails.
    pub fn measure(engine: &Arc<Engine>, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let sides = sides(engine);
        let (mut timed, mut size) = (Vec::new(), [0; 2]);
        let mut preparing: f64 = 0.0;
        for (side, count) in sides.into_iter().zip(TIMED) {
            let mut session = Session::new(engine, network, at_side(request, side))?;
            // Drops weights that only the smaller size reads.
            engine.forget_unused_constants();
            // The first session packs the weights, so the run does not need to pack them again.
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

    /// Returns the request with the highest memory use that [`Speed::measure`] runs.
    pub fn largest(engine: &Engine, request: &Request) -> Request {
        let [_, side] = sides(engine);
        // The first scale above a minimum size is at most one step longer.
        let longest = (f64::from(side) * STEP).ceil() as usize;
        let own = request.photo.width.max(request.photo.height);
        let mut request = request.at_size(longest.min(own));
        request.tiling = Tiling::Whole;
        request.scales = Scales::single(1);
        request
    }

    /// Returns the seconds of preparation and of the iterations of these scales after the first `done`.
    pub fn seconds(&self, scales: &[Scale], done: u32) -> f64 {
        let left = work(scales, u32::MAX).saturating_sub(work(scales, done));
        let iterations = scales.last().map_or(0, |last| last.end.saturating_sub(done));
        self.preparing + self.per_iteration * f64::from(iterations) + self.per_pixel * left as f64
    }
}

fn sides(engine: &Engine) -> [u32; 2] {
    SIDES[usize::from(!engine.profile().software)]
}

/// Returns the request with scales from this side on, without tiles: at so small a size only the first layers would be
/// tiled.
fn at_side(request: &Request, side: u32) -> Request {
    let mut request = request.clone();
    request.tiling = Tiling::Whole;
    request.scales = Scales { count: ScaleCount::Auto, min_size: side, iterations: vec![1] };
    request
}

/// Returns the seconds per pixel and per iteration, given pixels and seconds of two iterations, the smaller one first.
fn through((few, short): (u64, f64), (many, long): (u64, f64)) -> (f64, f64) {
    let [fewer, pixels] = [few, many].map(|count| count as f64);
    // The smaller picture may be the slower one by chance; for a small photo both sizes are equal.
    let per_pixel = if many > few { ((long - short) / (pixels - fewer)).max(0.0) } else { long / pixels };
    (per_pixel, (long - per_pixel * pixels).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iteration_time_depends_on_pixels() {
        let scales = Scales { count: ScaleCount::Exactly(2), min_size: 1, iterations: vec![3, 2] };
        let plan = scales.plan([8, 8], 1).unwrap();
        let speed = Speed { size: [4, 4], per_pixel: 0.5, per_iteration: 3.0, preparing: 2.0 };
        assert_eq!(speed.seconds(&plan, 0), 2.0 + 5.0 * 3.0 + 0.5 * (3.0 * 36.0 + 2.0 * 64.0));
        assert_eq!(speed.seconds(&plan, 4), 2.0 + 3.0 + 0.5 * 64.0);
    }

    #[test]
    fn two_sizes_determine_pixel_and_iteration_cost() {
        assert_eq!(through((4, 3.0), (16, 9.0)), (0.5, 1.0));
        // The smaller picture took no less time: all of it is cost per iteration.
        assert_eq!(through((4, 9.5), (16, 9.0)), (0.0, 9.0));
        // The photo is smaller than both sizes.
        assert_eq!(through((4, 3.0), (4, 2.0)), (0.5, 0.0));
        // A cost that grows faster than the pixels leaves nothing per iteration.
        assert_eq!(through((4, 1.0), (16, 16.0)), (1.25, 0.0));
    }
}
