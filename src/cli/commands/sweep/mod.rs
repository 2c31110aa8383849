//! `mirage sweep`: paints the same photo with several values of one or two options, side by side on a contact sheet.
//!
//! All runs share one process, device and network. A run that differs from the previous one only in weights, seeds or
//! steps reuses everything that was prepared; one with other layers reuses the targets that both have.

mod args;
mod axes;
mod cells;
mod earlier_start;
mod paint;
mod progress;
mod sheet;

pub(in crate::cli) use args::SweepArgs;

use super::render;
use crate::cli::checked_run;
use crate::cli::earlier_run::EarlierRun;
use crate::cli::files::inputs;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::escape::shown;
use crate::cli::record::metadata::{self, PictureMetadata};
use crate::cli::record::option_words::{self, OptionWords, is_given};
use crate::cli::record::options::{self, Row, Sweeping};
use crate::cli::record::trusted::{self, RecordKind};
use crate::error::{Error, Result};
use crate::mirage::{ScaleCount, Shares, Tiling};
use axes::{Axis, Table};
use paint::Sweep;
use std::path::{Path, PathBuf};

/// Default longest side of the cells, in pixels.
const SIZE: &str = "160";

/// Paints the sheet, or one of its cells at full size, and returns the exit code.
pub(in crate::cli) fn run(args: &SweepArgs) -> Result<u8> {
    match &args.continue_cell {
        Some(cell) => continue_cell(&sheet::cell_file(cell), &args.given),
        None => paint(args),
    }
}

fn paint(args: &SweepArgs) -> Result<u8> {
    let interrupt = Interrupt::install();
    if args.vary.is_empty() && args.columns.is_none() {
        return Err(Error::usage(
            "nothing is varied: give for example --vary spatial=5,20,50 --vary style=10,40,80, or --columns iterations=10,50,150",
        ));
    }
    if args.vary.len() > 2 {
        return Err(Error::usage(
            "a sheet has rows and columns: give --vary once or twice; --columns iterations=... goes with either",
        ));
    }
    let vary = args.vary.iter().map(|text| Axis::new(text)).collect::<Result<Vec<_>>>()?;
    let columns = args.columns.as_deref().map(columns).transpose()?.unwrap_or_default();
    if let [one, other] = &vary[..]
        && one.name == other.name
    {
        return Err(Error::usage(format!("{} is varied twice: give all its values at once", one.name)));
    }
    if !columns.is_empty() && vary.iter().any(Axis::is_iterations) {
        return Err(Error::usage(
            "the iterations are varied twice: give them either to --vary or to --columns",
        ));
    }

    let for_one_run = |row: &Row| row.sweeping == Sweeping::Refused && is_given(&args.given, row.name);
    if let Some(row) = options::TABLE.iter().find(|row| for_one_run(row)) {
        return Err(Error::usage(format!(
            "--{} is for a single run: give it with --continue CELL",
            row.long()
        )));
    }

    let mut given = args.given.clone();
    if !is_given(&given, "size") {
        given.push(("size".to_owned(), vec![format!("--size={SIZE}").into()]));
    }
    // Cells are small, so one scale is enough, and its iterations are those of the whole run.
    if !is_given(&given, "scales") {
        given.push(("scales".to_owned(), vec!["--scales=1".into()]));
    }
    let base = option_words::parse(&given)?;
    if base.computing.tile.0 == Tiling::Auto {
        return Err(Error::usage("--tile auto is for a single picture: give the tiles' side in pixels"));
    }
    if !columns.is_empty() && base.optimisation.scales.0 != ScaleCount::Exactly(1) {
        return Err(Error::usage(
            "--columns iterations=... needs runs with one scale: leave out --scales (a sweep has one by default)",
        ));
    }
    let output = base.files.output.clone();
    let overwrite = base.files.overwrite;
    given.retain(|(name, _)| !["output", "overwrite"].contains(&name.as_str()));
    let shares = vary.iter().any(|axis| axis.id() == "balance");
    if shares && options::names(|row| row.raw_weight).any(|name| is_given(&given, name)) {
        return Err(Error::usage(
            "shares are varied, but raw weights are given: vary the weights (--vary style-weight=...), or give --balance",
        ));
    }
    let styled = !base.factors.style_image.is_empty() || vary.iter().any(|axis| axis.id() == "style_image");
    let mut groups = checked_run::default_preset(styled).groups();
    base.balance.balance.clone().unwrap_or_default().apply(&mut groups)?;
    let balance = Shares::of(&groups);
    let table = Table::new(&vary, &columns);
    let folder = output.unwrap_or_else(|| {
        let mut name = base.photo.file_stem().unwrap_or_default().to_owned();
        name.push("-sweep");
        name.into()
    });
    let options: Vec<Vec<OptionWords>> =
        table.runs.iter().map(|run| run.options(&vary, &given, &balance)).collect::<Result<_>>()?;
    let varied: Vec<&str> = vary.iter().map(|axis| axis.name.as_str()).collect();
    let varied = varied.into_iter().chain((!columns.is_empty()).then_some("iterations"));
    let photo = shown(base.photo.file_name().unwrap_or_default());
    let title = format!("{photo}: {}", varied.collect::<Vec<_>>().join(", "));
    Sweep::new(&base, title, folder, overwrite, table, &options, interrupt)?.run()
}

/// Parses the iterations of `--columns iterations=10,50,150`.
fn columns(text: &str) -> Result<Vec<u32>> {
    let wrong = || {
        Error::usage(format!(
            "`{text}`: columns are iterations, such as --columns iterations=10,50,150; other options go to --vary"
        ))
    };
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    if name.trim().trim_start_matches("--") != "iterations" {
        return Err(wrong());
    }
    let at = |value: &str| value.trim().parse().ok().filter(|at: &u32| *at > 0).ok_or_else(wrong);
    let columns = values.split(',').map(at).collect::<Result<Vec<_>>>()?;
    if (1..columns.len()).any(|at| columns[..at].contains(&columns[at])) {
        return Err(Error::usage(format!("`{text}` has a value twice")));
    }
    Ok(columns)
}

/// Paints one cell at full size; the options in `given` replace its own.
fn continue_cell(cell: &Path, given: &[OptionWords]) -> Result<u8> {
    let not_a_cell = || {
        Error::file(
            cell,
            "this is not a cell of a contact sheet",
            "Give the picture of a cell, such as SWEEP/r1c2.png, or SWEEP/sheet.html#r1c2",
        )
    };
    if !cell.exists() {
        return Err(not_a_cell());
    }
    let metadata = PictureMetadata::read(cell)?.ok_or_else(not_a_cell)?;
    let mut accepted = trusted::accept(cell, RecordKind::Picture, &metadata.options, given)?;
    accepted.options.remove("size");
    // Cells have one scale because they are small; at full size the default scales apply. Records of versions without
    // scales keep their single scale.
    if !trusted::has_one_scale(&metadata.options) {
        accepted.options.remove("scales");
        accepted.options.remove("min_size");
    }
    let mut options = option_words::merged(option_words::recorded(&accepted.options), given);
    if !is_given(given, "output") {
        options.push(("output".to_owned(), vec![output(cell)]));
    }
    let network = metadata.text(metadata::NETWORK).filter(|_| !is_given(given, "weights")).map(str::to_owned);
    let args = option_words::parse(&options)?;
    let recorded = option_words::parse(&option_words::recorded(&accepted.options))?;
    let reads_the_same = inputs::pictures(&args) == inputs::pictures(&recorded);
    // If other pictures are given, the photo must still be that of the cell.
    let same = |pictures: &str| {
        if reads_the_same { pictures.to_owned() } else { pictures.split(',').take(1).collect() }
    };
    let pictures = metadata.text(metadata::PICTURES).map(same);
    let file = Some(cell.to_owned());
    let earlier = EarlierRun { notes: accepted.notes, network, pictures, file, ..EarlierRun::default() };
    render::continue_from(&args, earlier)
}

/// Returns the output option of a cell at full size: `holiday-sweep-r2c3.png`, beside the sweep's folder.
fn output(cell: &Path) -> std::ffi::OsString {
    let folder = cell.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("sweep"), Path::to_path_buf);
    let mut name = folder.file_name().unwrap_or("sweep".as_ref()).to_owned();
    name.push("-");
    name.push(cell.file_name().unwrap_or_default());
    let mut word = std::ffi::OsString::from("--output=");
    word.push(folder.with_file_name(name));
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_option_takes_only_iterations() {
        assert_eq!(columns("iterations=10, 50,150").unwrap(), [10, 50, 150]);
        for text in ["seed=1,2", "iterations=0", "iterations=ten", "iterations=5,5", "10,50"] {
            assert!(columns(text).is_err(), "{text}");
        }
    }

    #[test]
    fn promoted_cell_is_saved_beside_its_sweep() {
        assert_eq!(output(Path::new("a/my sweep/r1c2.png")), "--output=a/my sweep-r1c2.png");
        assert_eq!(output(Path::new("r1c2.png")), "--output=sweep-r1c2.png");
    }
}
