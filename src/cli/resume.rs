//! `mirage resume`: goes on from a checkpoint, as the run was or with other options.

use super::args::RenderArgs;
use super::checkpoint::Saved;
use super::words::{self, Given, WEIGHTS, is_given};
use super::{files, plan, render};
use crate::error::{Error, Result};
use crate::mirage::State;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Options that say of what, where and how long a run is, but not which picture it paints. With any other changed that a
/// picture depends on, it branches off.
const SAME_PICTURE: [&str; 6] =
    ["photo", "iterations", "stop_when_change_below", "adapter", "kernels", "labels"];
/// Options that change what the gradients are of, so that weights measured before hold no longer.
const OTHER_GRADIENTS: [&str; 9] = [
    "spatial",
    "abstract",
    "style",
    "style_image",
    "style_blend",
    "weights",
    "preprocessing",
    "pooling",
    "balance",
];

/// Options of `mirage resume`.
#[derive(Debug)]
pub(super) struct ResumeArgs {
    file: PathBuf,
    given: Vec<Given>,
}

impl Args for ResumeArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("file")
            .value_name("CHECKPOINT")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help("The checkpoint, which lies beside the picture and is named after it");
        let photo = Arg::new("photo")
            .long("photo")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help_heading("Input and output")
            .help("Where the photo is now, if it was moved [default: where it was]");
        words::command()
            .get_arguments()
            .filter(|arg| arg.get_id() != "photo")
            .fold(command.arg(file).arg(photo), |command, arg| command.arg(arg.clone()))
            .after_help("What is not given stays as the run had it: the defaults are those of a new run.")
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ResumeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingRequiredArgument);
        let file = matches.get_one::<PathBuf>("file").cloned().ok_or_else(missing)?;
        Ok(Self { file, given: words::given(matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Goes on; the answer is the exit code.
pub(super) fn run(args: &ResumeArgs) -> Result<u8> {
    let saved = Saved::load(&args.file)?;
    let (render, state) = go_on(&args.given, &saved)?;
    saved.check_inputs(&plan::inputs(&render))?;
    let same_network = !is_given(&args.given, "weights");
    render::resume(&render, state, same_network.then_some(saved.network.as_str()), &saved.adapter)
}

/// The options and the state to go on with.
fn go_on(given: &[Given], saved: &Saved) -> Result<(RenderArgs, State)> {
    let mut state = saved.state.clone();
    let mut options = saved.options.clone();
    let missing = |name: &str| Error::usage(format!("the checkpoint does not say its run's {name}"));
    let photo = options.get("photo").and_then(Value::as_str).ok_or_else(|| missing("photo"))?;
    if !is_given(given, "photo") && !Path::new(photo).exists() {
        return Err(Error::file(
            Path::new(photo),
            "the photo of this run is not there any more",
            "Say where it is with --photo",
        ));
    }
    balance(given, &mut options, &state);
    let branches =
        given.iter().any(|(name, _)| !words::only_watches(name) && !SAME_PICTURE.contains(&name.as_str()));
    if given.iter().any(|(name, _)| OTHER_GRADIENTS.contains(&name.as_str())) {
        state.weights.clear();
        state.measured.clear();
    }
    if branches && !is_given(given, "output") {
        let output = options.get("output").and_then(Value::as_str).ok_or_else(|| missing("output"))?;
        let branch = files::free_name(Path::new(output)).to_string_lossy().into_owned();
        options.insert("output".to_owned(), Value::String(branch));
    }
    let mut render = words::parse(&words::merged(words::recorded(&options), given))?;
    // Its own picture, snapshots and checkpoint may be replaced, by whatever comes after them.
    render.files.resumes = !branches && !is_given(given, "output");
    Ok((render, state))
}

/// States the balance as the run had it in the end: its shares may have been changed while it went on, and where raw
/// weights are given now, the others are those in force.
fn balance(given: &[Given], options: &mut Map<String, Value>, state: &State) {
    if WEIGHTS.iter().any(|name| is_given(given, name)) {
        for (kind, weight) in &state.weights {
            let name = format!("{kind}_weight");
            if WEIGHTS.contains(&name.as_str()) {
                options.insert(name, Value::from(weight.to_string()));
            }
        }
        options.remove("balance");
    } else if let Some(balance) = &state.balance {
        options.insert("balance".to_owned(), Value::String(balance.to_string()));
        for name in WEIGHTS {
            options.remove(name);
        }
    }
}
