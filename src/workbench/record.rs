//! Figures of a bench as a file, and changes since an earlier one.

use super::measure::{Clock, Samples};
use crate::error::{Error, Result};
use crate::files::{Overwrite, read_text};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the file's format.
const FORMAT: u32 = 1;
/// Maximum size of the file in bytes.
const MAX_FILE: u64 = 1 << 22;
/// Relative change of the median below which a change does not count, however small the spread: the clock of a CPU or
/// GPU varies by as much from one minute to the next.
const LEAST_CHANGE: f64 = 0.05;

/// All figures of one bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format.
    pub format: u32,
    /// Version of the program.
    pub version: String,
    /// Adapter, backend and driver.
    pub device: String,
    /// Measured peak of f32 operations per second (a multiply-add counts as two).
    pub peak_flops: f64,
    /// Measured peak of bytes per second.
    pub peak_bandwidth: f64,
    /// One row for each kernel and shape.
    pub rows: Vec<Row>,
}

/// Figures of one kernel at one shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Op and shape.
    pub case: String,
    /// Name of the kernel.
    pub variant: String,
    /// True if it is the preferred kernel on this device.
    pub preferred: bool,
    /// Clock of the times.
    pub clock: Clock,
    /// Number of samples.
    pub samples: usize,
    /// Minimum seconds of a run.
    pub min: f64,
    /// First quartile, median and third quartile of a run's seconds.
    pub quartiles: [f64; 3],
    /// Operations of a run. A multiply-add counts as two; Winograd kernels count the direct sum.
    pub flops: f64,
    /// Minimum bytes that a run has to move.
    pub bytes: f64,
    /// True if operations limit it on this device, false if bytes do (roofline model).
    pub compute_bound: bool,
}

impl Row {
    /// Computes the figures of samples.
    pub fn new(case: &str, variant: &str, samples: &Samples) -> Self {
        Self {
            case: case.to_owned(),
            variant: variant.to_owned(),
            preferred: false,
            clock: samples.clock,
            samples: samples.seconds.len(),
            min: samples.quantile(0.0),
            quartiles: [0.25, 0.5, 0.75].map(|part| samples.quantile(part)),
            flops: 0.0,
            bytes: 0.0,
            compute_bound: false,
        }
    }

    /// Median seconds of a run.
    pub fn median(&self) -> f64 {
        self.quartiles[1]
    }
}

/// Change of a kernel's time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// The earlier record has no such row.
    New,
    /// Measured by another clock, so not comparable.
    OtherClock,
    /// Within the noise of both measurements.
    Same(f64),
    /// Faster: new time over old time, below 1.
    Faster(f64),
    /// Slower: above 1.
    Slower(f64),
}

impl Record {
    /// Creates an empty record for a device.
    pub fn new(device: String, peak_flops: f64, peak_bandwidth: f64) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, version, device, peak_flops, peak_bandwidth, rows: Vec::new() }
    }

    /// Reads a file written by [`Record::save`].
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read or is not such a file.
    pub fn load(path: &Path) -> Result<Self> {
        let remedy = "Use a file written by this version's `mirage kernels bench --json`";
        let text = read_text(path, MAX_FILE)
            .map_err(|error| Error::file(path, format!("can't be read: {error}"), remedy))?;
        let record: Self = serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("contains no kernel timings ({error})"), remedy))?;
        if record.format != FORMAT {
            return Err(Error::file(path, format!("has format {}, not {FORMAT}", record.format), remedy));
        }
        Ok(record)
    }

    /// Writes the file atomically. Returns what may be replaced when it is saved again: the version written now.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] if an existing file may not be replaced.
    pub fn save(&self, path: &Path, overwrite: impl Into<Overwrite>) -> Result<Overwrite> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Io {
            path: path.to_owned(),
            action: "writing",
            source: error.into(),
        })?;
        crate::files::write_whole(path, (text + "\n").as_bytes(), "writing", overwrite)
    }

    /// Compares a row with an earlier record. A kernel counts as faster or slower only if the interquartile ranges of
    /// both sets of samples do not overlap *and* the medians differ by more than a twentieth.
    pub fn change(row: &Row, earlier: &Self) -> Change {
        let same = |old: &&Row| old.case == row.case && old.variant == row.variant;
        let Some(old) = earlier.rows.iter().find(same) else { return Change::New };
        if old.clock != row.clock {
            return Change::OtherClock;
        }
        let ratio = row.median() / old.median();
        if ratio < 1.0 - LEAST_CHANGE && row.quartiles[2] < old.quartiles[0] {
            Change::Faster(ratio)
        } else if ratio > 1.0 + LEAST_CHANGE && row.quartiles[0] > old.quartiles[2] {
            Change::Slower(ratio)
        } else {
            Change::Same(ratio)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(quartiles: [f64; 3], clock: Clock) -> Row {
        let samples = Samples { clock, seconds: vec![quartiles[0]] };
        Row { quartiles, ..Row::new("conv", "naive", &samples) }
    }

    fn change(new: [f64; 3], old: [f64; 3]) -> Change {
        let mut earlier = Record::new("a device".into(), 1.0, 1.0);
        earlier.rows.push(row(old, Clock::Wall));
        Record::change(&row(new, Clock::Wall), &earlier)
    }

    #[test]
    fn changes_within_noise_are_ignored() {
        let old = [0.9, 1.0, 1.1];
        assert_eq!(change([0.4, 0.5, 0.6], old), Change::Faster(0.5));
        assert_eq!(change([1.9, 2.0, 2.1], old), Change::Slower(2.0));
        // The interquartile ranges overlap.
        assert_eq!(change([0.4, 0.5, 0.95], old), Change::Same(0.5));
        assert_eq!(change([1.0, 2.0, 2.1], old), Change::Same(2.0));
        // Separate, but by almost nothing.
        assert!(matches!(change([1.03, 1.03, 1.03], [1.0, 1.0, 1.0]), Change::Same(_)));
        assert!(matches!(change([f64::NAN; 3], old), Change::Same(_)));
    }

    #[test]
    fn incomparable_rows_are_marked() {
        let earlier =
            Record { rows: vec![row([1.0; 3], Clock::Device)], ..Record::new("d".into(), 1.0, 1.0) };
        assert_eq!(Record::change(&row([1.0; 3], Clock::Wall), &earlier), Change::OtherClock);
        let other = Row { variant: "texture".into(), ..row([1.0; 3], Clock::Device) };
        assert_eq!(Record::change(&other, &earlier), Change::New);
    }

    #[test]
    fn record_round_trips_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures of a bench.json");
        let mut record = Record::new("a device".into(), 1e11, 1e10);
        record.rows.push(row([1e-3, 2e-3, 3e-3], Clock::Device));
        record.save(&path, false).unwrap();
        assert_eq!(Record::load(&path).unwrap(), record);
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Record::load(&path), Err(Error::File { .. })));
        record.format = 99;
        record.save(&path, true).unwrap();
        assert!(Record::load(&path).unwrap_err().to_string().contains("format 99"));
        assert!(matches!(Record::load(&folder.path().join("none")), Err(Error::File { .. })));
    }
}
