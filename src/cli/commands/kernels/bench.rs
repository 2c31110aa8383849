//! `mirage kernels bench`: times the kernels on this device.

use super::watch::watch;
use super::{Filter, KernelDeviceArgs, check_written};
use crate::cli::output::escape::one_line;
use crate::cli::output::format::metric;
use crate::cli::output::streams;
use crate::cli::output::table::Table;
use crate::error::Result;
use crate::files::Overwrite;
use crate::graph::{Engine, Peaks, PrepareOptions, Program, SingleOp, candidates};
use crate::ops::{Case, Shape};
use crate::shader::Folder;
use crate::vgg::Network;
use crate::workbench::{
    Change, Clock, Record, Row, bytes, inputs, layers_of, measure, network_cases, topology,
};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Time for the samples of each kernel, in seconds.
const BUDGET: f64 = 1.0;

/// Options of `mirage kernels bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Only kernels whose name contains this; OP is searched in op and shape, e.g. "conv 64" or gram/texture [default:
    /// all]
    #[arg(value_name = "OP[/VARIANT]", default_value = "", hide_default_value = true)]
    filter: Filter,
    /// Network whose layers are timed: vgg11, vgg13, vgg16, vgg19, or a weights file; inputs and weights are random
    #[arg(long, value_name = "NAME|FILE", default_value = "vgg19")]
    network: String,
    /// Side of the square picture, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=8192))]
    size: u32,
    /// Time every kernel that the device can run, including the naive ones [default: the first choice of each op]
    #[arg(long)]
    all: bool,
    /// Rounds, each with one sample of each kernel; fewer if a kernel would take more than a second in total
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Write the figures to a JSON file [default: none]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace an existing file [default: refuse to]
    #[arg(long)]
    overwrite: bool,
    /// Compare with the figures of an earlier run, and mark changes beyond the noise as faster or slower [default:
    /// none]
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Keep running: whenever a shader in --shader-dir is saved, time the kernels that use it, against the previous
    /// time; Ctrl-C ends [default: off]
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    device: KernelDeviceArgs,
}

/// Times the kernels, and returns the exit code.
pub(super) fn run(args: &BenchArgs, folder: Option<Folder>) -> Result<u8> {
    let watch = watch(args.watch, folder)?;
    let network = Path::new(&args.network);
    let read: Vec<&Path> = args.compare.as_deref().into_iter().chain([network]).collect();
    check_written(&[args.json.as_deref()], &read, args.overwrite)?;
    let earlier = args.compare.as_deref().map(Record::load).transpose()?;
    let cases = args.cases()?;
    let engine = args.device.open()?;
    let device = engine.describe();
    if let Some(earlier) = &earlier
        && earlier.device != device
    {
        streams::print(&format!(
            "note: the earlier figures are from another device or driver: {}",
            one_line(&earlier.device)
        ))?;
    }
    let peaks = Peaks::measure(&engine)?;
    streams::print(&format!(
        "{device}\nmeasured peaks: {}FLOP/s (multiply-add, f32), {}B/s",
        metric(peaks.flops),
        metric(peaks.bandwidth)
    ))?;
    let bench = Bench { args, engine: &engine, peaks };
    let mut all = (Record::new(device, peaks.flops, peaks.bandwidth), args.overwrite.into());
    bench.round(&cases, earlier.as_ref(), None, &mut all)?;
    let Some(watch) = watch else { return Ok(0) };
    watch.each(|changed| {
        // Transformed weights on the device were computed by the old shader.
        engine.forget_constants();
        // A valid shader may still not fit its dispatch; a later version may.
        let before = all.0.clone();
        match bench.round(&cases, Some(&before), Some(changed), &mut all) {
            Ok(()) => Ok(()),
            Err(error) if error.is_of_kernel() => streams::print(&error.to_string()),
            Err(error) => Err(error),
        }
    })?;
    Ok(0)
}

impl BenchArgs {
    fn cases(&self) -> Result<Vec<(String, Case)>> {
        let layers = match topology(&self.network) {
            Some(layers) => layers,
            None => layers_of(&Network::find(Some(self.network.as_ref()), None)?),
        };
        let mut cases = network_cases(&layers, self.size as usize);
        cases.retain(|(name, _)| self.filter.op(name));
        if cases.is_empty() { Err(self.filter.nothing()) } else { Ok(cases) }
    }
}

struct Bench<'a> {
    args: &'a BenchArgs,
    engine: &'a Arc<Engine>,
    peaks: Peaks,
}

impl Bench<'_> {
    /// Times all cases, or those whose kernels use one of `shaders`. Prints each when it is done, compared with the
    /// `earlier` figures. Merges the results into those of all rounds and saves them; `overwrite` says what that
    /// may replace.
    fn round(
        &self,
        cases: &[(String, Case)],
        earlier: Option<&Record>,
        shaders: Option<&[&str]>,
        (all, overwrite): &mut (Record, Overwrite),
    ) -> Result<()> {
        for (name, case) in cases {
            let rows = self.case(name, case, shaders)?;
            if rows.is_empty() {
                continue;
            }
            streams::print(&format!("{name}\n{}", self.table(&rows, earlier)))?;
            join(&mut all.rows, rows);
            // Saved after each case, so that an interruption or a lost device loses little.
            if let Some(path) = &self.args.json {
                *overwrite = all.save(path, *overwrite)?;
            }
        }
        if all.rows.is_empty() && shaders.is_none() {
            return Err(self.args.filter.nothing());
        }
        Ok(())
    }

    /// Times one op at one shape: its first choice, or all kernels in turn.
    fn case(&self, name: &str, case: &Case, shaders: Option<&[&str]>) -> Result<Vec<Row>> {
        let profile = self.engine.profile();
        let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
        let options = PrepareOptions { all_families: true, ..PrepareOptions::default() };
        let single = SingleOp::new(self.engine, case.op.clone(), &shapes)?.with(options);
        let kernels = candidates(case.op.as_ref(), single.signature(), profile)?;
        let any = !self.args.filter.variant.is_empty() || self.args.all || shaders.is_some();
        let is_selected = |index: usize| {
            let uses = |shaders: &[&str]| {
                kernels[index].dispatches.iter().any(|dispatch| shaders.contains(&dispatch.shader))
            };
            self.args.filter.variant(kernels[index].variant)
                && (any || index == 0)
                && shaders.is_none_or(uses)
        };
        let chosen: Vec<usize> = (0..kernels.len()).filter(|index| is_selected(*index)).collect();
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        self.engine.forget_constants();
        let values = inputs(case, 1);
        let prepared =
            chosen.iter().map(|index| single.prepare(*index, &values)).collect::<Result<Vec<Program>>>()?;
        let samples = measure(self.engine, &prepared, self.args.rounds as usize, BUDGET)?;
        let flops = case.op.flops(single.signature()) as f64;
        let bytes = bytes(self.engine, case.op.as_ref(), &single)? as f64;
        let (_, compute_bound) = self.peaks.bound(flops, bytes);
        Ok(chosen
            .iter()
            .zip(&samples)
            .map(|(index, samples)| Row {
                preferred: *index == 0,
                flops,
                bytes,
                compute_bound,
                ..Row::new(name, kernels[*index].variant, samples)
            })
            .collect())
    }

    fn table(&self, rows: &[Row], earlier: Option<&Record>) -> String {
        let mut table = Table::new(
            1,
            [
                "  kernel",
                "median ms",
                "spread",
                "clock",
                "GFLOP/s",
                "of peak",
                "GB/s",
                "of peak",
                "bound by",
                "change",
            ],
        );
        for row in rows {
            let rate = |count: f64| count / row.median();
            let share = |count: f64, peak: f64| format!("{:.0}%", rate(count) / peak * 100.0);
            let [low, _, high] = row.quartiles;
            table.row([
                format!("  {}{}", row.variant, if row.preferred { " *" } else { "" }),
                format!("{:.3}", row.median() * 1e3),
                format!("{:.1}%", (high - low) / (2.0 * row.median()) * 100.0),
                match row.clock {
                    Clock::Device => "device".to_owned(),
                    Clock::Wall => "wall".to_owned(),
                },
                format!("{:.1}", rate(row.flops) / 1e9),
                share(row.flops, self.peaks.flops),
                format!("{:.2}", rate(row.bytes) / 1e9),
                share(row.bytes, self.peaks.bandwidth),
                if row.compute_bound { "compute" } else { "memory" }.to_owned(),
                earlier.map_or_else(String::new, |earlier| change(Record::change(row, earlier))),
            ]);
        }
        table.to_string()
    }
}

/// Merges rows, in place of earlier ones of the same kernel and shape.
fn join(all: &mut Vec<Row>, rows: Vec<Row>) {
    all.retain(|old| !rows.iter().any(|new| new.case == old.case && new.variant == old.variant));
    all.extend(rows);
}

fn change(change: Change) -> String {
    match change {
        Change::New => "new".to_owned(),
        Change::OtherClock => "another clock".to_owned(),
        Change::Same(ratio) => format!("same ({ratio:.2})"),
        Change::Faster(ratio) => format!("FASTER ({ratio:.2})"),
        Change::Slower(ratio) => format!("SLOWER ({ratio:.2})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workbench::Samples;

    #[test]
    fn round_replaces_only_its_own_kernels() {
        let row = |case, variant, seconds| {
            Row::new(case, variant, &Samples { clock: Clock::Wall, seconds: vec![seconds] })
        };
        let mut all = vec![row("conv", "naive", 1.0), row("conv", "texture", 2.0), row("relu", "naive", 3.0)];
        join(&mut all, vec![row("conv", "naive", 4.0), row("conv", "buffer", 5.0)]);
        let seconds: Vec<f64> = all.iter().map(Row::median).collect();
        assert_eq!(seconds, [2.0, 3.0, 4.0, 5.0]);
    }
}
