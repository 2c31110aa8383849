//! Output of a run on standard error: a bar on a terminal, plain lines elsewhere.

use super::status::SharedStatus;
use crate::cli::args::WatchingArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::output::escape::{one_line, shown};
use crate::cli::output::format::{bytes, named_percent, number, percent};
use crate::cli::output::table::Align::{Left, Right};
use crate::cli::output::table::Table;
use crate::cli::output::terminal::Terminal;
use crate::cli::output::time_left::Pace;
use crate::cli::record::metadata::weight_options;
use crate::error::Result;
use crate::mirage::{
    Event, LayerTime, Observer, PartTime, Readout, Report, ScaleStarted, Started, effective_shares, work,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Instant;

/// Prints the events of a run.
#[derive(Debug)]
pub(in crate::cli) struct RunTerminal {
    pub lines: Terminal,
    checked: Rc<CheckedRun>,
    status: SharedStatus,
    begun: Instant,
    /// Device that a resumed run used before; empty for a new run.
    pub earlier_device: String,
    /// With `--verbose`: the time of each layer, and the seconds that measuring took.
    pub layer_times: Option<(Vec<LayerTime>, f64)>,
    /// True with `--verbose` until the first report.
    awaits_report: bool,
    pace: Pace,
    /// The groups' losses in the last report, for the bar.
    losses: String,
    /// Number of problems printed so far.
    problems_seen: usize,
}

impl RunTerminal {
    /// Creates the observer of a run whose command started at `begun`.
    pub(in crate::cli) fn new(
        args: &WatchingArgs,
        checked: &Rc<CheckedRun>,
        status: &SharedStatus,
        begun: Instant,
    ) -> Self {
        Self {
            lines: Terminal::new(args.quiet),
            checked: checked.clone(),
            status: status.clone(),
            begun,
            earlier_device: String::new(),
            layer_times: None,
            awaits_report: args.verbose,
            pace: Pace::default(),
            losses: String::new(),
            problems_seen: 0,
        }
    }

    /// Prints new problems.
    pub(in crate::cli) fn print_problems(&mut self) {
        for problem in self.status.borrow().new_problems(&mut self.problems_seen) {
            self.lines.problem(&problem);
        }
    }

    fn started(&mut self, started: &Started) {
        let [height, width] = started.size;
        let names = &self.checked.names;
        self.lines.print(&format!("Painting {width}x{height} pixels on {}", one_line(&started.device)));
        if !started.photo_classes.is_empty() {
            let classes = names.line(&started.photo_classes);
            self.lines.print(&format!("The network sees in the photo: {classes}"));
        }
        let shares: Vec<String> = effective_shares(&started.groups)
            .into_iter()
            .filter(|(_, share)| *share > 0.0)
            .map(|(name, share)| named_percent(name, share))
            .collect();
        if !shares.is_empty() {
            self.lines.print(&format!("Target shares of the gradient: {}", shares.join(", ")));
        }
        for note in &started.notes {
            self.lines.note(note);
        }
        if let Some((layers, seconds)) = &self.layer_times {
            self.details(started, layers, *seconds);
        }
        let (before, now) = (without_threads(&self.earlier_device), without_threads(&started.device));
        if !before.is_empty() && before != now {
            self.lines.note(&format!(
                "the run was on {} before: another device rounds differently, so details of the picture will differ",
                one_line(&self.earlier_device)
            ));
        }
        self.pace = Pace::new(&started.scales);
        self.lines.start_bar("{bar:16} {wide_msg}", work(&started.scales, u32::MAX));
    }

    fn details(&self, started: &Started, layers: &[LayerTime], seconds: f64) {
        let memory = &started.memory;
        self.lines.print(&format!("prepared in {:.2} s", started.prepared_in));
        self.lines.print(&format!(
            "device memory {}: activations and gradients {} ({} without sharing), pictures and targets {}, weights {}, \
             staging {}",
            bytes(memory.total()),
            bytes(memory.planned),
            bytes(memory.unshared),
            bytes(memory.bound),
            bytes(memory.constants),
            bytes(memory.staging)
        ));
        self.lines.print(&format!("kernels: {}", tally(&started.variants)));
        self.lines.print(&format!(
            "time of each layer, measured separately, without the optimiser's step ({seconds:.1} s to measure):"
        ));
        self.lines.print(&table(layers));
    }

    fn scale(&self, started: &ScaleStarted) {
        if started.count > 1 {
            let [height, width] = started.scale.size;
            let (number, count) = (started.index + 1, started.count);
            self.lines.print(&format!("Scale {number} of {count}: {width}x{height} pixels"));
        }
    }

    fn progress(&mut self, iteration: u32, seconds: f64) {
        self.pace.record(iteration, seconds);
        self.lines.advance(self.pace.work_done(), || {
            format!("{iteration}/{}  {}{}", self.checked.iterations, self.pace.text(), self.losses)
        });
    }

    fn report(&mut self, report: &Report) {
        if std::mem::take(&mut self.awaits_report) {
            let measuring = self.layer_times.as_ref().map_or(0.0, |(_, seconds)| *seconds);
            let seconds = self.begun.elapsed().as_secs_f64() - measuring;
            self.lines.print(&format!("time to first iteration {seconds:.2} s"));
        }
        let iterations = self.checked.iterations;
        let width = iterations.to_string().len();
        let mut line = format!("{:>width$}/{iterations}  loss {}", report.iteration, number(report.total));
        self.losses.clear();
        for group in report.groups() {
            let loss = number(report.group_loss(group));
            let of_loss = percent(report.loss_share(group) as f32);
            let share = match report.gradient_share(group) {
                Some(share) => format!("{of_loss}% of loss, {}% of gradient", percent(share)),
                None => format!("{of_loss}% of loss"),
            };
            line += &format!("  {group} {loss} ({share})");
            self.losses += &format!("  {group} {loss}");
        }
        let pace = self.pace.text();
        if !self.lines.has_bar() && !pace.is_empty() {
            line += &format!("  {pace}");
        }
        self.lines.print(&line);
        if !report.readout.classes.is_empty() {
            let indent = " ".repeat(2 * width + 3);
            self.lines.print(&format!("{indent}{}", self.checked.names.readout(&report.readout)));
        }
        for warning in &self.status.borrow().warnings {
            self.lines.warn(warning);
        }
    }

    fn snapshot(&self, readout: &Readout) {
        let classes = match readout.classes.is_empty() {
            true => String::new(),
            false => format!(": {}", self.checked.names.readout(readout)),
        };
        if let Some(path) = &self.status.borrow().snapshot {
            self.lines.print(&format!("Saved {}{classes}", shown(path)));
        }
    }
}

impl Observer for RunTerminal {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        self.print_problems();
        match event {
            Event::Started(started) => self.started(started),
            Event::Scale(started) => self.scale(started),
            Event::Weighted { iteration, weights, .. } => {
                let options = weight_options(weights);
                self.lines.print(&format!("Weights for the shares after iteration {iteration}: {options}"));
            }
            Event::Progress { iteration, seconds } => self.progress(iteration, seconds),
            Event::Report(report) => self.report(report),
            Event::Snapshot { readout, .. } => self.snapshot(readout),
            Event::Setback(setback) => {
                self.lines.warn(&setback.to_string());
                self.pace.restart(setback.to);
            }
            Event::Paused { iteration, paused } => {
                let state = if paused { "Paused" } else { "Resumed" };
                self.lines.print(&format!("{state} after iteration {iteration}"));
            }
            Event::Picture { .. } | Event::State(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Counts the nodes that use each variant, e.g. `12 conv/texture, 5 pool`.
fn tally(variants: &[(String, &'static str)]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, variant) in variants {
        *counts.entry(variant).or_default() += 1;
    }
    counts.iter().map(|(variant, count)| format!("{count} {variant}")).collect::<Vec<_>>().join(", ")
}

/// Tabulates milliseconds and kernels of each layer, forward and backward, with a line of sums.
fn table(layers: &[LayerTime]) -> String {
    let sum = |part: fn(&LayerTime) -> Option<&PartTime>| -> f64 {
        layers.iter().filter_map(part).map(|part| part.seconds).sum()
    };
    let [forward, backward] = [sum(|layer| layer.forward.as_ref()), sum(|layer| layer.backward.as_ref())];
    let total = (forward + backward).max(f64::MIN_POSITIVE);
    let milliseconds = |seconds: f64| format!("{:.2}", seconds * 1e3);
    let part = |part: &Option<PartTime>| match part {
        Some(part) => [milliseconds(part.seconds), part.variants.join("+")],
        None => Default::default(),
    };
    let share = |seconds: f64| format!("{:.1}%", 100.0 * seconds / total);
    let mut table = Table::of([Left, Right, Left, Right, Left, Right]);
    table.row(["  layer", "ms", "forward", "ms", "backward", "share"].map(str::to_owned));
    for layer in layers {
        let ([ahead, kernel], [back, adjoint]) = (part(&layer.forward), part(&layer.backward));
        table.row([format!("  {}", layer.layer), ahead, kernel, back, adjoint, share(layer.seconds())]);
    }
    let none = String::new;
    table.row([
        "  all".to_owned(),
        milliseconds(forward),
        none(),
        milliseconds(backward),
        none(),
        share(total),
    ]);
    table.to_string()
}

/// Returns a device's description without the thread count of the CPU device, which affects no result.
fn without_threads(device: &str) -> String {
    let is_threads = |part: &str| {
        let number = part.strip_suffix(" threads").or(part.strip_suffix(" thread"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    device.split(", ").filter(|part| !is_threads(part)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_count_does_not_distinguish_devices() {
        let cpu = |threads: &str| format!("AMD EPYC, 2 GHz (CPU, {threads}, AVX2)");
        assert_eq!(without_threads(&cpu("1 thread")), "AMD EPYC, 2 GHz (CPU, AVX2)");
        assert_eq!(without_threads(&cpu("16 threads")), without_threads(&cpu("1 thread")));
        let other = "many threads (Vulkan, Cpu, 2.0)";
        assert_eq!(without_threads(other), other);
    }

    #[test]
    fn layer_times_are_aligned_and_summed() {
        let part =
            |variants: &[&'static str], seconds| Some(PartTime { variants: variants.to_vec(), seconds });
        let layers = [
            LayerTime { layer: "relu1_1".into(), forward: part(&["texture"], 0.001), backward: None },
            LayerTime {
                layer: "pool1".into(),
                forward: part(&["halve"], 0.012),
                backward: part(&["halve", "naive"], 0.003),
            },
        ];
        assert_eq!(
            table(&layers).lines().collect::<Vec<_>>(),
            [
                "  layer       ms  forward    ms  backward      share",
                "  relu1_1   1.00  texture                       6.2%",
                "  pool1    12.00  halve    3.00  halve+naive   93.8%",
                "  all      13.00           3.00               100.0%",
            ]
        );
    }

    #[test]
    fn variants_are_counted() {
        let variants = [("a".into(), "texture"), ("b".into(), "naive"), ("c".into(), "texture")];
        assert_eq!(tally(&variants), "1 naive, 2 texture");
    }
}
