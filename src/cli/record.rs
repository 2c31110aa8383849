//! The record of a run: its options as they were resolved, for the log and for the picture itself.

use super::args::RenderArgs;
use super::names::Names;
use super::options;
use super::values;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::image_io;
use crate::mirage::preset::{ABSTRACT, Preset, SMOOTH, SPATIAL, STYLE, layers_text};
use crate::mirage::{Readout, Report, Request, Shares, Strength, Target, Weights};
use crate::vgg::Network;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// This program's version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the keys of a picture's texts begin with.
const PREFIX: &str = "neural-mirage:";

/// All recorded options after defaults, named as on the command line. Values that don't apply are `null`.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Options(Map<String, Value>);

impl Options {
    /// From the arguments, with what became of those that are worked out.
    ///
    /// # Errors
    /// [`Error::Usage`] if an argument has no form for a record, which no argument can cause.
    pub(super) fn new(
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
            // With classes the layer is that of the class scores, and no choice.
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
            learning_rate: request.optimizer.control(0)[0],
        })?;
        let mut options = json_of(args)?;
        options.extend(resolved);
        Ok(Self(options))
    }

    /// The same for a picture of another name, on the way to this one.
    ///
    /// `iterations` are given if it is of a run of one scale that goes on behind it.
    pub(super) fn of_snapshot(&self, output: &Path, iterations: Option<u32>) -> Self {
        let mut options = self.0.clone();
        options.insert("output".to_owned(), values::path(output));
        if let Some(iterations) = iterations {
            options.insert("iterations".to_owned(), vec![iterations].into());
        }
        options.insert("save_at".to_owned(), Value::Array(Vec::new()));
        Self(options)
    }

    /// The options with paths that hold wherever the program is started.
    ///
    /// # Errors
    /// [`Error::Io`] if the current folder can't be found.
    pub(super) fn absolute(&self) -> Result<Map<String, Value>> {
        let mut options = self.0.clone();
        let whole = |text: &mut String| -> Result<()> {
            let path = std::path::absolute(&*text).map_err(Error::io(Path::new(text), "finding the file"))?;
            *text = path.to_string_lossy().into_owned();
            Ok(())
        };
        for (name, value) in &mut options {
            let form = options::row(name).and_then(options::Row::form);
            form.map(|form| form.files_mut(value)).unwrap_or_default().into_iter().try_for_each(whole)?;
        }
        Ok(options)
    }

    /// All options as JSON.
    pub(super) fn map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The texts that a picture carries.
    pub(super) fn embed(&self, facts: &Facts, iterations: u32, seconds: f64) -> Vec<(String, String)> {
        let mut texts = vec![
            ("options", Value::Object(self.0.clone()).to_string()),
            ("seed", self.0.get("seed").map(Value::to_string).unwrap_or_default()),
            ("iterations", iterations.to_string()),
            ("seconds", format!("{seconds:.3}")),
            ("adapter", facts.device.clone()),
            ("network-sha256", facts.sha256.clone()),
            ("version", VERSION.to_owned()),
            ("run", facts.run.clone()),
        ];
        let known = [("losses", &facts.losses), ("classes", &facts.classes), ("weights", &facts.weights)];
        texts.extend(known.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))));
        let named = texts.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value));
        [("Software".to_owned(), format!("neural-mirage {VERSION}"))].into_iter().chain(named).collect()
    }
}

/// What a picture tells of its run besides the options.
#[derive(Debug)]
pub(super) struct Facts {
    /// A name for the run that nobody can guess: what carries it may be replaced when the run goes on.
    pub run: String,
    /// Adapter, backend and driver.
    pub device: String,
    /// Of the network's file.
    pub sha256: String,
    /// The last report, as JSON.
    pub losses: Option<String>,
    /// What the network sees in the picture, as JSON.
    pub classes: Option<String>,
    /// Raw weights in force, as options.
    pub weights: Option<String>,
}

impl Facts {
    /// Of a run that was made with the network of this SHA-256; `run` is the name of one that goes on.
    pub(super) fn new(sha256: String, run: Option<String>) -> Self {
        let run = run.filter(|run| !run.is_empty());
        Self {
            run: run.unwrap_or_else(|| hex(&rand::random::<[u8; 16]>())),
            device: String::new(),
            sha256,
            losses: None,
            classes: None,
            weights: None,
        }
    }

    /// Takes over a report.
    pub(super) fn report(&mut self, report: &Report, names: &Names) {
        let factors: Map<String, Value> = report
            .groups()
            .into_iter()
            .map(|group| {
                let share = report.gradient_share(group);
                (group.to_owned(), json!({ "loss": report.group_loss(group), "gradient_share": share }))
            })
            .collect();
        let losses = json!({
            "iteration": report.iteration,
            "total": report.total,
            "factors": factors,
        });
        self.losses = Some(losses.to_string());
        self.readout(&report.readout, names);
    }

    /// Takes over what the network sees in the newest picture.
    pub(super) fn readout(&mut self, readout: &Readout, names: &Names) {
        let seen = json!({ "classes": names.classes(&readout.classes), "distance": readout.distance });
        self.classes = (!readout.classes.is_empty()).then(|| seen.to_string());
    }

    /// Takes over raw weights.
    pub(super) fn weighted(&mut self, weights: &Weights) {
        self.weights = Some(weight_options(weights));
    }
}

/// What a picture tells of its run.
#[derive(Debug)]
pub(super) struct Told {
    /// Options, resolved.
    pub options: Map<String, Value>,
    /// The last report.
    pub losses: Map<String, Value>,
    /// What the network sees in the picture.
    pub classes: Map<String, Value>,
    /// Name and text of everything else.
    pub facts: Vec<(String, String)>,
}

impl Told {
    /// From a picture, or a film; none if it tells of no run.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read.
    pub(super) fn by(picture: &Path) -> Result<Option<Self>> {
        let mut options = None;
        let (mut losses, mut classes, mut facts) = (Map::new(), Map::new(), Vec::new());
        for (key, text) in image_io::read_metadata(picture)? {
            match key.strip_prefix(PREFIX) {
                Some("options") => options = serde_json::from_str(&text).ok(),
                Some("losses") => losses = serde_json::from_str(&text).unwrap_or_default(),
                Some("classes") => classes = serde_json::from_str(&text).unwrap_or_default(),
                Some(name) => facts.push((name.to_owned(), text)),
                None => {}
            }
        }
        Ok(options.map(|options| Self { options, losses, classes, facts }))
    }
}

/// Raw weights as the options that set them, to the last bit.
pub(super) fn weight_options(weights: &Weights) -> String {
    let measured = weights.0.iter().filter(|weight| weight.norm.is_some());
    let option = |group: &str| if group == SMOOTH { "tv".to_owned() } else { group.to_owned() };
    let words = measured.map(|weight| format!("--{}-weight {:?}", option(&weight.group), weight.weight));
    words.collect::<Vec<_>>().join(" ")
}

/// Options that are worked out from several arguments, the photo and the network; named as the arguments are.
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
    learning_rate: f32,
}

/// A struct as a JSON object.
fn json_of(value: &impl Serialize) -> Result<Map<String, Value>> {
    // By way of the text, which has 0.03 where the nearest f32 is 0.029999999329.
    serde_json::to_string(value)
        .and_then(|text| serde_json::from_str(&text))
        .map_err(|error| Error::usage(format!("the options can't be recorded: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::words;

    #[test]
    fn the_table_and_the_record_have_the_same_options() {
        let words = |name: &str, word: &str| (name.to_owned(), vec![word.into()]);
        let args =
            words::parse(&[words("photo", "p.png"), words("style_image", "--style-image=s.png")]).unwrap();
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
