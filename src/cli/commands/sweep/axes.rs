//! Axes of a sweep, and the runs and cells that they span.

use crate::cli::output::format::percent;
use crate::cli::record::option_words::{self, OptionWords};
use crate::cli::record::options::{self, Sweeping};
use crate::error::{Error, Result};
use crate::mirage::Shares;
use crate::mirage::preset::FACTORS;
use clap::ArgAction;
use std::ffi::OsString;
use std::ops::Range;

/// An option and its values, as the user wrote them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// Name of the option in labels.
    pub name: String,
    /// Values of the option in labels.
    pub values: Vec<String>,
    target: Target,
}

#[derive(Debug, Clone, PartialEq)]
enum Target {
    /// A factor's share of the balance.
    Share(String),
    /// An option: its name in a record, its long name, and whether it is a switch.
    Option { id: String, long: String, switch: bool },
}

impl Axis {
    /// Parses `NAME=VALUE,VALUE,...`. `spatial`, `abstract` and `style` are shares; their layers are `spatial-layers`
    /// and so on, with `+` between the layers of a list.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what is invalid.
    pub(super) fn new(text: &str) -> Result<Self> {
        let form = "write --vary NAME=VALUE,VALUE, such as --vary spatial=5,20,50 or --vary seed=1,2";
        let (name, values) =
            text.split_once('=').ok_or_else(|| Error::usage(format!("`{text}` names no values: {form}")))?;
        let name = name.trim().trim_start_matches("--");
        let values: Vec<String> =
            values.split(',').map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect();
        if values.is_empty() {
            return Err(Error::usage(format!("`{text}` names no values: {form}")));
        }
        if let Some(twice) = (1..values.len()).find(|at| values[..*at].contains(&values[*at])) {
            return Err(Error::usage(format!("`{text}` has the value {} twice", values[twice])));
        }
        let target = target(name)?;
        let axis = Self { name: name.to_owned(), values, target };
        for value in 0..axis.values.len() {
            axis.apply(value, &mut Vec::new(), Shares::default())?;
        }
        Ok(axis)
    }

    /// Returns the record name of the option that this axis sets.
    pub(super) fn id(&self) -> &str {
        match &self.target {
            Target::Share(_) => "balance",
            Target::Option { id, .. } => id,
        }
    }

    /// True if the axis is the number of iterations.
    pub(super) fn is_iterations(&self) -> bool {
        self.id() == "iterations"
    }

    /// Returns the label of a value.
    pub(super) fn label(&self, value: usize) -> String {
        format!("{}={}", self.name, self.values[value])
    }

    /// Adds the option with this value to `options`. Returns the shares, including this value if the axis is a share.
    ///
    /// # Errors
    /// [`Error::Usage`] if the option can't have the value.
    pub(super) fn apply(
        &self,
        value: usize,
        options: &mut Vec<OptionWords>,
        mut shares: Shares,
    ) -> Result<Shares> {
        let text = &self.values[value];
        match &self.target {
            Target::Share(name) => {
                let share = text.parse().ok().filter(|share: &f32| share.is_finite() && *share >= 0.0);
                let share = share.ok_or_else(|| {
                    Error::usage(format!(
                        "`{}` is not a share: give numbers >= 0, or layers with --vary {name}-layers=...",
                        self.label(value)
                    ))
                })?;
                shares.0.retain(|(other, _)| other != name);
                shares.0.push((name.clone(), share));
                Ok(shares)
            }
            Target::Option { id, long, switch } => {
                options.retain(|(name, _)| name != id);
                let word = match (*switch, text.as_str()) {
                    (false, _) => vec![OsString::from(format!("--{long}={}", text.replace('+', ",")))],
                    (true, "true" | "on" | "yes") => vec![OsString::from(format!("--{long}"))],
                    (true, "false" | "off" | "no") => Vec::new(),
                    (true, _) => {
                        let label = self.label(value);
                        return Err(Error::usage(format!("`{label}`: --{long} is on or off")));
                    }
                };
                options.push((id.clone(), word));
                Ok(shares)
            }
        }
    }
}

fn target(name: &str) -> Result<Target> {
    if FACTORS.contains(&name) {
        return Ok(Target::Share(name.to_owned()));
    }
    let command = option_words::command();
    let found = command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    });
    let unknown = || {
        Error::usage(format!(
            "`{name}` can't be varied: give the name of an option of `mirage render`, or a share (spatial, abstract, style)"
        ))
    };
    let arg = found.ok_or_else(unknown)?;
    let id = arg.get_id().as_str();
    if options::row(id).is_some_and(|row| row.sweeping != Sweeping::Varies) {
        return Err(Error::usage(format!("`{name}` can't be varied: no picture depends on it")));
    }
    if id == "balance" {
        return Err(Error::usage(
            "--balance can't be varied as a whole: vary its shares, such as --vary spatial=5,20,50"
                .to_owned(),
        ));
    }
    let long = arg.get_long().ok_or_else(unknown)?.to_owned();
    Ok(Target::Option { id: id.to_owned(), long, switch: matches!(arg.get_action(), ArgAction::SetTrue) })
}

/// The table of a sweep: rows and columns of labelled cells, and the runs that fill them.
#[derive(Debug)]
pub(super) struct Table {
    /// Headings of the rows; a single empty one if nothing varies by row.
    pub rows: Vec<String>,
    /// Headings of the columns.
    pub columns: Vec<String>,
    /// The runs, in the order in which they are painted.
    pub runs: Vec<SweepRun>,
    vary: Vec<Axis>,
    /// Number of axes in the headings of the rows; the rest are in those of the columns.
    down: usize,
}

/// One run and the cells that it fills.
#[derive(Debug)]
pub(super) struct SweepRun {
    /// Labels of its values, such as `spatial=5, style=10`.
    pub label: String,
    /// Index of the value on each of the varied axes.
    choice: Vec<usize>,
    /// Its cells by number of iterations; the last is the run's end.
    pub cells: Vec<Cell>,
}

/// One picture of the table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub row: usize,
    pub column: usize,
    /// Number of iterations of the picture; 0 for the run's end until the run is planned.
    pub iterations: u32,
}

impl Cell {
    /// Returns the name of the cell's file and of its anchor on the page.
    pub(super) fn name(&self) -> String {
        format!("r{}c{}", self.row + 1, self.column + 1)
    }

    /// Returns the cell's iterations, if its run of `end` iterations continues after it.
    pub(super) fn stops_before(&self, end: u32) -> Option<u32> {
        (self.iterations != end).then_some(self.iterations)
    }
}

impl Table {
    /// Returns the index of a cell among all cells, row by row.
    pub(super) fn index(&self, cell: &Cell) -> usize {
        cell.row * self.columns.len() + cell.column
    }

    /// Lays out the axes. With columns of iterations, each combination of values is a row. Without, the last axis runs
    /// across and the one before it down, and the runs have the iterations of their options.
    pub(super) fn new(vary: &[Axis], columns: &[u32]) -> Self {
        let choices = vary.iter().fold(vec![Vec::new()], |choices: Vec<Vec<usize>>, axis| {
            let longer = |choice: &Vec<usize>| {
                let choice = choice.clone();
                (0..axis.values.len())
                    .map(move |value| [choice.as_slice(), &[value]].concat())
                    .collect::<Vec<_>>()
            };
            choices.iter().flat_map(longer).collect()
        });
        let (down, width) = match vary {
            _ if !columns.is_empty() => (vary.len(), columns.len()),
            [rest @ .., right] => (rest.len(), right.values.len()),
            [] => (0, 1),
        };
        let run = |(index, choice): (usize, Vec<usize>)| {
            let cell =
                |(column, iterations): (usize, &u32)| Cell { row: index, column, iterations: *iterations };
            let mut cells: Vec<Cell> = columns.iter().enumerate().map(cell).collect();
            cells.sort_by_key(|cell| cell.iterations);
            if cells.is_empty() {
                cells.push(Cell { row: index / width, column: index % width, iterations: 0 });
            }
            SweepRun { label: String::new(), choice, cells }
        };
        let runs: Vec<SweepRun> = choices.into_iter().enumerate().map(run).collect();
        let rows = runs.last().map_or(0, |run| run.cells[0].row + 1);
        let columns = match columns {
            [] => vec![String::new(); width],
            columns => columns.iter().map(|at| format!("iterations={at}")).collect(),
        };
        let mut table = Self { rows: vec![String::new(); rows], columns, runs, vary: vary.to_vec(), down };
        table.set_labels(&[]);
        table
    }

    /// Labels rows, columns and runs with their values. `shares` are the effective shares of each run, once the runs
    /// are planned. A share is then followed by its part of the gradient, `spatial=50 (37%)`; in a heading only if it
    /// is the same in all its runs.
    pub(super) fn set_labels(&mut self, shares: &[Vec<(String, f32)>]) {
        let label = |axes: Range<usize>, runs: &[usize]| -> String {
            let labels = axes.map(|axis| {
                let label = self.vary[axis].label(self.runs[runs[0]].choice[axis]);
                let Target::Share(group) = &self.vary[axis].target else { return label };
                let part = |run: &usize| {
                    let share = shares.get(*run)?.iter().find(|(name, _)| name == group)?;
                    Some(percent(share.1))
                };
                match part(&runs[0]) {
                    Some(first) if runs.iter().all(|run| part(run).as_ref() == Some(&first)) => {
                        format!("{label} ({first}%)")
                    }
                    _ => label,
                }
            });
            labels.collect::<Vec<_>>().join(", ")
        };
        let runs_at = |at: &dyn Fn(&Cell) -> bool| -> Vec<usize> {
            (0..self.runs.len()).filter(|run| self.runs[*run].cells.iter().any(at)).collect()
        };
        let (all, down) = (self.vary.len(), self.down);
        let rows =
            (0..self.rows.len()).map(|row| label(0..down, &runs_at(&|cell| cell.row == row))).collect();
        let columns =
            (0..self.columns.len()).map(|column| label(down..all, &runs_at(&|cell| cell.column == column)));
        let columns: Vec<String> = columns.collect();
        let labels: Vec<String> = (0..self.runs.len()).map(|run| label(0..all, &[run])).collect();
        self.rows = rows;
        // Columns of iterations keep their headings.
        if down < all {
            self.columns = columns;
        }
        self.runs.iter_mut().zip(labels).for_each(|(run, label)| run.label = label);
    }
}

impl SweepRun {
    /// Returns the run's options: those given, with the varied ones replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] if an option can't have its value.
    pub(super) fn options(
        &self,
        vary: &[Axis],
        given: &[OptionWords],
        balance: &Shares,
    ) -> Result<Vec<OptionWords>> {
        let mut options = given.to_vec();
        let mut shares = balance.clone();
        for (axis, value) in vary.iter().zip(&self.choice) {
            shares = axis.apply(*value, &mut options, shares)?;
        }
        if vary.iter().any(|axis| axis.id() == "balance") {
            options.retain(|(name, _)| name != "balance");
            options.push(("balance".to_owned(), vec![format!("--balance={shares}").into()]));
        }
        if let Some(last) = self.cells.last().filter(|cell| cell.iterations > 0) {
            options.retain(|(name, _)| name != "iterations");
            options.push(("iterations".to_owned(), vec![format!("--iterations={}", last.iterations).into()]));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even() -> Shares {
        "spatial=20,abstract=40,style=40".parse().unwrap()
    }

    fn axes(texts: &[&str]) -> Vec<Axis> {
        texts.iter().map(|text| Axis::new(text).unwrap()).collect()
    }

    #[test]
    fn share_labels_include_percentages() {
        let shares = |spatial: f32, style: f32| -> Vec<(String, f32)> {
            vec![("spatial".into(), spatial), ("style".into(), style)]
        };
        let mut table = Table::new(&axes(&["seed=1,2", "spatial=5,20"]), &[]);
        table.set_labels(&[shares(0.05, 0.5), shares(0.2, 0.4), shares(0.05, 0.5), shares(0.2, 0.4)]);
        assert_eq!(table.rows, ["seed=1", "seed=2"]);
        assert_eq!(table.columns, ["spatial=5 (5.0%)", "spatial=20 (20%)"]);
        assert_eq!(table.runs[1].label, "seed=1, spatial=20 (20%)");
        // With two shares, each run has its own parts, so no heading has one.
        let mut table = Table::new(&axes(&["spatial=5,20", "style=10,80"]), &[]);
        table.set_labels(&[shares(0.1, 0.2), shares(0.05, 0.8), shares(0.4, 0.2), shares(0.2, 0.8)]);
        assert_eq!(table.rows, ["spatial=5", "spatial=20"]);
        assert_eq!(table.columns, ["style=10 (20%)", "style=80 (80%)"]);
        assert_eq!(table.runs[3].label, "spatial=20 (20%), style=80 (80%)");
        // A group that has no share in the end, and columns of iterations.
        let mut table = Table::new(&axes(&["abstract=5,20"]), &[10, 20]);
        table.set_labels(&[shares(0.1, 0.2), shares(0.1, 0.2)]);
        assert_eq!(table.rows, ["abstract=5", "abstract=20"]);
        assert_eq!(table.columns, ["iterations=10", "iterations=20"]);
    }

    #[test]
    fn two_axes_become_rows_and_columns() {
        let vary = axes(&["spatial=5,20", "--style=10,40,80"]);
        let table = Table::new(&vary, &[]);
        assert_eq!(table.rows, ["spatial=5", "spatial=20"]);
        assert_eq!(table.columns, ["style=10", "style=40", "style=80"]);
        assert_eq!(table.runs.len(), 6);
        let run = &table.runs[4];
        assert_eq!((run.cells[0].name().as_str(), run.label.as_str()), ("r2c2", "spatial=20, style=40"));
        let args =
            option_words::parse(&[run.options(&vary, &[], &even()).unwrap(), photo()].concat()).unwrap();
        let expected = "abstract=40,spatial=20,style=40".parse().unwrap();
        assert_eq!(args.balance.balance, Some(expected));
        assert_eq!(args.optimisation.iterations, [60, 40, 26, 13, 9], "as by default");
    }

    fn photo() -> Vec<OptionWords> {
        vec![("photo".to_owned(), vec!["p.png".into()])]
    }

    #[test]
    fn iterations_are_columns_of_one_run() {
        let vary = axes(&["spatial-layers=relu1_1+relu2_1,relu5_1", "exact=on,off"]);
        let table = Table::new(&vary, &[50, 10]);
        assert_eq!(table.columns, ["iterations=50", "iterations=10"]);
        assert_eq!(table.rows.len(), 4);
        assert_eq!(table.rows[1], "spatial-layers=relu1_1+relu2_1, exact=off");
        let cells: Vec<_> = table.runs[3].cells.iter().map(|cell| (cell.name(), cell.iterations)).collect();
        assert_eq!(cells, [("r4c2".to_owned(), 10), ("r4c1".to_owned(), 50)]);
        let args =
            option_words::parse(&[table.runs[0].options(&vary, &[], &even()).unwrap(), photo()].concat())
                .unwrap();
        assert_eq!(args.factors.spatial.as_deref(), Some("relu1_1,relu2_1"));
        assert!(args.device.exact && args.balance.balance.is_none());
        assert_eq!(args.optimisation.iterations, [50]);
    }

    #[test]
    fn single_axis_is_a_row() {
        let vary = axes(&["iterations=5,10"]);
        let table = Table::new(&vary, &[]);
        assert_eq!((table.rows.len(), table.columns.len()), (1, 2));
        let options = [table.runs[1].options(&vary, &[], &even()).unwrap(), photo()].concat();
        assert_eq!(option_words::parse(&options).unwrap().optimisation.iterations, [10]);
    }

    #[test]
    fn axis_errors_name_the_problem() {
        for (text, words) in [
            ("spatial", "no values"),
            ("spatial=", "no values"),
            ("spatial=5,5", "twice"),
            ("spatial=relu1_1", "spatial-layers"),
            ("style=-1", "not a share"),
            ("balance=spatial=1", "vary its shares"),
            ("film=a.gif", "no picture depends"),
            ("nonsense=1", "nonsense"),
            ("exact=maybe", "on or off"),
        ] {
            let error = Axis::new(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
