//! Splits the steps of a program into submissions.
//!
//! Some systems reset a GPU if a submission takes longer than a limit (Windows after two seconds), so a submission
//! should take no longer than a fraction of that. The time of each step is measured once per program: its second run
//! is submitted in small parts, each of which is waited for. The first run, in which a driver may still compile, is
//! split as for the slowest device.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Assumed operations per second before a device is measured: an old integrated GPU has more.
const SLOW: f64 = 1e10;

/// Timed parts are shorter than others by this factor.
const TIMED: f64 = 8.0;

/// The steps of a program and their known times.
#[derive(Debug)]
pub(super) struct Splitter {
    /// Maximum seconds of a submission; `None` submits everything together.
    limit: Option<f64>,
    /// Operations of each step; at least one.
    operations: Vec<f64>,
    times: Mutex<Vec<Time>>,
}

/// The time of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Time {
    Unknown,
    /// The step has run once.
    Warm,
    /// The step takes this many seconds.
    Measured(f64),
}

/// The submissions of a list of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StepRanges {
    /// Ranges of the list, in order.
    pub ranges: Vec<Range<usize>>,
    /// True if each range is to be waited for and timed.
    pub timed: bool,
}

impl Splitter {
    /// Creates a splitter for steps with these operations.
    pub fn new(limit: Option<Duration>, operations: Vec<f64>) -> Self {
        let times = Mutex::new(vec![Time::Unknown; operations.len()]);
        Self { limit: limit.map(|limit| limit.as_secs_f64()), operations, times }
    }

    fn times(&self) -> MutexGuard<'_, Vec<Time>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how to submit these steps.
    pub fn ranges(&self, steps: &[usize]) -> StepRanges {
        let whole = || StepRanges { ranges: std::iter::once(0..steps.len()).collect(), timed: false };
        let Some(limit) = self.limit else { return whole() };
        let mut times = self.times();
        let timed = steps.iter().all(|step| times[*step] != Time::Unknown)
            && steps.iter().any(|step| times[*step] == Time::Warm);
        let seconds = |step: &usize| match times[*step] {
            Time::Measured(seconds) => seconds,
            Time::Unknown | Time::Warm => self.operations[*step] / SLOW,
        };
        // The time of a part is divided among its steps by their operations. That is inexact, so timed parts are short.
        let ranges = split(steps.iter().map(seconds), if timed { limit / TIMED } else { limit });
        for step in steps {
            if times[*step] == Time::Unknown {
                times[*step] = Time::Warm;
            }
        }
        StepRanges { ranges, timed }
    }

    /// Records the seconds that these steps took together.
    pub fn measured(&self, steps: &[usize], seconds: f64) {
        let all: f64 = steps.iter().map(|step| self.operations[*step]).sum();
        let mut times = self.times();
        for step in steps {
            times[*step] = Time::Measured(seconds * self.operations[*step] / all);
        }
    }
}

/// Splits steps into consecutive ranges, each within the limit or a single step. Returns one empty range if there are
/// no steps.
fn split(seconds: impl Iterator<Item = f64>, limit: f64) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut end, mut sum) = (0, 0, 0.0);
    for seconds in seconds {
        if end > start && sum + seconds > limit {
            ranges.push(start..end);
            (start, sum) = (end, 0.0);
        }
        sum += seconds;
        end += 1;
    }
    ranges.push(start..end);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the end of each range, after checking that the ranges are contiguous.
    fn ends(ranges: &[Range<usize>]) -> Vec<usize> {
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start) && ranges[0].start == 0);
        ranges.iter().map(|range| range.end).collect()
    }

    #[test]
    fn parts_stay_within_limit_unless_single_step() {
        let split = |seconds: &[f64], limit| ends(&split(seconds.iter().copied(), limit));
        assert_eq!(split(&[0.2, 0.2, 0.2, 0.9, 0.1, 0.4], 0.5), [2, 3, 4, 6]);
        assert_eq!(split(&[0.5, 0.5], 0.5), [1, 2]);
        assert_eq!(split(&[0.1; 4], 1.0), [4]);
        assert_eq!(split(&[], 1.0), [0]);
    }

    #[test]
    fn times_are_measured_once_after_warm_up() {
        let seconds = Duration::from_secs(1);
        let splitter = Splitter::new(Some(seconds), vec![0.6 * SLOW, 0.6 * SLOW, 0.2 * SLOW, 0.3 * SLOW]);
        let ranges = |steps: &[usize]| {
            let StepRanges { ranges, timed } = splitter.ranges(steps);
            (ends(&ranges), timed)
        };
        // Split as for the slowest device, and untimed.
        assert_eq!(ranges(&[0, 1, 2]), (vec![1, 3], false));
        assert_eq!(ranges(&[0, 1, 2]), (vec![1, 2, 3], true));
        splitter.measured(&[0], 0.1);
        splitter.measured(&[1, 2], 1.6);
        // 0.1, 1.2 and 0.4 seconds.
        assert_eq!(ranges(&[0, 1, 2]), (vec![1, 2, 3], false));
        // The last step is new.
        assert_eq!(ranges(&[0, 2, 3]), (vec![3], false));
        assert_eq!(ranges(&[0, 2, 3]), (vec![1, 2, 3], true));
        splitter.measured(&[0, 2, 3], 0.011);
        assert_eq!(ranges(&[0, 1, 2, 3]), (vec![1, 2, 4], false));
    }

    #[test]
    fn without_limit_nothing_is_split() {
        let splitter = Splitter::new(None, vec![1e18, 1e18]);
        for _ in 0..3 {
            assert_eq!(ends(&splitter.ranges(&[0, 1]).ranges), [2]);
        }
        let StepRanges { ranges, timed } = Splitter::new(Some(Duration::from_secs(1)), vec![1.0]).ranges(&[]);
        assert!(ends(&ranges) == [0] && !timed);
    }
}
