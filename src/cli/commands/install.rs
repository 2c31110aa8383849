//! `mirage completions` and `mirage man`: files that packages install besides the program. Hidden from --help, because
//! only packagers need them.

use crate::cli::files::disk::check_whole;
use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::files::{make_folder, write_whole};
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::PathBuf;

/// Options of `mirage completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// bash, zsh, fish, powershell or elvish
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Options of `mirage man`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// Folder for the pages, created if missing: mirage.1, mirage-render.1 and so on, one for each command
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Replace existing pages [default: refuse to]
    #[arg(long)]
    overwrite: bool,
}

/// Prints the completions of all commands that --help lists.
pub(in crate::cli) fn completions(args: &CompletionsArgs, program: Command) -> Result<()> {
    let (mut program, mut text) = (visible(&program), Vec::new());
    let name = program.get_name().to_owned();
    clap_complete::generate(args.shell, &mut program, name, &mut text);
    streams::print(String::from_utf8_lossy(&text).trim_end())
}

/// Writes a manual page for the program and for each command that --help lists.
pub(in crate::cli) fn manual(args: &ManArgs, program: Command) -> Result<()> {
    let folder = &args.folder;
    make_folder(folder)?;
    // clap would replace existing files and follow links, so the pages go to a temporary folder first.
    let made =
        tempfile::tempdir().map_err(Error::io(&std::env::temp_dir(), "making a temporary folder in"))?;
    clap_mangen::generate_to(program, made.path()).map_err(Error::io(folder, "writing the manual"))?;
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(made.path()).map_err(Error::io(made.path(), "reading"))? {
        let page = entry.map_err(Error::io(made.path(), "reading"))?.path();
        let text = std::fs::read_to_string(&page).map_err(Error::io(&page, "reading"))?;
        pages.push((folder.join(page.file_name().unwrap_or_default()), unfilled(&text)));
    }
    pages.iter().try_for_each(|(page, _)| check_whole(page, args.overwrite))?;
    let write = |(page, text): &(PathBuf, String)| {
        write_whole(page, text.as_bytes(), "writing the manual", args.overwrite).map(drop)
    };
    pages.iter().try_for_each(write)
}

/// Returns a page in which indented lines, the examples, are shown line by line. They would otherwise be joined.
fn unfilled(page: &str) -> String {
    let (mut text, mut is_indented) = (String::new(), false);
    for line in page.lines() {
        let indented = line.starts_with("  ");
        if indented != is_indented {
            text.push_str(if indented { ".nf\n" } else { ".fi\n" });
        }
        text.push_str(line);
        text.push('\n');
        is_indented = indented;
    }
    text + if is_indented { ".fi\n" } else { "" }
}

/// Returns a command without its hidden commands and options.
fn visible(command: &Command) -> Command {
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible);
    let mut shown = Command::new(command.get_name().to_owned()).subcommands(commands);
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    shown.args(command.get_arguments().filter(|argument| !argument.is_hide_set()))
}
