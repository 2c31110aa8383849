//! `mirage tune`: times the kernels and saves the fastest choices.

use crate::cli::args::{NetworkArgs, SIDES};
use crate::cli::output::escape::shown;
use crate::cli::output::streams;
use crate::cli::values::{Pooling, Precision};
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, DeviceOptions};
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::mirage::preset::Preset;
use crate::mirage::{Request, Scales, Session};
use crate::tune::{Cache, Tuned, tune_all, uses};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of `mirage tune`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TuneArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Pooling of the network: max, avg or avg2
    #[arg(long, value_name = "KIND", default_value = "avg2", help_heading = "Network")]
    pooling: Pooling,
    /// Longest side, in pixels, of the pictures to tune for, at 3:2; also serves sizes near it
    #[arg(long, value_name = "PIXELS", default_value_t = 320, value_parser = clap::value_parser!(u32).range(SIDES))]
    size: u32,
    /// Graphics device, by its number or part of its name in `mirage devices` [default: the most capable]
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Device")]
    adapter: Option<AdapterChoice>,
    /// Tune for runs with --exact [default: off]
    #[arg(long, help_heading = "Device")]
    exact: bool,
    /// Tune for runs with this --precision; half includes kernels that use cooperative matrices
    #[arg(long, value_name = "KIND", default_value = "single", help_heading = "Device")]
    precision: Precision,
    /// File for the measurements [default: tuning.json in the user's cache folder]
    #[arg(long, value_name = "FILE", help_heading = "Device")]
    tuning_cache: Option<PathBuf>,
}

/// Tunes the kernels, and saves after each op, so that an interruption loses little.
pub(in crate::cli) fn run(args: &TuneArgs) -> Result<()> {
    let path = args.tuning_cache.clone().or_else(Cache::default_path).ok_or_else(|| {
        Error::usage(
            "the environment names no home folder for the tuning cache: give a file with --tuning-cache",
        )
    })?;
    let network = Arc::new(args.network.open()?);
    let width = args.size as usize;
    let height = (width * 2 / 3).max(1);
    // The content does not affect the time, but must not be uniform: no loss may be zero.
    let value = |index: usize| (index * 37 % 101) as f32 * 0.01;
    let photo = Picture { width, height, rgb: (0..width * height * 3).map(value).collect() };
    let mut request = Request::new(photo);
    request.pooling = args.pooling.pooling();
    request.scales = Scales::single(1);
    if !network.has_head() {
        let mut preset = Preset::default();
        preset.abstracted.layers.clear();
        request.groups = preset.groups();
    }

    if let (_, Some(note)) = Cache::load(&path) {
        // In the user's cache folder the file is this program's own; elsewhere it may be anyone's.
        if args.tuning_cache.is_some() {
            return Err(Error::file(
                &path,
                "the file exists and is not a tuning cache of this version",
                "Remove it, or name another file with --tuning-cache",
            ));
        }
        streams::note(&note);
    }
    let options = DeviceOptions {
        adapter: args.adapter.clone().unwrap_or_default(),
        exact: args.exact,
        precision: args.precision.precision(),
        ..DeviceOptions::default()
    };
    let mut engine = Engine::open(&options)?;
    if let Some(note) = engine.note() {
        streams::note(note);
    }
    if engine.gpu().is_none() {
        return streams::print("The CPU device has one kernel for each op: there is nothing to tune.");
    }
    let uses = {
        let session = Session::new(&engine, &network, request)?;
        uses(&engine, session.nodes())?
    };
    streams::print(&format!(
        "Tuning {} uses of kernels for {width}x{height} pixels on {}",
        uses.len(),
        engine.describe()
    ))?;
    let (mut changed, mut cache) = (0, Cache::default());
    tune_all(&mut engine, &uses, &mut cache, |op, signature, found, cache| {
        changed += usize::from(found.selection.as_ref().is_some_and(|selection| selection.winner > 0));
        let shapes: Vec<String> = signature.inputs.iter().map(ToString::to_string).collect();
        streams::print(&format!(
            "{} {} -> {}: {}",
            op.name(),
            shapes.join(", "),
            signature.output,
            line(found)
        ))?;
        let remedy = "Name another file with --tuning-cache";
        cache.add_to(&path).map_err(|error| error.after_work("writing the tuning cache", remedy))
    })?;
    streams::print(&format!(
        "{changed} of {} now use a kernel other than the default. Saved in {}",
        uses.len(),
        shown(&path)
    ))
}

/// Formats a result as `texture 1.25 ms, winograd 0.90 ms: winograd`, with the kernels that were left out.
fn line(found: &Tuned) -> String {
    let Some(selection) = &found.selection else {
        return format!("nothing to choose from ({})", refusals(found));
    };
    let times = found.variants.iter().zip(&selection.seconds);
    let times: Vec<String> =
        times.filter_map(|(name, time)| time.map(|time| format!("{name} {:.3} ms", time * 1e3))).collect();
    let refused = if found.refused.is_empty() { String::new() } else { format!(" ({})", refusals(found)) };
    format!("{}: {}{refused}", times.join(", "), found.variants[selection.winner])
}

fn refusals(found: &Tuned) -> String {
    let reasons: Vec<String> =
        found.refused.iter().map(|(variant, reason)| format!("{variant} left out: {reason}")).collect();
    reasons.join("; ")
}
