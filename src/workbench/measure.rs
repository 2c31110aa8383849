//! Timing a prepared program.

use super::catalogue;
use crate::error::Result;
use crate::gpu::{Family, Profile, Stopwatch};
use crate::graph::{Engine, Program, SingleOp, WARM_UP_PAUSED, warm_up};
use crate::ops::Op;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// One sample takes at least about this many seconds, so that starting and stopping do not count much.
const SAMPLE: f64 = 0.005;
/// Runs in one sample, at most.
const MOST_RUNS: usize = 64;

/// Which clock a time is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Timestamps of the device: copies and dispatches, without submission and wait.
    Device,
    /// The host's: submission and wait included.
    Wall,
}

/// Times of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// By which clock.
    pub clock: Clock,
    /// Seconds of one run, in rising order; never empty.
    pub seconds: Vec<f64>,
}

impl Samples {
    fn new(clock: Clock, mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { clock, seconds }
    }

    /// The value below which this fraction (0 to 1) of the samples is.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.seconds.len().saturating_sub(1);
        self.seconds.get((part * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// The middle sample.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Half the distance of the quartiles, relative to the median: how sure the median is.
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / (2.0 * self.median())
    }
}

/// Times programs against each other: in rounds, each program once a round, so that what disturbs the machine for
/// a while disturbs all of them. Warms up first. Ends after `rounds`, or after the round in which each program has
/// had `budget` seconds.
///
/// By the device's timestamps where it has them and they make sense (some drivers return zeros), else by wall
/// clock.
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

/// Times work, `rounds` times: `time` runs it so often in one submission and returns the seconds of one run, by wall
/// clock and by the device. Work that changes its own inputs has a `restore`, which is called before each sample and
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

/// Runs something so often in one submission; seconds of one run by wall clock, and by the device if that is credible.
type Time<'a> = dyn Fn(usize) -> Result<(f64, Option<f64>)> + 'a;

/// How many runs make a sample of about [`SAMPLE`] seconds. Runs twice, which compiles and touches memory too.
fn runs_a_sample(time: &Time<'_>) -> Result<usize> {
    time(1)?;
    let (wall, _) = time(1)?;
    Ok(((SAMPLE / wall.max(1e-9)) as usize).clamp(1, MOST_RUNS))
}

/// The device's times if all of them were credible.
fn by_best_clock(walls: Vec<f64>, devices: Vec<f64>) -> Samples {
    let credible = devices.len() == walls.len();
    if credible { Samples::new(Clock::Device, devices) } else { Samples::new(Clock::Wall, walls) }
}

/// Times one program by wall clock: a submission for each run, and the wait for it. Ends after `runs`, or when they
/// have taken `budget` seconds. Warms up first.
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

/// Seconds of one run out of several in one submission, by wall clock.
///
/// # Errors
/// As [`Program::submit`].
pub fn seconds(program: &Program, runs: usize) -> Result<f64> {
    Ok(program.time_runs(runs, None)?.0)
}

/// Bytes that an op has to move at least: its tensors, and its weights as the naive kernel reads them, once each.
///
/// # Errors
/// As [`Op::kernels`].
pub fn bytes(engine: &Engine, op: &dyn Op, single: &SingleOp) -> Result<u64> {
    let signature = single.signature();
    // The CPU device has no naive kernels; how large tensors and weights are is the same everywhere.
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
