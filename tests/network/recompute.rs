//! Recomputation of activations in the backward pass: bit-identical pictures with less memory.

use crate::common::objective::network;
use crate::common::{both_devices, cpu, draw, turn};
use neural_mirage::gpu::DeviceOptions;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::optimizer::{self, Settings};
use neural_mirage::mirage::preset::{Preset, layers};
use neural_mirage::mirage::statistic::by_name;
use neural_mirage::mirage::{Event, Request, Scales, Session};
use neural_mirage::ops::{CaseInput, PoolKind, Shape};
use neural_mirage::vgg::Network;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Creates a picture of random values.
pub fn picture(width: usize, height: usize, seed: u64) -> Picture {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let normal = draw(Shape::Vector(width * height * 3), CaseInput::Normal, &mut random);
    Picture { width, height, rgb: normal.iter().map(|value| (0.5 + 0.2 * value).clamp(0.0, 1.0)).collect() }
}

/// A request with all factors, and losses inside and at the end of blocks.
pub fn request(photo: Picture, statistic: &str, pooling: PoolKind, optimizer: &str) -> Request {
    let mut request = Request::new(photo);
    let mut preset = Preset::default();
    preset.style.layers = layers("relu1_1,relu2_2:0.5,relu3_1,conv4_2").unwrap();
    preset.style.statistic = by_name(statistic).unwrap();
    preset.spatial.layers = layers("relu4_2").unwrap();
    preset.abstracted.layers = layers("fc6").unwrap();
    request.groups = preset.groups();
    request.pooling = pooling.into();
    request.scales = Scales::single(4);
    let settings = Settings { clamp: true, history: Some(3), ..Settings::default() };
    request.optimizer = optimizer::by_name(optimizer, &settings).unwrap();
    request.schedule.report_every = 2;
    request
}

#[test]
fn recomputation_is_bit_identical() {
    let _turn = turn();
    let network = network();
    let runs = [
        ((32, 37), "mean-covariance", PoolKind::Average, "adam"),
        ((53, 47), "gram", PoolKind::Max, "adam"),
        ((64, 96), "mean-variance", PoolKind::Max, "lbfgs"),
        ((71, 50), "wasserstein", PoolKind::Average, "lbfgs"),
        ((100, 33), "feature", PoolKind::Average, "lbfgs-plain"),
        ((45, 64), "gram-relative", PoolKind::Max, "adam"),
    ];
    for engine in both_devices() {
        for ((width, height), statistic, pooling, optimizer) in runs {
            let what =
                format!("{width}x{height}, {statistic}, {pooling:?}, {optimizer} on {}", engine.describe());
            let run = |recompute| {
                let mut request = request(picture(width, height, 17), statistic, pooling, optimizer);
                request.activations.recompute = recompute;
                let mut session = Session::new(&engine, &network, request).unwrap();
                let mut totals = Vec::new();
                let result = session.run(&mut |event: Event<'_>| {
                    if let Event::Report(report) = event {
                        totals.push(report.total.to_bits());
                    }
                    Ok(ControlFlow::Continue(()))
                });
                let bits: Vec<u32> =
                    result.unwrap().picture.rgb.iter().map(|value| value.to_bits()).collect();
                (bits, totals, session.memory().planned)
            };
            let (kept, again) = (run(false), run(true));
            assert_eq!(kept.1, again.1, "{what}");
            assert!(kept.0 == again.0, "{what}: the pictures differ");
            assert!(again.2 <= kept.2, "{what}: {} bytes instead of {}", again.2, kept.2);
        }
    }
}

/// The saving comes from the largest maps, those of the first block, which need not be stored.
#[test]
fn recomputation_saves_memory() {
    let engine = cpu(DeviceOptions::default());
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/vgg16-narrow.safetensors");
    let network = Arc::new(Network::open(&weights, None).expect("the default network"));
    for (pooling, most) in [(PoolKind::Average, 0.78), (PoolKind::Max, 0.92)] {
        let planned = |recompute| {
            let mut request = Request::new(picture(160, 128, 17));
            request.pooling = pooling.into();
            request.scales = Scales::single(1);
            request.activations.recompute = recompute;
            Session::new(&engine, &network, request).unwrap().memory().planned as f64
        };
        let (kept, again) = (planned(false), planned(true));
        println!("{pooling:?}: {again} instead of {kept} bytes, {:.3}", again / kept);
        assert!(again <= most * kept, "{pooling:?}: {again} instead of {kept} bytes");
    }
}
