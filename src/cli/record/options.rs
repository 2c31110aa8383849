//! The table of options: for each option of `mirage render`, what depends on it, the effect of a change on a resumed
//! run, whether a sweep accepts it, and how it is recorded.
//!
//! `resume`, `sweep`, the records in pictures and checkpoints, and the checks of such records are based on this table.
//! A new option is a clap field in `args` and a row here; a test finds one without the other.

use serde_json::Value;

/// Part of a run that depends on an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Effect {
    /// The picture that is painted.
    Picture,
    /// Where and how files are written.
    Output,
    /// Reports and files during the run.
    Watching,
    /// Device and kernels, which change the picture only by rounding.
    Device,
}

/// Effect of changing an option on a resumed run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Change {
    /// The run continues with the same output.
    Keeps,
    /// The run branches off into a new picture.
    Branches,
    /// It branches off, and its weights are measured again.
    BranchesAndRemeasures,
}

/// How a sweep treats an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Sweeping {
    /// It can be varied.
    Varies,
    /// It can be given for the whole sweep.
    Accepted,
    /// It is only for single runs.
    Refused,
}

/// How a record holds an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Recorded {
    /// Not at all: it says where to write, who may watch, or what may be replaced.
    No,
    /// For information: it is never read back.
    Shown(Form),
    /// Read from pictures and checkpoints.
    Always(Form),
    /// Read from checkpoints, not from pictures.
    Resumed(Form),
}

/// The form of a value in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Form {
    Number,
    Numbers,
    Switch,
    Text,
    /// A file.
    File,
    /// Several files.
    Files,
    /// One of these words, or a file.
    FileOr(&'static [&'static str]),
}

/// Maximum length of an option's text in a record, in bytes: enough for a path of 4096 bytes that are all escaped.
const LONGEST: usize = 16 << 10;

/// Maximum number of values of an option in a record.
const MOST: usize = 10_000;

/// Maximum number of files of an option in a record. Each is read and takes a picture's memory, however often it is
/// named.
const MOST_FILES: usize = 64;

/// One option.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Row {
    /// Name in a record: the long name with `_` for `-`.
    pub name: &'static str,
    pub effect: Effect,
    pub change: Change,
    pub sweeping: Sweeping,
    pub recorded: Recorded,
    /// A recorded value is dropped if one of these is given, because it belongs to them. It is also dropped if an
    /// option that excludes it is given (`conflicts_with` in `args`).
    pub dropped_with: &'static [&'static str],
    /// True for the options that set raw weights of the balance.
    pub raw_weight: bool,
    /// True if the value is a list `NAME=VALUE,...` of parts that may be given one by one: parts that are not given
    /// stay as recorded.
    pub named_parts: bool,
}

impl Row {
    const fn new(name: &'static str, effect: Effect, recorded: Recorded) -> Self {
        let (change, sweeping) = match effect {
            Effect::Picture => (Change::Branches, Sweeping::Varies),
            Effect::Output | Effect::Watching => (Change::Keeps, Sweeping::Refused),
            Effect::Device => (Change::Keeps, Sweeping::Accepted),
        };
        Self {
            name,
            effect,
            change,
            sweeping,
            recorded,
            dropped_with: &[],
            raw_weight: false,
            named_parts: false,
        }
    }

    const fn picture(name: &'static str, form: Form) -> Self {
        Self::new(name, Effect::Picture, Recorded::Always(form))
    }

    const fn output(name: &'static str, recorded: Recorded) -> Self {
        Self::new(name, Effect::Output, recorded)
    }

    const fn watching(name: &'static str, recorded: Recorded) -> Self {
        Self::new(name, Effect::Watching, recorded)
    }

    const fn device(name: &'static str, recorded: Recorded) -> Self {
        Self::new(name, Effect::Device, recorded)
    }

    /// A change leaves the run the same.
    const fn keeps(mut self) -> Self {
        self.change = Change::Keeps;
        self
    }

    const fn branches(mut self) -> Self {
        self.change = Change::Branches;
        self
    }

    /// A change alters the gradients.
    const fn changes_gradients(mut self) -> Self {
        self.change = Change::BranchesAndRemeasures;
        self
    }

    /// A sweep may vary it, although the picture does not depend on it.
    const fn varies(mut self) -> Self {
        self.sweeping = Sweeping::Varies;
        self
    }

    /// A sweep accepts it.
    const fn any_command(mut self) -> Self {
        self.sweeping = Sweeping::Accepted;
        self
    }

    const fn for_one_run(mut self) -> Self {
        self.sweeping = Sweeping::Refused;
        self
    }

    const fn dropped_with(mut self, names: &'static [&'static str]) -> Self {
        self.dropped_with = names;
        self
    }

    const fn raw_weight(mut self) -> Self {
        self.raw_weight = true;
        self
    }

    const fn named_parts(mut self) -> Self {
        self.named_parts = true;
        self
    }

    /// Returns the name on the command line, without its dashes.
    pub(in crate::cli) fn long(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Returns the form of its value in a record, if it is recorded.
    pub(in crate::cli) fn form(&self) -> Option<Form> {
        match self.recorded {
            Recorded::No => None,
            Recorded::Shown(form) | Recorded::Always(form) | Recorded::Resumed(form) => Some(form),
        }
    }
}

use Form::{File, FileOr, Files, Number, Numbers, Switch, Text};
use Recorded::{No, Resumed, Shown};

/// All options of `mirage render`, in the order of its help.
pub(in crate::cli) const TABLE: &[Row] = &[
    Row::picture("photo", File).keeps(),
    // Input and output. `output` is read for its format only.
    Row::output("output", Shown(File)).any_command(),
    Row::picture("size", Number),
    Row::device("memory", No),
    Row::picture("alpha", Text).changes_gradients(),
    Row::output("bit_depth", Resumed(Number)),
    Row::output("overwrite", No).any_command(),
    // Factors.
    Row::picture("spatial", Text).changes_gradients(),
    Row::picture("abstract", Text).changes_gradients(),
    Row::picture("style", Text).changes_gradients(),
    Row::picture("style_image", Files).changes_gradients(),
    Row::picture("spatial_image", Files).changes_gradients(),
    Row::picture("abstract_image", Files).changes_gradients(),
    Row::picture("classes", Text).changes_gradients(),
    Row::picture("style_statistic", Text).changes_gradients(),
    Row::picture("style_blend", Numbers).changes_gradients().dropped_with(&["style_image"]),
    // Balance: shares and raw weights exclude each other.
    Row::picture("balance", Text).changes_gradients().named_parts(),
    Row::picture("rebalance_every", Number),
    Row::picture("spatial_weight", Number).raw_weight(),
    Row::picture("abstract_weight", Number).raw_weight(),
    Row::picture("style_weight", Number).raw_weight(),
    Row::picture("tv_weight", Number),
    Row::picture("tv_kind", Text),
    // Network.
    Row::picture("weights", File).changes_gradients(),
    Row::picture("preprocessing", Text).changes_gradients().dropped_with(&["weights"]),
    Row::picture("pooling", Text).changes_gradients(),
    Row::picture("border", Text).changes_gradients(),
    Row::new("labels", Effect::Picture, Resumed(File)).keeps(),
    // Optimisation.
    Row::picture("iterations", Numbers).keeps(),
    Row::picture("scales", Text),
    Row::picture("min_size", Number),
    Row::picture("average_decay", Number),
    Row::picture("grain", Number).dropped_with(&["style_image"]),
    Row::picture("init", FileOr(&["noise", "blur", "photo", "gray"])),
    Row::picture("seed", Number),
    Row::picture("optimizer", Text),
    Row::picture("learning_rate", Number).dropped_with(&["optimizer"]),
    Row::picture("history", Number),
    Row::picture("learning_rate_decay", Number),
    Row::picture("beta1", Number),
    Row::picture("beta2", Number),
    Row::picture("epsilon", Number),
    Row::picture("stop_when_change_below", Number).keeps(),
    Row::picture("clamp", Switch).dropped_with(&["no_clamp"]),
    Row::new("no_clamp", Effect::Picture, No),
    // Watching.
    Row::watching("print_every", Resumed(Number)),
    Row::watching("save_every", Resumed(Number)),
    Row::watching("save_at", Resumed(Numbers)),
    Row::watching("save_early", Resumed(Switch)),
    Row::output("film", No),
    Row::watching("checkpoint_every", Resumed(Number)),
    Row::watching("retry", No),
    Row::watching("web", No),
    Row::watching("web_host", No),
    Row::output("log", No),
    Row::output("trace", No),
    Row::watching("top", Resumed(Number)).any_command(),
    Row::watching("verbose", No).any_command(),
    Row::watching("quiet", No).any_command(),
    // Device.
    Row::device("adapter", Shown(Text)).varies(),
    Row::device("threads", No),
    Row::device("kernels", Recorded::Always(Text)).varies(),
    Row::device("exact", Recorded::Always(Switch)).branches().varies(),
    Row::device("precision", Recorded::Always(Text)).branches().varies(),
    Row::device("checkpoint_activations", Recorded::Always(Switch)),
    Row::device("half_activations", Recorded::Always(Switch)).branches().varies(),
    Row::device("tile", Recorded::Always(Text)),
    Row::device("verify", No).for_one_run(),
    Row::device("patience", No),
    Row::device("lose_device_after", No),
    Row::device("tuning_cache", No),
    Row::device("no_tuning_cache", No),
];

/// Returns the row of an option, by its name in a record.
pub(in crate::cli) fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// Returns the names of the options for whose rows `holds` is true.
pub(in crate::cli) fn names(holds: impl Fn(&Row) -> bool) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |row| holds(row)).map(|row| row.name)
}

impl Form {
    /// Returns why a recorded value is invalid for this form, if it is. `null` means that the option doesn't apply.
    pub(in crate::cli) fn problem(self, value: &Value) -> Option<String> {
        if let Some(problem) = self.too_long(value) {
            return Some(problem);
        }
        let text = |value: &Value| match value {
            Value::String(text) if crate::cli::output::escape::has_control(text) => {
                Some("it has control characters".to_owned())
            }
            Value::String(_) => None,
            _ => Some("it is not a text".to_owned()),
        };
        match (self, value) {
            (_, Value::Null) => None,
            (Number, Value::Number(_)) | (Switch, Value::Bool(_)) => None,
            (Number, _) => Some("it is not a number".to_owned()),
            (Switch, _) => Some("it is neither true nor false".to_owned()),
            (Numbers, Value::Array(all)) if all.iter().all(Value::is_number) => None,
            (Numbers, _) => Some("it is not a list of numbers".to_owned()),
            (Files, Value::Array(all)) => all.iter().find_map(text),
            (Files, _) => Some("it is not a list of files".to_owned()),
            (Text | File | FileOr(_), value) => text(value),
        }
    }

    /// Returns why a value is too long for a record, if it is.
    pub(in crate::cli) fn too_long(self, value: &Value) -> Option<String> {
        match (self, value) {
            (Files, Value::Array(all)) if all.len() > MOST_FILES => {
                Some(format!("it has {} files; at most {MOST_FILES} are allowed", all.len()))
            }
            (_, Value::Array(all)) if all.len() > MOST => {
                Some(format!("it has {} values; at most {MOST} are allowed", all.len()))
            }
            (_, Value::Array(all)) => all.iter().find_map(|value| self.too_long(value)),
            (_, Value::String(text)) if text.len() > LONGEST => {
                Some(format!("it is {} bytes long; at most {LONGEST} are allowed", text.len()))
            }
            _ => None,
        }
    }

    /// Returns the files that a value of this form names.
    pub(in crate::cli) fn files(self, value: &Value) -> Vec<&str> {
        let names = self.names_files(value);
        let texts = match value {
            Value::Array(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        texts.iter().filter(|_| names).filter_map(Value::as_str).collect()
    }

    /// Like [`Form::files`], mutable.
    pub(in crate::cli) fn files_mut(self, value: &mut Value) -> Vec<&mut String> {
        let names = self.names_files(value);
        let texts = match value {
            Value::Array(all) => all.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        let text = |value| match value {
            &mut Value::String(ref mut text) => Some(text),
            _ => None,
        };
        texts.iter_mut().filter(|_| names).filter_map(text).collect()
    }

    fn names_files(self, value: &Value) -> bool {
        match (self, value) {
            (File, Value::String(_)) | (Files, Value::Array(_)) => true,
            (FileOr(words), Value::String(text)) => !words.contains(&text.as_str()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::record::option_words;
    use clap::ArgAction;

    #[test]
    fn options_and_table_rows_match() {
        let command = option_words::command();
        let arguments: Vec<&str> = command
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .filter(|name| !["help", "version"].contains(name))
            .collect();
        for name in &arguments {
            assert!(row(name).is_some(), "--{name} has no row in the table of options");
        }
        for row in TABLE {
            assert!(arguments.contains(&row.name), "the row {} is of no option", row.name);
            assert_eq!(names(|other| other.name == row.name).count(), 1, "{} has two rows", row.name);
            for other in row.dropped_with {
                assert!(
                    arguments.contains(other),
                    "{} is dropped with {other}, which is no option",
                    row.name
                );
            }
        }
    }

    #[test]
    fn table_rows_match_clap() {
        for arg in option_words::command().get_arguments() {
            let Some(row) = row(arg.get_id().as_str()) else { continue };
            assert!(arg.is_positional() || arg.get_long() == Some(&row.long()), "{}", row.name);
            if let Some(form) = row.form() {
                let switch = matches!(arg.get_action(), ArgAction::SetTrue);
                assert_eq!(switch, form == Switch, "{}", row.name);
                let many = matches!(arg.get_action(), ArgAction::Append);
                assert_eq!(many, matches!(form, Files | Numbers), "{}", row.name);
            }
        }
    }

    /// Where to write, who may connect and what may be replaced never come from a record.
    #[test]
    fn records_set_only_options_that_affect_the_picture() {
        for name in [
            "output",
            "overwrite",
            "film",
            "log",
            "trace",
            "web",
            "web_host",
            "adapter",
            "threads",
            "tuning_cache",
            "no_tuning_cache",
            "verify",
            "verbose",
            "quiet",
        ] {
            assert!(matches!(row(name).unwrap().recorded, No | Shown(_)), "{name}");
        }
        for row in TABLE.iter().filter(|row| matches!(row.recorded, Recorded::Always(_))) {
            assert!(matches!(row.effect, Effect::Picture | Effect::Device), "{}", row.name);
        }
    }
}
