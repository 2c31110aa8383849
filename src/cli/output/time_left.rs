//! Speed of a run, and its time left.

use super::format::{duration, number};
use crate::mirage::{Scale, work};
use std::collections::VecDeque;

/// Number of recent iterations from which the pace is computed.
const WINDOW: usize = 10;

/// The pace of a run. Iterations are weighted by the pixels that they compute, since their time grows with these.
#[derive(Debug, Default)]
pub(in crate::cli) struct Pace {
    scales: Vec<Scale>,
    /// Iterations done and seconds of the run until then, the oldest first.
    recent: VecDeque<(u32, f64)>,
}

impl Pace {
    /// Creates the pace of a run at these scales that starts now.
    pub(in crate::cli) fn new(scales: &[Scale]) -> Self {
        Self { scales: scales.to_vec(), recent: [(0, 0.0)].into() }
    }

    /// Records a finished iteration.
    pub(in crate::cli) fn record(&mut self, iteration: u32, seconds: f64) {
        self.recent.push_back((iteration, seconds));
        if self.recent.len() > WINDOW + 1 {
            self.recent.pop_front();
        }
    }

    /// Restarts at this iteration, after the run went back to it.
    pub(in crate::cli) fn restart(&mut self, iteration: u32) {
        let seconds = self.recent.back().map_or(0.0, |(_, seconds)| *seconds);
        self.recent = [(iteration, seconds)].into();
    }

    /// Returns the work of the finished iterations.
    pub(in crate::cli) fn work_done(&self) -> u64 {
        self.recent.back().map_or(0, |(iteration, _)| work(&self.scales, *iteration))
    }

    /// Returns iterations per second and the time left, such as `1.250/s, 12 s left`; empty until an iteration is done.
    pub(in crate::cli) fn text(&self) -> String {
        let (Some((first, begin)), Some((last, end))) = (self.recent.front(), self.recent.back()) else {
            return String::new();
        };
        let seconds = end - begin;
        let painted = work(&self.scales, *last).saturating_sub(work(&self.scales, *first));
        if painted == 0 || seconds <= 0.0 {
            return String::new();
        }
        let rate = number(f64::from(last - first) / seconds);
        match work(&self.scales, u32::MAX).saturating_sub(work(&self.scales, *last)) {
            0 => format!("{rate}/s"),
            left => format!("{rate}/s, {} left", duration(left as f64 * seconds / painted as f64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_counts_pixels() {
        let small = Scale::new([10, 10], 0, 40);
        let large = Scale::new([20, 20], 40, 60);
        let mut pace = Pace::new(&[small, large]);
        assert_eq!(pace.text(), "");
        for iteration in 1..=20 {
            pace.record(iteration, f64::from(iteration));
        }
        // 20 small ones at a second each, 20 large ones at four.
        assert_eq!(pace.text(), "1.000/s, 1 min 40 s left");
        for iteration in 21..=40 {
            pace.record(iteration, f64::from(iteration));
        }
        pace.record(41, 44.0);
        assert_eq!(pace.text(), "0.7692/s, 1 min 16 s left");
        for iteration in 42..=60 {
            pace.record(iteration, 44.0 + 4.0 * f64::from(iteration - 41));
        }
        assert_eq!(pace.text(), "0.2500/s");
    }

    #[test]
    fn setback_restarts_the_pace() {
        let mut pace = Pace::new(&[Scale::new([8, 8], 0, 30)]);
        for iteration in 1..=20 {
            pace.record(iteration, f64::from(iteration));
        }
        pace.restart(12);
        assert_eq!(pace.text(), "");
        pace.record(13, 22.0);
        assert_eq!(pace.text(), "0.5000/s, 34 s left");
    }

    #[test]
    fn resumed_run_starts_with_its_earlier_pace() {
        let mut pace = Pace::new(&[Scale::new([8, 8], 0, 30)]);
        pace.record(10, 20.0);
        assert_eq!(pace.text(), "0.5000/s, 40 s left");
    }
}
