//! `mirage report`: describes a device, checks its results and times it, in files to attach to an issue.
//!
//! Each part runs in its own process, this program with other arguments. If a driver crashes, hangs or loses the
//! device, only that part fails and the rest continues. The files are rewritten after every part.

mod args;
mod caffe_file;
mod child;
mod device;
mod files;
mod iteration;
mod page;
mod parts;
mod pytorch;
mod record;

use crate::cli::files::disk::Reservation;
use crate::cli::interrupt::{INTERRUPTED, Interrupt};
use crate::cli::output::escape::shown;
use crate::cli::output::streams;
use crate::cli::output::terminal::Terminal;
use crate::error::{Error, Result};
use crate::gpu::DeviceOptions;
use crate::mirage::Controls;
use args::JSON;
pub(in crate::cli) use args::ReportArgs;
use files::{PAGE, save};
use parts::PartRunner;
use record::{PICTURE, Record, State};
use std::path::Path;

/// Makes the report, and returns the exit code: 0 if all parts succeeded, 1 if one failed.
pub(in crate::cli) fn run(args: &ReportArgs, shader_dir: Option<&Path>) -> Result<u8> {
    if let Some(process) = &args.process {
        return iteration::run(args, process);
    }
    let on_cpu = args.is_of_cpu(shader_dir)?;
    if on_cpu && args.second_precision().is_some() {
        return Err(Error::usage(
            "--precision times tuned kernels, and the CPU device has only one for each op: leave it out, or choose a graphics device with --adapter",
        ));
    }
    if !on_cpu {
        let threads = args.threads.map(usize::from);
        DeviceOptions { threads, ..DeviceOptions::default() }.check_threads("a graphics device")?;
    }
    let interrupt = Interrupt::install_with("Stopping; results so far are kept. Ctrl-C again quits at once.");
    let folder = args.folder()?;
    let json = folder.join(JSON);
    let _reservation = Reservation::take(&json, &json, "--output")?;
    for name in [JSON, PAGE, PICTURE] {
        let path = folder.join(name);
        // A dangling link counts as existing.
        if path.symlink_metadata().is_ok() {
            return Err(Error::file(
                &path,
                "the folder already holds a report, or a file with this name",
                "Give another folder with --output, or remove the file",
            ));
        }
    }
    let mut record = Record::new(args, &folder);
    save(&mut record)?;
    interrupt.arm(&Controls::new());
    let terminal = Terminal::new(false);
    let runner = PartRunner::new(args, shader_dir, on_cpu, &folder, &interrupt, &terminal)?;
    let state = if runner.run(&mut record)? { State::Complete } else { State::Interrupted };
    record.state = state;
    save(&mut record)?;
    let failed = record.failed();
    for (part, reason) in &failed {
        terminal.print(&format!("FAILED {part}: {reason}"));
    }
    streams::print(&format!(
        "Report: {}\nAttach it to an issue as is, with {} and the picture beside it.",
        shown(&folder.join(PAGE)),
        JSON
    ))?;
    Ok(match state {
        State::Interrupted => INTERRUPTED,
        _ => u8::from(!failed.is_empty()),
    })
}
