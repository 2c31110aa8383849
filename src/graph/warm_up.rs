//! Warm-up: runs a GPU until its clock has risen. An idle GPU has a low clock: an NVIDIA H200 ran kernels up to three
//! times as fast after a second or two of work. A pause of some tenths of a second has a smaller effect.

use crate::error::Result;
use crate::gpu::Profile;
use std::time::Instant;

/// Length in seconds of the windows whose shortest run times are compared.
const WINDOW: f64 = 0.05;
/// A device is warm when the shortest time in a window is at least this fraction of that in the previous window.
const STEADY: f64 = 0.98;
/// Minimum seconds of work for a device that was idle for a long time.
pub const WARM_UP_IDLE: f64 = 1.5;
/// Minimum seconds of work after a pause between measurements.
pub const WARM_UP_PAUSED: f64 = 0.2;
/// Maximum seconds of work beyond the minimum.
const MOST_EXTRA: f64 = 1.0;

/// Calls `run` repeatedly, for at least `seconds` and until its times no longer fall. Does nothing on the CPU device
/// and on software drivers, which run at the CPU's clock.
///
/// # Errors
/// Errors of `run`.
pub fn warm_up(device: &Profile, seconds: f64, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    if device.cpu || device.software {
        return Ok(());
    }
    let begin = Instant::now();
    let mut before = f64::INFINITY;
    while begin.elapsed().as_secs_f64() < seconds + MOST_EXTRA {
        let (window, mut least) = (Instant::now(), f64::INFINITY);
        while window.elapsed().as_secs_f64() < WINDOW {
            let start = Instant::now();
            run()?;
            least = least.min(start.elapsed().as_secs_f64());
        }
        if begin.elapsed().as_secs_f64() >= seconds && least >= STEADY * before {
            break;
        }
        before = least;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn software_devices_are_not_warmed_up() {
        let mut runs = 0;
        let mut count = || {
            runs += 1;
            Ok(())
        };
        warm_up(&Profile::cpu(), WARM_UP_IDLE, &mut count).unwrap();
        warm_up(&Profile { software: true, ..Profile::minimal() }, WARM_UP_IDLE, &mut count).unwrap();
        assert_eq!(runs, 0);
    }

    #[test]
    fn gpu_warm_up_stops_when_times_settle() {
        let gpu = Profile { software: false, ..Profile::minimal() };
        let mut runs = 0;
        let begin = Instant::now();
        // Each run takes half the time of the one before, down to a millisecond.
        warm_up(&gpu, WARM_UP_PAUSED, || {
            runs += 1;
            std::thread::sleep(Duration::from_millis(64 >> runs.min(6)));
            Ok(())
        })
        .unwrap();
        let seconds = begin.elapsed().as_secs_f64();
        assert!(runs > 6 && seconds >= WARM_UP_PAUSED, "{runs} runs in {seconds} s");
        assert!(seconds < WARM_UP_PAUSED + MOST_EXTRA + 1.0, "{seconds} s");
    }
}
