//! `mirage resume`: continues a run from its checkpoint, with the same options or others.

use super::render;
use crate::cli::args::RenderArgs;
use crate::cli::checkpoint::SavedCheckpoint;
use crate::cli::earlier_run::{EarlierRun, EarlierState};
use crate::cli::files::run_files;
use crate::cli::output::escape::{path_of_text, shown};
use crate::cli::record::option_words::{self, OptionWords, is_given};
use crate::cli::record::options::{self, Change};
use crate::cli::record::trusted::{self, RecordKind};
use crate::error::{Error, Result};
use crate::image_io;
use crate::mirage::optimizer::{self, Optimizer, Settings};
use crate::mirage::{CheckpointFile, Shares};
use crate::ops::Shape;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use serde_json::{Map, Value};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `mirage resume`.
#[derive(Debug)]
pub(in crate::cli) struct ResumeArgs {
    file: PathBuf,
    given: Vec<OptionWords>,
}

impl Args for ResumeArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("file")
            .value_name("CHECKPOINT")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help("The checkpoint, which is saved beside the picture as NAME-checkpoint.safetensors");
        let photo = Arg::new("photo")
            .long("photo")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help_heading("Input and output")
            .help("The photo, if it was moved [default: its recorded path]");
        option_words::command()
            .mut_arg("output", |arg| {
                arg.help(
                    "Output file; its extension sets the format: .png, .jpg, .webp or .tiff [default: the run's name, \
                     beside the checkpoint, with a number if the options change the picture]",
                )
            })
            .get_arguments()
            .filter(|arg| arg.get_id() != "photo")
            .fold(command.arg(file).arg(photo), |command, arg| command.arg(arg.clone()))
            .before_help(
                "Options that are not given keep the run's values; the defaults below are those of a new run.",
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ResumeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingRequiredArgument);
        let file = matches.get_one::<PathBuf>("file").cloned().ok_or_else(missing)?;
        Ok(Self { file, given: option_words::given(matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Continues the run, and returns the exit code.
pub(in crate::cli) fn run(args: &ResumeArgs) -> Result<u8> {
    let saved = SavedCheckpoint::open(&args.file)?;
    let (render, earlier) = continued(args, saved)?;
    render::continue_from(&render, earlier)
}

/// Returns the options of the continued run, and the earlier run.
fn continued(args: &ResumeArgs, saved: SavedCheckpoint) -> Result<(RenderArgs, EarlierRun)> {
    let given = &args.given;
    if is_given(given, "init") {
        return Err(Error::usage(
            "--init is for a new run, and this one continues from its checkpoint: leave it out, or start a new run with `mirage render`",
        ));
    }
    let trusted::Accepted { mut options, mut notes } =
        trusted::accept(&args.file, RecordKind::Checkpoint, &saved.options, given)?;
    if !is_given(given, "photo") {
        let photo = options.get("photo").and_then(Value::as_str).ok_or_else(|| {
            Error::file(&args.file, "it does not name the photo of its run", "Give it with --photo")
        })?;
        let photo = path_of_text(photo);
        if !photo.exists() {
            return Err(Error::file(
                &photo,
                "the photo of this run no longer exists",
                "Give it with --photo",
            ));
        }
    }
    let photo = given.iter().find(|(name, _)| name == "photo").and_then(|(_, words)| words.first());
    saved.check_inputs(&options, photo.map(Path::new))?;
    let changes = |change: Change| {
        given.iter().any(|(name, _)| options::row(name).is_some_and(|row| row.change == change))
    };
    let branches = changes(Change::Branches) || changes(Change::BranchesAndRemeasures);
    balance(given, &mut options, &saved.file);
    let run = (!branches && !is_given(given, "output")).then_some(saved.run);
    let mut options = option_words::merged(option_words::recorded(&options), given);
    if !is_given(given, "output") {
        let recorded =
            saved.options.get("output").and_then(Value::as_str).map(path_of_text).unwrap_or_default();
        let mut output = output(&args.file, &recorded);
        if !is_same_place(&output, &recorded) {
            notes.push(format!(
                "the recorded output is {}, but a resumed run writes beside its checkpoint: the picture will be {} (choose another \
                 place with -o)",
                shown(&recorded),
                shown(&output)
            ));
        }
        if branches {
            output = run_files::free_name(&output);
        }
        let mut word = OsString::from("--output=");
        word.push(output);
        options.push(("output".to_owned(), vec![word]));
    }
    let network = (!is_given(given, "weights")).then_some(saved.network);
    let render = option_words::parse(&options)?;
    let state = EarlierState {
        replaced: replaced_optimizer(&saved.options, &render),
        measures_weights_anew: changes(Change::BranchesAndRemeasures),
        // The halvings so far apply to another learning rate.
        forgets_halvings: is_given(given, "learning_rate"),
        file: saved.file,
    };
    let earlier = EarlierRun {
        // Each file was already compared.
        pictures: None,
        notes,
        network,
        device: saved.adapter,
        file: Some(args.file.clone()),
        run,
        state: Some(state),
    };
    Ok((render, earlier))
}

/// Returns the optimiser so far, if the run continues with another one, or with one that keeps other tensors.
fn replaced_optimizer(recorded: &Map<String, Value>, args: &RenderArgs) -> Option<Arc<dyn Optimizer>> {
    let name = recorded.get("optimizer")?.as_str()?;
    let now = &args.optimisation;
    let with_history = |name: &str, history: Option<u64>| {
        let history = history.and_then(|history| usize::try_from(history).ok());
        optimizer::by_name(name, &Settings { history, ..Settings::default() }).ok()
    };
    let before = with_history(name, recorded.get("history").and_then(Value::as_u64))?;
    let after = with_history(&now.optimizer, Some(now.history.into()))?;
    let tensors = |optimizer: &dyn Optimizer| -> Vec<_> {
        let any = Shape::map(3, 1, 1);
        optimizer.state(any).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
    };
    (name != now.optimizer || tensors(&*before) != tensors(&*after)).then_some(before)
}

/// Returns the picture's path in a resumed run: beside the checkpoint and named after it, as `out.png` for
/// `out-checkpoint.safetensors`. Only the format is the recorded one.
fn output(checkpoint: &Path, recorded: &Path) -> PathBuf {
    let name = checkpoint.file_stem().unwrap_or_default();
    let stem = without_ending(name, "-checkpoint");
    let mut name = stem.filter(|stem| !stem.is_empty()).unwrap_or_else(|| name.to_owned());
    let extension = recorded.extension().and_then(OsStr::to_str);
    name.push(".");
    name.push(extension.filter(|extension| image_io::writes(extension)).unwrap_or("png"));
    checkpoint.with_file_name(name)
}

/// Removes an ending from a name; `None` if the name lacks it.
#[cfg(unix)]
fn without_ending(name: &OsStr, ending: &str) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt as _;
    name.as_bytes().strip_suffix(ending.as_bytes()).map(|name| OsStr::from_bytes(name).to_owned())
}

/// Removes an ending from a name; `None` if the name lacks it or is not valid Unicode.
#[cfg(not(unix))]
fn without_ending(name: &OsStr, ending: &str) -> Option<OsString> {
    name.to_str().and_then(|name| name.strip_suffix(ending)).map(OsString::from)
}

/// True if both paths have the same name in the same folder.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).canonicalize().ok()
    };
    one.file_name() == other.file_name() && folder(one).is_some() && folder(one) == folder(other)
}

/// Sets the balance to the one in force at the checkpoint, which the live page may have changed. If raw weights are
/// given, the others keep their values at the checkpoint.
fn balance(given: &[OptionWords], options: &mut Map<String, Value>, file: &CheckpointFile) {
    let raw = || options::names(|row| row.raw_weight);
    if raw().any(|name| is_given(given, name)) {
        for weight in &file.weights().0 {
            let name = format!("{}_weight", weight.group);
            if raw().any(|raw| raw == name) {
                // As text, which keeps every bit of an f32.
                options.insert(name, Value::from(weight.weight.to_string()));
            }
        }
        options.remove("balance");
    } else if !file.shares().0.is_empty() {
        // Unused groups are not in the state, and keep their recorded shares.
        let given: Option<Shares> =
            options.get("balance").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let mut shares = file.shares().clone();
        shares.0.extend(
            given.unwrap_or_default().0.into_iter().filter(|(name, _)| file.shares().get(name).is_none()),
        );
        options.insert("balance".to_owned(), Value::String(shares.to_string()));
        for name in raw() {
            options.remove(name);
        }
    }
}
