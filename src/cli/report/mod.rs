//! `mirage report`: what a device is, whether it computes right, and how fast, as files to attach to an issue.
//!
//! Each part runs in a process of its own, this program with other arguments: a driver that crashes, hangs or loses the
//! device fails one part, and the rest goes on. The files are written again after every part.

mod child;
mod device;
mod iteration;
mod page;
mod parts;
mod pytorch;
mod random_network;
mod record;

use super::interrupt::{INTERRUPTED, Interrupt};
use super::streams;
use super::terminal::Terminal;
use crate::error::{Error, Result};
use crate::mirage::Controls;
use clap::{Args, ValueEnum};
use parts::Parts;
use record::{Record, State};
use std::path::{Path, PathBuf};

/// Options of `mirage report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Folder for report.json, report.md and picture.png [default: mirage-report, with a number if there is one]
    #[arg(short, long, value_name = "FOLDER", help_heading = "Report")]
    output: Option<PathBuf>,
    /// A few minutes less: one shape for each kernel, layers of a 128 px picture, iterations at 256 px, a picture of 256 px
    /// [default: off]
    #[arg(long, help_heading = "Report")]
    quick: bool,
    /// Only these parts, e.g. device,iterations: device, kernels, bench, iterations, picture [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Report")]
    parts: Vec<PartName>,
    /// Kernels that are tested and timed, e.g. conv or conv/winograd [default: all]
    #[arg(
        long,
        value_name = "OP[/VARIANT]",
        default_value = "",
        hide_default_value = true,
        help_heading = "Report"
    )]
    filter: String,
    /// Sides of the square pictures whose iterations are timed [default: 256,512,1024]
    #[arg(long, value_name = "PIXELS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=8192), help_heading = "Report")]
    sizes: Vec<u32>,
    /// The photo of the picture [default: the Summer Palace, which is in the program]
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    photo: Option<PathBuf>,
    /// Network of all parts [default: the one that comes with the program; VGG-19 with random weights for the kernels'
    /// times and the style objective]
    #[arg(long, value_name = "FILE", env = super::args::WEIGHTS_VARIABLE, hide_env_values = true, help_heading = "Report")]
    weights: Option<PathBuf>,
    /// Time the same iterations in another program too: pytorch, with the Python of --python [default: none]
    #[arg(long, value_name = "PROGRAM", help_heading = "Report")]
    against: Option<Peer>,
    /// Python with the package torch; nothing is installed
    #[arg(long, value_name = "FILE", default_value = "python3", help_heading = "Report")]
    python: PathBuf,
    /// Graphics device by number or part of its name, from `mirage devices`, or cpu [default: the most capable GPU; the
    /// CPU without one]
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Device")]
    adapter: Option<String>,
    /// What a process of a report does, which this is; prints JSON.
    #[arg(long, hide = true)]
    process: Option<iteration::Process>,
}

/// A part of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartName {
    Device,
    Kernels,
    Bench,
    Iterations,
    Picture,
}

/// What to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Pytorch,
}

impl ReportArgs {
    fn includes(&self, part: PartName) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn sizes(&self) -> Vec<u32> {
        match (self.sizes.is_empty(), self.quick) {
            (false, _) => self.sizes.clone(),
            (true, false) => vec![256, 512, 1024],
            (true, true) => vec![256],
        }
    }

    /// Makes the folder, if it is not there.
    fn folder(&self) -> Result<PathBuf> {
        let folder = self.output.clone().unwrap_or_else(|| {
            let numbered = (2..).map(|number| PathBuf::from(format!("mirage-report-{number}")));
            let mut names = std::iter::once(PathBuf::from("mirage-report")).chain(numbered);
            names.find(|name| !name.exists()).unwrap_or_else(|| "mirage-report".into())
        });
        if folder.join(record::JSON).exists() {
            return Err(Error::file(
                &folder,
                "holds a report already",
                "Give another folder with --output, or remove the report",
            ));
        }
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "making the folder"))?;
        Ok(folder)
    }
}

/// Makes the report, and returns the exit code: 0 if all parts succeeded, 1 if one failed.
pub(super) fn run(args: &ReportArgs, shader_dir: Option<&Path>) -> Result<u8> {
    if let Some(process) = &args.process {
        return iteration::run(args, process);
    }
    let interrupt =
        Interrupt::install_with("Stopping; what was measured is kept. Ctrl-C again quits at once.");
    let folder = args.folder()?;
    let mut record = Record::new(args, &folder);
    record.save()?;
    interrupt.arm(&Controls::new());
    let terminal = Terminal::new(false);
    let parts = Parts::new(args, shader_dir, &folder, &interrupt, &terminal)?;
    let state = if parts.run(&mut record)? { State::Complete } else { State::Interrupted };
    record.end(state)?;
    let failed = record.failed();
    for (part, reason) in &failed {
        terminal.print(&format!("FAILED {part}: {reason}"));
    }
    streams::print(&format!(
        "Report: {}\nIt attaches to an issue as it is, with {} and the picture beside it.",
        folder.join(record::PAGE).display(),
        record::JSON
    ))?;
    Ok(match state {
        State::Interrupted => INTERRUPTED,
        _ => u8::from(!failed.is_empty()),
    })
}
