//! Options as words of a command line: those that a run has recorded, those that somebody gave, and both together.
//!
//! `mirage resume`, `mirage sweep` and `mirage show` all rest on this: what a run was asked for is kept in its
//! picture as JSON with the names of the options, so it can be asked for again, with changes.

use super::args::RenderArgs;
use super::options;
use crate::error::{Error, Result};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _};
use serde_json::{Map, Value};
use std::ffi::OsString;

/// An option, by the name that it has in a record, and its words.
pub(super) type OptionWords = (String, Vec<OsString>);

/// True if an option of this name, as in a record, is among those given.
pub(super) fn is_given(given: &[OptionWords], name: &str) -> bool {
    given.iter().any(|(other, _)| other == name)
}

/// The command that `mirage render` is, but that the photo may be missing.
pub(super) fn command() -> Command {
    RenderArgs::augment_args(Command::new("mirage").no_binary_name(true))
        .mut_arg("photo", |arg| arg.required(false))
}

/// The options of `mirage render` that somebody gave on the command line, as words.
pub(super) fn given(matches: &ArgMatches) -> Vec<OptionWords> {
    let mut found = Vec::new();
    for arg in command().get_arguments() {
        let name = arg.get_id().as_str();
        let there = matches.try_contains_id(name).unwrap_or(false);
        if !there || matches.value_source(name) != Some(ValueSource::CommandLine) {
            continue;
        }
        let Some(long) = arg.get_long() else {
            // The photo, which is named by its place.
            let values = matches.get_raw(name).into_iter().flatten();
            found.push((name.to_owned(), values.map(Into::into).collect()));
            continue;
        };
        let words = match arg.get_action() {
            ArgAction::SetTrue => vec![OsString::from(format!("--{long}"))],
            _ => matches
                .get_raw(name)
                .into_iter()
                .flatten()
                .map(|value| {
                    let mut word = OsString::from(format!("--{long}="));
                    word.push(value);
                    word
                })
                .collect(),
        };
        found.push((name.to_owned(), words));
    }
    found
}

/// The options of a record, as words.
pub(super) fn recorded(options: &Map<String, Value>) -> Vec<OptionWords> {
    let word = |name: &str, value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if name == "photo" {
            text.into()
        } else {
            OsString::from(format!("--{}={text}", name.replace('_', "-")))
        }
    };
    let flag = |name: &str| vec![OsString::from(format!("--{}", name.replace('_', "-")))];
    let mut found = Vec::new();
    for (name, value) in options {
        let words = match value {
            Value::Null => continue,
            Value::Bool(false) if name == "clamp" => vec!["--no-clamp".into()],
            Value::Bool(false) => continue,
            Value::Bool(true) => flag(name),
            Value::Array(values) if values.is_empty() => continue,
            Value::Array(values) => values.iter().map(|value| word(name, value)).collect(),
            value => vec![word(name, value)],
        };
        found.push((name.clone(), words));
    }
    found
}

/// True if a recorded option gives way to those given: to itself, or to one that states the same thing.
pub(super) fn is_replaced(name: &str, given: &[OptionWords]) -> bool {
    let others = options::row(name).map(|row| row.dropped_with).unwrap_or_default();
    is_given(given, name) || others.iter().any(|other| is_given(given, other))
}

/// Recorded options with those that somebody gave in their place.
pub(super) fn merged(recorded: Vec<OptionWords>, given: &[OptionWords]) -> Vec<OptionWords> {
    let mut all: Vec<OptionWords> =
        recorded.into_iter().filter(|(name, _)| !is_replaced(name, given)).collect();
    all.extend(given.iter().cloned());
    all
}

/// The options of `mirage render` from words.
///
/// # Errors
/// [`Error::Usage`] in the words of the command line's own messages.
pub(super) fn parse(options: &[OptionWords]) -> Result<RenderArgs> {
    // A photo's name may begin like an option's.
    let photo = |(name, _): &&OptionWords| name == "photo";
    let words = options.iter().filter(|option| !photo(option)).flat_map(|(_, words)| words.clone());
    let photo = options.iter().filter(photo).flat_map(|(_, words)| words.clone());
    let words = words.chain(["--".into()]).chain(photo);
    let read = |command: Command| RenderArgs::from_arg_matches(&command.try_get_matches_from(words)?);
    read(RenderArgs::augment_args(Command::new("mirage").no_binary_name(true))).map_err(|error| {
        let text = error.to_string();
        let text = text.trim_start_matches("error: ");
        // The rest are hints at a usage that nobody typed.
        Error::usage(text.split("\n\n").next().unwrap_or(text).trim().replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(words: &[&str]) -> ArgMatches {
        command().try_get_matches_from(words).unwrap()
    }

    fn texts(options: &[OptionWords]) -> Vec<String> {
        options.iter().flat_map(|(_, words)| words).map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn only_what_was_given_comes_back_and_means_the_same() {
        let words = [
            "my photo.jpg",
            "--style-image",
            "a b.png",
            "c,d.png",
            "--style-blend=1,2",
            "--save-at",
            "1,2",
            "-v",
            "--seed=7",
            "--no-clamp",
            "--web",
            "--spatial-weight=-1",
        ];
        let found = given(&matches(&words));
        let all = texts(&found);
        assert!(!all.iter().any(|word| word.starts_with("--size")), "{all:?}");
        let args = parse(&found).unwrap();
        assert_eq!(args.photo.to_str(), Some("my photo.jpg"));
        assert_eq!(args.factors.style_image.len(), 2);
        assert_eq!(args.factors.style_blend, [1.0, 2.0]);
        assert_eq!(args.watching.save_at, [1, 2]);
        assert!(args.watching.verbose && !args.optimisation.clamps());
        assert_eq!(args.watching.web, Some(7816));
        assert_eq!(args.balance.spatial_weight, Some(-1.0));
    }

    #[test]
    fn records_become_words() {
        let options = json!({
            "photo": "-odd name.png", "size": 64, "clamp": false, "exact": true, "half_weights": false,
            "balance": null, "style_weight": 0.25, "style_image": ["x y.png", "z.png"], "save_at": [1, 2],
            "spatial": "relu4_2:0.5,relu1_1",
        });
        let Value::Object(options) = options else { panic!("an object") };
        let words = recorded(&options);
        assert_eq!(parse(&words).unwrap().photo.to_str(), Some("-odd name.png"));
        let all = texts(&words);
        for word in [
            "--size=64",
            "--no-clamp",
            "--exact",
            "--style-weight=0.25",
            "--style-image=x y.png",
            "--save-at=2",
            "--spatial=relu4_2:0.5,relu1_1",
        ] {
            assert!(all.iter().any(|other| other == word), "{word}: {all:?}");
        }
        assert!(!all.iter().any(|word| word.contains("balance") || word.contains("half")), "{all:?}");
    }

    #[test]
    fn what_is_given_replaces_what_was_recorded() {
        let record = |name: &str, word: &str| (name.to_owned(), vec![OsString::from(word)]);
        let old = vec![
            record("photo", "p.png"),
            record("balance", "--balance=style=1"),
            record("seed", "--seed=1"),
            record("clamp", "--no-clamp"),
        ];
        let new = given(&matches(&["--style-weight=3", "--clamp", "--seed=2"]));
        let all = merged(old, &new);
        let args = parse(&all).unwrap();
        assert_eq!(args.balance.style_weight, Some(3.0));
        assert_eq!(args.balance.balance, None);
        assert_eq!(args.optimisation.seed, 2);
        assert!(args.optimisation.clamps());
    }

    #[test]
    fn a_wrong_word_is_told_in_a_line() {
        let error = parse(&[("seed".to_owned(), vec!["--seed=x".into()])]).unwrap_err();
        assert!(
            matches!(&error, Error::Usage(text) if text.contains("--seed") && !text.contains('\n')),
            "{error}"
        );
    }
}
