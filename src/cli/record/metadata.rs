//! Metadata that a picture carries: its run, and the measurements in it.

use super::resolved_options::RecordedOptions;
use crate::cli::class_names::ClassNames;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::image_io;
use crate::mirage::preset::SMOOTH;
use crate::mirage::{Readout, Report, Weights};
use serde_json::{Map, Value, json};
use std::path::Path;

/// This program's version.
pub(in crate::cli) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Maximum size of a text that is read from a record, in bytes; mirage writes some thousand.
const LONGEST: usize = 1 << 20;
/// Key of the SHA-256 of the network's file.
pub(in crate::cli) const NETWORK: &str = "network-sha256";
/// Key of [`RunMetadata::pictures_sha256`].
pub(in crate::cli) const PICTURES: &str = "pictures-sha256";
/// Prefix of the keys in a picture.
const PREFIX: &str = "neural-mirage:";

/// Metadata of a run in its pictures and checkpoints, besides its options.
#[derive(Debug)]
pub(in crate::cli) struct RunMetadata {
    /// An identifier that can't be guessed: a resumed run may replace the files that carry it.
    pub run: String,
    /// Adapter, backend and driver.
    pub device: String,
    /// SHA-256 of the network's file.
    pub network_sha256: String,
    /// SHA-256 of each picture that the run reads, in a sweep, which continues only with the same content.
    pub pictures_sha256: Option<String>,
    /// Seconds of the run so far.
    pub seconds: f64,
    /// The last report, as JSON.
    pub losses: Option<String>,
    /// Classes that the network sees in the picture, as JSON.
    pub classes: Option<String>,
    /// Raw weights in force, as options.
    pub weights: Option<String>,
}

impl RunMetadata {
    /// Creates the metadata of a new run, or of a resumed one with this identifier.
    pub(in crate::cli) fn new(run: Option<String>) -> Self {
        let run = run.filter(|run| !run.is_empty());
        Self {
            run: run.unwrap_or_else(|| hex(&rand::random::<[u8; 16]>())),
            device: String::new(),
            network_sha256: String::new(),
            pictures_sha256: None,
            seconds: 0.0,
            losses: None,
            classes: None,
            weights: None,
        }
    }

    /// Sets losses and classes from a report.
    pub(in crate::cli) fn set_report(&mut self, report: &Report, names: &ClassNames) {
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
        self.set_readout(&report.readout, names);
    }

    /// Sets the classes that the network sees in the newest picture.
    pub(in crate::cli) fn set_readout(&mut self, readout: &Readout, names: &ClassNames) {
        let seen = json!({ "classes": names.classes(&readout.classes), "distance": readout.distance });
        self.classes = (!readout.classes.is_empty()).then(|| seen.to_string());
    }

    /// Sets the raw weights.
    pub(in crate::cli) fn set_weights(&mut self, weights: &Weights) {
        self.weights = Some(weight_options(weights));
    }

    /// Returns key and text of all metadata of the picture after `iterations`.
    pub(in crate::cli) fn texts(&self, options: &RecordedOptions, iterations: u32) -> Vec<(String, String)> {
        let options = options.map();
        let mut texts = vec![
            ("options", Value::Object(options.clone()).to_string()),
            ("seed", options.get("seed").map(Value::to_string).unwrap_or_default()),
            ("iterations", iterations.to_string()),
            ("seconds", format!("{:.3}", self.seconds)),
            ("adapter", self.device.clone()),
            (NETWORK, self.network_sha256.clone()),
            ("version", VERSION.to_owned()),
            ("run", self.run.clone()),
        ];
        let known = [
            (PICTURES, &self.pictures_sha256),
            ("losses", &self.losses),
            ("classes", &self.classes),
            ("weights", &self.weights),
        ];
        texts.extend(known.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))));
        let named = texts.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value));
        [("Software".to_owned(), format!("neural-mirage {VERSION}"))].into_iter().chain(named).collect()
    }
}

/// Formats raw weights as the options that set them, to the last bit.
pub(in crate::cli) fn weight_options(weights: &Weights) -> String {
    let measured = weights.0.iter().filter(|weight| weight.norm.is_some());
    let option = |group: &str| if group == SMOOTH { "tv".to_owned() } else { group.to_owned() };
    let options = measured.map(|weight| format!("--{}-weight {:?}", option(&weight.group), weight.weight));
    options.collect::<Vec<_>>().join(" ")
}

/// Metadata that was read from a picture or film.
#[derive(Debug)]
pub(in crate::cli) struct PictureMetadata {
    /// Resolved options. They are untrusted: see [`accept`](super::trusted).
    pub options: Map<String, Value>,
    /// The last report.
    pub losses: Map<String, Value>,
    /// Classes that the network sees in the picture.
    pub classes: Map<String, Value>,
    /// Key and text of everything else.
    pub texts: Vec<(String, String)>,
}

impl PictureMetadata {
    /// Reads the metadata of a file; `None` if it has none.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the file can't be read.
    pub(in crate::cli) fn read(picture: &Path) -> Result<Option<Self>> {
        let mut options = None;
        let (mut losses, mut classes, mut texts) = (Map::new(), Map::new(), Vec::new());
        for (key, text) in image_io::read_metadata(picture)? {
            if text.len() > LONGEST && key.starts_with(PREFIX) {
                let problem = format!("its record is damaged: a text has {} bytes", text.len());
                return Err(Error::file(picture, problem, "Give a picture as mirage saved it"));
            }
            match key.strip_prefix(PREFIX) {
                Some("options") => options = serde_json::from_str(&text).ok(),
                Some("losses") => losses = serde_json::from_str(&text).unwrap_or_default(),
                Some("classes") => classes = serde_json::from_str(&text).unwrap_or_default(),
                Some(name) => texts.push((name.to_owned(), text)),
                None => {}
            }
        }
        Ok(options.map(|options| Self { options, losses, classes, texts }))
    }

    /// Returns one of the texts.
    pub(in crate::cli) fn text(&self, name: &str) -> Option<&str> {
        self.texts.iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str())
    }
}
