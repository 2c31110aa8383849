//! The options of `mirage sweep`: those of `mirage render` and a few more.

use crate::cli::record::option_words::{self, OptionWords};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use std::path::PathBuf;

/// Options of `mirage sweep`.
#[derive(Debug)]
pub(in crate::cli) struct SweepArgs {
    /// Options to vary, as `NAME=VALUE,VALUE`.
    pub vary: Vec<String>,
    /// Iterations of the columns, as `iterations=10,50,150`.
    pub columns: Option<String>,
    /// The cell to paint at full size.
    pub continue_cell: Option<PathBuf>,
    /// All options of `mirage render` that were given, including the photo.
    pub given: Vec<OptionWords>,
}

impl Args for SweepArgs {
    fn augment_args(command: Command) -> Command {
        let sweep_only = [
            Arg::new("photo")
                .value_name("PHOTO")
                .value_parser(value_parser!(PathBuf))
                .required_unless_present("continue")
                .conflicts_with("continue")
                .help("The photo: PNG, JPEG, WebP, TIFF, GIF or BMP"),
            Arg::new("vary")
                .long("vary")
                .value_name("NAME=VALUES")
                .action(ArgAction::Append)
                .help_heading("Sweep")
                .help(
                    "An option and its values, e.g. spatial=5,20,50 (shares of the balance), seed=1,2,3 or \
                     spatial-layers=relu1_1+relu2_1,relu5_1; give it twice for rows and columns",
                ),
            Arg::new("columns").long("columns").value_name("iterations=LIST").help_heading("Sweep").help(
                "Show each run after these iterations, e.g. iterations=10,50,150 [default: only at its end]",
            ),
            Arg::new("continue")
                .long("continue")
                .value_name("CELL")
                .value_parser(value_parser!(PathBuf))
                .help_heading("Sweep")
                .help("Paint a cell of a sheet at full size: SWEEP/sheet.html#r1c2 or SWEEP/r1c2.png"),
        ];
        let command = sweep_only.into_iter().fold(command, Command::arg);
        let rest = option_words::command()
            .mut_arg("size", |arg| {
                arg.default_value(super::SIZE).help("Longest side of the cells in pixels; 512 for --continue")
            })
            .mut_arg("output", |arg| {
                arg.value_name("FOLDER").help(
                    "Folder for the sheet and its cells, or the file for --continue [default: the photo's name with \
                     -sweep, in the current folder]",
                )
            });
        rest.get_arguments()
            .filter(|arg| arg.get_id() != "photo")
            .fold(command, |command, arg| command.arg(arg.clone()))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SweepArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            vary: matches.get_many("vary").into_iter().flatten().cloned().collect(),
            columns: matches.get_one("columns").cloned(),
            continue_cell: matches.get_one("continue").cloned(),
            given: option_words::given(matches),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
