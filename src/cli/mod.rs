//! The `mirage` program: arguments, the terminal, files. All work is the library's.
//!
//! Exit codes: 0 for success, 1 for a failure while working, 2 for a problem of the request or its files that the user
//! can fix, 130 after Ctrl-C.

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
mod preprocessing;
mod record;
#[doc(hidden)]
pub mod records;
mod resumed_run;
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

/// Characters of an error's message that are printed at most; it may repeat what a file says.
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

/// Re-imagines a photograph through a neural network: its layout, what the network takes it for, and its style are kept
/// in the proportions that you choose.
#[derive(Debug, Parser)]
#[command(name = "mirage", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Use the WGSL files of this folder instead of the built-in ones of the same names; `mirage kernels show --files
    /// DIR` writes those [default: none]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Shaders")]
    shader_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Paint the mirage of a photo
    Render(Box<args::RenderArgs>),
    /// Print what the network sees in pictures
    ///
    /// The network looks at them as it was trained: with max pooling (or --pooling) and zero padding. The classes in the
    /// reports of a run come from its own forward pass, with its --pooling and --border, so they differ a little.
    Classify(commands::classify::ClassifyArgs),
    /// List the devices that can be used
    Devices,
    /// Test, time, print and try out compute kernels on this device
    Kernels(commands::kernels::KernelsArgs),
    /// Print how much memory and time a picture takes, without painting it
    ///
    /// Memory is worked out scale by scale, from the same plan that the run itself would follow. Time is estimated from a
    /// few iterations at two small sizes on this device.
    Plan(Box<commands::plan::PlanArgs>),
    /// Test and time this device, and write a report
    Report(commands::report::ReportArgs),
    /// Resume a run from its checkpoint, with the same options or others
    Resume(commands::resume::ResumeArgs),
    /// Print how a picture was made, or how the runs of two pictures differ
    Show(commands::show::ShowArgs),
    /// Paint a contact sheet: the photo with several values of one or two options, side by side
    Sweep(commands::sweep::SweepArgs),
    /// Measure which kernels are the fastest on this device, for all later runs
    Tune(commands::tune::TuneArgs),
    /// Describe a weights file, or download a full-size network
    Weights(commands::weights::WeightsArgs),
    /// Print the completions of a shell
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
        // The reader has seen enough, as in `mirage devices | head -1`.
        Err(error) if output::streams::is_closed(&error) && cli.command.only_prints() => 0,
        Err(error) => {
            // No line of a message, which may repeat words from outside, looks like another message.
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

/// The command line; or prints what clap says instead, such as the help, and returns the exit code.
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
        // The message repeats words, which may be names of files: it is made again, of harmless ones.
        let words = words.iter().map(|word| one_line(&word.to_string_lossy()).into_owned());
        let said = Cli::try_parse_from(words).err();
        output::streams::eprint(said.as_ref().unwrap_or(&error).to_string().trim_end());
        code(&error)
    })
}

impl Command {
    /// True if it does nothing but print: once nobody reads that, its work is done.
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

/// Silences Mesa's device selection layer, which orders GPUs by what the desktop uses and prints warnings where there
/// is no desktop: on a server every run would begin with lines that look like errors.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "changing the environment is safe only without other threads")]
fn silence_device_selection() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the first thing that the program does; no other thread runs yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

#[cfg(not(target_os = "linux"))]
fn silence_device_selection() {}

/// A variable that is empty counts as unset; `clap` would call it an option without a value.
#[allow(unsafe_code, reason = "changing the environment is safe only without other threads")]
fn forget_empty_variable() {
    if std::env::var_os(args::WEIGHTS_VARIABLE).is_some_and(|value| value.is_empty()) {
        // SAFETY: as the program begins; no other thread runs yet.
        unsafe { std::env::remove_var(args::WEIGHTS_VARIABLE) };
    }
}

/// Makes a file that reaches the size limit of the process (`ulimit -f`) an error of writing; by default it ends the
/// process without a word.
#[cfg(unix)]
#[allow(unsafe_code, reason = "std has no signals")]
fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn ignore_file_size_signal() {}
