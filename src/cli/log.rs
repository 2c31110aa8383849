//! `--log`: one JSON object a line, written out at once so that others can follow.

use super::files::{check_free, is_same};
use super::names::{Class, Names};
use super::record::Options;
use crate::error::{Error, Result};
use crate::mirage::{Report, ScaleStarted, Shares, Weights};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// One line. Numbers that are NaN or infinite become `null`: JSON has no others.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Line<'a> {
    /// All is prepared.
    Start {
        version: &'a str,
        device: &'a str,
        size: Size,
        network: NetworkLine<'a>,
        options: &'a Options,
        prepared_in: f64,
        device_memory: u64,
        photo_classes: Vec<Class>,
        notes: &'a [String],
    },
    /// Raw weights were set from shares.
    Balance { iteration: u32, balance: String, weights: Vec<WeightLine> },
    /// A scale begins: the first of `scales` is 1.
    Scale { iteration: u32, scale: usize, scales: usize, size: Size, device_memory: u64 },
    /// A report: 0 is the start picture, N the picture after N steps.
    Iteration {
        iteration: u32,
        seconds: f64,
        total: f64,
        terms: Vec<TermLine<'a>>,
        /// Of the sum of mean absolute gradients, by factor.
        shares: BTreeMap<String, f32>,
        /// Of the sum of weighted losses, by factor.
        loss_shares: BTreeMap<String, f64>,
        classes: Vec<Class>,
        /// From the photo's classes: 0 is the same, 1 nothing in common.
        class_distance: Option<f32>,
        /// Mean absolute change of a colour value in an iteration.
        change: Option<f32>,
    },
    /// A snapshot is on disk.
    Snapshot { iteration: u32, path: String, classes: Vec<Class>, class_distance: Option<f32> },
    /// What a run goes on from is on disk.
    Checkpoint { iteration: u32, path: String },
    /// The run is held, or goes on again.
    Paused { iteration: u32, paused: bool },
    /// Something that the user should know came up.
    Warning { iteration: u32, message: String },
    /// The picture is on disk.
    End { ending: &'a str, iterations: u32, seconds: f64, output: String },
    /// The run failed; `output` is there if a picture could be saved all the same.
    Error { message: String, exit_code: u8, iteration: Option<u32>, output: Option<String> },
}

#[derive(Debug, Serialize)]
pub(super) struct Size {
    pub width: usize,
    pub height: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct NetworkLine<'a> {
    pub path: String,
    pub sha256: &'a str,
    pub topology: String,
    pub preprocessing: String,
}

#[derive(Debug, Serialize)]
pub(super) struct WeightLine {
    factor: String,
    weight: f32,
    /// Mean absolute gradient at weight 1.
    gradient: f32,
}

#[derive(Debug, Serialize)]
pub(super) struct TermLine<'a> {
    factor: String,
    layer: &'a str,
    loss: f64,
}

impl<'a> Line<'a> {
    /// The line of a report.
    pub(super) fn report(report: &'a Report, names: &Names) -> Self {
        let term = |term: &'a crate::mirage::TermLoss| TermLine {
            factor: term.group.clone(),
            layer: &term.source,
            loss: term.loss,
        };
        let shares = report.gradient_shares.iter().cloned();
        Self::Iteration {
            iteration: report.iteration,
            seconds: report.seconds,
            total: report.total,
            terms: report.terms.iter().map(term).collect(),
            shares: shares.collect(),
            loss_shares: report
                .groups()
                .into_iter()
                .map(|group| (group.to_owned(), report.loss_share(group)))
                .collect(),
            classes: names.classes(&report.readout.classes),
            class_distance: report.readout.distance,
            change: report.change,
        }
    }

    /// The line of measured weights.
    pub(super) fn weighted(iteration: u32, shares: &Shares, weights: &Weights) -> Self {
        let measured = weights.0.iter().filter_map(|weight| {
            let factor = weight.group.clone();
            Some(WeightLine { factor, weight: weight.weight, gradient: weight.norm? })
        });
        Self::Balance { iteration, balance: shares.to_string(), weights: measured.collect() }
    }

    /// The line of a scale that begins.
    pub(super) fn scale(started: &ScaleStarted) -> Self {
        let [height, width] = started.scale.size;
        Self::Scale {
            iteration: started.scale.first,
            scale: started.index + 1,
            scales: started.count,
            size: Size { width, height },
            device_memory: started.memory.total(),
        }
    }
}

/// Where the lines go.
#[derive(Debug)]
pub(super) enum Log {
    /// Nobody wants them.
    Off,
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf, File),
}

impl Log {
    /// Makes sure that [`Log::open`] will succeed; leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be written, may not be replaced, or is another of this run.
    pub(super) fn check(path: Option<&Path>, overwrite: bool, others: &[&Path]) -> Result<()> {
        match path.filter(|path| path.as_os_str() != "-") {
            Some(path) => Self::check_place(path, "the log", "--log", overwrite, others),
            None => Ok(()),
        }
    }

    /// Makes sure that a file can be written beside the picture; leaves nothing behind. `what` and `option` name it
    /// in messages.
    ///
    /// # Errors
    /// As [`Log::check`].
    pub(super) fn check_place(
        path: &Path,
        what: &str,
        option: &str,
        overwrite: bool,
        others: &[&Path],
    ) -> Result<()> {
        if let Some(other) = others.iter().find(|other| is_same(other, path)) {
            let problem = format!("{what} would replace {}, a file of this run", other.display());
            return Err(Error::file(path, problem, format!("Choose another name with {option}")));
        }
        let unusable = |error: std::io::Error| {
            let problem = format!("{what} can't be written there ({error})");
            Err(Error::file(path, problem, format!("Choose a file that can be written with {option}")))
        };
        match path.metadata() {
            Ok(found) if found.is_dir() => {
                Err(Error::file(path, "it is a folder", "Add a file name to the path, such as run.jsonl"))
            }
            // A pipe or a terminal: nothing is lost by writing to it, but opening it may wait.
            Ok(found) if !found.is_file() => Ok(()),
            Ok(_) => {
                check_free(path, overwrite, option)?;
                OpenOptions::new().append(true).open(path).map(drop).or_else(unusable)
            }
            Err(_) => {
                check_free(path, overwrite, option)?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map(drop).or_else(unusable)
            }
        }
    }

    /// Opens the log, empty.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        match path {
            None => Ok(Self::Off),
            Some(path) if path.as_os_str() == "-" => Ok(Self::Stdout),
            Some(path) => {
                let file = File::create(path).map_err(Error::io(path, "creating the log"))?;
                Ok(Self::File(path.to_owned(), file))
            }
        }
    }

    /// Writes one line, whole.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(super) fn write(&mut self, line: &Line<'_>) -> Result<()> {
        let text = || serde_json::to_string(line).map_err(std::io::Error::from);
        match self {
            Self::Off => Ok(()),
            Self::Stdout => {
                super::stdout::print(&text().map_err(Error::io(Path::new("-"), "writing the log"))?)
            }
            Self::File(path, file) => text()
                .and_then(|text| file.write_all(format!("{text}\n").as_bytes()))
                .and_then(|()| file.flush())
                .map_err(Error::io(path, "writing the log")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirage::{Readout, TermLoss};

    #[test]
    fn an_iteration_has_the_stated_form_and_survives_nan() {
        let report = Report {
            iteration: 0,
            seconds: 0.5,
            total: f64::NAN,
            terms: vec![TermLoss { group: "style".into(), source: "relu1_1".into(), loss: f64::INFINITY }],
            gradient_shares: vec![("style".into(), 0.25)],
            readout: Readout::default(),
            change: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut log = Log::open(Some(&path)).unwrap();
        log.write(&Line::Iteration {
            iteration: 0,
            seconds: report.seconds,
            total: report.total,
            terms: vec![TermLine { factor: "style".into(), layer: "relu1_1", loss: f64::INFINITY }],
            shares: [("style".to_owned(), 0.25)].into(),
            loss_shares: [("style".to_owned(), f64::NAN)].into(),
            classes: Vec::new(),
            class_distance: report.readout.distance,
            change: report.change,
        })
        .unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"event\":\"iteration\",\"iteration\":0,\"seconds\":0.5,\"total\":null,\
             \"terms\":[{\"factor\":\"style\",\"layer\":\"relu1_1\",\"loss\":null}],\
             \"shares\":{\"style\":0.25},\"loss_shares\":{\"style\":null},\"classes\":[],\
             \"class_distance\":null,\"change\":null}\n"
        );
    }

    #[test]
    fn unusable_logs_are_found_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        Log::check(Some(&path), false, &[]).unwrap();
        assert!(!path.exists(), "checking leaves nothing behind");
        for (path, overwrite, words) in
            [(folder.path().to_owned(), true, "folder"), (folder.path().join("no/run.jsonl"), false, "--log")]
        {
            let error = Log::check(Some(&path), overwrite, &[]).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        std::fs::write(&path, "precious").unwrap();
        assert!(Log::check(Some(&path), false, &[]).is_err());
        assert!(Log::check(Some(&path), true, &[&path]).is_err());
        Log::check(Some(&path), true, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
