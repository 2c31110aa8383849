//! `mirage classify`: prints the classes that the network sees in pictures.

use crate::cli::args::{LabelArgs, NetworkArgs, SIDES};
use crate::cli::class_names::ClassNames;
use crate::cli::device_args::DeviceArgs;
use crate::cli::files::run_files::load;
use crate::cli::output::escape::shown;
use crate::cli::output::format::percent;
use crate::cli::output::streams;
use crate::cli::preprocessing;
use crate::cli::values::Pooling;
use crate::error::{Error, Result};
use crate::image_io::ReadOptions;
use crate::mirage;
use crate::vgg::Network;
use crate::vgg::labels::top_k;
use clap::Args;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Options of `mirage classify`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ClassifyArgs {
    /// The pictures: PNG, JPEG, WebP, TIFF, GIF or BMP; for each after the first, the distance from the first is
    /// printed too
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Number of classes to print
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Longest side, in pixels, that pictures are resized to for the network
    #[arg(long, value_name = "PIXELS", default_value_t = 320, value_parser = clap::value_parser!(u32).range(SIDES))]
    size: u32,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    class_names: LabelArgs,
    /// Pooling of the network: max, as it was trained with, avg or avg2
    #[arg(long, value_name = "KIND", default_value = "max", help_heading = "Network")]
    pooling: Pooling,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Prints the classes of each picture.
pub(in crate::cli) fn run(args: &ClassifyArgs) -> Result<()> {
    let options = ReadOptions { longest: Some(args.size as usize), ..ReadOptions::default() };
    let mut pictures = Vec::new();
    for path in &args.images {
        let mut notes = Vec::new();
        pictures.push(load(path, &options, &mut notes)?.picture);
        for note in notes {
            streams::note(&note);
        }
    }
    let network = args.network.open()?;
    if !network.has_head() {
        return Err(no_classes(&network));
    }
    let names = ClassNames::of(&network, args.class_names.labels.as_deref())?;
    network.check_finite()?;

    let (engine, notes) = args.device.open()?;
    for note in notes.into_iter().chain(preprocessing::doubt(&engine, &network)?) {
        streams::note(&note);
    }
    let mut first: Option<Vec<f32>> = None;
    for (index, (path, picture)) in args.images.iter().zip(&pictures).enumerate() {
        let pooling = args.pooling.pooling();
        let found = mirage::classify(&engine, &network, picture, pooling)?;
        let mut text = if index > 0 { "\n".to_owned() } else { String::new() };
        text += &shown(&path);
        // Writing to a String can't fail.
        for (class, probability) in top_k(&found, args.top as usize) {
            let _ = write!(text, "\n  {:>5}%  {}", percent(probability), names.name(class));
        }
        match &first {
            None => first = Some(found),
            Some(first) => {
                let distance = mirage::class_distance(first, &found);
                let _ = write!(text, "\n  {}", distance_text(distance, &args.images[0]));
            }
        }
        streams::print(&text)?;
    }
    Ok(())
}

/// Formats the distance of a picture's classes from another's.
fn distance_text(distance: f32, other: &Path) -> String {
    format!("{distance:.3} from {} (0: the same classes, 1: none in common)", shown(&other))
}

fn no_classes(network: &Network) -> Error {
    Error::file(
        &network.path,
        "this network has no fully connected layers, so it has no classes",
        "Use weights with fc6, fc7 and fc8, such as the default network",
    )
}
