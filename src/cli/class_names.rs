//! Names of a network's classes.

use super::output::escape::shown;
use super::output::format::named_percent;
use crate::error::{Error, Result};
use crate::mirage::Readout;
use crate::vgg::Network;
use crate::vgg::labels::{Labels, parse_classes};
use serde::Serialize;
use std::path::Path;

/// Number of classes of ImageNet, whose labels come with the program.
const IMAGENET: usize = 1000;

/// Class names of a network. Without them, classes are called by their numbers.
#[derive(Debug)]
pub(super) struct ClassNames(Option<Labels>);

/// One class of a readout.
#[derive(Debug, Serialize)]
pub(super) struct Class {
    index: usize,
    label: String,
    probability: f32,
}

impl ClassNames {
    /// Loads the labels from `file`, or uses the built-in ImageNet labels if the network has 1000 classes.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be used, or does not have one name per class.
    pub(super) fn of(network: &Network, file: Option<&Path>) -> Result<Self> {
        let classes = network.classes();
        let Some(file) = file else {
            return Ok(Self((classes == Some(IMAGENET)).then(Labels::imagenet)));
        };
        let labels = Labels::load(file)?;
        match classes {
            Some(classes) if labels.len() != classes => Err(Error::file(
                file,
                format!("it has {} labels, but {} has {classes} classes", labels.len(), shown(&network.path)),
                "Give the labels of this network, one per line, in the order of its classes",
            )),
            _ => Ok(Self(Some(labels))),
        }
    }

    /// Parses a list such as `castle:0.7,lakeside:0.3` into class indices and weights.
    ///
    /// # Errors
    /// [`Error::Usage`] if a class is unknown, or the network has no labels.
    pub(super) fn parse_classes(&self, list: &str) -> Result<Vec<(usize, f32)>> {
        let labels = self.0.as_ref().ok_or_else(|| {
            Error::usage(
                "--classes needs the names of the network's classes: give a file of them with --labels",
            )
        })?;
        parse_classes(list, labels)
    }

    /// Returns the name of a class.
    pub(super) fn name(&self, index: usize) -> String {
        let label = self.0.as_ref().and_then(|labels| labels.get(index)).filter(|label| !label.is_empty());
        label.map_or_else(|| format!("class {index}"), str::to_owned)
    }

    /// Returns the classes of a readout for the log.
    pub(super) fn classes(&self, found: &[(usize, f32)]) -> Vec<Class> {
        let class = |&(index, probability)| Class { index, label: self.name(index), probability };
        found.iter().map(class).collect()
    }

    /// Returns the classes of a readout as one line, such as `tabby 43%, tiger cat 21%`.
    pub(super) fn line(&self, found: &[(usize, f32)]) -> String {
        let class = |&(index, probability): &(usize, f32)| named_percent(&self.name(index), probability);
        found.iter().map(class).collect::<Vec<_>>().join(", ")
    }

    /// Returns the classes of a readout and their distance from the photo's, as one line.
    pub(super) fn readout(&self, readout: &Readout) -> String {
        let distance =
            readout.distance.map(|distance| format!("; class distance to the photo {distance:.2}"));
        self.line(&readout.classes) + &distance.unwrap_or_default()
    }
}
