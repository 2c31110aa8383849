//! The record of a run: its options as they were resolved, for the log and for the picture itself.

use super::args::{Depth, RenderArgs, Start};
use super::names::Names;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::image_io;
use crate::mirage::preset::{ABSTRACT, Preset, SMOOTH, SPATIAL, STYLE, layers_text};
use crate::mirage::{Readout, Report, Request, Shares, Strength, Target, Weights};
use crate::vgg::Network;
use clap::ValueEnum as _;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// This program's version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the keys of a picture's texts begin with.
const PREFIX: &str = "neural-mirage:";

/// All options after defaults, named as on the command line. Values that don't apply are `null`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Options {
    photo: String,
    output: String,
    size: u32,
    bit_depth: u8,
    spatial: String,
    r#abstract: String,
    style: String,
    style_image: Vec<String>,
    style_blend: Vec<f32>,
    balance: Option<String>,
    spatial_weight: Option<f32>,
    abstract_weight: Option<f32>,
    style_weight: Option<f32>,
    tv_weight: f32,
    rebalance_every: u32,
    weights: String,
    preprocessing: String,
    pooling: String,
    labels: Option<String>,
    iterations: u32,
    stop_when_change_below: f32,
    init: String,
    seed: u64,
    learning_rate: f32,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    clamp: bool,
    print_every: u32,
    save_every: u32,
    save_at: Vec<u32>,
    save_early: bool,
    checkpoint_every: u32,
    top: usize,
    adapter: Option<String>,
    kernels: String,
    exact: bool,
    half_weights: bool,
    #[serde(skip)]
    starts_from_file: bool,
}

impl Options {
    /// From the arguments and what became of them.
    pub(super) fn new(
        args: &RenderArgs,
        request: &Request,
        preset: &Preset,
        network: &Network,
        output: &Path,
    ) -> Self {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let layers =
            |name| preset.factor(name).map_or("none".to_owned(), |factor| layers_text(&factor.layers));
        let weight = |name| match preset.factor(name)?.strength {
            Strength::Weight(weight) => Some(weight),
            Strength::Share(_) => None,
        };
        let shares = Shares::of(&request.groups);
        let optimisation = &args.optimisation;
        Self {
            photo: path(&args.photo),
            output: path(output),
            size: args.files.size,
            bit_depth: match args.files.bit_depth {
                Depth::Eight => 8,
                Depth::Sixteen => 16,
            },
            spatial: layers(SPATIAL),
            r#abstract: layers(ABSTRACT),
            style: layers(STYLE),
            style_image: args.factors.style_image.iter().map(|image| path(image)).collect(),
            style_blend: match &preset.style.target {
                Target::Images(images) => images.iter().map(|(_, blend)| *blend).collect(),
                _ => Vec::new(),
            },
            balance: (!shares.0.is_empty()).then(|| shares.to_string()),
            spatial_weight: weight(SPATIAL),
            abstract_weight: weight(ABSTRACT),
            style_weight: weight(STYLE),
            tv_weight: preset.smooth_weight,
            rebalance_every: request.rebalance_every,
            weights: path(&network.path),
            preprocessing: network.preprocessing.to_string(),
            pooling: name(args.network.pooling.to_possible_value()),
            labels: args.network.labels.as_deref().map(path),
            iterations: optimisation.iterations,
            stop_when_change_below: request.stop_when_change_below,
            init: args.optimisation.init.text(),
            seed: request.seed,
            learning_rate: optimisation.learning_rate,
            beta1: optimisation.beta1,
            beta2: optimisation.beta2,
            epsilon: optimisation.epsilon,
            clamp: optimisation.clamps(),
            print_every: request.schedule.report_every,
            save_every: request.schedule.snapshot_every,
            save_at: args.watching.save_at.clone(),
            save_early: args.watching.save_early,
            checkpoint_every: args.watching.checkpoint_every,
            top: request.top_classes,
            adapter: args.device.adapter.clone(),
            kernels: name(args.device.kernels.to_possible_value()),
            exact: args.device.exact,
            half_weights: args.device.half_weights,
            starts_from_file: matches!(args.optimisation.init, Start::File(_)),
        }
    }

    /// The same for a picture of another name, on the way to this one.
    pub(super) fn of_snapshot(&self, output: &Path, iterations: u32) -> Self {
        Self {
            output: output.to_string_lossy().into_owned(),
            iterations,
            save_at: Vec::new(),
            ..self.clone()
        }
    }

    /// The options with paths that hold wherever the program is started.
    ///
    /// # Errors
    /// [`Error::Io`] if the current folder can't be found.
    pub(super) fn absolute(&self) -> Result<Map<String, Value>> {
        let mut options = self.map();
        let whole = |text: &mut String| -> Result<()> {
            let path = std::path::absolute(&*text).map_err(Error::io(Path::new(text), "finding the file"))?;
            *text = path.to_string_lossy().into_owned();
            Ok(())
        };
        for name in ["photo", "output", "weights", "labels", "style_image", "init"] {
            match options.get_mut(name) {
                Some(Value::String(text)) if name != "init" || self.starts_from_file => whole(text)?,
                Some(Value::Array(list)) => {
                    for item in list {
                        if let Value::String(text) = item {
                            whole(text)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// All options as JSON.
    pub(super) fn map(&self) -> Map<String, Value> {
        // By way of the text, which has 0.03 where the nearest f32 is 0.029999999329.
        let text = serde_json::to_string(self).unwrap_or_default();
        // Names and plain values: there is nothing that could fail.
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The texts that a picture carries.
    pub(super) fn embed(&self, facts: &Facts, iterations: u32, seconds: f64) -> Vec<(String, String)> {
        let options = Value::Object(self.map()).to_string();
        let mut texts = vec![
            ("options", options),
            ("seed", self.seed.to_string()),
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

fn name(value: Option<clap::builder::PossibleValue>) -> String {
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}
