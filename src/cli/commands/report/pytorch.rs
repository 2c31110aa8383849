//! Times the same iterations in PyTorch, with a built-in script and the user's Python.

use super::args::ReportArgs;
use super::child;
use super::record::{PartOutcome, PeerRow, Status};
use crate::cli::interrupt::Interrupt;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = include_str!("pytorch.py");

/// A Python with PyTorch.
pub(super) struct PyTorch {
    python: PathBuf,
    script: PathBuf,
    /// `cpu`, or `auto` for its GPU, if it has one.
    device: &'static str,
    /// Number of threads; `None` for PyTorch's default.
    threads: Option<u16>,
    /// True if it can compute matrix products in TF32.
    has_tf32: bool,
}

impl PyTorch {
    /// Checks whether PyTorch can be used, and returns it with an outcome for the report. A software device is compared
    /// with PyTorch on the CPU.
    ///
    /// # Errors
    /// If a file can't be written.
    pub(super) fn find(
        interrupt: &Interrupt,
        args: &ReportArgs,
        temporary: &Path,
        software: bool,
    ) -> Result<(Option<Self>, PartOutcome)> {
        let script = temporary.join("pytorch.py");
        std::fs::write(&script, SCRIPT).map_err(Error::io(&script, "writing"))?;
        let device = if software { "cpu" } else { "auto" };
        let mut this =
            Self { python: args.python.clone(), script, device, threads: args.threads, has_tf32: false };
        let outcome = match child::json(interrupt, this.command(&["describe"])) {
            Ok(outcome) => outcome,
            // A missing Python fails only this part.
            Err(error) => return Ok((None, failed(error.to_string()))),
        };
        this.has_tf32 = outcome.result["tf32"] == true;
        Ok(((outcome.status == Status::Done).then_some(this), outcome))
    }

    /// Times one iteration in each layout and precision, until an interruption. `weights` is a file written by
    /// [`super::caffe_file`], or the reason why there is none, which all rows then carry.
    ///
    /// # Errors
    /// If Python can't be started.
    pub(super) fn rows(
        &self,
        interrupt: &Interrupt,
        objective: &str,
        side: u32,
        iterations: u32,
        weights: Result<&Path, &str>,
    ) -> Result<Vec<PeerRow>> {
        let precisions: &[&'static str] = if self.has_tf32 { &["f32", "tf32"] } else { &["f32"] };
        let mut rows = Vec::new();
        for precision in precisions {
            for layout in ["nchw", "channels_last"] {
                let (side, iterations) = (side.to_string(), iterations.to_string());
                let mut command = self.command(&["time", objective, &side, layout, precision, &iterations]);
                let outcome = match weights {
                    Ok(weights) => {
                        command.arg(weights);
                        child::json(interrupt, command)?
                    }
                    Err(reason) => failed(reason.to_owned()),
                };
                if outcome.status == Status::Interrupted {
                    return Ok(rows);
                }
                rows.push(PeerRow { layout, precision, outcome });
            }
        }
        Ok(rows)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg(self.device).args(words);
        if let Some(threads) = self.threads {
            command.env("OMP_NUM_THREADS", threads.to_string());
        }
        command
    }
}

fn failed(reason: String) -> PartOutcome {
    PartOutcome { status: Status::Failed, reason: Some(reason), seconds: None, result: Value::Null }
}
