//! The record of a run: its options as they were resolved, for the log and for the picture itself.

use super::args::{Depth, RenderArgs};
use super::files::Files;
use crate::mirage::{FactorKind, Request};
use crate::vgg::Network;
use clap::ValueEnum as _;
use serde::Serialize;
use std::path::Path;

/// This program's version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All options after defaults, named as on the command line. Values that don't apply are `null`.
#[derive(Debug, Serialize)]
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
    weights: String,
    preprocessing: String,
    pooling: String,
    iterations: u32,
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
    top: usize,
    adapter: Option<String>,
    kernels: String,
    exact: bool,
    half_weights: bool,
}

impl Options {
    /// From the arguments and what became of them.
    pub(super) fn new(args: &RenderArgs, request: &Request, network: &Network, files: &Files) -> Self {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let layers = |kind| {
            let layers = request.factor(kind).map(|factor| factor.layers.as_slice()).unwrap_or_default();
            let layer = |layer: &crate::mirage::LayerWeight| match layer.factor {
                1.0 => layer.layer.clone(),
                factor => format!("{}:{factor}", layer.layer),
            };
            let text = layers.iter().map(layer).collect::<Vec<_>>().join(",");
            if text.is_empty() { "none".to_owned() } else { text }
        };
        let weight = |kind| match request.balance {
            None => request.factor(kind).map(|factor| factor.weight),
            Some(_) => None,
        };
        Self {
            photo: path(&args.photo),
            output: path(&files.output),
            size: args.files.size,
            bit_depth: match args.files.bit_depth {
                Depth::Eight => 8,
                Depth::Sixteen => 16,
            },
            spatial: layers(FactorKind::Spatial),
            r#abstract: layers(FactorKind::Abstract),
            style: layers(FactorKind::Style),
            style_image: args.factors.style_image.iter().map(|image| path(image)).collect(),
            style_blend: request.style_images.iter().map(|(_, blend)| *blend).collect(),
            balance: request.balance.map(|balance| balance.to_string()),
            spatial_weight: weight(FactorKind::Spatial),
            abstract_weight: weight(FactorKind::Abstract),
            style_weight: weight(FactorKind::Style),
            tv_weight: request.tv_weight,
            weights: path(&network.path),
            preprocessing: network.preprocessing.to_string(),
            pooling: name(args.network.pooling.to_possible_value()),
            iterations: request.iterations,
            init: args.optimisation.init.text(),
            seed: request.seed,
            learning_rate: request.adam.learning_rate,
            beta1: request.adam.beta1,
            beta2: request.adam.beta2,
            epsilon: request.adam.epsilon,
            clamp: request.clamp,
            print_every: request.schedule.report_every,
            save_every: request.schedule.snapshot_every,
            save_at: request.schedule.snapshot_at.clone(),
            top: request.top_classes,
            adapter: args.device.adapter.clone(),
            kernels: name(args.device.kernels.to_possible_value()),
            exact: args.device.exact,
            half_weights: args.device.half_weights,
        }
    }

    /// The texts that a picture carries, after so many iterations.
    pub(super) fn embed(&self, device: &str, sha256: &str, iterations: u32) -> Vec<(String, String)> {
        let options = serde_json::to_string(self).unwrap_or_default();
        [
            ("Software", format!("neural-mirage {VERSION}")),
            ("neural-mirage:options", options),
            ("neural-mirage:seed", self.seed.to_string()),
            ("neural-mirage:iterations", iterations.to_string()),
            ("neural-mirage:adapter", device.to_owned()),
            ("neural-mirage:network-sha256", sha256.to_owned()),
            ("neural-mirage:version", VERSION.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

fn name(value: Option<clap::builder::PossibleValue>) -> String {
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}
