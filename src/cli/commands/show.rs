//! `mirage show`: prints how a picture was made, or how the runs of two pictures differ.

use crate::cli::output::escape::{path_text, quoted, shown};
use crate::cli::output::format::{duration, named_percent, number, percent};
use crate::cli::output::streams;
use crate::cli::output::table::{Align, Table};
use crate::cli::record::metadata::{self, PictureMetadata};
use crate::cli::record::options;
use crate::error::{Error, Result};
use clap::Args;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Options of `mirage show`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// A picture that mirage painted, or a snapshot
    #[arg(value_name = "PICTURE")]
    picture: PathBuf,
    /// Another picture: print only the differences
    #[arg(value_name = "OTHER")]
    other: Option<PathBuf>,
    /// Print everything as JSON: one object, or an array of two [default: off]
    #[arg(long)]
    json: bool,
}

/// Prints the record of a picture, or the differences between two.
pub(in crate::cli) fn run(args: &ShowArgs) -> Result<()> {
    let one = History::of(&args.picture)?;
    let other = args.other.as_deref().map(History::of).transpose()?;
    streams::print(&match (args.json, &other) {
        (true, None) => Value::Object(one.json()).to_string(),
        (true, Some(other)) => Value::Array(vec![one.json().into(), other.json().into()]).to_string(),
        (false, None) => one.text(),
        (false, Some(other)) => one.difference(other),
    })
}

/// Returns the output for one picture, as text and as JSON.
pub(in crate::cli) fn printed(picture: &Path) -> Result<[String; 2]> {
    let history = History::of(picture)?;
    Ok([history.text(), Value::Object(history.json()).to_string()])
}

/// A picture's record of its run.
#[derive(Debug)]
struct History {
    path: PathBuf,
    metadata: PictureMetadata,
}

impl History {
    fn of(path: &Path) -> Result<Self> {
        let metadata = PictureMetadata::read(path)?.ok_or_else(|| {
            Error::file(
                path,
                "this picture has no record of a run",
                "Give a picture as mirage saved it: other programs may drop the record",
            )
        })?;
        Ok(Self { path: path.to_owned(), metadata })
    }

    fn fact(&self, name: &str) -> Option<&str> {
        self.metadata.text(name)
    }

    fn json(&self) -> Map<String, Value> {
        let mut all = Map::new();
        all.insert("picture".to_owned(), path_text(&self.path).into());
        all.insert("options".to_owned(), self.metadata.options.clone().into());
        all.insert("losses".to_owned(), self.metadata.losses.clone().into());
        all.insert("classes".to_owned(), self.metadata.classes.clone().into());
        for (name, text) in &self.metadata.texts {
            let value = match name.as_str() {
                "iterations" | "seed" | "seconds" => {
                    text.parse::<serde_json::Number>().ok().map(Value::Number)
                }
                _ => None,
            };
            all.insert(name.replace('-', "_"), value.unwrap_or_else(|| text.clone().into()));
        }
        all
    }

    /// Returns everything besides the options, as rows of name and text.
    fn rows(&self) -> Vec<(String, String)> {
        let fact = |name: &str| self.fact(name).unwrap_or("unknown").to_owned();
        let seconds = self.fact("seconds").and_then(|text| text.parse::<f64>().ok());
        let mut rows = vec![
            ("program".to_owned(), format!("neural-mirage {}", fact("version"))),
            ("adapter".to_owned(), fact("adapter")),
            ("network SHA-256".to_owned(), fact(metadata::NETWORK)),
            ("iterations".to_owned(), fact("iterations")),
            ("duration".to_owned(), seconds.map_or("unknown".to_owned(), duration)),
        ];
        if let Some(weights) = self.fact("weights") {
            // Quoted for copying to a command line.
            let words: Vec<String> = weights.split_whitespace().map(word).collect();
            rows.push(("weights at the end".to_owned(), words.join(" ")));
        }
        rows.extend(self.loss_rows());
        rows.extend(self.class_rows());
        rows
    }

    fn loss_rows(&self) -> Vec<(String, String)> {
        let Some(iteration) = self.metadata.losses.get("iteration").and_then(Value::as_u64) else {
            return Vec::new();
        };
        let loss =
            |value: Option<&Value>| value.and_then(Value::as_f64).map_or("not finite".to_owned(), number);
        let mut rows = vec![(format!("loss after {iteration}"), loss(self.metadata.losses.get("total")))];
        for (factor, values) in
            self.metadata.losses.get("factors").and_then(Value::as_object).into_iter().flatten()
        {
            let share = values.get("gradient_share").and_then(Value::as_f64);
            let share = share.map(|share| format!(", {}% of the gradient", percent(share as f32)));
            let loss = loss(values.get("loss"));
            rows.push((format!("  {factor}"), loss + &share.unwrap_or_default()));
        }
        rows
    }

    fn class_rows(&self) -> Vec<(String, String)> {
        let classes = self.metadata.classes.get("classes").and_then(Value::as_array).into_iter().flatten();
        let class = |class: &Value| {
            let probability = class.get("probability")?.as_f64()?;
            Some(named_percent(class.get("label")?.as_str()?, probability as f32))
        };
        let classes: Vec<String> = classes.filter_map(class).collect();
        let mut rows = Vec::new();
        if !classes.is_empty() {
            rows.push(("classes".to_owned(), classes.join(", ")));
        }
        if let Some(distance) = self.metadata.classes.get("distance").and_then(Value::as_f64) {
            rows.push(("class distance".to_owned(), format!("{distance:.3}")));
        }
        rows
    }

    fn options(&self) -> Vec<(String, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            Value::Array(items) if items.is_empty() => "-".to_owned(),
            Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        let place = |name: &str| options::TABLE.iter().position(|row| row.name == name).unwrap_or(usize::MAX);
        let mut all: Vec<_> = self.metadata.options.iter().collect();
        all.sort_by_key(|(name, _)| place(name));
        all.into_iter().map(|(name, value)| (name.replace('_', "-"), text(value))).collect()
    }

    fn text(&self) -> String {
        let rows = aligned(&self.rows());
        format!("{}\n{rows}\noptions\n{}", shown(&self.path), aligned(&self.options()))
    }

    /// Returns the rows that differ, with both values.
    fn difference(&self, other: &Self) -> String {
        let mut rows = both(&self.options(), &other.options());
        let options = rows.len();
        rows.extend(both(&self.rows(), &other.rows()));
        let title = format!("{} and {}", shown(&self.path), shown(&other.path));
        let verdict = match (options, rows.is_empty()) {
            (_, true) => "\nno differences",
            (0, _) => "\nthe options are the same",
            _ => "",
        };
        let rows = aligned(&rows);
        if rows.is_empty() { title + verdict } else { format!("{title}{verdict}\n{rows}") }
    }
}

/// Quotes a word of a command line; options that the program wrote need no quotes.
fn word(word: &str) -> String {
    if word.starts_with("--") && !word.chars().any(|c| !c.is_ascii_alphanumeric() && c != '-') {
        word.to_owned()
    } else {
        quoted(word)
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the rows in which two tables differ, in the order of the first.
fn both<'a>(one: &'a [(String, String)], other: &'a [(String, String)]) -> Vec<(String, String)> {
    // If two rows have the same name, the first counts.
    let by_name = |rows: &'a [(String, String)]| -> HashMap<&'a str, &'a str> {
        rows.iter().rev().map(|(name, text)| (name.as_str(), text.as_str())).collect()
    };
    let (ones, others) = (by_name(one), by_name(other));
    let mut seen = HashSet::new();
    let names = one.iter().chain(other).map(|(name, _)| name).filter(|name| seen.insert(*name));
    names
        .filter_map(|name| {
            let find = |rows: &HashMap<&str, &'a str>| rows.get(name.as_str()).copied().unwrap_or("-");
            let (left, right) = (find(&ones), find(&others));
            (left != right).then(|| (name.clone(), format!("{left}  |  {right}")))
        })
        .collect()
}

/// Formats rows of name and text as indented columns.
fn aligned(rows: &[(String, String)]) -> String {
    let mut table = Table::of([Align::Left; 2]);
    for (name, text) in rows {
        table.row([format!("  {name}"), text.clone()]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_show_both_values() {
        let rows = |list: &[(&str, &str)]| {
            list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<Vec<_>>()
        };
        // A value may also be a dash, like that of a missing option.
        let one = rows(&[("a", "1"), ("b", "2"), ("c", "3"), ("e", "-")]);
        let other = rows(&[("a", "1"), ("b", "9"), ("d", "4"), ("e", "5")]);
        let expected = [("b", "2  |  9"), ("c", "3  |  -"), ("e", "-  |  5"), ("d", "-  |  4")];
        assert_eq!(both(&one, &other), rows(&expected));
        assert_eq!(both(&one, &one), []);
    }
}
