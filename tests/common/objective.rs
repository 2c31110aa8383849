//! Requests and pictures from `tests/golden/objective.safetensors`.

use super::golden::{Golden, text};
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::{Factor, FactorKind, LayerWeight, Request};
use neural_mirage::ops::PoolKind;
use serde_json::Value;

/// A picture of the goldens, from channel, row, column order.
pub fn picture(golden: &Golden, key: &str) -> Picture {
    let (sizes, planes) = golden.tensor(key);
    let (height, width) = (sizes[1], sizes[2]);
    let pixels = height * width;
    let rgb =
        (0..pixels).flat_map(|pixel| [0, 1, 2].map(|channel| planes[channel * pixels + pixel])).collect();
    Picture { width, height, rgb }
}

pub fn pooling(value: &Value) -> PoolKind {
    if text(value) == "max" { PoolKind::Max } else { PoolKind::Average }
}

/// The request as described; the weight of each term goes into its layer's factor.
pub fn request(golden: &Golden, described: &Value) -> Request {
    let mut request = Request::new(picture(golden, text(&described["photo"])));
    let factor = |kind: FactorKind| {
        let terms = described["terms"].as_array().expect("a list").iter();
        let layers = terms
            .filter(|term| text(&term["factor"]) == kind.to_string())
            .map(|term| {
                let number = |key: &str| term[key].as_f64().expect("a number");
                let factor = (number("weight") * number("layer_factor")) as f32;
                LayerWeight { layer: text(&term["layer"]).to_owned(), factor }
            })
            .collect();
        Factor { layers, weight: 1.0 }
    };
    request.spatial = factor(FactorKind::Spatial);
    request.abstracted = factor(FactorKind::Abstract);
    request.style = factor(FactorKind::Style);
    request.balance = None;
    request.tv_weight = described["tv_weight"].as_f64().expect("a number") as f32;
    request.pooling = pooling(&described["pooling"]);
    let styles = described["style_images"].as_array().expect("a list");
    let own = styles.len() == 1 && styles[0]["image"] == described["photo"];
    if !own {
        request.style_images = styles
            .iter()
            .map(|style| {
                let blend = style["blend"].as_f64().expect("a number") as f32;
                (picture(golden, text(&style["image"])), blend)
            })
            .collect();
    }
    request
}
