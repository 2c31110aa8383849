//! Timing of prepared programs.

use super::catalogue;
use crate::error::Result;
use crate::gpu::{Family, Profile, Stopwatch};
use crate::graph::{Engine, Program, SingleOp, WARM_UP_PAUSED, warm_up};
use crate::ops::Op;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Approximate minimum seconds of a sample, so starting and stopping are a small part.
const SAMPLE: f64 = 0.005;
/// Maximum number of runs in one sample.
const MOST_RUNS: usize = 64;

/// Clock of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The device's timestamps: copies and dispatches, without submission and wait.
    Device,
    /// The host's clock, including submission and wait.
    Wall,
}

/// Times of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// Clock of the times.
    pub clock: Clock,
    /// Seconds of one run, in ascending order; never empty.
    pub seconds: Vec<f64>,
}

impl Samples {
    fn new(clock: Clock, mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { clock, seconds }
    }

    /// Returns the value below which this fraction (0 to 1) of the samples lies.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.seconds.len().saturating_sub(1);
        self.seconds.get((part * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// Returns the median sample.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Returns half the interquartile range relative to the median: a measure of the median's uncertainty.
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / (2.0 * self.median())
    }
}

/// Times programs against each other in rounds. Each program runs once per round, so a temporary disturbance affects
/// all of them. Warms up first. Ends after `rounds`, or after the round in which the time exceeds `budget` seconds per
/// program.
///
/// Uses the device's timestamps if they are available and credible (some drivers return zeros), otherwise wall clock.
///
/// # Errors
/// As [`Program::submit`].
pub fn measure(engine: &Engine, programs: &[Program], rounds: usize, budget: f64) -> Result<Vec<Samples>> {
    let watch = engine.gpu().map(|context| Stopwatch::new(context, 2)).transpose()?.flatten();
    let count = |program: &Program| runs_a_sample(&|runs| program.time_runs(runs, watch.as_ref()));
    if let Some(first) = programs.first() {
        let runs = count(first)?;
        warm_up(engine.profile(), WARM_UP_PAUSED, || first.time_runs(runs, None).map(drop))?;
    }
    let counts = programs.iter().map(count).collect::<Result<Vec<usize>>>()?;
    let mut walls = vec![Vec::new(); programs.len()];
    let mut devices = vec![Vec::new(); programs.len()];
    let begin = Instant::now();
    for _ in 0..rounds.max(1) {
        for (index, program) in programs.iter().enumerate() {
            let (wall, device) = program.time_runs(counts[index], watch.as_ref())?;
            walls[index].push(wall);
            devices[index].extend(device);
        }
        if begin.elapsed().as_secs_f64() > budget * programs.len() as f64 {
            break;
        }
    }
    let samples = walls.into_iter().zip(devices);
    Ok(samples.map(|(walls, devices)| by_best_clock(walls, devices)).collect())
}

/// Times work in `rounds` samples. `time` performs a number of runs in one submission and returns the seconds per run,
/// by wall clock and by the device. For work that changes its own inputs, `restore` is called before each sample and
/// not timed; a sample is then one run.
///
/// # Errors
/// As [`Context::wait`](crate::gpu::Context::wait).
#[cfg(feature = "workbench")]
pub(super) fn measure_work(
    device: &Profile,
    rounds: usize,
    time: &Time<'_>,
    restore: Option<&dyn Fn() -> Result<()>>,
) -> Result<Samples> {
    let runs = match restore {
        Some(_) => 1,
        None => runs_a_sample(time)?,
    };
    let (mut walls, mut devices) = (Vec::new(), Vec::new());
    warm_up(device, crate::graph::WARM_UP_IDLE, || {
        restore.map_or(Ok(()), |restore| restore())?;
        time(runs).map(drop)
    })?;
    for _ in 0..rounds.max(1) {
        restore.map_or(Ok(()), |restore| restore())?;
        let (wall, device) = time(runs)?;
        walls.push(wall);
        devices.extend(device);
    }
    Ok(by_best_clock(walls, devices))
}

/// Performs a number of runs in one submission. Returns the seconds per run by wall clock, and by the device if
/// credible.
type Time<'a> = dyn Fn(usize) -> Result<(f64, Option<f64>)> + 'a;

/// Returns the number of runs in a sample of about [`SAMPLE`] seconds. Runs twice; the first run compiles and touches
/// memory.
fn runs_a_sample(time: &Time<'_>) -> Result<usize> {
    time(1)?;
    let (wall, _) = time(1)?;
    Ok(((SAMPLE / wall.max(1e-9)) as usize).clamp(1, MOST_RUNS))
}

/// Returns the device's times if all of them were credible, otherwise those by wall clock.
fn by_best_clock(walls: Vec<f64>, devices: Vec<f64>) -> Samples {
    let credible = devices.len() == walls.len();
    if credible { Samples::new(Clock::Device, devices) } else { Samples::new(Clock::Wall, walls) }
}

/// Times one program by wall clock, including a submission and wait for each run. Ends after `runs` runs or `budget`
/// seconds. Runs once first, untimed.
///
/// # Errors
/// As [`Program::submit`].
pub fn measure_wall(program: &Program, runs: usize, budget: f64) -> Result<Samples> {
    program.time_runs(1, None)?;
    let mut seconds = Vec::new();
    let begin = Instant::now();
    while seconds.is_empty() || (seconds.len() < runs && begin.elapsed().as_secs_f64() < budget) {
        seconds.push(self::seconds(program, 1)?);
    }
    Ok(Samples::new(Clock::Wall, seconds))
}

/// Runs a program `runs` times in one submission. Returns the seconds per run by wall clock.
///
/// # Errors
/// As [`Program::submit`].
pub fn seconds(program: &Program, runs: usize) -> Result<f64> {
    Ok(program.time_runs(runs, None)?.0)
}

/// Returns the minimum bytes that an op has to move: its tensors, and its weights as the naive kernel reads them, once
/// each.
///
/// # Errors
/// As [`Op::kernels`].
pub fn bytes(engine: &Engine, op: &dyn Op, single: &SingleOp) -> Result<u64> {
    let signature = single.signature();
    // The CPU device has no naive kernels, but sizes of tensors and weights do not depend on the device.
    let any = Profile { family: Family::Naive, ..Profile::minimal() };
    let profile = if engine.profile().cpu { &any } else { engine.profile() };
    let kernels = op.kernels(signature, profile)?;
    Ok(kernels.last().map_or(0, |naive| catalogue::bytes(signature, naive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_spread() {
        let samples = Samples::new(Clock::Wall, vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((samples.quantile(0.0), samples.median(), samples.quantile(1.0)), (1.0, 3.0, 5.0));
        assert_eq!(samples.spread(), (4.0 - 2.0) / 6.0);
        assert_eq!(Samples::new(Clock::Wall, vec![2.0]).spread(), 0.0);
    }
}
