//! Runs the parts of a report, each in its own process, and summarises their results.

use super::args::{PartName, Peer, ReportArgs};
use super::caffe_file;
use super::child::{self, LIMIT, outcome};
use super::files::save;
use super::pytorch::PyTorch;
use super::record::{PICTURE, PartOutcome, Record, Status};
use crate::cli::interrupt::Interrupt;
use crate::cli::output::escape::path_text;
use crate::cli::output::terminal::Terminal;
use crate::cli::values::value_name;
use crate::error::{Error, Result};
use crate::vgg::Network;
use serde_json::{Value, json};
use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The default photo, built in for programs without a checkout beside them.
const PHOTO: &[u8] = include_bytes!("../../../../docs/photos/summer-palace.jpg");

/// Runs the parts of a report.
pub(super) struct PartRunner<'a> {
    args: &'a ReportArgs,
    shader_dir: Option<&'a Path>,
    folder: &'a Path,
    interrupt: &'a Interrupt,
    terminal: &'a Terminal,
    program: PathBuf,
    /// True if the report is about the CPU device.
    on_cpu: bool,
    /// Folder for files passed between processes; removed at the end.
    temporary: tempfile::TempDir,
}

impl<'a> PartRunner<'a> {
    pub(super) fn new(
        args: &'a ReportArgs,
        shader_dir: Option<&'a Path>,
        on_cpu: bool,
        folder: &'a Path,
        interrupt: &'a Interrupt,
        terminal: &'a Terminal,
    ) -> Result<Self> {
        let program =
            std::env::current_exe().map_err(Error::io(Path::new("mirage"), "finding the program"))?;
        let temporary =
            tempfile::tempdir().map_err(Error::io(&std::env::temp_dir(), "making a temporary folder in"))?;
        Ok(Self { args, shader_dir, folder, interrupt, terminal, program, on_cpu, temporary })
    }

    /// Runs all requested parts, and saves the record after each; false if the user interrupted.
    ///
    /// # Errors
    /// If the record can't be saved, or this program can't be started. Failures of a part are only recorded.
    pub(super) fn run(&self, record: &mut Record) -> Result<bool> {
        if self.begins(PartName::Device, "describing the device") {
            record.device = child::json(self.interrupt, self.own_process("device", None))?;
            save(record)?;
        }
        if self.begins(PartName::Kernels, "testing every kernel against its reference") {
            record.kernels = self.kernels()?;
            save(record)?;
        }
        if self.begins(PartName::Bench, "timing the kernels") {
            record.bench = self.bench()?;
            save(record)?;
        }
        if self.args.includes(PartName::Iterations) {
            self.iterations(record)?;
        }
        if self.begins(PartName::Picture, "painting the default picture") {
            record.picture = self.picture()?;
            save(record)?;
        }
        Ok(!self.interrupt.requested())
    }

    fn begins(&self, part: PartName, doing: &str) -> bool {
        let begins = self.args.includes(part) && !self.interrupt.requested();
        if begins {
            self.terminal.print(&format!("{doing} ..."));
        }
        begins
    }

    /// Returns a command of this program on the report's device.
    fn mirage(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // The process keeps the current folder, so relative paths hold. The environment's network is passed with
        // --weights.
        command.args(words).env_remove(crate::cli::args::WEIGHTS_VARIABLE);
        if let Some(folder) = self.shader_dir {
            command.arg("--shader-dir").arg(folder);
        }
        if let Some(adapter) = &self.args.adapter {
            command.arg(format!("--adapter={adapter}"));
        }
        if let Some(threads) = self.args.threads {
            command.arg(format!("--threads={threads}"));
        }
        command
    }

    /// Returns a command of the workbench, which would by default prefer a software driver to the CPU.
    fn workbench(&self, words: &[&str]) -> Command {
        let mut command = self.mirage(words);
        if self.on_cpu && self.args.adapter.is_none() {
            command.arg("--adapter=cpu");
        }
        command
    }

    /// Returns a command that runs this program as `mirage report --process`.
    fn own_process(&self, process: &str, weights: Option<&Path>) -> Command {
        let mut command = self.mirage(&["report", "--process", process]);
        if let Some(weights) = weights {
            command.arg("--weights").arg(weights);
        }
        command
    }

    fn kernels(&self) -> Result<PartOutcome> {
        let file = self.temporary.path().join("kernels.json");
        let shapes = if self.args.quick { "quick" } else { "all" };
        let mut command = self.workbench(&["kernels", "test", &self.args.filter, "--shapes", shapes]);
        command.arg("--json").arg(&file);
        let finished = child::run(command, LIMIT, self.interrupt)?;
        let result = read(&file).map_or(Value::Null, |tested| summary(&tested));
        let mut outcome = outcome(&finished, result);
        // Exit code 1 with results: kernels failed, which the program's table shows at length.
        if let (Status::Failed, Some(failed)) = (outcome.status, outcome.result["failed"].as_array()) {
            let names: Vec<&str> = failed.iter().filter_map(|kernel| kernel["kernel"].as_str()).collect();
            outcome.reason =
                Some(format!("{} kernels give wrong results: {}", names.len(), names.join(", ")));
        }
        Ok(outcome)
    }

    fn bench(&self) -> Result<PartOutcome> {
        let file = self.temporary.path().join("bench.json");
        let (size, rounds) = if self.args.quick { ("128", "5") } else { ("512", "15") };
        let mut command =
            self.workbench(&["kernels", "bench", &self.args.filter, "--size", size, "--rounds", rounds]);
        let network = self.args.weights.as_deref().unwrap_or(Path::new("vgg19"));
        command.arg("--network").arg(network).arg("--json").arg(&file);
        let finished = child::run(command, LIMIT, self.interrupt)?;
        let result = read(&file).map_or(Value::Null, |mut figures| {
            figures["size"] = size.into();
            figures["network"] = path_text(network).into();
            figures
        });
        Ok(outcome(&finished, result))
    }

    fn iterations(&self, record: &mut Record) -> Result<()> {
        let random = self.temporary.path().join("vgg19-random.safetensors");
        if self.args.weights.is_none() && !self.interrupt.requested() {
            caffe_file::write_random(&random)?;
        }
        let mut pytorch = None;
        if self.args.against == Some(Peer::Pytorch) && !self.interrupt.requested() {
            self.terminal.print("looking for PyTorch ...");
            let software = self.is_software(record)?;
            let (found, outcome) = PyTorch::find(self.interrupt, self.args, self.temporary.path(), software)?;
            (pytorch, record.pytorch) = (found, Some(outcome));
            save(record)?;
        }
        let converted = LazyCell::new(|| self.for_pytorch().map_err(|error| error.to_string()));
        let count = if self.args.quick { 5 } else { 15 };
        for at in 0..record.iterations.len() {
            let (objective, side) = (record.iterations[at].objective, record.iterations[at].side);
            if !self.begins(PartName::Iterations, &format!("timing iterations: {objective}, {side} px")) {
                return Ok(());
            }
            let given = self.args.weights.as_deref();
            let weights = if objective == "style" { Some(given.unwrap_or(&random)) } else { given };
            let process = format!("{objective}:{side}:{count}");
            record.iterations[at].outcome = child::json(self.interrupt, self.own_process(&process, weights))?;
            save(record)?;
            if let Some(precision) = self.args.second_precision() {
                let mut command = self.own_process(&process, weights);
                command.arg(format!("--precision={}", value_name(precision)));
                record.iterations[at].tuned = Some(child::json(self.interrupt, command)?);
                save(record)?;
            }
            if let Some(pytorch) = &pytorch {
                let network = if weights == Some(random.as_path()) {
                    Ok(random.as_path())
                } else {
                    converted.as_deref().map_err(String::as_str)
                };
                record.iterations[at].pytorch =
                    pytorch.rows(self.interrupt, objective, side, count, network)?;
                save(record)?;
            }
        }
        Ok(())
    }

    /// True if this program computes on the CPU, directly or through a software driver. Describes the device again if
    /// the device part has not done so.
    fn is_software(&self, record: &Record) -> Result<bool> {
        if self.on_cpu {
            return Ok(true);
        }
        if record.device.status == Status::Done {
            return Ok(record.device.result["software"] == true);
        }
        let described = child::json(self.interrupt, self.own_process("device", None))?;
        Ok(described.result["software"] == true)
    }

    /// Writes the given network, or the default one, to a file for the PyTorch script.
    fn for_pytorch(&self) -> Result<PathBuf> {
        let network = Network::find(self.args.weights.as_deref(), None)?;
        let path = self.temporary.path().join("network.safetensors");
        caffe_file::write_network(&network, &path)?;
        Ok(path)
    }

    fn picture(&self) -> Result<PartOutcome> {
        let log = self.temporary.path().join("picture.jsonl");
        let photo = match &self.args.photo {
            Some(photo) => photo.clone(),
            None => {
                let photo = self.temporary.path().join("summer-palace.jpg");
                std::fs::write(&photo, PHOTO).map_err(Error::io(&photo, "writing"))?;
                photo
            }
        };
        let mut command = self.mirage(&["render", "--quiet", "--no-tuning-cache"]);
        command.arg(photo).arg("--output").arg(self.folder.join(PICTURE)).arg("--log").arg(&log);
        if self.args.quick {
            command.args(["--size", "256"]);
        }
        if let Some(weights) = &self.args.weights {
            command.arg("--weights").arg(weights);
        }
        let finished = child::run(command, LIMIT, self.interrupt)?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let event = |name: &str| events.iter().find(|event| event["event"] == name);
        let result = event("start").map_or(Value::Null, |start| {
            json!({
                "file": PICTURE,
                "default_photo": self.args.photo.is_none(),
                "size": start["size"],
                "network": start["network"]["topology"],
                "prepared_seconds": start["prepared_in"],
                "painted_seconds": event("end").map(|end| &end["seconds"]),
                "iterations": event("end").map(|end| &end["iterations"]),
                "device_bytes": start["device_memory"],
                "losses": events.iter().rfind(|event| event["event"] == "iteration").map(|event| &event["total"]),
            })
        });
        Ok(outcome(&finished, result))
    }
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

/// Summarises tests: numbers of kernels and shapes, the largest error of each kernel, and the failures.
fn summary(tested: &Value) -> Value {
    let rows = tested["results"].as_array().map_or(&[][..], Vec::as_slice);
    let mut kernels: Vec<(String, Vec<&Value>)> = Vec::new();
    for row in rows {
        let name =
            format!("{}/{}", row["op"].as_str().unwrap_or("?"), row["variant"].as_str().unwrap_or("?"));
        match kernels.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => kernels.push((name, vec![row])),
        }
    }
    let worst = |rows: &[&Value]| {
        let errors = rows.iter().map(|row| row["max_ulp"].as_f64());
        // No number: not finite, or no output at all.
        errors.map(|error| error.unwrap_or(f64::INFINITY)).fold(0.0, f64::max)
    };
    let failed: Vec<Value> = kernels
        .iter()
        .filter_map(|(name, rows)| {
            let faults: Vec<&&Value> = rows.iter().filter(|row| !row["fault"].is_null()).collect();
            let first = faults.first()?;
            Some(json!({
                "kernel": name,
                "shapes": first["shapes"],
                "fault": first["fault"],
                "failed_shapes": faults.len(),
                "tested_shapes": rows.len(),
            }))
        })
        .collect();
    let list: Vec<Value> = kernels
        .iter()
        .map(|(name, rows)| json!({ "kernel": name, "shapes": rows.len(), "max_ulp": worst(rows) }))
        .collect();
    json!({ "kernels": kernels.len(), "shapes": rows.len(), "failed": failed, "errors": list })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_summary_has_first_fault_of_each() {
        let row = |variant, shape, ulp: Option<f64>, fault: Option<&str>| json!({ "op": "conv", "variant": variant, "shapes": [shape], "max_ulp": ulp, "fault": fault });
        let tested = json!({ "results": [
            row("naive", "a", Some(1.0), None),
            row("buffer", "a", Some(2.0), None),
            row("buffer", "b", None, Some("is NaN")),
            row("buffer", "c", Some(900.0), Some("is wrong")),
            row("naive", "b", Some(3.0), None),
        ] });
        let summary = summary(&tested);
        assert_eq!((&summary["kernels"], &summary["shapes"]), (&json!(2), &json!(5)));
        let failed = json!([{ "kernel": "conv/buffer", "shapes": ["b"], "fault": "is NaN", "failed_shapes": 2,
            "tested_shapes": 3 }]);
        assert_eq!(summary["failed"], failed);
        assert_eq!(summary["errors"][0], json!({ "kernel": "conv/naive", "shapes": 2, "max_ulp": 3.0 }));
        // JSON has no infinity.
        assert!(summary["errors"][1]["max_ulp"].is_null());
    }
}
