//! Accepts options from records. Records are untrusted input: a picture or a checkpoint may come from anywhere.
//!
//! Options on which the picture depends are accepted if their values have the right form. Files that they name are only
//! read. Where to write, what to replace, who may watch and which device to use come from the command line only: a
//! record with such an option was not written by this program, and is refused with the option's name.

use super::option_words::{self, OptionWords};
use super::options::{self, Form, Recorded};
use crate::cli::output::escape::{one_line, path_of_text, quoted, shown};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;

/// Where a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum RecordKind {
    /// In a picture, for a new run.
    Picture,
    /// In a checkpoint, for its own run.
    Checkpoint,
}

/// Options accepted from a record.
#[derive(Debug)]
pub(in crate::cli) struct Accepted {
    pub options: Map<String, Value>,
    /// Notes for the user: files that are read, options that were not accepted.
    pub notes: Vec<String>,
}

/// Accepts options from the record of `file`, except those given on the command line.
///
/// # Errors
/// [`Error::File`] naming the first option that no record may set, that is unknown, or whose value is invalid.
pub(in crate::cli) fn accept(
    file: &Path,
    kind: RecordKind,
    record: &Map<String, Value>,
    given: &[OptionWords],
) -> Result<Accepted> {
    let refuse = |problem: String, remedy: String| Err(Error::file(file, problem, remedy));
    let mut accepted = Accepted { options: Map::new(), notes: Vec::new() };
    let mut read = Vec::new();
    for (name, value) in &*in_present_form(record) {
        let Some(row) = options::row(name) else {
            return refuse(
                format!("its record has an unknown option: `{}`", one_line(name)),
                "Use the version of mirage that wrote it, and only files that you trust".to_owned(),
            );
        };
        let long = row.long();
        let Some(form) = row.form() else {
            return refuse(
                format!("its record sets --{long}, which only the command line may set"),
                format!(
                    "Don't trust this file: mirage records no such option. To use --{long}, give it on the command line"
                ),
            );
        };
        if option_words::is_replaced(name, given) {
            continue;
        }
        if let Some(problem) = form.problem(value) {
            if option_words::is_given(given, name) {
                continue;
            }
            return refuse(
                format!("the value of --{long} in its record can't be used: {problem}"),
                format!("Give --{long} on the command line, and use only files that you trust"),
            );
        }
        let is_taken = match row.recorded {
            Recorded::Always(_) => true,
            Recorded::Resumed(_) => kind == RecordKind::Checkpoint,
            Recorded::No | Recorded::Shown(_) => false,
        };
        if is_taken {
            for path in form.files(value) {
                let path = path_of_text(path);
                check_ordinary(file, &long, &path)?;
                read.push(format!("{} ({long})", shown(&path)));
            }
            accepted.options.insert(name.clone(), value.clone());
        } else {
            accepted.notes.extend(not_taken(name, form, value));
        }
    }
    if !read.is_empty() {
        accepted.notes.insert(0, format!("files taken from the record: {}", read.join(", ")));
    }
    Ok(accepted)
}

/// True for a record by a version without scales: its iterations are a number, not a list with a number per scale.
pub(in crate::cli) fn has_one_scale(record: &Map<String, Value>) -> bool {
    record.get("iterations").is_some_and(Value::is_u64)
}

/// Converts a record to the form of this version. Versions without scales did not record options that they lacked.
fn in_present_form(record: &Map<String, Value>) -> Cow<'_, Map<String, Value>> {
    if !has_one_scale(record) {
        return Cow::Borrowed(record);
    }
    let mut options = record.clone();
    options.entry("iterations").and_modify(|iterations| *iterations = vec![iterations.take()].into());
    for (name, value) in [
        ("scales", Value::from("1")),
        ("average_decay", 0.into()),
        ("learning_rate_decay", 0.into()),
        ("style_statistic", "gram".into()),
        ("tv_kind", "squared".into()),
        ("border", "zeros".into()),
        ("optimizer", "adam".into()),
    ] {
        options.entry(name).or_insert(value);
    }
    Cow::Owned(options)
}

/// Returns a note on an option that is not accepted, if it would have made a difference.
fn not_taken(name: &str, form: Form, value: &Value) -> Option<String> {
    let text = value.as_str()?;
    // The output has its own note; numbers and switches concern only the earlier run.
    let counts = name != "output" && matches!(form, Form::Text | Form::File);
    let option = options::row(name)?.long();
    counts.then(|| {
        format!("--{option} is not read from records: to use it, give --{option} {}", word(form, text))
    })
}

/// Quotes a recorded text for a shell.
fn word(form: Form, text: &str) -> String {
    if form == Form::File { quoted(path_of_text(text)) } else { quoted(text) }
}

/// Refuses devices and pipes, which may never end.
fn check_ordinary(file: &Path, option: &str, path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if !found.is_file() => Err(Error::file(
            file,
            format!("its record names {} for --{option}, which is not an ordinary file", shown(path)),
            format!("Give --{option} on the command line, and use only files that you trust"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::options::TABLE;
    use super::*;
    use serde_json::json;

    fn taken(kind: RecordKind, record: &Value, given: &[&str]) -> Result<Accepted> {
        let given: Vec<OptionWords> = given.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        accept(Path::new("some file"), kind, record.as_object().unwrap(), &given)
    }

    fn refusal(record: &Value) -> String {
        for kind in [RecordKind::Picture, RecordKind::Checkpoint] {
            taken(kind, record, &[]).unwrap_err();
        }
        let error = taken(RecordKind::Checkpoint, record, &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(!crate::cli::output::escape::has_control(&text), "{text:?}");
        text
    }

    #[test]
    fn old_record_keeps_single_scale() {
        let record =
            json!({ "iterations": 150, "seed": 3, "pooling": "max", "style_statistic": "wasserstein" });
        let accepted = taken(RecordKind::Picture, &record, &[]).unwrap().options;
        assert_eq!(accepted["iterations"], json!([150]));
        assert_eq!((&accepted["scales"], &accepted["average_decay"]), (&json!("1"), &json!(0)));
        assert_eq!(
            (&accepted["border"], &accepted["style_statistic"]),
            (&json!("zeros"), &json!("wasserstein"))
        );
        let words =
            [option_words::recorded(&accepted), vec![("photo".to_owned(), vec!["p.png".into()])]].concat();
        assert_eq!(option_words::parse(&words).unwrap().optimisation.iterations, [150]);
        let record = json!({ "iterations": [150], "seed": 3 });
        assert_eq!(taken(RecordKind::Picture, &record, &[]).unwrap().options.len(), 2);
        assert!(
            !taken(RecordKind::Picture, &json!({ "iterations": 5 }), &["iterations"])
                .unwrap()
                .options
                .contains_key("iterations")
        );
    }

    #[test]
    fn options_not_allowed_in_records_are_refused() {
        for row in TABLE.iter().filter(|row| row.recorded == Recorded::No) {
            for value in
                [json!("x"), json!(true), json!(false), json!(0), json!(null), json!(["/etc/passwd"])]
            {
                let text = refusal(&json!({ "seed": 1, row.name: value }));
                assert!(text.contains(&format!("--{}", row.long())), "{text}");
            }
        }
        // Even if the user gives it too: the record is still a forgery.
        assert!(taken(RecordKind::Picture, &json!({ "log": "x" }), &["log"]).is_err());
    }

    #[test]
    fn unknown_names_are_refused_and_escaped() {
        for name in
            ["colour", "", "--log", "log=x", "Log", "shader_dir", "help", "continue", "a\u{1b}[2Jb\n", "file"]
        {
            let text = refusal(&json!({ name: 1 }));
            assert!(text.contains(&*one_line(name)), "{text}");
        }
    }

    #[test]
    fn values_of_wrong_type_are_refused() {
        let values = [
            (json!(1.5), "number"),
            (json!(true), "switch"),
            (json!("text"), "text"),
            (json!([1, 2]), "numbers"),
            (json!(["a", "b"]), "files"),
            (json!({ "a": 1 }), "object"),
            (json!([[1]]), "nested"),
            (json!([null]), "nulls"),
            (json!("a\u{1b}[31m"), "control"),
            (json!("a\nb"), "control"),
            (json!("a\u{202e}b"), "control"),
            (json!("x".repeat((16 << 10) + 1)), "long"),
            (json!(vec![1; 10_001]), "many"),
            (json!(vec!["a"; 10_001]), "many"),
        ];
        for row in TABLE.iter().filter(|row| row.form().is_some()) {
            let fitting = match row.form().unwrap() {
                Form::Number => "number",
                Form::Switch => "switch",
                Form::Text | Form::File | Form::FileOr(_) => "text",
                Form::Numbers => "numbers",
                Form::Files => "files",
            };
            for (value, kind) in &values {
                let record = json!({ row.name: value });
                if *kind == fitting {
                    taken(RecordKind::Checkpoint, &record, &[]).unwrap();
                } else {
                    let text = refusal(&record);
                    assert!(text.contains(&format!("--{}", row.long())), "{kind}: {text}");
                    // An option given in its place is not checked.
                    taken(RecordKind::Checkpoint, &record, &[row.name]).unwrap();
                }
            }
        }
    }

    #[test]
    fn pictures_provide_fewer_options_than_checkpoints() {
        let record = json!({
            "photo": "/p.png", "output": "/elsewhere/x.png", "seed": 3, "save_every": 1, "checkpoint_every": 1, "top": 9,
            "bit_depth": 16, "labels": "/l.txt", "adapter": "$(touch x)", "kernels": "buffer", "init": "noise",
            "style_image": ["/s.png"], "balance": null,
        });
        let names = |accepted: &Accepted| accepted.options.keys().cloned().collect::<Vec<_>>();
        let picture = taken(RecordKind::Picture, &record, &[]).unwrap();
        assert_eq!(names(&picture), ["balance", "init", "kernels", "photo", "seed", "style_image"]);
        let notes = picture.notes.join("\n");
        for words in ["/p.png (photo)", "/s.png (style-image)", "--labels /l.txt", "--adapter '$(touch x)'"] {
            assert!(notes.contains(words), "{words}: {notes}");
        }
        assert!(!notes.contains("noise") && !notes.contains("elsewhere"), "{notes}");
        let checkpoint = taken(RecordKind::Checkpoint, &record, &["seed"]).unwrap();
        for name in ["save_every", "checkpoint_every", "top", "bit_depth", "labels"] {
            assert!(checkpoint.options.contains_key(name), "{name}");
        }
        for name in ["output", "adapter", "seed"] {
            assert!(!checkpoint.options.contains_key(name), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_ordinary_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["/dev/zero", "/dev/null", folder.path().to_str().unwrap()] {
            for record in [
                json!({ "photo": path }),
                json!({ "weights": path }),
                json!({ "init": path }),
                json!({ "style_image": [path] }),
            ] {
                let text = refusal(&record);
                assert!(text.contains(path) && text.contains("not an ordinary file"), "{text}");
            }
        }
    }
}
