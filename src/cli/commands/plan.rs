//! `mirage plan`: estimates the memory and time of a run without running it.

use crate::cli::args::RenderArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::estimate::auto_size;
use crate::cli::estimate::forecast::{Budget, Forecast};
use crate::cli::output::escape::one_line;
use crate::cli::output::format::{bytes, duration, number};
use crate::cli::output::streams;
use crate::cli::output::table::Table;
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::mirage::{MemoryClasses, MemoryPhase, Scale};
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;

/// Options of `mirage plan`: those of `mirage render`, and `--json`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PlanArgs {
    #[command(flatten)]
    render: RenderArgs,
    /// Print JSON [default: tables]
    #[arg(long, help_heading = "Plan")]
    json: bool,
}

/// Prints the plan.
pub(in crate::cli) fn run(args: &PlanArgs) -> Result<()> {
    let (render, tiles) = auto_size::fitted(&args.render)?;
    let open = || render.network.open().map(|network| (Arc::new(network), true));
    let checked = CheckedRun::with(&render, None, open)?;
    let (engine, notes) = render.device.open()?;
    let quiet = render.watching.quiet;
    for note in tiles.iter().chain(&checked.notes).chain(&notes).filter(|_| !quiet) {
        streams::note(note);
    }
    let mut forecast = Forecast::new(
        &engine,
        &checked,
        render.files.memory.map(|memory| memory.0),
        render.computing.verify,
    )?;
    let fits = match forecast.check(&engine, &checked, true) {
        Ok(()) => None,
        Err(Error::Usage(reason)) => Some(reason),
        Err(error) => return Err(error),
    };
    forecast.time(&engine, &checked)?;
    if args.json {
        let text = serde_json::to_string_pretty(&json_of(&forecast, &engine, &checked, fits.as_deref()));
        return streams::print(&text.map_err(|error| Error::usage(format!("no JSON: {error}")))?);
    }
    streams::print(&text(&forecast, &engine, &checked, fits.as_deref()))
}

fn size([height, width]: [usize; 2]) -> String {
    format!("{width}x{height}")
}

/// Formats the plan as tables and lines. `refused` is the reason why the run would be refused, if any.
fn text(forecast: &Forecast, engine: &Engine, checked: &CheckedRun, refused: Option<&str>) -> String {
    let memory = &forecast.memory;
    let mut parts =
        vec![format!("{} pixels on {}", size(checked.request.size()), one_line(&engine.describe()))];
    if memory.is_shared {
        parts.push(table(forecast, "memory", MemoryPhase::classes));
    } else {
        parts.push(table(forecast, "on the device", |phase| phase.device));
        parts.push(table(forecast, "in host memory", |phase| phase.host));
    }
    let mut lines =
        vec![peak_line("Peak", &memory.peak(), &forecast.device(), forecast.budgets.device.as_ref())];
    if !memory.is_shared {
        let host = memory.host_peak();
        lines.push(peak_line("Peak in host memory", &host, &host.host, forecast.budgets.host.as_ref()));
    }
    lines.push(format!("Reading the pictures: {}", bytes(forecast.reading)));
    if let (Some(speed), Some(seconds)) = (forecast.speed, forecast.seconds()) {
        lines.push(format!(
            "Time: about {} for {} iterations: {} s per iteration plus {} s per megapixel (timed up to {} px)",
            duration(seconds),
            checked.iterations,
            number(speed.per_iteration),
            number(speed.per_pixel * 1e6),
            size(speed.size)
        ));
    }
    if let Some(refused) = refused {
        lines.push(format!("Does not fit: {refused}"));
    }
    parts.push(lines.join("\n"));
    parts.join("\n\n")
}

fn peak_line(title: &str, phase: &MemoryPhase, classes: &MemoryClasses, budget: Option<&Budget>) -> String {
    let of = budget.map_or_else(|| "the limit is unknown".to_owned(), Budget::to_string);
    format!("{title}: {} at scale {} ({}); {of}", bytes(classes.total()), phase.scale + 1, phase.phase)
}

/// Tabulates the memory of each scale by class, in its phase with the highest total.
fn table(forecast: &Forecast, title: &str, classes: impl Fn(&MemoryPhase) -> MemoryClasses) -> String {
    let memory = &forecast.memory;
    let names = MemoryClasses::default().list().map(|(name, _)| name);
    let mut table = Table::<10>::new(2, head(title, names));
    for (index, scale) in memory.scales.iter().enumerate() {
        let phases = memory.phases.iter().filter(|phase| phase.scale == index);
        let Some(largest) = phases.max_by_key(|phase| classes(phase).total()) else { continue };
        let found = classes(largest);
        let mut row: [String; 10] = std::array::from_fn(|_| String::new());
        row[0] = format!("{} x {}", scale.end - scale.first, size(scale.size));
        row[1] = largest.phase.to_string();
        for (cell, (_, size)) in row[2..].iter_mut().zip(found.list()) {
            *cell = bytes(size);
        }
        row[9] = bytes(found.total());
        table.row(row);
    }
    table.to_string()
}

fn head<'a>(title: &'a str, names: [&'a str; 7]) -> [&'a str; 10] {
    let [a, b, c, d, e, f, g] = names;
    [title, "peak during", a, b, c, d, e, f, g, "total"]
}

/// Returns the plan as JSON; all sizes are in bytes.
fn json_of(forecast: &Forecast, engine: &Engine, checked: &CheckedRun, refused: Option<&str>) -> Value {
    let memory = &forecast.memory;
    let phase = |phase: &MemoryPhase| {
        json!({
            "phase": phase.phase,
            "scale": phase.scale,
            "device": phase.device,
            "host": phase.host,
            "device_bytes": phase.device.total(),
            "host_bytes": phase.host.total(),
        })
    };
    let scale = |scale: &Scale| {
        json!({
            "width": scale.size[1],
            "height": scale.size[0],
            "iterations": scale.end - scale.first,
            "computed_pixels": scale.pixels,
            "preparing_pixels": scale.preparing,
        })
    };
    let budget = |budget: &Option<Budget>| {
        budget.as_ref().map(|budget| json!({ "bytes": budget.bytes, "of": budget.of }))
    };
    let [height, width] = checked.request.size();
    json!({
        "device": engine.describe(),
        "width": width,
        "height": height,
        "shared_memory": memory.is_shared,
        "scales": memory.scales.iter().map(scale).collect::<Vec<_>>(),
        "phases": memory.phases.iter().map(phase).collect::<Vec<_>>(),
        "peak_bytes": memory.needed(),
        "host_peak_bytes": (!memory.is_shared).then(|| memory.host_peak().host.total()),
        "reading_bytes": forecast.reading,
        "budget": budget(&forecast.budgets.device),
        "host_budget": budget(&forecast.budgets.host),
        "fits": refused.is_none(),
        "iterations": checked.iterations,
        "seconds": forecast.seconds(),
        "seconds_per_pixel": forecast.speed.map(|speed| speed.per_pixel),
        "seconds_per_iteration": forecast.speed.map(|speed| speed.per_iteration),
    })
}
