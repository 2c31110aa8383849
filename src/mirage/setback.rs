//! Faults that send a run back to its last good picture: non-finite values and diverging losses.

use std::fmt;

/// Number of setbacks after which a run ends.
pub const MOST_SETBACKS: u32 = 5;

/// A loss of more than this many times the first one has diverged.
const DIVERGED_FACTOR: f64 = 1000.0;
/// A loss diverges if it rises this often in a row, over this many iterations, to more than this many times the first
/// loss. Without the last condition, noise would count as divergence in a resumed run that has converged.
const RISES_IN_A_ROW: u32 = 4;
const RISE_ITERATIONS: u32 = 20;
const RISE_FACTOR: f64 = 1.01;
/// A run that starts from a picture may have almost no loss at first. In that case the largest loss of this many
/// iterations serves as the first one.
const GRACE_ITERATIONS: u32 = 20;

/// Reason for a setback.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Values of a tensor are NaN or infinite.
    NonFinite {
        /// Name of the tensor: the gradient, the picture, or a tensor of the optimiser.
        tensor: String,
        /// Number of such values.
        count: u64,
    },
    /// The loss is NaN or infinite.
    NonFiniteLoss,
    /// The loss exceeds a thousand times the first one.
    Exploded {
        /// Current loss.
        loss: f64,
        /// First loss with these weights, at this scale.
        first: f64,
    },
    /// The loss keeps rising from report to report.
    Rising {
        /// Current loss.
        loss: f64,
        /// First loss with these weights, at this scale.
        first: f64,
        /// Number of rises in a row.
        times: u32,
    },
}

impl Fault {
    /// True if the loss diverged while all values were finite.
    pub(super) fn is_divergence(&self) -> bool {
        matches!(self, Self::Exploded { .. } | Self::Rising { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFinite { tensor, count } => {
                let values = if *count == 1 { "value" } else { "values" };
                write!(f, "{count} {values} of the {tensor} became NaN or infinite")
            }
            Self::NonFiniteLoss => write!(f, "the loss became NaN or infinite"),
            Self::Exploded { loss, first } => {
                write!(f, "the loss grew from {first:.3e} to {loss:.3e}")
            }
            Self::Rising { loss, first, times } => {
                write!(f, "the loss rose {times} times in a row, to {loss:.3e} from {first:.3e} at first")
            }
        }
    }
}

/// A return of the run to an earlier picture.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Setback {
    /// Reason.
    pub fault: Fault,
    /// Iteration at which the fault was found.
    pub iteration: u32,
    /// The run continues from the picture after this many iterations, with a fresh optimiser state.
    pub to: u32,
    /// Number of times the learning rate has been halved so far.
    pub halvings: u32,
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, iteration, to, halvings } = self;
        let part = 1_u64.checked_shl(*halvings).unwrap_or(u64::MAX);
        write!(
            f,
            "{fault} at iteration {iteration}: going back to iteration {to}, with 1/{part} of the learning rate"
        )
    }
}

/// Tracks the loss while the objective stays the same.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct LossTrend {
    /// First iteration after the grace period.
    settled: u32,
    /// The first loss, or the largest before `settled`.
    first: Option<f64>,
    last: Option<f64>,
    /// Number of rises in a row, and the iteration before the first of them.
    rises: u32,
    rising_since: u32,
}

impl LossTrend {
    /// Starts tracking at an iteration. With `grace`, the first losses may be almost zero.
    pub fn new(iteration: u32, grace: bool) -> Self {
        Self {
            settled: if grace { iteration.saturating_add(GRACE_ITERATIONS) } else { iteration },
            ..Self::default()
        }
    }

    /// True while in the grace period and no loss has been recorded.
    pub fn has_grace(&self) -> bool {
        self.settled > 0 && self.first.is_none()
    }

    /// Resets the trend after a setback; the first loss is kept.
    pub fn gone_back(self) -> Self {
        Self { last: None, rises: 0, ..self }
    }

    /// Writes the trend as text; the inverse of [`LossTrend::from_text`].
    pub fn to_text(self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
        let Self { settled, first, last, rises, rising_since } = self;
        format!("{settled} {} {} {rises} {rising_since}", number(first), number(last))
    }

    /// Parses a text from a file; `None` if it is malformed or a loss is not finite.
    pub fn from_text(text: &str) -> Option<Self> {
        let number = |word: &str| match word {
            "none" => Some(None),
            word => word.parse().ok().filter(|value: &f64| value.is_finite()).map(Some),
        };
        let words: Vec<&str> = text.split(' ').collect();
        let [settled, first, last, rises, rising_since] = words[..] else { return None };
        Some(Self {
            settled: settled.parse().ok()?,
            first: number(first)?,
            last: number(last)?,
            rises: rises.parse().ok()?,
            rising_since: rising_since.parse().ok()?,
        })
    }

    /// Records the loss after an iteration, which must be finite. Returns a fault if it diverges.
    pub fn follow(&mut self, iteration: u32, loss: f64) -> Option<Fault> {
        let first = match self.first {
            Some(first) if iteration >= self.settled => first,
            first => {
                let largest = first.map_or(loss, |first| first.max(loss));
                *self.first.insert(largest)
            }
        };
        let rises = self.last.is_some_and(|last| loss > last);
        if !rises {
            (self.rises, self.rising_since) = (0, iteration);
        } else {
            // A file may hold any number.
            self.rises = self.rises.saturating_add(1);
        }
        self.last = Some(loss);
        if first > 0.0 && loss > DIVERGED_FACTOR * first {
            return Some(Fault::Exploded { loss, first });
        }
        let long =
            self.rises >= RISES_IN_A_ROW && iteration.saturating_sub(self.rising_since) >= RISE_ITERATIONS;
        (long && loss > RISE_FACTOR * first).then_some(Fault::Rising { loss, first, times: self.rises })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(trend: &mut LossTrend, losses: &[(u32, f64)]) -> Vec<(u32, Fault)> {
        losses.iter().filter_map(|(at, loss)| Some((*at, trend.follow(*at, *loss)?))).collect()
    }

    #[test]
    fn thousandfold_loss_is_divergence() {
        let mut trend = LossTrend::new(0, false);
        assert!(follow(&mut trend, &[(0, 2.0), (1, 1.0), (2, 2000.0), (3, 4.0)]).is_empty());
        assert_eq!(follow(&mut trend, &[(4, 2000.1)]), [(4, Fault::Exploded { loss: 2000.1, first: 2.0 })]);
        assert!(follow(&mut trend.gone_back(), &[(2, 1999.0)]).is_empty());
        // A first loss of zero gives nothing to compare with.
        assert!(follow(&mut LossTrend::new(0, false), &[(0, 0.0), (9, 1e30)]).is_empty());
    }

    #[test]
    fn trend_continues_from_its_text() {
        let losses = [(0, 3.0), (7, 3.1), (14, 0.1 + 0.2), (21, 3.3), (28, 3.4), (35, 3.5), (42, 3.6)];
        for saved in 0..losses.len() {
            let mut trend = LossTrend::new(5, true);
            follow(&mut trend, &losses[..saved]);
            let mut restored = LossTrend::from_text(&trend.to_text()).unwrap();
            assert_eq!(restored, trend);
            assert_eq!(follow(&mut restored, &losses[saved..]), follow(&mut trend, &losses[saved..]));
        }
        for text in [
            "",
            "1 2 3 4",
            "1 2 3 4 5 6",
            "1 NaN none 4 5",
            "1 2 inf 4 5",
            "-1 2 3 4 5",
            "1 2 3 4 4294967296",
        ] {
            assert_eq!(LossTrend::from_text(text), None, "{text}");
        }
        // The largest numbers are handled.
        let mut trend = LossTrend::from_text("4294967295 1 1 4294967295 4294967295").unwrap();
        assert_eq!(follow(&mut trend, &[(9, 2.0)]), []);
    }

    #[test]
    fn loss_may_rise_from_a_start_at_the_targets() {
        let start = [(0, 1e-9), (5, 0.5), (10, 3.0), (30, 2.9), (60, 2.0)];
        assert!(follow(&mut LossTrend::new(0, true), &start).is_empty());
        assert_eq!(follow(&mut LossTrend::new(0, false), &start).len(), 4);
        assert_eq!(follow(&mut LossTrend::new(0, true), &[(0, 1.0), (20, 1001.0)]).len(), 1);
    }

    #[test]
    fn only_long_rises_above_first_loss_are_divergence() {
        let at = |every: u32, losses: &[f64]| -> Vec<(u32, f64)> {
            losses.iter().enumerate().map(|(index, loss)| (index as u32 * every, *loss)).collect()
        };
        let trend = || LossTrend::new(0, false);
        let rising = [3.0, 3.1, 3.2, 3.3, 3.4];
        let found = follow(&mut trend(), &at(5, &rising));
        assert_eq!(found, [(20, Fault::Rising { loss: 3.4, first: 3.0, times: 4 })]);
        // Too short, interrupted, still below the start, and hardly above it.
        assert!(follow(&mut trend(), &at(4, &rising)).is_empty());
        assert!(follow(&mut trend(), &at(25, &[3.0, 3.1, 3.2, 3.3, 3.2, 3.3, 3.4, 3.5])).is_empty());
        assert!(follow(&mut trend(), &at(25, &[3.0, 1.0, 1.5, 2.0, 2.5, 2.9])).is_empty());
        assert!(follow(&mut trend(), &at(25, &[3.0, 3.001, 3.002, 3.01, 3.02, 3.029])).is_empty());
    }

    #[test]
    fn setback_text_names_cause_and_next_step() {
        let fault = Fault::NonFinite { tensor: "gradient".to_owned(), count: 1 };
        let text = Setback { fault, iteration: 17, to: 10, halvings: 2 }.to_string();
        assert_eq!(
            text,
            "1 value of the gradient became NaN or infinite at iteration 17: going back to iteration 10, with 1/4 of the learning rate"
        );
    }
}
