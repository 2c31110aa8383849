//! What a person sees while a run goes on, all of it on stderr: a bar on a terminal, plain lines elsewhere.

use super::args::WatchingArgs;
use super::devices::bytes;
use super::names::{Names, percent};
use super::record::weight_options;
use super::stdout;
use super::text::escaped;
use crate::mirage::{LayerTime, PartTime, Readout, Report, ScaleStarted, Started, Weights};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

/// How often the spinner of the preparations turns.
const TICK: Duration = Duration::from_millis(120);

/// Lines on stderr, above a bar where there is one.
#[derive(Debug)]
pub(super) struct Voice {
    quiet: bool,
    /// On a terminal, unless nothing is to be told.
    pub bar: Option<ProgressBar>,
}

impl Voice {
    /// With a bar of this kind on a terminal.
    pub(super) fn new(quiet: bool, bar: impl FnOnce() -> ProgressBar) -> Self {
        Self { quiet, bar: (!quiet && std::io::stderr().is_terminal()).then(bar) }
    }

    /// Tells a line.
    pub(super) fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(escaped(text)),
            _ => stdout::tell(text),
        }
    }

    /// Takes the bar away.
    pub(super) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.close();
    }
}

/// The narrator of a run.
#[derive(Debug)]
pub(super) struct Console {
    voice: Voice,
    pub verbose: bool,
    iterations: u32,
    losses: String,
}

impl Console {
    /// For a run of so many iterations.
    pub(super) fn new(args: &WatchingArgs, iterations: u32) -> Self {
        let voice = Voice::new(args.quiet, ProgressBar::new_spinner);
        Self { voice, verbose: args.verbose, iterations, losses: String::new() }
    }

    /// Tells a line, above the bar if there is one.
    pub(super) fn say(&self, text: &str) {
        self.voice.say(text);
    }

    /// Tells something that the user should know.
    pub(super) fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    /// Tells something that is likely to spoil the picture.
    pub(super) fn warn(&self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    /// A snapshot lies on the disk.
    pub(super) fn snapshot(&self, path: &Path, readout: &Readout, names: &Names) {
        let classes = match readout.classes.is_empty() {
            true => String::new(),
            false => format!(": {}", names.readout(readout)),
        };
        self.say(&format!("Saved {}{classes}", path.display()));
    }

    /// The run is held, or goes on again.
    pub(super) fn paused(&self, iteration: u32, paused: bool) {
        self.say(&format!("{} after iteration {iteration}", if paused { "Paused" } else { "Going on" }));
    }

    /// The device is being opened, targets captured, kernels compiled.
    pub(super) fn preparing(&self) {
        if let Some(bar) = &self.voice.bar {
            bar.set_message("Preparing the device and the network");
            bar.enable_steady_tick(TICK);
        }
    }

    /// All is prepared.
    pub(super) fn started(&mut self, started: &Started, names: &Names, layers: &(Vec<LayerTime>, f64)) {
        let [height, width] = started.size;
        self.say(&format!("Painting {width}x{height} pixels on {}", started.device));
        if !started.photo_classes.is_empty() {
            self.say(&format!("The photo, to the network: {}", names.line(&started.photo_classes)));
        }
        for note in &started.notes {
            self.note(note);
        }
        if self.verbose {
            let memory = &started.memory;
            self.say(&format!("prepared in {:.2} s", started.prepared_in));
            self.say(&format!(
                "device memory {}: activations and gradients {} ({} without sharing), pictures and targets {}, \
                 weights {}, staging {}",
                bytes(memory.total()),
                bytes(memory.planned),
                bytes(memory.unshared),
                bytes(memory.bound),
                bytes(memory.constants),
                bytes(memory.staging)
            ));
            self.say(&format!("kernels: {}", tally(&started.variants)));
            let (layers, seconds) = layers;
            self.say(&format!(
                "time of each layer by itself, without the optimiser's step ({seconds:.1} s to measure):"
            ));
            self.say(&table(layers));
        }
        if let Some(bar) = &self.voice.bar {
            bar.disable_steady_tick();
            bar.set_length(self.iterations.into());
            bar.set_position(0);
            bar.set_message("");
            // The template is a constant with known keys.
            if let Ok(style) = ProgressStyle::with_template("{bar:16} {pos}/{len}  {wide_msg}") {
                bar.set_style(style);
            }
        }
    }

    /// A scale begins, of several.
    pub(super) fn scale(&self, started: &ScaleStarted) {
        if started.count > 1 {
            let [height, width] = started.scale.size;
            self.say(&format!("Scale {} of {}: {width}x{height} pixels", started.index + 1, started.count));
        }
    }

    /// The weights that the shares came to, in a form that can be given back.
    pub(super) fn weighted(&self, iteration: u32, weights: &Weights) {
        self.say(&format!("Shares set after iteration {iteration}, as by {}", weight_options(weights)));
    }

    /// An iteration went by.
    pub(super) fn progress(&self, iteration: u32, seconds: f64) {
        if let Some(bar) = &self.voice.bar {
            bar.set_position(iteration.into());
            bar.set_message(format!("{}{}", self.pace(iteration, seconds), self.losses));
        }
    }

    /// Losses, shares and classes.
    pub(super) fn report(&mut self, report: &Report, names: &Names) {
        let mut line = format!(
            "{:>width$}/{}  loss {}",
            report.iteration,
            self.iterations,
            number(report.total),
            width = self.iterations.to_string().len()
        );
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
        let pace = self.pace(report.iteration, report.seconds);
        if self.voice.bar.is_none() && !pace.is_empty() {
            line += &format!("  {pace}");
        }
        self.say(&line);
        if !report.readout.classes.is_empty() {
            let indent = " ".repeat(2 * self.iterations.to_string().len() + 3);
            self.say(&format!("{indent}{}", names.readout(&report.readout)));
        }
    }

    fn pace(&self, iteration: u32, seconds: f64) -> String {
        if iteration == 0 || seconds <= 0.0 {
            return String::new();
        }
        let rate = f64::from(iteration) / seconds;
        match self.iterations.saturating_sub(iteration) {
            0 => format!("{}/s", number(rate)),
            left => format!("{}/s, {} left", number(rate), duration(f64::from(left) / rate)),
        }
    }

    /// Takes the bar away.
    pub(super) fn close(&self) {
        self.voice.close();
    }
}

/// How many nodes use each variant, e.g. `12 conv/texture, 5 pool`.
fn tally(variants: &[(String, &'static str)]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, variant) in variants {
        *counts.entry(variant).or_default() += 1;
    }
    counts.iter().map(|(variant, count)| format!("{count} {variant}")).collect::<Vec<_>>().join(", ")
}

/// Milliseconds and kernels of each layer, forward and backward, aligned, with a line of sums.
fn table(layers: &[LayerTime]) -> String {
    let sum = |part: fn(&LayerTime) -> Option<&PartTime>| -> f64 {
        layers.iter().filter_map(part).map(|part| part.seconds).sum()
    };
    let [forward, backward] = [sum(|layer| layer.forward.as_ref()), sum(|layer| layer.backward.as_ref())];
    let total = (forward + backward).max(f64::MIN_POSITIVE);
    let cells = |part: &Option<PartTime>| match part {
        Some(part) => (format!("{:.2}", part.seconds * 1e3), part.variants.join("+")),
        None => (String::new(), String::new()),
    };
    let milliseconds = |seconds: f64| (format!("{:.2}", seconds * 1e3), String::new());
    let share = |seconds: f64| format!("{:.1}%", 100.0 * seconds / total);
    let mut rows = vec![(
        "layer".to_owned(),
        ("ms".to_owned(), "forward".to_owned()),
        ("ms".to_owned(), "backward".to_owned()),
        "share".to_owned(),
    )];
    rows.extend(layers.iter().map(|layer| {
        (layer.layer.clone(), cells(&layer.forward), cells(&layer.backward), share(layer.seconds()))
    }));
    rows.push(("all".to_owned(), milliseconds(forward), milliseconds(backward), share(total)));
    let width = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
    let (name, one, two) = (width(|row| &row.0), width(|row| &row.1.1), width(|row| &row.2.1));
    let line = |(layer, (ahead, kernel), (back, adjoint), share): &Row| {
        format!("  {layer:name$} {ahead:>8} {kernel:one$} {back:>8} {adjoint:two$} {share:>6}")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Layer; milliseconds and kernels forward; the same backward; share.
type Row = (String, (String, String), (String, String), String);

/// A number of any size in few digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        value.to_string()
    } else if size == 0.0 {
        "0".to_owned()
    } else if (0.001..99_999.5).contains(&size) {
        // Four digits that count.
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

/// A time as people say it.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1.000"),
            (0.012_345, "0.01235"),
            (1234.56, "1235"),
            (-12.345, "-12.35"),
            (1.0e9, "1.000e9"),
            (2.5e-7, "2.500e-7"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
        for (seconds, text) in
            [(0.2, "0.2 s"), (12.4, "12 s"), (59.6, "1 min 0 s"), (3725.0, "1 h 2 min"), (-1.0, "0.0 s")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn the_layers_are_aligned_and_summed() {
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
                "  layer         ms forward       ms backward     share",
                "  relu1_1     1.00 texture                        6.2%",
                "  pool1      12.00 halve       3.00 halve+naive  93.8%",
                "  all        13.00             3.00             100.0%",
            ]
        );
    }

    #[test]
    fn variants_are_counted() {
        let variants = [("a".into(), "texture"), ("b".into(), "naive"), ("c".into(), "texture")];
        assert_eq!(tally(&variants), "1 naive, 2 texture");
    }
}
