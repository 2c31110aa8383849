//! `mirage kernels`: the shader workbench.

mod bench;
mod list;
mod run;
mod show;
mod test;
mod watch;

use crate::cli::device_args::THREADS;
use crate::cli::files::disk::{check_whole, is_same};
use crate::cli::output::escape::shown;
use crate::cli::output::streams;
use crate::cli::values::{Kernels, Precision};
use crate::error::{Error, Result};
use crate::files::is_stream;
use crate::gpu::{AdapterChoice, Context, DeviceOptions};
use crate::graph::Engine;
use crate::ops::REGISTRY;
use crate::shader::{self, Folder};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `mirage kernels`.
#[derive(Debug, Args)]
pub(in crate::cli) struct KernelsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every op and kernel: entry points, bindings, limits, operations and bytes
    List(list::ListArgs),
    /// Test every kernel on this device against its reference
    Test(test::TestArgs),
    /// Time kernels on this device, against its measured peaks and against earlier figures
    Bench(bench::BenchArgs),
    /// Print the final shaders of a kernel, as passed to the driver
    Show(show::ShowArgs),
    /// Run any compute shader on arrays from files
    Run(Box<run::RunArgs>),
}

impl KernelsArgs {
    /// True if the subcommand does nothing but print.
    pub(in crate::cli) fn only_prints(&self) -> bool {
        matches!(&self.command, Command::List(_) | Command::Show(_))
    }
}

/// Runs the subcommand, and returns the exit code. `folder` holds the shaders of --shader-dir, if given.
pub(in crate::cli) fn run(args: &KernelsArgs, folder: Option<Folder>) -> Result<u8> {
    match &args.command {
        Command::List(args) => list::run(args).map(|()| 0),
        Command::Test(args) => test::run(args, folder),
        Command::Bench(args) => bench::run(args, folder),
        Command::Show(args) => show::run(args).map(|()| 0),
        Command::Run(args) => run::run(args),
    }
}

/// Options that choose the device and its kernels.
#[derive(Debug, Args)]
struct KernelDeviceArgs {
    /// Graphics device, by its number or part of its name in `mirage devices`, or cpu [default: the most capable,
    /// including software drivers; the CPU if there is none]
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Device")]
    adapter: Option<AdapterChoice>,
    /// Threads of the CPU device [default: all that the process may use]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(THREADS),
        help_heading = "Device"
    )]
    threads: Option<u16>,
    /// Only this family of kernels, and the naive ones [default: auto, all families]
    #[arg(
        long,
        value_name = "KIND",
        default_value = "auto",
        hide_default_value = true,
        help_heading = "Device"
    )]
    kernels: Kernels,
    /// As in `mirage render`: half-weights adds kernels with 16-bit weights, half also those that use cooperative
    /// matrices
    #[arg(long, value_name = "KIND", default_value = "single", help_heading = "Device")]
    precision: Precision,
    /// Use no optional feature and no more than WebGPU's default limits [default: off]
    #[arg(long, help_heading = "Device")]
    minimal: bool,
}

impl KernelDeviceArgs {
    /// Opens the chosen device, or the best graphics device: the workbench is mainly for shaders.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is no graphics device.
    fn open_graphics(&self) -> Result<Arc<Engine>> {
        let options = self.options();
        match options.adapter {
            AdapterChoice::Cpu => Engine::open(&options),
            _ => Context::open(&options).map(Engine::new),
        }
    }

    /// Like [`KernelDeviceArgs::open_graphics`], but uses the CPU if there is no graphics device. Prints a note on
    /// stderr if the user should know why this device was chosen.
    fn open(&self) -> Result<Arc<Engine>> {
        let engine = match self.open_graphics() {
            Err(Error::NoAdapter(_)) => Engine::open(&self.options())?,
            opened => opened?,
        };
        if let Some(note) = engine.note() {
            streams::note(note);
        }
        Ok(engine)
    }

    fn options(&self) -> DeviceOptions {
        DeviceOptions {
            adapter: self.adapter.clone().unwrap_or_default(),
            family: self.kernels.family(),
            exact: false,
            precision: self.precision.precision(),
            minimal: self.minimal,
            threads: self.threads.map(usize::from),
            ..DeviceOptions::default()
        }
    }
}

/// Checks, before the work, that a command can write these files and replaces none that it reads. The shaders in use
/// count as read.
///
/// # Errors
/// [`Error::File`] for the first file that fails.
fn check_written(written: &[Option<&Path>], read: &[&Path], overwrite: bool) -> Result<()> {
    let written: Vec<&Path> = written.iter().copied().flatten().collect();
    let shaders = shader::files();
    let read: Vec<&Path> = read.iter().copied().chain(shaders.iter().map(PathBuf::as_path)).collect();
    for (index, path) in written.iter().enumerate() {
        if let Some(read) = read.iter().find(|read| is_same(read, path)) {
            let problem = format!("this would replace {}, which the run reads", shown(read));
            return Err(Error::file(path, problem, "Choose another name"));
        }
        if written[..index].iter().any(|earlier| is_same(earlier, path) && !is_stream(path)) {
            return Err(Error::file(path, "two outputs have this name", "Give each another name"));
        }
        check_whole(path, overwrite)?;
    }
    Ok(())
}

/// `OP[/VARIANT]`: an op's name or part of it, and part of a variant's name.
#[derive(Debug, Clone, Default)]
struct Filter {
    op: String,
    variant: String,
}

impl std::str::FromStr for Filter {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (op, variant) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self { op: op.to_owned(), variant: variant.to_owned() })
    }
}

impl Filter {
    fn op(&self, name: &str) -> bool {
        // A full name of an op matches only that op: `conv` excludes conv_backward. In a bench, the shape follows the
        // name.
        let exact = REGISTRY.iter().any(|entry| entry.name == self.op);
        if exact { name.split(' ').next() == Some(&self.op) } else { name.contains(&self.op) }
    }

    fn variant(&self, name: &str) -> bool {
        name.contains(&self.variant)
    }

    /// Returns the error for a filter that matches nothing.
    fn nothing(&self) -> crate::Error {
        let variant = if self.variant.is_empty() { String::new() } else { format!("/{}", self.variant) };
        crate::Error::usage(format!(
            "no kernel name contains {}{variant}: `mirage kernels list` shows all names",
            self.op
        ))
    }
}
