//! Requests and pictures from `tests/golden/objective.safetensors`.

use super::golden::{Golden, path, text};
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::preset::{FACTORS, LayerWeight, Preset};
use neural_mirage::mirage::statistic::by_name;
use neural_mirage::mirage::{Init, Pooling, Request, Scales, Shares, Strength, Target};
use neural_mirage::ops::{Padding, PoolKind};
use neural_mirage::vgg::Network;
use serde_json::Value;
use std::sync::Arc;

/// Opens the tiny network from which the goldens were made.
pub fn network() -> Arc<Network> {
    Arc::new(Network::open(&path("tiny_vgg.safetensors"), None).expect("the tiny network"))
}

/// Reads a picture of the goldens, stored in channel, row, column order.
pub fn picture(golden: &Golden, key: &str) -> Picture {
    let (sizes, planes) = golden.tensor(key);
    let (height, width) = (sizes[1], sizes[2]);
    let pixels = height * width;
    let rgb =
        (0..pixels).flat_map(|pixel| [0, 1, 2].map(|channel| planes[channel * pixels + pixel])).collect();
    Picture { width, height, rgb }
}

pub fn pooling(value: &Value) -> Pooling {
    if text(value) == "max" { PoolKind::Max.into() } else { PoolKind::Average.into() }
}

/// Sets the groups of the default objective with a different style statistic. Tests that work with any objective use
/// `mean-covariance`: a software driver needs seconds to compile the default's matrix root kernels.
pub fn use_style_statistic(request: &mut Request, statistic: &str) {
    let mut preset = Preset::default();
    preset.style.statistic = by_name(statistic).expect("a statistic");
    request.groups = preset.groups();
}

/// Sets raw weights for the factors instead of shares.
pub fn weigh(request: &mut Request, weight: impl Fn(&str) -> f32) {
    for group in request.groups.iter_mut().filter(|group| FACTORS.contains(&group.name.as_str())) {
        group.strength = Strength::Weight(weight(&group.name));
    }
}

/// Sets shares of factors from text such as `spatial=20,style=40`.
pub fn share(request: &mut Request, shares: &str) {
    shares.parse::<Shares>().and_then(|shares| shares.apply(&mut request.groups)).expect("shares");
}

/// Sets a single scale with this many iterations.
pub fn iterate(request: &mut Request, iterations: u32) {
    request.scales = Scales::single(iterations);
}

/// Builds the request of a golden trajectory, with its start picture.
pub fn request_of_trajectory(golden: &Golden, trajectory: &Value) -> Request {
    let requests = golden.cases["requests"].as_array().expect("a list");
    let described = requests.iter().find(|r| r["name"] == trajectory["request"]).expect("its request");
    let init = Init::Picture(Arc::new(picture(golden, text(&trajectory["start"]))));
    Request { init, ..request(golden, described) }
}

/// Builds the described request with raw weights. The weight of each loss is that of its layer.
pub fn request(golden: &Golden, described: &Value) -> Request {
    let mut request = Request::new(picture(golden, text(&described["photo"])));
    // The goldens use the definitions of neural-style.
    request.border = Padding::Zeros;
    request.average_decay = 0.0;
    let mut preset = Preset { smooth: by_name("total-variation").expect("a statistic"), ..Preset::default() };
    preset.style.statistic = by_name("gram").expect("a statistic");
    for name in FACTORS {
        let terms = described["terms"].as_array().expect("a list").iter();
        let layers = terms
            .filter(|term| text(&term["factor"]) == name)
            .map(|term| {
                let number = |key: &str| term[key].as_f64().expect("a number");
                let weight = (number("weight") * number("layer_factor")) as f32;
                LayerWeight { layer: text(&term["layer"]).to_owned(), weight }
            })
            .collect();
        let factor = preset.factor_mut(name).expect("a factor");
        factor.layers = layers;
        factor.strength = Strength::Weight(1.0);
    }
    preset.smooth_weight = described["tv_weight"].as_f64().expect("a number") as f32;
    request.pooling = pooling(&described["pooling"]);
    let styles = described["style_images"].as_array().expect("a list");
    let own = styles.len() == 1 && styles[0]["image"] == described["photo"];
    if !own {
        let image = |style: &Value| {
            let blend = style["blend"].as_f64().expect("a number") as f32;
            (picture(golden, text(&style["image"])), blend)
        };
        preset.style.target = Target::Images(styles.iter().map(image).collect());
    }
    request.groups = preset.groups();
    request
}
