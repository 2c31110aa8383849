//! The data of a report, as in `report.json`.

use super::args::{PartName, ReportArgs};
use crate::cli::values::{Precision, value_name};
use crate::files::Overwrite;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the file format. Increased if the meaning of a field changes.
const FORMAT: u32 = 1;
/// File name of the picture.
pub(super) const PICTURE: &str = "picture.png";

/// The data of one report.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub format: u32,
    pub version: &'static str,
    /// Commit that the program was built from, if `MIRAGE_COMMIT` was set in the build.
    pub commit: Option<&'static str>,
    /// Operating system and processor architecture.
    pub system: String,
    /// Start time, in UTC.
    pub date: String,
    pub quick: bool,
    /// Precision of the second timing of the iterations; single if there is none.
    pub precision: Precision,
    /// Filter of the kernels that were tested and timed; empty for all.
    pub filter: String,
    pub state: State,
    pub device: PartOutcome,
    pub kernels: PartOutcome,
    pub bench: PartOutcome,
    pub iterations: Vec<Iteration>,
    /// The program that iterations are compared with, if one was asked for.
    pub pytorch: Option<PartOutcome>,
    pub picture: PartOutcome,
    #[serde(skip)]
    pub folder: PathBuf,
    /// What may be replaced when data and page are saved again.
    #[serde(skip)]
    pub saved: [Overwrite; 2],
}

/// Progress of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Running,
    Complete,
    Interrupted,
}

/// Status of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    NotAskedFor,
    NotRun,
    Done,
    Failed,
    Interrupted,
}

/// Outcome of a part of the report.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PartOutcome {
    pub status: Status,
    /// Reason of a failure.
    pub reason: Option<String>,
    /// Duration, in seconds.
    pub seconds: Option<f64>,
    /// Results so far; null if there are none.
    pub result: Value,
}

/// The iterations of one objective at one size.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Iteration {
    /// `style` or `three`.
    pub objective: &'static str,
    /// Side of the square picture, in pixels.
    pub side: u32,
    #[serde(flatten)]
    pub outcome: PartOutcome,
    /// Outcome with the precision of `--precision` and tuned kernels, if it is not single.
    pub tuned: Option<PartOutcome>,
    /// PyTorch's times, in each layout and precision.
    pub pytorch: Vec<PeerRow>,
}

/// PyTorch's times of the same iteration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PeerRow {
    /// `nchw` or `channels_last`.
    pub layout: &'static str,
    /// `f32`, or `tf32`: products of 10-bit mantissas.
    pub precision: &'static str,
    #[serde(flatten)]
    pub outcome: PartOutcome,
}

impl PartOutcome {
    pub(super) fn new(is_wanted: bool) -> Self {
        let status = if is_wanted { Status::NotRun } else { Status::NotAskedFor };
        Self { status, reason: None, seconds: None, result: Value::Null }
    }

    /// Returns a number from the result.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.result.get(name).and_then(Value::as_f64)
    }
}

impl Iteration {
    /// Returns this program's median time divided by PyTorch's smallest median in f32.
    pub(super) fn ratio(&self) -> Option<f64> {
        let f32s = self.pytorch.iter().filter(|row| row.precision == "f32");
        let times = f32s.filter_map(|row| row.outcome.number("median_seconds"));
        let best = times.min_by(f64::total_cmp)?;
        Some(self.outcome.number("median_seconds")? / best)
    }
}

impl Record {
    /// Creates a report without results.
    pub(super) fn new(args: &ReportArgs, folder: &Path) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let outcome = |name| PartOutcome::new(args.includes(name));
        let iteration = |side, objective| Iteration {
            objective,
            side,
            outcome: outcome(PartName::Iterations),
            tuned: args.second_precision().map(|_| outcome(PartName::Iterations)),
            pytorch: Vec::new(),
        };
        let sizes = if args.includes(PartName::Iterations) { args.sizes() } else { Vec::new() };
        let iterations =
            sizes.iter().flat_map(|side| ["style", "three"].map(|objective| iteration(*side, objective)));
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("MIRAGE_COMMIT"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            date: date(seconds),
            quick: args.quick,
            precision: args.precision,
            filter: args.filter.clone(),
            state: State::Running,
            device: outcome(PartName::Device),
            kernels: outcome(PartName::Kernels),
            bench: outcome(PartName::Bench),
            iterations: iterations.collect(),
            pytorch: args.against.map(|_| PartOutcome::new(true)),
            picture: outcome(PartName::Picture),
            folder: folder.to_owned(),
            saved: [Overwrite::Never; 2],
        }
    }

    /// Returns name and reason of each part that failed.
    pub(super) fn failed(&self) -> Vec<(String, String)> {
        let mut outcomes: Vec<(String, &PartOutcome)> = vec![
            (value_name(PartName::Device), &self.device),
            (value_name(PartName::Kernels), &self.kernels),
            (value_name(PartName::Bench), &self.bench),
        ];
        outcomes.extend(self.pytorch.iter().map(|outcome| ("PyTorch".to_owned(), outcome)));
        for iteration in &self.iterations {
            let at = format!("{} at {} px", iteration.objective, iteration.side);
            outcomes.push((format!("iteration of {at}"), &iteration.outcome));
            if let Some(tuned) = &iteration.tuned {
                outcomes.push((format!("tuned iteration of {at}"), tuned));
            }
            for row in &iteration.pytorch {
                outcomes.push((format!("PyTorch, {at}, {} {}", row.precision, row.layout), &row.outcome));
            }
        }
        outcomes.push((value_name(PartName::Picture), &self.picture));
        let failed = outcomes.into_iter().filter(|(_, outcome)| outcome.status == Status::Failed);
        failed.map(|(name, outcome)| (name, outcome.reason.clone().unwrap_or_default())).collect()
    }
}

/// Formats seconds since 1970 as `2026-11-26 15:04 UTC` (Hinnant's algorithm for civil dates).
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seconds_are_formatted_as_utc_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_827_696, "2000-02-29 12:34 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_709_251_200, "2024-03-01 00:00 UTC"),
            (4_102_444_800, "2100-01-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn ratio_uses_the_faster_f32_layout() {
        let outcome = |seconds: Option<f64>| {
            let result = seconds.map_or(Value::Null, |seconds| json!({ "median_seconds": seconds }));
            PartOutcome { result, ..PartOutcome::new(true) }
        };
        let row = |layout, precision, seconds| PeerRow { layout, precision, outcome: outcome(seconds) };
        let mut iteration = Iteration {
            objective: "style",
            side: 256,
            outcome: outcome(Some(3.0)),
            tuned: None,
            pytorch: Vec::new(),
        };
        assert_eq!(iteration.ratio(), None);
        iteration.pytorch = vec![
            row("nchw", "f32", Some(2.0)),
            row("channels_last", "f32", Some(1.5)),
            row("nchw", "f32", None),
            row("nchw", "tf32", Some(0.5)),
        ];
        assert_eq!(iteration.ratio(), Some(2.0));
    }
}
