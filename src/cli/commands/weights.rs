//! `mirage weights`: describes a weights file, or downloads a full-size one.

use crate::cli::output::escape::{quoted, shown};
use crate::cli::output::streams;
use crate::error::{Error, Result};
use crate::vgg::locate::{self, Location};
use crate::vgg::{Network, Preprocessing, fetch};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

/// Options of `mirage weights`.
#[derive(Debug, Args)]
pub(in crate::cli) struct WeightsArgs {
    /// The safetensors file to describe; or narrow, vgg16 or vgg19 (once fetched) [default: the network that runs use:
    /// MIRAGE_WEIGHTS, or the one that comes with the program]
    #[arg(value_name = "FILE", conflicts_with = "fetch")]
    file: Option<PathBuf>,
    /// Download a published full-size network, vgg16 or vgg19; an interrupted download is resumed
    #[arg(long, value_name = "NAME")]
    fetch: Option<String>,
    /// Folder to download to [default: the program's folder, where --weights vgg19 finds it]
    #[arg(long, value_name = "FOLDER", requires = "fetch")]
    dir: Option<PathBuf>,
    /// Replace an existing file of the network's name [default: refuse to]
    #[arg(long, requires = "fetch")]
    overwrite: bool,
    /// Preprocessing to assume: caffe or torchvision [default: as the file says]
    #[arg(long, value_name = "NAME")]
    preprocessing: Option<Preprocessing>,
}

/// Describes or downloads a network.
pub(in crate::cli) fn run(args: &WeightsArgs) -> Result<()> {
    if let Some(name) = &args.fetch {
        return download(name, args.dir.as_deref(), args.overwrite);
    }
    let named =
        args.file.clone().or_else(|| std::env::var_os(crate::cli::args::WEIGHTS_VARIABLE).map(Into::into));
    let network = Network::find(named.as_deref(), args.preprocessing)?;
    streams::print(&network.summary()?)?;
    // After the summary, which may show why values are not finite.
    network.check_finite()
}

fn download(name: &str, folder: Option<&Path>, overwrite: bool) -> Result<()> {
    if name == locate::NARROW {
        return narrow(folder);
    }
    let bar = ProgressBar::new(0);
    // The template is a constant with known keys.
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    let fetched = fetch::fetch_from(&fetch::base(), name, folder, overwrite, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let fetched = fetched?;
    let state = if fetched.already_present { "is there already" } else { "downloaded and checked" };
    streams::print(&format!("{name} {state}: {}\nSHA-256 {}", shown(&fetched.path), fetched.sha256))?;
    let option = match folder {
        Some(_) => quoted(&fetched.path),
        None => name.to_owned(),
    };
    streams::print(&format!("Use it with --weights {option}, or set MIRAGE_WEIGHTS={option}"))
}

/// Prints where the built-in network is. It needs no download.
fn narrow(folder: Option<&Path>) -> Result<()> {
    const NAME: &str = locate::NARROW;
    if folder.is_some() {
        return Err(Error::usage(format!("{NAME} is not downloaded: leave out --dir")));
    }
    let location = locate::find_weights(Some(Path::new(NAME)))?;
    let place = match &location {
        Location::File(path) => shown(&path),
        _ => "inside this program".to_owned(),
    };
    let sha256 = Network::open_at(&location, None)?.sha256()?;
    streams::print(&format!("{NAME} is there already: {place}\nSHA-256 {sha256}"))?;
    streams::print("It is used unless --weights or MIRAGE_WEIGHTS name another network")
}
