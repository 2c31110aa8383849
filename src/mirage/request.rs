//! What is wanted: factors, layers, weights, and how to get there.

use crate::error::{Error, Result};
use crate::image_io::Picture;
use crate::ops::PoolKind;
use std::fmt;
use std::str::FromStr;

/// What a loss term holds on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactorKind {
    /// The photo's layout: activations of conv layers.
    Spatial,
    /// What the network thinks it sees: activations of fully connected layers.
    Abstract,
    /// Textures and colours: Gram matrices of conv layers.
    Style,
    /// Smoothness of the picture itself: total variation.
    Smooth,
}

impl FactorKind {
    /// The three factors of the method, in the order in which they are always listed.
    pub const THREE: [Self; 3] = [Self::Spatial, Self::Abstract, Self::Style];
    /// These, and the smoothness.
    pub const ALL: [Self; 4] = [Self::Spatial, Self::Abstract, Self::Style, Self::Smooth];

    /// Its name, as options and logs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spatial => "spatial",
            Self::Abstract => "abstract",
            Self::Style => "style",
            Self::Smooth => "smooth",
        }
    }
}

impl fmt::Display for FactorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A layer with its own factor, written `relu1_1` or `relu1_1:0.5`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeight {
    /// Name of the layer.
    pub layer: String,
    /// Multiplies the weight of the layer's factor.
    pub factor: f32,
}

impl FromStr for LayerWeight {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (layer, factor) = match text.split_once(':') {
            None => (text, 1.0),
            Some((layer, number)) => {
                let factor =
                    number.trim().parse().ok().filter(|factor: &f32| factor.is_finite() && *factor >= 0.0);
                let factor = factor.ok_or_else(|| {
                    Error::usage(format!(
                        "`{number}` in `{text}` is no factor: write LAYER:NUMBER with a number >= 0"
                    ))
                })?;
                (layer, factor)
            }
        };
        if layer.trim().is_empty() {
            return Err(Error::usage(format!("`{text}` names no layer: write LAYER or LAYER:NUMBER")));
        }
        Ok(Self { layer: layer.trim().to_owned(), factor })
    }
}

/// One of the three factors: its layers and its weight.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Factor {
    /// Layers; every one counts in full, times its own factor.
    pub layers: Vec<LayerWeight>,
    /// Weight; not used while a [`Balance`] is set.
    pub weight: f32,
}

impl Factor {
    /// Layers from a comma-separated list, e.g. `relu1_1:0.5,relu4_1`; `none` or an empty text is no layer.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the item that is not understood.
    pub fn new(layers: &str, weight: f32) -> Result<Self> {
        let list = if layers.trim() == "none" { "" } else { layers };
        let items = list.split(',').filter(|item| !item.trim().is_empty());
        Ok(Self { layers: items.map(str::parse).collect::<Result<_>>()?, weight })
    }
}

/// Shares of the gradient, in place of raw weights: what `--balance` states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// Share of the spatial factor.
    pub spatial: f32,
    /// Share of the abstract factor.
    pub abstracted: f32,
    /// Share of the style factor.
    pub style: f32,
}

impl Balance {
    /// The share of one factor, of a sum of 1; 0 for [`FactorKind::Smooth`].
    pub fn share(&self, kind: FactorKind) -> f32 {
        let sum = self.spatial + self.abstracted + self.style;
        let part = match kind {
            FactorKind::Spatial => self.spatial,
            FactorKind::Abstract => self.abstracted,
            FactorKind::Style => self.style,
            FactorKind::Smooth => 0.0,
        };
        if sum > 0.0 { part / sum } else { 0.0 }
    }
}

impl FromStr for Balance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut balance = Self { spatial: 0.0, abstracted: 0.0, style: 0.0 };
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let parsed = item
                .split_once('=')
                .and_then(|(name, number)| Some((name.trim(), number.trim().parse::<f32>().ok()?)))
                .filter(|(_, share)| share.is_finite() && *share >= 0.0);
            let Some((name, share)) = parsed else {
                return Err(Error::usage(format!(
                    "`{item}` is no share: write for example --balance spatial=30,abstract=30,style=40, with numbers >= 0"
                )));
            };
            match name {
                "spatial" => balance.spatial = share,
                "abstract" => balance.abstracted = share,
                "style" => balance.style = share,
                _ => {
                    return Err(Error::usage(format!(
                        "`{name}` is no factor: the factors are spatial, abstract and style"
                    )));
                }
            }
        }
        if balance.spatial + balance.abstracted + balance.style > 0.0 {
            return Ok(balance);
        }
        Err(Error::usage("all shares of --balance are zero: give at least one factor a share above 0"))
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spatial={},abstract={},style={}", self.spatial, self.abstracted, self.style)
    }
}

/// The picture that the optimisation starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// Gray with random grain, the same for the same seed.
    Noise,
    /// The photo itself.
    Photo,
    /// Even mid gray.
    Gray,
    /// This picture; taken pixel for pixel if it has the output's size, else resized.
    Picture(Picture),
}

/// Adam's parameters (Kingma and Ba 2015), as PyTorch names them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Step size, in the picture's unit (0 is black, 1 is white).
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, after bias correction.
    pub epsilon: f64,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { learning_rate: 0.03, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// When reports and snapshots are due.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schedule {
    /// A report every so many iterations, besides the first and last; 0 for none between.
    pub report_every: u32,
    /// A snapshot every so many iterations; 0 for none.
    pub snapshot_every: u32,
    /// Snapshots after these iterations too.
    pub snapshot_at: Vec<u32>,
    /// A picture for whoever looks on ([`Event::Picture`](super::Event::Picture)) every so many iterations; 0 for
    /// none.
    pub picture_every: u32,
    /// Pictures for whoever looks on after these iterations too.
    pub picture_at: Vec<u32>,
    /// The run's [`State`](super::State) every so many iterations, and at its end; 0 for none.
    pub state_every: u32,
    /// The run's state at its end too, if somebody stops it.
    pub state_when_stopped: bool,
}

impl Schedule {
    /// True if a report is due after `iteration` of `last`.
    pub fn reports(&self, iteration: u32, last: u32) -> bool {
        iteration == 0
            || iteration == last
            || (self.report_every > 0 && iteration.is_multiple_of(self.report_every))
    }

    /// True if a snapshot is due after `iteration`.
    pub fn snapshots(&self, iteration: u32) -> bool {
        let regular =
            self.snapshot_every > 0 && iteration > 0 && iteration.is_multiple_of(self.snapshot_every);
        regular || self.snapshot_at.contains(&iteration)
    }

    /// True if a picture is due for whoever looks on after `iteration`.
    pub fn pictures(&self, iteration: u32) -> bool {
        let regular = self.picture_every > 0 && iteration.is_multiple_of(self.picture_every);
        regular || self.picture_at.contains(&iteration)
    }

    /// True if somebody looks on at all; then the last picture is due too, whenever the run ends.
    pub(super) fn has_pictures(&self) -> bool {
        self.picture_every > 0 || !self.picture_at.is_empty()
    }

    /// True if the run's state is due after `iteration`.
    pub fn states(&self, iteration: u32) -> bool {
        self.state_every > 0 && iteration > 0 && iteration.is_multiple_of(self.state_every)
    }
}

/// Everything that determines the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The photo, at the size at which the picture is made.
    pub photo: Picture,
    /// Layout.
    pub spatial: Factor,
    /// Content of the fully connected layers.
    pub abstracted: Factor,
    /// Gram matrices.
    pub style: Factor,
    /// Style images with their blend weights (they are normalised); empty: the photo itself.
    pub style_images: Vec<(Picture, f32)>,
    /// Weight of the total variation. (Shares sum to a gradient of about 1, so 0.1 is little.)
    pub tv_weight: f32,
    /// Shares in place of the three weights.
    pub balance: Option<Balance>,
    /// The balance is measured anew every so many iterations; 0: at the start, and once when all losses are
    /// alive.
    pub rebalance_every: u32,
    /// True if the shares may be changed while the run goes on ([`Controls`](super::Controls)): every factor that
    /// has layers is then computed, whatever its share.
    pub adjustable: bool,
    /// Pooling of the network.
    pub pooling: PoolKind,
    /// Start.
    pub init: Init,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Number of steps.
    pub iterations: u32,
    /// Ends the run when an iteration changes a colour value by less than this on average, where black to white
    /// is 1; measured over ten iterations. 0: never.
    pub stop_when_change_below: f32,
    /// Optimiser.
    pub adam: AdamOptions,
    /// True to clamp the picture to [0, 1] after each step.
    pub clamp: bool,
    /// Reports and snapshots.
    pub schedule: Schedule,
    /// Number of classes in each report; 0 for none.
    pub top_classes: usize,
}

impl Request {
    /// The default mirage of a photo: all three factors at work.
    pub fn new(photo: Picture) -> Self {
        let layers = |names: &[&str]| Factor {
            layers: names.iter().map(|name| LayerWeight { layer: (*name).to_owned(), factor: 1.0 }).collect(),
            weight: 1.0,
        };
        Self {
            photo,
            spatial: layers(&["relu4_2"]),
            abstracted: layers(&["fc8"]),
            style: layers(&["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]),
            style_images: Vec::new(),
            tv_weight: 0.1,
            balance: Some(Balance { spatial: 20.0, abstracted: 40.0, style: 40.0 }),
            rebalance_every: 0,
            adjustable: false,
            pooling: PoolKind::Max,
            init: Init::Noise,
            seed: 0,
            iterations: 150,
            stop_when_change_below: 0.0,
            adam: AdamOptions::default(),
            clamp: true,
            schedule: Schedule { report_every: 25, ..Default::default() },
            top_classes: 5,
        }
    }

    /// One of the three factors.
    pub fn factor(&self, kind: FactorKind) -> Option<&Factor> {
        match kind {
            FactorKind::Spatial => Some(&self.spatial),
            FactorKind::Abstract => Some(&self.abstracted),
            FactorKind::Style => Some(&self.style),
            FactorKind::Smooth => None,
        }
    }

    /// Checks all numbers, before any work.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option and what it may be.
    pub fn check(&self) -> Result<()> {
        let not_negative = |name: &str, value: f32| {
            if value.is_finite() && value >= 0.0 {
                return Ok(());
            }
            Err(Error::usage(format!("{name} is {value}: it must be a number >= 0")))
        };
        not_negative("--spatial-weight", self.spatial.weight)?;
        not_negative("--abstract-weight", self.abstracted.weight)?;
        not_negative("--style-weight", self.style.weight)?;
        not_negative("--tv-weight", self.tv_weight)?;
        not_negative("--stop-when-change-below", self.stop_when_change_below)?;
        for (_, blend) in &self.style_images {
            not_negative("a style image's blend weight", *blend)?;
        }
        if !(self.adam.learning_rate > 0.0 && self.adam.learning_rate.is_finite()) {
            let rate = self.adam.learning_rate;
            return Err(Error::usage(format!(
                "--learning-rate is {rate}: it must be above 0; 0.03 is usual"
            )));
        }
        for (name, beta) in [("--beta1", self.adam.beta1), ("--beta2", self.adam.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::usage(format!("{name} is {beta}: it must be at least 0 and below 1")));
            }
        }
        if !(self.adam.epsilon > 0.0 && self.adam.epsilon.is_finite()) {
            let epsilon = self.adam.epsilon;
            return Err(Error::usage(format!("--epsilon is {epsilon}: it must be above 0; 1e-8 is usual")));
        }
        let blends: f32 = self.style_images.iter().map(|(_, blend)| blend).sum();
        if !self.style_images.is_empty() && blends <= 0.0 {
            return Err(Error::usage(
                "all style blend weights are zero: give at least one image a weight above 0",
            ));
        }
        if FactorKind::THREE.iter().any(|kind| self.is_active(*kind)) {
            return Ok(());
        }
        Err(Error::usage(
            "all weights are zero, so nothing would steer the picture: give --spatial, --abstract or --style layers and a weight (or a --balance share) above 0",
        ))
    }

    /// True if this factor has layers and a weight or share above zero.
    pub fn is_active(&self, kind: FactorKind) -> bool {
        let Some(factor) = self.factor(kind) else { return self.tv_weight > 0.0 };
        let weight = self.balance.map_or(factor.weight, |balance| balance.share(kind));
        weight > 0.0 && factor.layers.iter().any(|layer| layer.factor > 0.0)
    }

    /// True if this factor is part of the objective: it is active, or may become so while the run goes on.
    pub fn is_present(&self, kind: FactorKind) -> bool {
        let has_layers =
            self.factor(kind).is_some_and(|factor| factor.layers.iter().any(|layer| layer.factor > 0.0));
        self.is_active(kind) || (self.adjustable && has_layers)
    }

    /// True if `other` leads to the same objective: the same pictures, layers and constants, with other weights,
    /// shares, seeds, steps or reports at most. A [`Session`](super::Session) can then start anew without preparing
    /// anything.
    pub fn shares_objective(&self, other: &Self) -> bool {
        let present = |request: &Self| FactorKind::ALL.map(|kind| request.is_present(kind));
        let adam = AdamOptions { learning_rate: self.adam.learning_rate, ..other.adam };
        present(self) == present(other)
            && self.spatial.layers == other.spatial.layers
            && self.abstracted.layers == other.abstracted.layers
            && self.style.layers == other.style.layers
            && self.photo == other.photo
            && self.style_images == other.style_images
            && self.pooling == other.pooling
            && self.adam == adam
            && self.clamp == other.clamp
            && (self.top_classes > 0) == (other.top_classes > 0)
            && self.sums_factors() == other.sums_factors()
    }

    /// True if the objective has a step along the weighted sum of the factors' gradients.
    pub(super) fn sums_factors(&self) -> bool {
        self.balance.is_some() || self.adjustable
    }
}
