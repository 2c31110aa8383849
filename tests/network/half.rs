//! Activations kept in half precision until the backward pass: less memory, and a gradient that only rounding changes.

use super::recompute::{picture, request};
use super::tiles::{default_request, evaluate};
use crate::common::objective::{network, weigh};
use crate::common::runs::{CONTINUE, run};
use crate::common::{both_devices, cpu, engine, relative_l2, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::mirage::preset::{Preset, SPATIAL};
use neural_mirage::mirage::{Activations, Event, Init, Request, Scales, Session, Source};
use neural_mirage::ops::PoolKind;
use neural_mirage::vgg::Network;
use std::path::Path;
use std::sync::Arc;

/// A value is rounded by up to 2^-11 = 4.9e-4 of itself, or by twice that if the driver doesn't round to nearest. The
/// adjoint of a covariance subtracts the mean, which amplifies that (measured: 6.4e-4).
const GRADIENT: f64 = 1e-3;

fn with(request: &Request, half: bool, recompute: bool) -> Request {
    Request { activations: Activations { half, recompute }, ..request.clone() }
}

/// Bytes of activations and gradients.
fn planned(engine: &Arc<Engine>, network: &Arc<Network>, request: Request) -> u64 {
    Session::new(engine, network, request).unwrap().memory().planned
}

#[test]
fn losses_stay_and_gradient_is_close() {
    let _turn = turn();
    let network = network();
    let runs = [
        ((53, 47), "wasserstein", PoolKind::Average, None),
        ((64, 96), "gram", PoolKind::Max, None),
        ((71, 50), "mean-variance", PoolKind::Average, None),
        ((100, 33), "feature", PoolKind::Max, None),
        ((97, 61), "mean-covariance", PoolKind::Average, Some(32)),
    ];
    // The graph is the same on all devices, and each family's kernels have tests of their own.
    let graphics = [Family::Auto, Family::Buffer].map(|family| (engine(family), &runs[..1], &[false][..]));
    let cpu = (cpu(DeviceOptions::default()), &runs[..], &[false, true][..]);
    for (engine, runs, recomputing) in graphics.into_iter().chain([cpu]) {
        for &((width, height), statistic, pooling, tile) in runs {
            let what =
                format!("{width}x{height}, {statistic}, {pooling:?}, {tile:?} on {}", engine.describe());
            let mut request = request(picture(width, height, 17), statistic, pooling, "adam");
            // The gradient of deeper losses would hide that of the maps whose values are rounded.
            request.groups.retain(|group| group.name == "style");
            weigh(&mut request, |_| 1.0);
            let (losses, expected) = evaluate(&engine, &network, &request, tile);
            for &recompute in recomputing {
                let (found, gradient) = evaluate(&engine, &network, &with(&request, true, recompute), tile);
                assert!(
                    losses.iter().zip(&found).all(|(a, b)| a.loss.to_bits() == b.loss.to_bits()),
                    "{what}: {losses:?} {found:?}"
                );
                let error = relative_l2(&gradient, &widen(&expected));
                println!("{what}, recompute {recompute}: {error:.1e}");
                assert!(error <= GRADIENT, "{what}: {error:.1e}");
                // With average pools, the first map's values are worth rounding; recomputed, they may stay.
                let rounds = pooling == PoolKind::Average && !recompute && tile.is_none();
                assert!(error > 0.0 || !rounds, "{what}: nothing was rounded");
            }
        }
    }
}

/// Where only ReLU masks read the maps, rounding keeps what they read.
#[test]
fn masks_are_exact() {
    let _turn = turn();
    let network = network();
    for engine in both_devices() {
        for (width, height) in [(53, 47), (64, 33)] {
            let mut request = request(picture(width, height, 17), "gram", PoolKind::Average, "adam");
            request.groups.retain(|group| group.name == "abstract");
            weigh(&mut request, |_| 1.0);
            let half = with(&request, true, false);
            let (_, expected) = evaluate(&engine, &network, &request, None);
            let (_, gradient) = evaluate(&engine, &network, &half, None);
            assert!(expected.iter().any(|value| *value != 0.0));
            assert!(gradient == expected, "{width}x{height} on {}", engine.describe());
            let [single, half] = [request, half].map(|request| planned(&engine, &network, request));
            assert!(half < single, "{half} instead of {single} bytes on {}", engine.describe());
        }
    }
}

#[test]
fn half_precision_saves_memory() {
    let _turn = turn();
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/vgg16-narrow.safetensors");
    let network = Arc::new(Network::open(&weights, None).expect("the default network"));
    // Measured: 0.82 and 0.84 on lavapipe, whose staging textures stay, 0.74 and 0.82 on the CPU device.
    for (engine, limits) in both_devices().iter().zip([[0.84, 0.87], [0.77, 0.84]]) {
        for (pooling, most) in [PoolKind::Average, PoolKind::Max].into_iter().zip(limits) {
            let mut request = Request::new(picture(160, 128, 17));
            request.pooling = pooling.into();
            request.scales = Scales::single(1);
            let planned = |half, recompute| planned(engine, &network, with(&request, half, recompute)) as f64;
            let (single, half) = (planned(false, false), planned(true, false));
            println!(
                "{pooling:?} on {}: {half} instead of {single} bytes, {:.3}",
                engine.describe(),
                half / single
            );
            assert!(half <= most * single, "{pooling:?}: {half} instead of {single} bytes");
            let (again, both) = (planned(false, true), planned(true, true));
            println!("with recomputation: {both} instead of {again} bytes, {:.3}", both / again);
            assert!(both <= again, "{pooling:?}: {both} instead of {again} bytes");
        }
    }
}

/// Rounding makes values equal, so a max pool's adjoint would find other maxima.
#[test]
fn maps_whose_maxima_count_stay_in_single_precision() {
    let _turn = turn();
    let network = network();
    for engine in both_devices() {
        let mut request = request(picture(53, 47, 17), "gram", PoolKind::Max, "adam");
        // A loss of a map that is also pooled; of all other maps, only signs are read.
        request.groups.retain(|group| group.name == "spatial" || group.name == "abstract");
        let spatial = request.groups.iter_mut().filter(|group| group.name == "spatial");
        spatial
            .flat_map(|group| &mut group.losses)
            .for_each(|loss| loss.source = Source::Layer("relu1_2".into()));
        weigh(&mut request, |_| 1.0);
        let (_, expected) = evaluate(&engine, &network, &request, None);
        let (_, gradient) = evaluate(&engine, &network, &with(&request, true, false), None);
        assert!(gradient == expected, "{}", engine.describe());
    }
}

/// The photo matches its own features exactly; rounded ones would differ from them, and weights follow from the gradient.
#[test]
fn spatial_gradient_is_zero_at_the_photo() {
    let engine = cpu(DeviceOptions::default());
    let (network, request) = default_request([48, 48]);
    let mut request = with(&request, true, false);
    request.groups = Preset::default().groups();
    request.init = Init::Photo;
    let mut session = Session::new(&engine, &network, request).unwrap();
    let mut measured = None;
    run(&mut session, &mut |event: Event<'_>| {
        if let Event::Weighted { weights, .. } = event {
            let spatial = weights.0.iter().find(|weight| weight.group == SPATIAL).unwrap();
            measured = measured.or(spatial.norm);
        }
        CONTINUE
    });
    assert_eq!(measured, Some(0.0));
}
