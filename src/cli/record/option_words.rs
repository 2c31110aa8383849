//! Options as words of a command line: recorded ones, those that the user gave, and both merged.
//!
//! `mirage resume`, `mirage sweep` and `mirage show` are based on this: a picture stores the options of its run as JSON
//! under their names, so the run can be repeated, with changes.

use super::options;
use crate::cli::args::RenderArgs;
use crate::cli::output::escape::path_of_text;
use crate::error::{Error, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _};
use serde_json::{Map, Value};
use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

/// An option's name in a record, and its words on a command line.
pub(in crate::cli) type OptionWords = (String, Vec<OsString>);

/// True if the option with this record name is among those given.
pub(in crate::cli) fn is_given(given: &[OptionWords], name: &str) -> bool {
    given.iter().any(|(other, _)| other == name)
}

/// Returns the command `mirage render` with an optional photo.
pub(in crate::cli) fn command() -> Command {
    RenderArgs::augment_args(Command::new("mirage").no_binary_name(true))
        .mut_arg("photo", |arg| arg.required(false))
}

/// Returns the options of `mirage render` that were given on the command line, as words.
pub(in crate::cli) fn given(matches: &ArgMatches) -> Vec<OptionWords> {
    let mut found = Vec::new();
    for arg in command().get_arguments() {
        let name = arg.get_id().as_str();
        let there = matches.try_contains_id(name).unwrap_or(false);
        if !there || matches.value_source(name) != Some(ValueSource::CommandLine) {
            continue;
        }
        let Some(long) = arg.get_long() else {
            // The photo, which is positional.
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

/// Returns the options of a record, as words.
pub(in crate::cli) fn recorded(options: &Map<String, Value>) -> Vec<OptionWords> {
    let word = |name: &str, value: &Value, is_file: bool| {
        let text = match value {
            Value::String(path) if is_file => path_of_text(path).into_os_string(),
            Value::String(text) => text.into(),
            other => other.to_string().into(),
        };
        if name == "photo" {
            return text;
        }
        let mut word = OsString::from(format!("--{}=", name.replace('_', "-")));
        word.push(text);
        word
    };
    let flag = |name: &str| vec![OsString::from(format!("--{}", name.replace('_', "-")))];
    let mut found = Vec::new();
    for (name, value) in options {
        let form = options::row(name).and_then(options::Row::form);
        let is_file = form.is_some_and(|form| !form.files(value).is_empty());
        let words = match value {
            Value::Null => continue,
            Value::Bool(false) if name == "clamp" => vec!["--no-clamp".into()],
            Value::Bool(false) => continue,
            Value::Bool(true) => flag(name),
            Value::Array(values) if values.is_empty() => continue,
            Value::Array(values) => values.iter().map(|value| word(name, value, is_file)).collect(),
            value => vec![word(name, value, is_file)],
        };
        found.push((name.clone(), words));
    }
    found
}

/// Pairs of options that exclude each other on a command line.
static EXCLUSIVE: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| {
    let command = command();
    let name = |arg: &Arg| arg.get_id().as_str().to_owned();
    let pairs =
        |arg| command.get_arg_conflicts_with(arg).into_iter().map(move |other| [name(arg), name(other)]);
    command.get_arguments().flat_map(pairs).collect()
});

/// True if a recorded option is dropped because of those given: the option itself, one that excludes it, or one that it
/// belongs to.
pub(in crate::cli) fn is_replaced(name: &str, given: &[OptionWords]) -> bool {
    let row = options::row(name);
    let itself = is_given(given, name) && !row.is_some_and(|row| row.named_parts);
    let owners = row.map(|row| row.dropped_with).unwrap_or_default();
    let excludes = |[one, other]: &[String; 2]| {
        (one == name && is_given(given, other)) || (other == name && is_given(given, one))
    };
    itself || owners.iter().any(|owner| is_given(given, owner)) || EXCLUSIVE.iter().any(excludes)
}

/// Merges recorded options with those given, which replace them.
pub(in crate::cli) fn merged(recorded: Vec<OptionWords>, given: &[OptionWords]) -> Vec<OptionWords> {
    let (mut all, mut parts) = (Vec::new(), Vec::new());
    for option in recorded.into_iter().filter(|(name, _)| !is_replaced(name, given)) {
        if is_given(given, &option.0) { parts.push(option) } else { all.push(option) }
    }
    for (name, words) in given {
        let words = match parts.iter().find(|(other, _)| other == name) {
            Some((_, recorded)) => {
                recorded.iter().chain(words).cloned().reduce(|one, other| with_parts(&one, &other))
            }
            None => None,
        }
        .map_or_else(|| words.clone(), |word| vec![word]);
        all.push((name.clone(), words));
    }
    all
}

/// Merges `--option=a=1,b=2` and `--option=b=3,c=4` to `--option=a=1,b=3,c=4`. Invalid parts are kept, and refused when
/// the options are parsed.
fn with_parts(recorded: &OsStr, given: &OsStr) -> OsString {
    let (Some((option, recorded)), Some((_, parts))) = (split(recorded), split(given)) else {
        return given.to_owned();
    };
    let name = |part: &str| part.split('=').next().unwrap_or_default().trim().to_owned();
    let is_given = |part: &&str| parts.split(',').any(|other| name(other) == name(part));
    let kept = recorded.split(',').filter(|part| !is_given(part));
    let all: Vec<&str> = kept.chain(parts.split(',')).collect();
    format!("{option}={}", all.join(",")).into()
}

/// Splits a word `--option=value`.
fn split(word: &OsStr) -> Option<(&str, &str)> {
    word.to_str()?.split_once('=')
}

/// Parses the options of `mirage render` from words.
///
/// # Errors
/// [`Error::Usage`] with clap's message.
pub(in crate::cli) fn parse(options: &[OptionWords]) -> Result<RenderArgs> {
    // A photo's name may look like an option.
    let photo = |(name, _): &&OptionWords| name == "photo";
    let words = options.iter().filter(|option| !photo(option)).flat_map(|(_, words)| words.clone());
    let photo = options.iter().filter(photo).flat_map(|(_, words)| words.clone());
    let words = words.chain(["--".into()]).chain(photo);
    let read = |command: Command| RenderArgs::from_arg_matches(&command.try_get_matches_from(words)?);
    read(RenderArgs::augment_args(Command::new("mirage").no_binary_name(true))).map_err(|error| {
        let text = error.to_string();
        let text = text.trim_start_matches("error: ");
        // The rest is usage hints for a command line that the user didn't type.
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
    fn given_options_round_trip() {
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
    fn records_are_converted_to_words() {
        let options = json!({
            "photo": "-odd name.png", "size": 64, "clamp": false, "exact": true, "save_early": false,
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
        assert!(!all.iter().any(|word| word.contains("balance") || word.contains("early")), "{all:?}");
    }

    #[test]
    fn given_options_replace_recorded_ones() {
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

    /// Otherwise the given option would be refused because of the recorded one.
    #[test]
    fn given_option_replaces_conflicting_recorded_ones() {
        let option = |name: &str, value: &str| {
            let word = format!("--{}={value}", name.replace('_', "-"));
            (name.to_owned(), vec![OsString::from(word)])
        };
        let values = [
            ("abstract", "fc7"),
            ("abstract_image", "a.png"),
            ("classes", "castle"),
            ("balance", "style=1"),
            ("spatial_weight", "1"),
            ("abstract_weight", "1"),
            ("style_weight", "1"),
        ];
        let value = |wanted: &str| values.iter().find(|(name, _)| *name == wanted).unwrap().1;
        for pair in [
            ["classes", "abstract"],
            ["classes", "abstract_image"],
            ["balance", "spatial_weight"],
            ["balance", "abstract_weight"],
            ["balance", "style_weight"],
        ] {
            for [old, new] in [pair, [pair[1], pair[0]]] {
                let [old, new] = [old, new].map(|name| option(name, value(name)));
                let photo = ("photo".to_owned(), vec![OsString::from("p.png")]);
                parse(&[photo.clone(), old.clone(), new.clone()]).unwrap_err();
                let given = [new.clone()];
                assert_eq!(merged(vec![photo.clone(), old], &given), [photo, new]);
            }
        }
        assert!(!is_replaced("abstract", &[option("abstract_image", "a.png")]));
    }

    #[test]
    fn shares_not_given_stay_as_recorded() {
        let old = vec![("balance".to_owned(), vec!["--balance=spatial=20,abstract=0,style=40".into()])];
        for (given, expected) in [
            (&["--balance=style=50"][..], "spatial=20,abstract=0,style=50"),
            (&["--balance", " style = 50 ,spatial=1"], "abstract=0,style=50,spatial=1"),
            (&[], "spatial=20,abstract=0,style=40"),
        ] {
            let all = merged(old.clone(), &super::given(&matches(given)));
            assert_eq!(
                parse(&[all, vec![("photo".to_owned(), vec!["p.png".into()])]].concat())
                    .unwrap()
                    .balance
                    .balance,
                Some(expected.parse().unwrap())
            );
        }
        // Raw weights still replace all of it.
        let raw = super::given(&matches(&["--style-weight=3"]));
        assert_eq!(merged(old.clone(), &raw), raw);
        let wrong = super::given(&matches(&["--balance=style=50"]));
        let forged = vec![("balance".to_owned(), vec!["--balance=spatial".into()])];
        assert!(texts(&merged(forged, &wrong)).contains(&"--balance=spatial,style=50".to_owned()));
    }

    #[test]
    fn errors_are_one_line() {
        let error = parse(&[("seed".to_owned(), vec!["--seed=x".into()])]).unwrap_err();
        assert!(
            matches!(&error, Error::Usage(text) if text.contains("--seed") && !text.contains('\n')),
            "{error}"
        );
    }
}
