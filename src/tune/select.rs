//! Selects a candidate by its times.

use crate::error::Result;

/// Rules for comparing candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contest {
    /// Number of rounds. In each, all remaining candidates run once, one after the other, so a machine that becomes
    /// slower or faster affects all of them equally.
    pub rounds: usize,
    /// After [`Contest::patience`] rounds, candidates slower than the leader by more than this factor are dropped. A
    /// single disturbed run should not decide.
    pub drop_beyond: f64,
    /// Number of rounds before [`Contest::drop_beyond`] applies.
    pub patience: usize,
    /// Candidates slower than the leader by more than this factor are dropped after any round.
    pub drop_at_once_beyond: f64,
    /// The winner replaces the default only if it takes less than this fraction of the default's time.
    pub margin: f64,
}

impl Default for Contest {
    fn default() -> Self {
        Self { rounds: 9, drop_beyond: 1.5, patience: 3, drop_at_once_beyond: 4.0, margin: 0.9 }
    }
}

/// Outcome of a contest.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Index of the winner.
    pub winner: usize,
    /// Minimum seconds of each candidate; `None` for those that did not take part.
    pub seconds: Vec<Option<f64>>,
    /// Number of runs of each candidate.
    pub runs: Vec<usize>,
}

impl Contest {
    /// Compares the candidates in `entered` (indices below `count`). Candidate 0 is the default: it wins unless another
    /// one is clearly faster or it did not enter. `time` runs a candidate and returns its seconds. Returns `None` if
    /// there are no candidates.
    ///
    /// # Errors
    /// Errors of `time`.
    pub fn select(
        &self,
        count: usize,
        entered: &[usize],
        mut time: impl FnMut(usize) -> Result<f64>,
    ) -> Result<Option<Selection>> {
        let mut seconds = vec![None; count];
        let mut runs = vec![0; count];
        let mut left = entered.to_vec();
        let best = |seconds: &[Option<f64>], left: &[usize]| {
            left.iter()
                .filter_map(|candidate| seconds[*candidate].map(|time| (*candidate, time)))
                .min_by(|one, other| f64::total_cmp(&one.1, &other.1))
        };
        for round in 0..self.rounds {
            // A single remaining candidate has won once it has been timed.
            if round > 0 && left.len() < 2 {
                break;
            }
            for candidate in &left {
                let now = time(*candidate)?;
                runs[*candidate] += 1;
                let earlier: f64 = seconds[*candidate].unwrap_or(f64::INFINITY);
                seconds[*candidate] = Some(earlier.min(now));
            }
            if let Some((_, leader)) = best(&seconds, &left) {
                let limit =
                    if round + 1 < self.patience { self.drop_at_once_beyond } else { self.drop_beyond };
                let close = |time: f64| time <= leader * limit;
                left.retain(|candidate| seconds[*candidate].is_some_and(close));
            }
        }
        let Some((mut winner, least)) = best(&seconds, &left) else { return Ok(None) };
        if let Some(default) = seconds.first().copied().flatten() {
            let clear = least < default * self.margin;
            winner = if clear { winner } else { 0 };
        }
        Ok(Some(Selection { winner, seconds, runs }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a contest on scripted times; the last time repeats.
    fn contest(times: &[&[f64]], entered: &[usize]) -> (Selection, Vec<usize>) {
        let mut order = Vec::new();
        let mut at = vec![0; times.len()];
        let selection = Contest::default().select(times.len(), entered, |candidate| {
            order.push(candidate);
            let script = times[candidate];
            let time = script[at[candidate].min(script.len() - 1)];
            at[candidate] += 1;
            Ok(time)
        });
        (selection.unwrap().unwrap(), order)
    }

    #[test]
    fn rounds_are_interleaved_and_clearly_faster_kernel_wins() {
        let (selection, order) = contest(&[&[1.0], &[0.8]], &[0, 1]);
        assert_eq!(selection.winner, 1);
        assert_eq!(order, [0, 1].repeat(9));
        assert_eq!(selection.seconds, [Some(1.0), Some(0.8)]);
    }

    #[test]
    fn default_wins_without_clear_margin() {
        assert_eq!(contest(&[&[1.0], &[0.95]], &[0, 1]).0.winner, 0);
        assert_eq!(contest(&[&[1.0], &[0.9]], &[0, 1]).0.winner, 0);
        assert_eq!(contest(&[&[1.0], &[0.89]], &[0, 1]).0.winner, 1);
    }

    #[test]
    fn slow_kernels_are_dropped_including_the_default() {
        let (selection, _) = contest(&[&[1.6], &[1.0], &[1.5], &[4.1]], &[0, 1, 2, 3]);
        assert_eq!(selection.winner, 1);
        assert_eq!(selection.runs, [3, 9, 9, 1]);
        // A single remaining candidate need not run again.
        assert_eq!(contest(&[&[1.0], &[2.0]], &[0, 1]).0.runs, [3, 3]);
        assert_eq!(contest(&[&[1.0], &[5.0]], &[0, 1]).0.runs, [1, 1]);
    }

    #[test]
    fn minimum_time_counts() {
        // Bad rounds do not matter if there is a good one before the patience ends.
        let (selection, _) = contest(&[&[1.0], &[3.9, 3.9, 0.7, 1.4]], &[0, 1]);
        assert_eq!(selection.winner, 1);
        let (selection, _) = contest(&[&[1.9, 1.0], &[0.95]], &[0, 1]);
        assert_eq!(selection.winner, 0);
    }

    #[test]
    fn kernels_not_entered_are_not_run() {
        let (selection, order) = contest(&[&[0.1], &[1.0], &[2.0]], &[1, 2]);
        assert_eq!(selection.winner, 1);
        assert!(!order.contains(&0));
        assert_eq!(selection.seconds[0], None);
        assert_eq!(Contest::default().select(2, &[], |_| Ok(1.0)).unwrap(), None);
    }

    #[test]
    fn nan_time_never_wins() {
        assert_eq!(contest(&[&[1.0], &[f64::NAN]], &[0, 1]).0.winner, 0);
    }
}
