//! The resolved options of a run, for its log, pictures and checkpoints.

use super::options;
use crate::cli::args::RenderArgs;
use crate::cli::output::escape::{path_of_text, path_text};
use crate::cli::values;
use crate::error::{Error, Result};
use crate::mirage::preset::{ABSTRACT, Preset, SPATIAL, STYLE, layers_text};
use crate::mirage::{Request, Shares, Strength, Target};
use crate::vgg::{Network, locate};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// All recorded options with their defaults resolved, named as on the command line. Values that don't apply are `null`.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(in crate::cli) struct RecordedOptions(Map<String, Value>);

impl RecordedOptions {
    /// Resolves the options from the arguments, including those that depend on the network or on each other.
    ///
    /// # Errors
    /// [`Error::Usage`] if a value is too long for a record: the run couldn't be resumed.
    pub(in crate::cli) fn new(
        args: &RenderArgs,
        request: &Request,
        preset: &Preset,
        network: &Network,
        output: &Path,
    ) -> Result<Self> {
        let layers =
            |name| preset.factor(name).map_or("none".to_owned(), |factor| layers_text(&factor.layers));
        let weight = |name| match preset.factor(name)?.strength {
            Strength::Weight(weight) => Some(weight),
            Strength::Share(_) => None,
        };
        let shares = Shares::of(&request.groups);
        let resolved = json_of(&Resolved {
            output: values::path(output),
            spatial: layers(SPATIAL),
            // With classes the layer is that of the class scores, which is not an option.
            r#abstract: args.factors.classes.is_none().then(|| layers(ABSTRACT)),
            style: layers(STYLE),
            style_blend: match &preset.style.target {
                Target::Images(images) => images.iter().map(|(_, blend)| *blend).collect(),
                _ => Vec::new(),
            },
            balance: (!shares.0.is_empty()).then(|| shares.to_string()),
            spatial_weight: weight(SPATIAL),
            abstract_weight: weight(ABSTRACT),
            style_weight: weight(STYLE),
            weights: values::path(&network.path),
            preprocessing: network.preprocessing.to_string(),
            clamp: args.optimisation.clamps(),
            grain: request.grain,
            learning_rate: request.optimizer.control(0)[0],
        })?;
        let mut options = json_of(args)?;
        options.extend(resolved);
        for (name, value) in &options {
            let form = options::row(name).and_then(options::Row::form);
            if let Some(problem) = form.and_then(|form| form.too_long(value)) {
                return Err(Error::usage(format!("--{}: {problem}", name.replace('_', "-"))));
            }
        }
        Ok(Self(options))
    }

    /// Returns the options for a cell of a sweep with this name; with `iterations` if its run continues after it.
    pub(in crate::cli) fn of_cell(&self, output: &Path, iterations: Option<u32>) -> Self {
        let mut options = self.0.clone();
        options.insert("output".to_owned(), values::path(output));
        if let Some(iterations) = iterations {
            options.insert("iterations".to_owned(), vec![iterations].into());
        }
        options.insert("save_at".to_owned(), Value::Array(Vec::new()));
        Self(options)
    }

    /// Returns the options with absolute paths, valid from any folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the current folder can't be found.
    pub(in crate::cli) fn absolute(&self) -> Result<Map<String, Value>> {
        let mut options = self.0.clone();
        let whole = |text: &mut String| -> Result<()> {
            let path = path_of_text(text);
            let whole = std::path::absolute(&path).map_err(Error::io(&path, "finding the file"))?;
            *text = path_text(&whole);
            Ok(())
        };
        for (name, value) in &mut options {
            // The built-in network has a name but no path.
            if name == "weights" && value == locate::NARROW {
                continue;
            }
            let form = options::row(name).and_then(options::Row::form);
            form.map(|form| form.files_mut(value)).unwrap_or_default().into_iter().try_for_each(whole)?;
        }
        Ok(options)
    }

    /// Returns all options as JSON.
    pub(in crate::cli) fn map(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Options that depend on several arguments, the photo or the network; named as the arguments are.
#[derive(Serialize)]
struct Resolved {
    output: Value,
    spatial: String,
    r#abstract: Option<String>,
    style: String,
    style_blend: Vec<f32>,
    balance: Option<String>,
    spatial_weight: Option<f32>,
    abstract_weight: Option<f32>,
    style_weight: Option<f32>,
    weights: Value,
    preprocessing: String,
    clamp: bool,
    grain: f32,
    learning_rate: f32,
}

/// Serialises a struct as a JSON object.
fn json_of(value: &impl Serialize) -> Result<Map<String, Value>> {
    // Through text, which has 0.03 where the nearest f32 is 0.029999999329.
    serde_json::to_string(value)
        .and_then(|text| serde_json::from_str(&text))
        .map_err(|error| Error::usage(format!("the options can't be recorded: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::record::option_words;

    #[test]
    fn table_and_record_have_the_same_options() {
        let words = |name: &str, word: &str| (name.to_owned(), vec![word.into()]);
        let args =
            option_words::parse(&[words("photo", "p.png"), words("style_image", "--style-image=s.png")])
                .unwrap();
        let record = json_of(&args).unwrap();
        for row in options::TABLE {
            assert_eq!(row.form().is_some(), record.contains_key(row.name), "{}", row.name);
            let value = record.get(row.name).unwrap_or(&Value::Null);
            assert_eq!(row.form().and_then(|form| form.problem(value)), None, "{}", row.name);
        }
        for name in record.keys() {
            assert!(options::row(name).is_some(), "{name} is recorded and has no row");
        }
        assert_eq!(record["learning_rate_decay"].to_string(), "0.1");
        assert_eq!(
            options::row("style_image").unwrap().form().unwrap().files(&record["style_image"]),
            ["s.png"]
        );
    }
}
