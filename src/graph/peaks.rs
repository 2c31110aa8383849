//! Measured peak rates of the device, which benches compare kernels with.

use super::engine::Engine;
use super::goals::Goals;
use super::program::Program;
use super::single::SingleOp;
use super::warm_up::{WARM_UP_IDLE, WARM_UP_PAUSED, warm_up};
use crate::error::Result;
use crate::ops::{MultiplyAdd, Op, Shape, Triad};
use std::sync::Arc;
use std::time::Instant;

/// Length of the vector whose multiply-adds are timed: enough invocations for any GPU.
const CHAIN_VALUES: usize = 1 << 20;
/// Minimum seconds of a measurement, so the time to start it is negligible.
const LONG_ENOUGH: f64 = 0.03;
/// Maximum number of steps: see [`MultiplyAdd::steps`].
const MOST_STEPS: usize = 4096;
/// Bytes of each vector of the stream: larger than the caches of all but a few devices.
const STREAM_BYTES: u64 = 128 << 20;
/// Number of runs of each measurement; the best one is used.
const ROUNDS: usize = 5;

/// Measured peaks of a device.
#[derive(Debug, Clone, Copy)]
pub struct Peaks {
    /// Floating-point operations per second in f32. A multiply-add counts as two.
    pub flops: f64,
    /// Bytes read and written per second: the better of a shader's triad and the device's own copy.
    pub bandwidth: f64,
}

impl Peaks {
    /// Measures the peak rates of a device. Takes a second or two.
    ///
    /// # Errors
    /// If the device fails or lacks memory for three vectors of 128 MiB (or of its largest binding).
    pub fn measure(engine: &Arc<Engine>) -> Result<Self> {
        // The first measurement warms up a device that was idle.
        let bandwidth = triad(engine)?.max(copy(engine)?);
        Ok(Self { flops: flops(engine)?, bandwidth })
    }

    /// Returns the minimum time in seconds for these numbers of operations and bytes (roofline model, Williams et al.
    /// 2009), and true if the operations are the limit.
    pub fn bound(&self, flops: f64, bytes: f64) -> (f64, bool) {
        let (compute, memory) = (flops / self.flops, bytes / self.bandwidth);
        (compute.max(memory), compute >= memory)
    }
}

fn seconds(program: &Program, runs: usize) -> Result<f64> {
    let begin = Instant::now();
    let mut last = None;
    for _ in 0..runs {
        last = Some(program.submit(&[Goals::ALL], &[], "measuring a peak")?);
    }
    if let Some(submission) = last {
        submission.wait()?;
    }
    Ok(begin.elapsed().as_secs_f64() / runs as f64)
}

fn least(program: &Program, runs: usize) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(seconds(program, runs)?);
    }
    Ok(least)
}

fn flops(engine: &Arc<Engine>) -> Result<f64> {
    let shape = Shape::Vector(CHAIN_VALUES);
    let input = vec![0.5; CHAIN_VALUES];
    let mut best: f64 = 0.0;
    for variant in 0..SingleOp::new(engine, Arc::new(MultiplyAdd { steps: 1 }), &[shape])?.variants()?.len() {
        let mut steps = 1;
        loop {
            let op = MultiplyAdd { steps };
            let single = SingleOp::new(engine, Arc::new(op), &[shape])?;
            let program = single.prepare(variant, std::slice::from_ref(&input))?;
            seconds(&program, 1)?; // compiles
            warm_up(engine.profile(), WARM_UP_PAUSED, || seconds(&program, 1).map(drop))?;
            let enough = seconds(&program, 1)? >= LONG_ENOUGH || steps >= MOST_STEPS;
            if enough {
                best = best.max(op.flops(single.signature()) as f64 / least(&program, 1)?);
                break;
            }
            steps *= 4;
        }
    }
    Ok(best)
}

/// Length of each vector of the stream.
fn stream(engine: &Engine) -> usize {
    let profile = engine.profile();
    (STREAM_BYTES.min(profile.max_binding).min(profile.max_buffer) / 4) as usize
}

/// Number of runs that make one measurement long enough, given the seconds of one run.
fn runs(once: f64) -> usize {
    (LONG_ENOUGH / once.max(1e-5)).ceil().clamp(1.0, 100.0) as usize
}

fn triad(engine: &Arc<Engine>) -> Result<f64> {
    let length = stream(engine);
    let shapes = [Shape::Vector(length); 2];
    let single = SingleOp::new(engine, Arc::new(Triad), &shapes)?;
    let input = vec![0.5; length];
    let program = single.prepare(0, &[input.clone(), input])?;
    seconds(&program, 1)?;
    warm_up(engine.profile(), WARM_UP_IDLE, || seconds(&program, 1).map(drop))?;
    let once = seconds(&program, 1)?;
    Ok((3 * length * 4) as f64 / least(&program, runs(once))?)
}

fn copy(engine: &Engine) -> Result<f64> {
    let bytes = stream(engine) as u64 * 4;
    let buffers = [
        engine.tensor("copied", Shape::Vector(bytes as usize / 4))?,
        engine.tensor("copy", Shape::Vector(bytes as usize / 4))?,
    ];
    let seconds = |runs: usize| engine.time_copies(&buffers, runs);
    seconds(1)?;
    warm_up(engine.profile(), WARM_UP_PAUSED, || seconds(1).map(drop))?;
    let runs = runs(seconds(1)?);
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(seconds(runs)?);
    }
    Ok(2.0 * bytes as f64 / least)
}
