//! The `mirage` program: arguments, terminal output and files. The library does the work.
//!
//! Exit codes: 0 for success, 1 for a failure during the work, 2 for a problem with the arguments or files that the
//! user can fix, 130 after Ctrl-C.

mod args;
mod checked_run;
mod checkpoint;
mod class_names;
mod commands;
mod default_layers;
mod device_args;
mod earlier_run;
mod estimate;
mod files;
mod interrupt;
mod observers;
mod out_of_memory;
mod output;
mod own_files;
mod preprocessing;
mod record;
#[doc(hidden)]
pub mod records;
mod schedule;
mod values;

use crate::error::{Error, Result};
use crate::gpu;
use crate::shader::Folder;
use clap::{CommandFactory as _, Parser, Subcommand};
pub use out_of_memory::Allocator;
use output::escape::{has_control, one_line, shortened};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

/// Maximum number of characters printed of an error message, which may quote a file.
const LONGEST_MESSAGE: usize = 16 << 10;

const EXAMPLES: &str = "\
Examples:
  mirage render holiday.jpg                         the default mirage, holiday-mirage.png
  mirage render holiday.jpg --spatial none          drop the layout: the scene is rebuilt
  mirage render holiday.jpg --style-image starry-night.jpg
  mirage render holiday.jpg --save-at 1,2,5,10,20,50
  mirage plan holiday.jpg --size 2048               memory and time, without painting
  mirage sweep holiday.jpg --vary spatial=5,20,50 --columns iterations=10,50,150
  mirage classify holiday.jpg                       what the network sees in it
  mirage weights --fetch vgg19                      download the full VGG-19";

/// Repaints a photo with a VGG network, balancing its layout, its content and its style.
#[derive(Debug, Parser)]
#[command(name = "mirage", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Use the WGSL files in this folder in place of the built-in ones with the same names; write those out with
    /// `mirage kernels show --files DIR` [default: none]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Shaders")]
    shader_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Paint the mirage of a photo
    Render(Box<args::RenderArgs>),
    /// Print the classes that the network sees in pictures
    ///
    /// Uses the pooling and padding that the network was trained with: max pooling (unless --pooling is given) and zero
    /// padding. The classes reported during a run come from its own forward pass, with its --pooling and --border, so
    /// they differ slightly.
    Classify(commands::classify::ClassifyArgs),
    /// List the available devices
    Devices,
    /// Test, time, print and try out compute kernels on this device
    Kernels(commands::kernels::KernelsArgs),
    /// Estimate the memory and time that a picture takes, without painting it
    ///
    /// Memory is computed scale by scale, from the plan that the run would follow. Time is estimated from a few
    /// iterations at two small sizes on this device.
    Plan(Box<commands::plan::PlanArgs>),
    /// Test and time this device, and write a report
    Report(commands::report::ReportArgs),
    /// Resume a run from its checkpoint, with the same or different options
    Resume(commands::resume::ResumeArgs),
    /// Print how a picture was made, or how the runs of two pictures differ
    Show(commands::show::ShowArgs),
    /// Paint a contact sheet: the photo with several values of one or two options, side by side
    Sweep(commands::sweep::SweepArgs),
    /// Find the fastest kernels on this device, for all later runs
    Tune(commands::tune::TuneArgs),
    /// Describe a weights file, or download a full-size network
    Weights(commands::weights::WeightsArgs),
    /// Print shell completions
    #[command(hide = true)]
    Completions(commands::install::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(commands::install::ManArgs),
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    silence_device_selection();
    forget_empty_variable();
    ignore_file_size_signal();
    out_of_memory::install();
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let code = match run(&cli) {
        Ok(code) => code,
        // The reader closed the pipe, as in `mirage devices | head -1`.
        Err(error) if output::streams::is_closed(&error) && cli.command.only_prints() => 0,
        Err(error) => {
            // Continuation lines are indented, so that untrusted text in a message can't pass for another message.
            let message = format!("mirage: {error}").replace('\n', "\n  ");
            output::streams::eprint(&shortened(&message, LONGEST_MESSAGE));
            error.exit_code()
        }
    };
    if gpu::was_given_up() {
        interrupt::quit(code);
    }
    ExitCode::from(code)
}

/// Parses the command line. If clap prints something instead, such as the help, returns the exit code as the error.
fn parse(words: Vec<OsString>) -> Result<Cli, ExitCode> {
    let code = |error: &clap::Error| ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    Cli::try_parse_from(&words).map_err(|error| {
        if !words.iter().any(|word| has_control(&word.to_string_lossy())) {
            return match error.print() {
                // Help that can't be written is a failure, unless its reader has closed the pipe.
                Err(problem) if !error.use_stderr() && problem.kind() != ErrorKind::BrokenPipe => {
                    output::streams::eprint(&format!("mirage: writing to stdout failed: {problem}"));
                    ExitCode::FAILURE
                }
                _ => code(&error),
            };
        }
        // The message quotes arguments, such as file names: parse again with control characters escaped.
        let words = words.iter().map(|word| one_line(&word.to_string_lossy()).into_owned());
        let escaped = Cli::try_parse_from(words).err();
        output::streams::eprint(escaped.as_ref().unwrap_or(&error).to_string().trim_end());
        code(&error)
    })
}

impl Command {
    /// True if the command does nothing but print, so it is done once its output is closed.
    fn only_prints(&self) -> bool {
        match self {
            Self::Classify(_)
            | Self::Devices
            | Self::Plan(_)
            | Self::Show(_)
            | Self::Weights(_)
            | Self::Completions(_)
            | Self::Man(_) => true,
            Self::Kernels(args) => args.only_prints(),
            Self::Render(_) | Self::Report(_) | Self::Resume(_) | Self::Sweep(_) | Self::Tune(_) => false,
        }
    }

    /// True if the command runs or prints shaders.
    fn has_shaders(&self) -> bool {
        !matches!(
            self,
            Self::Devices | Self::Show(_) | Self::Weights(_) | Self::Completions(_) | Self::Man(_)
        )
    }
}

fn run(cli: &Cli) -> Result<u8> {
    if cli.shader_dir.is_some() && !cli.command.has_shaders() {
        return Err(Error::usage("this command uses no shaders: leave out --shader-dir"));
    }
    let folder = cli.shader_dir.as_deref().map(Folder::open).transpose()?;
    match &cli.command {
        Command::Render(args) => commands::render::run(args),
        Command::Classify(args) => commands::classify::run(args).map(|()| 0),
        Command::Devices => commands::devices::run().map(|()| 0),
        Command::Kernels(args) => commands::kernels::run(args, folder),
        Command::Plan(args) => commands::plan::run(args).map(|()| 0),
        Command::Report(args) => commands::report::run(args, cli.shader_dir.as_deref()),
        Command::Resume(args) => commands::resume::run(args),
        Command::Show(args) => commands::show::run(args).map(|()| 0),
        Command::Sweep(args) => commands::sweep::run(args),
        Command::Tune(args) => commands::tune::run(args).map(|()| 0),
        Command::Weights(args) => commands::weights::run(args).map(|()| 0),
        Command::Completions(args) => commands::install::completions(args, Cli::command()).map(|()| 0),
        Command::Man(args) => commands::install::manual(args, Cli::command()).map(|()| 0),
    }
}

/// Disables Mesa's device selection layer. It puts the desktop's GPU first, and on a server without a desktop it prints
/// warnings that look like errors at the start of every run.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "changing the environment is safe only without other threads")]
fn silence_device_selection() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: `main` calls this first, before any other thread exists.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

#[cfg(not(target_os = "linux"))]
fn silence_device_selection() {}

/// Unsets the variable if it is empty: `clap` would report an option without a value.
#[allow(unsafe_code, reason = "changing the environment is safe only without other threads")]
fn forget_empty_variable() {
    if std::env::var_os(args::WEIGHTS_VARIABLE).is_some_and(|value| value.is_empty()) {
        // SAFETY: this runs at program start, before any other thread exists.
        unsafe { std::env::remove_var(args::WEIGHTS_VARIABLE) };
    }
}

/// Turns reaching the file size limit of the process (`ulimit -f`) into a write error. By default the signal ends the
/// process silently.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn ignore_file_size_signal() {}
