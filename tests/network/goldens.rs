//! A small VGG against PyTorch: every activation, every loss, and the gradient with respect to the picture.

use crate::common::golden::{Golden, text};
use crate::common::objective::{network, picture, pooling, request};
use crate::common::{assert_close, both_devices, cpu, engine, engine_with, relative_l2, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::mirage::{Session, activations};
use neural_mirage::ops::PoolKind;
use std::sync::Arc;

/// Up to sixteen layers, each with a rounding error of a few 1e-7 of its largest value (f32 sums of about a
/// hundred products).
const ACTIVATIONS: f64 = 1e-5;
/// With Winograd's method each layer adds two to three times as much, and the softmax turns errors of a few 1e-6 of
/// logits in the tens into a few 1e-5 of the probabilities (measured: 4.3e-5).
const WINOGRAD_ACTIVATIONS: f64 = 1e-4;
/// Logits of up to 12.8 (fc8 of `start_large`), each off by ACTIVATIONS of that, could change the largest probability
/// by half of 1.3e-4, but rounding errors do not all add up. Measured: 1.04e-5; below 1e-5 with a different summation
/// order.
const PROBABILITIES: f64 = 3e-5;
/// Losses are means of squares, so the relative errors of the activations double.
const LOSSES: f64 = 2e-5;
/// Gradients depend on single ReLU and pooling decisions. Noise of 1e-6 per convolution changes them by up to 4e-5.
const GRADIENT: f64 = 2e-4;

/// Checks the requests with these names, or all if `names` is empty.
fn check_requests(engine: &Arc<Engine>, names: &[&str]) {
    println!("{}", engine.describe());
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let requests = golden.cases["requests"].as_array().expect("a list");
    assert!(requests.len() >= 9);
    let mut checked = 0;
    for described in requests {
        let name = text(&described["name"]);
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        let mut session = Session::new(engine, &network, request(&golden, described)).expect(name);
        let start = picture(&golden, text(&described["start"]));
        let (losses, gradient) = session.evaluate(&start).expect(name);
        let expected = &described["expected"];
        let mut wanted: Vec<f64> = expected["losses"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| v.as_f64().expect("a number"))
            .collect();
        if described["tv_weight"].as_f64() > Some(0.0) {
            wanted.push(expected["tv_loss"].as_f64().expect("a number"));
        }
        assert_eq!(losses.len(), wanted.len(), "{name}");
        for (actual, wanted) in losses.iter().zip(&wanted) {
            let error = (actual.loss - wanted).abs() / wanted.abs().max(1e-12);
            assert!(error <= LOSSES, "{name} {}: {} against {wanted}", actual.source, actual.loss);
        }
        let expected = widen(&golden.tensor(text(&expected["gradient"])).1);
        let error = relative_l2(&gradient, &expected);
        println!("{name}: gradient {error:.2e}");
        assert!(error <= GRADIENT, "{name}: gradient off by {error:.3e} (relative L2)");
        checked += 1;
    }
    let wanted = if names.is_empty() { requests.len() } else { names.len() };
    assert_eq!(checked, wanted, "the goldens lack some of {names:?}");
}

#[test]
fn activations_match_pytorch_at_every_layer() {
    let _turn = turn();
    for (exact, limit) in [(true, ACTIVATIONS), (false, WINOGRAD_ACTIVATIONS)] {
        let options = DeviceOptions { exact, ..Default::default() };
        check_activations(&engine_with(&options, |_| {}), limit);
        check_activations(&cpu(options), limit);
    }
}

fn check_activations(engine: &Arc<Engine>, limit: f64) {
    println!("{}", engine.describe());
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let described = golden.cases["activations"].as_array().expect("a list");
    assert!(described.len() > 40);
    for case in described {
        let (layer, image) = (text(&case["layer"]), text(&case["image"]));
        let kind = pooling(&case["pooling"]);
        let input = picture(&golden, image);
        let found = activations(engine, &network, &input, kind, &[layer]).expect(layer);
        let expected = widen(&golden.tensor(text(&case["key"])).1);
        let allowed = if layer == "prob" { limit.max(PROBABILITIES) } else { limit };
        assert_close(&format!("{image} {layer} {kind:?}"), &found[0].1, &expected, allowed);
    }
    // Requesting all layers at once gives the same: fusing a ReLU into its convolution must not depend on the request.
    let layers = network.layer_names();
    let input = picture(&golden, "start");
    let together = activations(engine, &network, &input, PoolKind::Max.into(), &layers).expect("all layers");
    for (layer, (_, values)) in layers.iter().zip(together) {
        let alone = activations(engine, &network, &input, PoolKind::Max.into(), &[layer]).expect(layer);
        assert_close(layer, &values, &widen(&alone[0].1), 1e-6);
    }
}

#[test]
fn losses_and_gradients_match_pytorch() {
    let _turn = turn();
    both_devices().iter().for_each(|engine| check_requests(engine, &[]));
}

/// Without optional features and with WebGPU's default limits.
#[test]
fn losses_and_gradients_match_pytorch_on_a_minimal_device() {
    let _turn = turn();
    for family in [Family::Auto, Family::Buffer] {
        let options = DeviceOptions { family, minimal: true, ..Default::default() };
        check_requests(&engine_with(&options, |_| {}), &[]);
    }
}

#[test]
fn losses_and_gradients_match_pytorch_in_other_families() {
    let _turn = turn();
    check_requests(&engine(Family::Buffer), &["all", "large"]);
    check_requests(&engine(Family::Naive), &["all", "average_pooling"]);
    check_requests(&cpu(DeviceOptions { exact: true, ..Default::default() }), &["all", "average_pooling"]);
}
