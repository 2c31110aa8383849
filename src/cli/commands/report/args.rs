//! The options of `mirage report`.

use crate::cli::args::WEIGHTS_VARIABLE;
use crate::cli::device_args::THREADS;
use crate::cli::values::Precision;
use crate::error::{Error, Result};
use crate::files::make_folder;
use crate::gpu::{AdapterChoice, AdapterKind, AdapterSummary, adapters};
use crate::mirage::Benchmark;
use clap::{Args, ValueEnum};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Options of `mirage report`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReportArgs {
    /// Folder for report.json, report.md and picture.png [default: mirage-report, with a number if that exists]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Report")]
    pub(super) output: Option<PathBuf>,
    /// Save a few minutes: test one shape per kernel, time layers at 128 px and iterations at 256 px, and paint at 256
    /// px [default: off]
    #[arg(long, help_heading = "Report")]
    pub(super) quick: bool,
    /// Only these parts, e.g. device,iterations [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Report")]
    pub(super) parts: Vec<PartName>,
    /// Test and time only kernels whose name contains this, e.g. conv or conv/winograd [default: all]
    #[arg(
        long,
        value_name = "OP[/VARIANT]",
        default_value = "",
        hide_default_value = true,
        help_heading = "Report"
    )]
    pub(super) filter: String,
    /// Sides, in pixels, of the square pictures on which iterations are timed [default: 256,512,1024]
    #[arg(long, value_name = "PIXELS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=8192), help_heading = "Report")]
    pub(super) sizes: Vec<u32>,
    /// The photo to paint [default: the Summer Palace, which is built in]
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(super) photo: Option<PathBuf>,
    /// Network for all parts [default: the one that comes with the program; for the kernels' times and the style
    /// objective, VGG-19 with random weights]
    #[arg(long, value_name = "FILE", env = WEIGHTS_VARIABLE, hide_env_values = true, help_heading = "Report")]
    pub(super) weights: Option<PathBuf>,
    /// Also time the iterations with this precision and with kernels tuned for it, which takes many minutes more; not
    /// on the CPU device, which has nothing to tune [default: single, which times them once]
    #[arg(
        long,
        value_name = "KIND",
        default_value = "single",
        hide_default_value = true,
        help_heading = "Report"
    )]
    pub(super) precision: Precision,
    /// Also time the same iterations in another program: pytorch, with the Python of --python [default: none]
    #[arg(long, value_name = "PROGRAM", help_heading = "Report")]
    pub(super) against: Option<Peer>,
    /// Python that has the torch package; nothing is installed
    #[arg(long, value_name = "FILE", default_value = "python3", help_heading = "Report")]
    pub(super) python: PathBuf,
    /// Graphics device, by its number or part of its name in `mirage devices`, or cpu [default: the most capable GPU;
    /// the CPU if there is none]
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Device")]
    pub(super) adapter: Option<String>,
    /// Threads of the CPU device and of PyTorch [default: all that the process may use]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(THREADS),
        help_heading = "Device"
    )]
    pub(super) threads: Option<u16>,
    /// Run as this process of a report, and print JSON.
    #[arg(long, hide = true)]
    pub(super) process: Option<Process>,
}

/// File name of the data.
pub(super) const JSON: &str = "report.json";

/// A part of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PartName {
    Device,
    Kernels,
    Bench,
    Iterations,
    Picture,
}

/// Program to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Peer {
    Pytorch,
}

impl ReportArgs {
    pub(super) fn includes(&self, part: PartName) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    pub(super) fn sizes(&self) -> Vec<u32> {
        match (self.sizes.is_empty(), self.quick) {
            (false, _) => self.sizes.clone(),
            (true, false) => vec![256, 512, 1024],
            (true, true) => vec![256],
        }
    }

    /// Returns the precision of the second timing of the iterations, if any.
    pub(super) fn second_precision(&self) -> Option<Precision> {
        Some(self.precision).filter(|precision| *precision != Precision::Single)
    }

    /// True if the report is about the CPU device: it is chosen, or there is no GPU and no option that needs one.
    pub(super) fn is_of_cpu(&self, shader_dir: Option<&Path>) -> Result<bool> {
        if let Some(adapter) = &self.adapter {
            return Ok(AdapterChoice::from(adapter.as_str()) == AdapterChoice::Cpu);
        }
        let is_gpu = |adapter: &AdapterSummary| adapter.kind != AdapterKind::Software;
        Ok(shader_dir.is_none() && !adapters()?.iter().any(is_gpu))
    }

    /// Creates the folder of the report if needed, and returns it.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.output {
            make_folder(folder)?;
            return Ok(folder.clone());
        }
        let mut number = 1;
        loop {
            let name = if number == 1 { String::new() } else { format!("-{number}") };
            let folder = PathBuf::from(format!("mirage-report{name}"));
            match std::fs::create_dir(&folder) {
                Ok(()) => return Ok(folder),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::io(&folder, "making the folder")(error)),
            }
        }
    }
}

/// A process of a report: `device`, or `style:512:15` with objective, side in pixels and iterations.
#[derive(Debug, Clone)]
pub(super) enum Process {
    Device,
    Iterations(Benchmark, usize, usize),
}

impl FromStr for Process {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| text.parse().map_err(|_| Error::usage(format!("`{text}` is not a number")));
        match parts[..] {
            ["device"] => Ok(Self::Device),
            ["style", side, count] => Ok(Self::Iterations(Benchmark::Style, number(side)?, number(count)?)),
            ["three", side, count] => Ok(Self::Iterations(Benchmark::Three, number(side)?, number(count)?)),
            _ => Err(Error::usage(format!("`{text}` is not a process of a report"))),
        }
    }
}
