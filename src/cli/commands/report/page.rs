//! Formats a report as Markdown, which issue trackers display.

use super::args::JSON;
use super::record::{Iteration, PICTURE, PartOutcome, Record, State, Status};
use crate::cli::output::format::{bytes, duration, number};
use crate::cli::values::{Precision, value_name};
use serde_json::Value;
use std::fmt::Write as _;

/// Returns the page of a report.
pub(super) fn page(record: &Record) -> String {
    let device =
        record.device.result["description"].as_str().unwrap_or("a device that could not be described");
    let mut page = Page(String::new());
    page.line(&format!("# Report of {}", plain(device)));
    page.line(&format!(
        "neural-mirage {}, commit {}, {}, {}{}{}.",
        record.version,
        record.commit.unwrap_or("unknown"),
        record.system,
        record.date,
        if record.quick { ", quick" } else { "" },
        if record.filter.is_empty() {
            String::new()
        } else {
            format!(", only kernels `{}`", plain(&record.filter))
        },
    ));
    match record.state {
        State::Running => page.line("**This report is not complete yet.**"),
        State::Interrupted => page.line("**This report was interrupted: missing parts were not run.**"),
        State::Complete => {}
    }
    page.line(&format!("All figures are in `{JSON}` beside this page."));
    device_part(&mut page, &record.device);
    kernels_part(&mut page, &record.kernels);
    iterations_part(&mut page, record);
    picture_part(&mut page, &record.picture);
    bench_part(&mut page, &record.bench);
    page.0
}

struct Page(String);

impl Page {
    /// Adds a paragraph.
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push_str("\n\n");
    }

    /// Adds a heading and, if the part isn't done, its status; false if it has no result.
    fn part(&mut self, title: &str, outcome: &PartOutcome) -> bool {
        self.line(&format!("## {title}"));
        if let Some(note) = note(outcome) {
            self.line(&note);
        }
        !outcome.result.is_null()
    }

    fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[String; N]]) {
        self.table_of_rows(&head.map(str::to_owned), rows.iter().map(|row| row.as_slice()));
    }

    /// Adds a table; each row has as many cells as the head.
    fn table_of_rows<'a>(&mut self, head: &[String], rows: impl Iterator<Item = &'a [String]>) {
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        self.0.push_str(&row(head));
        self.0.push_str(&row(&vec!["---".to_owned(); head.len()]));
        for cells in rows {
            self.0.push_str(&row(cells));
        }
        self.0.push('\n');
    }

    /// Adds a collapsed table.
    fn folded<const N: usize>(&mut self, title: &str, head: [&str; N], rows: &[[String; N]]) {
        self.line(&format!("<details><summary>{title}</summary>"));
        self.table(head, rows);
        self.line("</details>");
    }
}

/// Returns the status line of a part that is not done.
fn note(outcome: &PartOutcome) -> Option<String> {
    match outcome.status {
        Status::Done => None,
        Status::NotAskedFor => Some("Not asked for.".to_owned()),
        Status::NotRun => Some("Not run.".to_owned()),
        Status::Interrupted => Some("Interrupted.".to_owned()),
        Status::Failed => {
            Some(format!("**FAILED**: {}", plain(outcome.reason.as_deref().unwrap_or_default())))
        }
    }
}

/// Escapes text of drivers and programs for Markdown and HTML.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '<' => plain.push_str("&lt;"),
            '&' => plain.push_str("&amp;"),
            '|' | '*' | '`' | '[' | ']' | '\\' | '#' | '!' => plain.extend(['\\', c]),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
        other => plain(&other.to_string()),
    }
}

fn device_part(page: &mut Page, outcome: &PartOutcome) {
    if !page.part("Device", outcome) {
        return;
    }
    let device = &outcome.result;
    let mut rows: Vec<[String; 2]> = Vec::new();
    for (name, key) in [
        ("backend", "backend"),
        ("type", "type"),
        ("driver", "driver"),
        ("driver version", "driver_version"),
        ("vendor", "vendor_id"),
        ("device", "device_id"),
        ("threads", "threads"),
        ("instructions", "instructions"),
        ("subgroup sizes", "subgroup_sizes"),
        ("other adapters", "other_adapters"),
        ("note", "note"),
    ] {
        let value = text(&device[key]);
        if !value.is_empty() {
            rows.push([name.to_owned(), value]);
        }
    }
    for quirk in device["worked_around"].as_array().into_iter().flatten() {
        rows.push(["worked around".to_owned(), text(&quirk["name"])]);
    }
    page.table(["", ""], &rows);
    if let Some(limits) = device["limits"].as_object() {
        let rows: Vec<[String; 2]> =
            limits.iter().map(|(name, value)| [name.clone(), value.to_string()]).collect();
        page.folded("Limits", ["limit", "value"], &rows);
        page.line(&format!(
            "<details><summary>Features</summary>\n\n{}\n\n</details>",
            text(&device["features"])
        ));
    }
}

fn kernels_part(page: &mut Page, outcome: &PartOutcome) {
    if !page.part("Kernels against their references", outcome) {
        return;
    }
    let result = &outcome.result;
    let failed = result["failed"].as_array().map_or(&[][..], Vec::as_slice);
    page.line(&format!(
        "{} kernels at {} shapes: {} failed.",
        result["kernels"],
        result["shapes"],
        failed.len()
    ));
    if !failed.is_empty() {
        let rows: Vec<[String; 4]> = failed
            .iter()
            .map(|kernel| {
                let shapes = format!("{} of {}", kernel["failed_shapes"], kernel["tested_shapes"]);
                [text(&kernel["kernel"]), shapes, text(&kernel["shapes"]), text(&kernel["fault"])]
            })
            .collect();
        page.table(["kernel", "failed shapes", "first failed shape", "fault"], &rows);
    }
    let errors = result["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<[String; 3]> = errors
        .iter()
        .map(|kernel| {
            let error = kernel["max_ulp"].as_f64().map_or_else(|| "not finite".to_owned(), number);
            [text(&kernel["kernel"]), text(&kernel["shapes"]), error]
        })
        .collect();
    page.folded(
        "Largest error of each kernel, in ULP of the largest value",
        ["kernel", "shapes", "ULP"],
        &rows,
    );
}

fn iterations_part(page: &mut Page, record: &Record) {
    page.line("## Iterations");
    if record.iterations.is_empty() {
        page.line("Not asked for.");
        return;
    }
    page.line(
        "Milliseconds per iteration (forward and backward pass, Adam step): median (least). `style` has Gram matrices at relu1_1 \
         to relu5_1 and content at relu4_2; `three` has fc8 and total variation too.",
    );
    if let Some(pytorch) = &record.pytorch {
        let version =
            format!("PyTorch {} on {}", text(&pytorch.result["version"]), text(&pytorch.result["device"]));
        page.line(&note(pytorch).map_or(version.clone(), |note| format!("PyTorch: {note}")));
    }
    let milliseconds =
        |outcome: &PartOutcome, name| outcome.number(name).map(|seconds| number(seconds * 1e3));
    let cell = |outcome: &PartOutcome| match (
        milliseconds(outcome, "median_seconds"),
        milliseconds(outcome, "least_seconds"),
    ) {
        (Some(median), Some(least)) => format!("{median} ({least})"),
        _ => note(outcome).unwrap_or_default(),
    };
    let tuned = (record.precision != Precision::Single).then(|| value_name(record.precision));
    if let Some(precision) = &tuned {
        page.line(&format!(
            "*{precision}, tuned* uses `--precision {precision}` and the kernels that `mirage tune` finds for it."
        ));
    }
    let mut head = vec!["objective".to_owned(), "px".to_owned(), "ms".to_owned()];
    head.extend(tuned.as_ref().map(|precision| format!("{precision}, tuned")));
    head.extend(["device memory", "PyTorch f32", "PyTorch TF32", "ours / PyTorch f32"].map(str::to_owned));
    let row = |iteration: &Iteration| {
        let peer = |precision: &str| {
            let rows = iteration.pytorch.iter().filter(|row| row.precision == precision);
            rows.map(|row| format!("{} {}", row.layout, cell(&row.outcome))).collect::<Vec<_>>().join("; ")
        };
        let mut cells =
            vec![iteration.objective.to_owned(), iteration.side.to_string(), cell(&iteration.outcome)];
        cells.extend(iteration.tuned.as_ref().map(cell));
        cells.extend([
            iteration.outcome.number("device_bytes").map_or_else(String::new, |count| bytes(count as u64)),
            peer("f32"),
            peer("tf32"),
            iteration.ratio().map_or_else(String::new, number),
        ]);
        cells
    };
    let rows: Vec<Vec<String>> = record.iterations.iter().map(row).collect();
    page.table_of_rows(&head, rows.iter().map(Vec::as_slice));
}

fn picture_part(page: &mut Page, outcome: &PartOutcome) {
    if !page.part("The default picture", outcome) {
        return;
    }
    let result = &outcome.result;
    let seconds = |name: &str| outcome.number(name).map_or_else(|| "?".to_owned(), duration);
    page.line(&format!(
        "{} px with {}: {} to prepare, {} to paint {} iterations, {} in all.",
        text(&result["size"]).replace(", ", " x "),
        text(&result["network"]),
        seconds("prepared_seconds"),
        seconds("painted_seconds"),
        text(&result["iterations"]),
        outcome.seconds.map_or_else(|| "?".to_owned(), duration),
    ));
    page.line(&format!("![The picture: attach {PICTURE}]({PICTURE})"));
    if result["default_photo"] == true {
        page.line("The photo, Summer Palace, is by danielbuechele, CC BY 2.0.");
    }
}

fn bench_part(page: &mut Page, outcome: &PartOutcome) {
    if !page.part("Times of the kernels", outcome) {
        return;
    }
    let result = &outcome.result;
    let (flops, bandwidth) = (
        outcome.number("peak_flops").unwrap_or(f64::NAN),
        outcome.number("peak_bandwidth").unwrap_or(f64::NAN),
    );
    page.line(&format!(
        "Layers of {} at {} px. Measured peaks: {} GFLOP/s (multiply-add, f32), {} GB/s.",
        text(&result["network"]),
        text(&result["size"]),
        number(flops / 1e9),
        number(bandwidth / 1e9)
    ));
    let mut summary = String::new();
    for (title, is_compute) in [("bound by operations", true), ("bound by memory", false)] {
        let rows = result["rows"].as_array().into_iter().flatten();
        let mut shares: Vec<f64> = rows
            .filter(|row| row["compute_bound"].as_bool() == Some(is_compute))
            .filter_map(|row| share(row, flops, bandwidth))
            .collect();
        shares.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (shares.first(), shares.last()) {
            let median = shares[shares.len() / 2];
            // Writing to a String can't fail.
            let _ = write!(
                summary,
                "{} kernels {title} reach {:.0} % of the peak (median; {:.0} to {:.0} %). ",
                shares.len(),
                median * 100.0,
                least * 100.0,
                most * 100.0
            );
        }
    }
    if !summary.is_empty() {
        page.line(summary.trim_end());
    }
    let rows: Vec<[String; 6]> = result["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let median = row["quartiles"][1].as_f64().unwrap_or(f64::NAN);
            [
                text(&row["case"]),
                text(&row["variant"]),
                number(median * 1e3),
                text(&row["clock"]),
                if row["compute_bound"] == true { "operations" } else { "memory" }.to_owned(),
                share(row, flops, bandwidth)
                    .map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)),
            ]
        })
        .collect();
    page.folded("Each kernel", ["case", "kernel", "ms", "clock", "bound by", "of peak"], &rows);
}

/// Fraction of the measured peak that a row reaches: of operations or of bytes, whichever bounds it.
fn share(row: &Value, flops: f64, bandwidth: f64) -> Option<f64> {
    let is_compute = row["compute_bound"].as_bool()?;
    let count = row[if is_compute { "flops" } else { "bytes" }].as_f64()?;
    let share = count / row["quartiles"][1].as_f64()? / if is_compute { flops } else { bandwidth };
    share.is_finite().then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn driver_text_is_escaped_as_markdown() {
        assert_eq!(plain("a|b <img src=x> `c` [d](e)\n"), "a\\|b &lt;img src=x> \\`c\\` \\[d\\](e) ");
    }

    #[test]
    fn share_is_of_the_limiting_resource() {
        let row = |compute| json!({ "compute_bound": compute, "flops": 8.0, "bytes": 3.0, "quartiles": [1.0, 2.0, 3.0] });
        assert_eq!(share(&row(true), 16.0, 6.0), Some(0.25));
        assert_eq!(share(&row(false), 16.0, 6.0), Some(0.25));
        assert_eq!(share(&row(true), 8.0, 1.0), Some(0.5));
        assert_eq!(share(&row(true), f64::NAN, 1.0), None);
        assert_eq!(share(&json!({}), 8.0, 1.0), None);
    }
}
