//! How long a run takes, by a few of its iterations at a small size.

use super::request::Request;
use super::scales::{Scale, ScaleCount, Scales, work};
use super::session::Session;
use crate::error::Result;
use crate::graph::Engine;
use crate::vgg::Network;
use std::sync::Arc;

/// The longest side of the picture that is timed, on the CPU and on a GPU, in pixels. On the CPU the cost of a pixel is
/// nearly the same from here to 2048 px (docs/performance.md); a GPU needs more pixels to be busy.
const SIDE: [u32; 2] = [128, 512];
/// Iterations that are timed, of which the fastest counts; those before compile kernels and touch memory.
const TIMED: usize = 2;
const WARM: usize = 1;

/// What iterations of a request cost on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Height and width at which it was measured.
    pub size: [usize; 2],
    /// Seconds of an iteration for each pixel.
    pub per_pixel: f64,
    /// Seconds until the first iteration could begin.
    pub preparing: f64,
}

impl Speed {
    /// Times iterations of a request at its smallest scale of about 128 pixels (512 on a GPU). Packed weights stay on the
    /// device, for the run.
    ///
    /// # Errors
    /// As [`Session::new`], and if the device fails.
    pub fn measure(engine: &Arc<Engine>, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let side = SIDE[usize::from(!engine.profile().software)];
        let mut request = request.clone();
        request.scales = Scales { count: ScaleCount::Auto, min_size: side, iterations: vec![1] };
        let mut session = Session::new(engine, network, request)?;
        let preparing = session.started.prepared_in;
        let size = session.scales[0].size;
        let times = session.time_iterations(WARM + TIMED)?;
        let least = times[WARM..].iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Self { size, per_pixel: least / (size[0] * size[1]) as f64, preparing })
    }

    /// Seconds of the iterations of these scales after the first `done`, and of the preparation.
    pub fn seconds(&self, scales: &[Scale], done: u32) -> f64 {
        let left = work(scales, u32::MAX).saturating_sub(work(scales, done));
        self.preparing + self.per_pixel * left as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_count_by_their_pixels() {
        let scales = Scales { count: ScaleCount::Exactly(2), min_size: 1, iterations: vec![3, 2] };
        let plan = scales.plan([8, 8], 1).unwrap();
        let speed = Speed { size: [4, 4], per_pixel: 0.5, preparing: 2.0 };
        assert_eq!(speed.seconds(&plan, 0), 2.0 + 0.5 * (3.0 * 36.0 + 2.0 * 64.0));
        assert_eq!(speed.seconds(&plan, 4), 2.0 + 0.5 * 64.0);
    }
}
