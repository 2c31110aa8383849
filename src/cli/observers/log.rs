//! `--log`: one JSON object per line, written at once so that other programs can follow the run.

use super::log_lines::LogLines;
use super::status::SharedStatus;
use crate::cli::checked_run::CheckedRun;
use crate::cli::class_names::{Class, ClassNames};
use crate::cli::output::escape::path_text;
use crate::cli::record::metadata::VERSION;
use crate::cli::record::resolved_options::RecordedOptions;
use crate::error::{Error, Result};
use crate::mirage::{
    Event, Observer, Readout, Report, RunResult, ScaleStarted, Setback, Shares, Started, Weights,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One line. Numbers that are NaN or infinite become `null`, as JSON can't represent them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    /// The run is prepared and starts.
    Start {
        version: &'a str,
        device: &'a str,
        size: Size,
        network: NetworkLine<'a>,
        options: &'a RecordedOptions,
        prepared_in: f64,
        device_memory: u64,
        photo_classes: Vec<Class>,
        notes: &'a [String],
    },
    /// Raw weights were set from shares.
    Balance { iteration: u32, balance: String, weights: Vec<WeightLine> },
    /// A scale starts; `scale` counts from 1.
    Scale { iteration: u32, scale: usize, scales: usize, size: Size, device_memory: u64 },
    /// A report: 0 is the start picture, N the picture after N steps.
    Iteration {
        iteration: u32,
        seconds: f64,
        total: f64,
        terms: Vec<TermLine<'a>>,
        /// Shares of the sum of mean absolute gradients, by group.
        shares: BTreeMap<String, f32>,
        /// Shares of the sum of weighted losses, by group.
        loss_shares: BTreeMap<String, f64>,
        classes: Vec<Class>,
        /// Distance from the photo's classes: 0 is the same, 1 nothing in common.
        class_distance: Option<f32>,
        /// Mean absolute change of a colour value in an iteration.
        change: Option<f32>,
    },
    /// A snapshot is on disk.
    Snapshot { iteration: u32, path: String, classes: Vec<Class>, class_distance: Option<f32> },
    /// A checkpoint is on disk.
    Checkpoint { iteration: u32, path: String },
    /// A fault at `iteration`; the run continues from the picture after `to` iterations.
    Setback { iteration: u32, to: u32, halvings: u32, message: String },
    /// The run was paused or resumed.
    Paused { iteration: u32, paused: bool },
    /// Something is likely to spoil the picture.
    Warning { iteration: u32, message: &'a str },
    /// The picture is on disk.
    End { ending: &'a str, iterations: u32, seconds: f64, output: String },
    /// The run failed; `output` is set if a picture could still be saved.
    Error { message: String, exit_code: u8, iteration: Option<u32>, output: Option<String> },
}

#[derive(Debug, Serialize)]
struct Size {
    width: usize,
    height: usize,
}

#[derive(Debug, Serialize)]
struct NetworkLine<'a> {
    path: String,
    sha256: &'a str,
    topology: String,
    preprocessing: String,
}

#[derive(Debug, Serialize)]
struct WeightLine {
    factor: String,
    weight: f32,
    /// Mean absolute gradient at weight 1.
    gradient: f32,
}

#[derive(Debug, Serialize)]
struct TermLine<'a> {
    factor: String,
    layer: &'a str,
    loss: f64,
}

impl<'a> Line<'a> {
    /// Returns the line of a report.
    fn report(report: &'a Report, names: &ClassNames) -> Self {
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

    /// Returns the line of measured weights.
    fn weighted(iteration: u32, shares: &Shares, weights: &Weights) -> Self {
        let measured = weights.0.iter().filter_map(|weight| {
            let factor = weight.group.clone();
            Some(WeightLine { factor, weight: weight.weight, gradient: weight.norm? })
        });
        Self::Balance { iteration, balance: shares.to_string(), weights: measured.collect() }
    }

    /// Returns the line of a run that goes back.
    fn setback(setback: &Setback) -> Self {
        let Setback { fault, iteration, to, halvings, .. } = setback;
        let message = fault.to_string();
        Self::Setback { iteration: *iteration, to: *to, halvings: *halvings, message }
    }

    /// Returns the line of a scale that starts.
    fn scale(started: &ScaleStarted) -> Self {
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

/// Writes the log. A failure is reported without ending the run.
#[derive(Debug)]
pub(in crate::cli) struct Log {
    lines: LogLines,
    checked: Rc<CheckedRun>,
    status: SharedStatus,
    /// Number of problems written so far.
    problems_seen: usize,
}

impl Log {
    /// Opens an empty log. `-` is standard output. An existing file is replaced only with `overwrite`.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; [`Error::File`] if it is a file that the run reads.
    pub(in crate::cli) fn open(
        path: &Path,
        overwrite: bool,
        checked: &Rc<CheckedRun>,
        status: &SharedStatus,
    ) -> Result<Self> {
        let lines = LogLines::open(path, overwrite, |file| checked.files.check_opened(path, file, "--log"))?;
        Ok(Self { lines, checked: checked.clone(), status: status.clone(), problems_seen: 0 })
    }

    /// Writes the end of a run whose picture is saved.
    pub(in crate::cli) fn end(&mut self, ending: &str, outcome: &RunResult) {
        self.problems(outcome.iterations);
        self.write(&Line::End {
            ending,
            iterations: outcome.iterations,
            seconds: outcome.seconds,
            output: path_text(&self.checked.files.output),
        });
        self.finish();
    }

    /// Writes the failure of a run; `rescued` has the iteration and path of a picture that could still be saved.
    pub(in crate::cli) fn error(&mut self, error: &Error, rescued: Option<(u32, PathBuf)>) {
        let (iteration, output) = rescued.unzip();
        let (message, exit_code) = (error.to_string(), error.exit_code());
        self.problems(iteration.unwrap_or_default());
        self.write(&Line::Error { message, exit_code, iteration, output: output.as_deref().map(path_text) });
        self.finish();
    }

    fn finish(&mut self) {
        let problem = self.lines.finish();
        self.status.borrow_mut().problems.extend(problem);
    }

    fn write(&mut self, line: &Line<'_>) {
        // All keys are strings, and JSON can represent all values: this can't fail.
        let Ok(text) = serde_json::to_string(line) else { return };
        if let Some(problem) = self.lines.write(&text) {
            self.status.borrow_mut().problems.push(problem);
        }
    }

    fn problems(&mut self, iteration: u32) {
        let new = self.status.borrow().new_problems(&mut self.problems_seen);
        new.iter().for_each(|message| self.write(&Line::Warning { iteration, message }));
    }

    fn started(&mut self, started: &Started) {
        let checked = self.checked.clone();
        let CheckedRun { network, names, options, .. } = &*checked;
        let sha256 = self.status.borrow().metadata.network_sha256.clone();
        let [height, width] = started.size;
        let notes = [self.status.borrow().notes.as_slice(), started.notes.as_slice()].concat();
        self.write(&Line::Start {
            version: VERSION,
            device: &started.device,
            size: Size { width, height },
            network: NetworkLine {
                path: path_text(&network.path),
                sha256: &sha256,
                topology: network.topology(),
                preprocessing: network.preprocessing.to_string(),
            },
            options,
            prepared_in: started.prepared_in,
            device_memory: started.memory.total(),
            photo_classes: names.classes(&started.photo_classes),
            notes: &notes,
        });
    }

    fn report(&mut self, report: &Report) {
        let checked = self.checked.clone();
        self.write(&Line::report(report, &checked.names));
        let iteration = report.iteration;
        let warnings = self.status.borrow().warnings.clone();
        warnings.iter().for_each(|message| self.write(&Line::Warning { iteration, message }));
        self.problems(iteration);
    }

    fn snapshot(&mut self, iteration: u32, readout: &Readout) {
        let Some(path) = self.status.borrow().snapshot.as_deref().map(path_text) else { return };
        let classes = self.checked.names.classes(&readout.classes);
        self.write(&Line::Snapshot { iteration, path, classes, class_distance: readout.distance });
    }

    fn checkpoint(&mut self, iteration: u32) {
        let Some(path) = self.status.borrow().checkpoint.as_deref().map(path_text) else { return };
        self.write(&Line::Checkpoint { iteration, path });
    }
}

impl Observer for Log {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        match event {
            Event::Started(started) => self.started(started),
            Event::Scale(started) => self.write(&Line::scale(started)),
            Event::Weighted { iteration, shares, weights } => {
                self.write(&Line::weighted(iteration, shares, weights));
            }
            Event::Report(report) => self.report(report),
            Event::Snapshot { iteration, readout, .. } => self.snapshot(iteration, readout),
            Event::State(state) => self.checkpoint(state.iteration),
            Event::Setback(setback) => self.write(&Line::setback(setback)),
            Event::Paused { iteration, paused } => self.write(&Line::Paused { iteration, paused }),
            Event::Progress { .. } | Event::Picture { .. } => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirage::TermLoss;

    #[test]
    fn iteration_line_has_documented_fields_even_with_nan() {
        let report = Report {
            iteration: 0,
            seconds: 0.5,
            total: f64::NAN,
            terms: vec![TermLoss { group: "style".into(), source: "relu1_1".into(), loss: f64::INFINITY }],
            gradient_shares: vec![("style".into(), 0.25)],
            readout: Readout::default(),
            change: None,
        };
        let line = serde_json::to_string(&Line::Iteration {
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
            line,
            "{\"event\":\"iteration\",\"iteration\":0,\"seconds\":0.5,\"total\":null,\
             \"terms\":[{\"factor\":\"style\",\"layer\":\"relu1_1\",\"loss\":null}],\
             \"shares\":{\"style\":0.25},\"loss_shares\":{\"style\":null},\"classes\":[],\
             \"class_distance\":null,\"change\":null}"
        );
    }
}
