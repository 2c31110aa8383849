//! `mirage weights`: describes a weights file, or downloads a published one.

use crate::cli::output::escape::{quoted, shown};
use crate::cli::output::streams;
use crate::error::Result;
use crate::vgg::locate::{self, DEFAULT_NETWORK_SHA256, Location, NARROW};
use crate::vgg::{Network, Preprocessing, fetch};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

const NARROW_IS_DEFAULT: &str = "It is used unless --weights or MIRAGE_WEIGHTS name another network";

/// Options of `mirage weights`.
#[derive(Debug, Args)]
pub(in crate::cli) struct WeightsArgs {
    /// The safetensors file to describe; or narrow, vgg16 or vgg19 (once fetched) [default: the network that runs use:
    /// MIRAGE_WEIGHTS, or the one that comes with the program]
    #[arg(value_name = "FILE", conflicts_with = "fetch")]
    file: Option<PathBuf>,
    /// Download a network: vgg16 or vgg19 (full-size), or narrow (the default one, for a program that comes without it);
    /// an interrupted download is resumed
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
    // The program may have it already.
    if name == NARROW
        && folder.is_none()
        && let Some(place) = place_of_narrow()
    {
        return streams::print(&format!(
            "{NARROW} is there already: {place}\nSHA-256 {DEFAULT_NETWORK_SHA256}\n{NARROW_IS_DEFAULT}"
        ));
    }
    let bar = ProgressBar::new(0);
    // The template is a constant with known keys.
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    let fetched = fetch::fetch_from(fetch::base().as_deref(), name, folder, overwrite, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let fetched = fetched?;
    let state = if fetched.already_present { "is there already" } else { "downloaded and checked" };
    streams::print(&format!("{name} {state}: {}\nSHA-256 {}", shown(&fetched.path), fetched.sha256))?;
    let option = match folder {
        None if name != NARROW => name.to_owned(),
        // A damaged file elsewhere may be found first.
        None if place_of_narrow().is_some() => return streams::print(NARROW_IS_DEFAULT),
        _ => quoted(&fetched.path),
    };
    streams::print(&format!("Use it with --weights {option}, or set MIRAGE_WEIGHTS={option}"))
}

/// Returns where the default network is found, if it is complete.
fn place_of_narrow() -> Option<String> {
    let location = locate::find_weights(None).ok()?;
    let network = Network::open_at(&location, None).ok()?;
    (network.sha256().ok()? == DEFAULT_NETWORK_SHA256).then(|| match &location {
        Location::File(path) => shown(&path),
        _ => "inside this program".to_owned(),
    })
}
