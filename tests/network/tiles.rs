//! The first layers of a network tile by tile: losses and gradient are those of the whole picture.

use super::recompute::picture;
use crate::common::objective::{network, weigh};
use crate::common::{both, cpu, engine_with, relative_l2, turn, widen};
use neural_mirage::Error;
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::image_io::{self, Picture};
use neural_mirage::mirage::optimizer::{Adam, Lbfgs, Optimizer};
use neural_mirage::mirage::preset::{Preset, layers};
use neural_mirage::mirage::statistic::by_name;
use neural_mirage::mirage::{
    Event, Init, Pooling, Request, ScaleCount, Scales, Session, Source, Target, TermLoss, Tiling,
};
use neural_mirage::ops::{Padding, PoolKind};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The acceptance limit of gradients, relative L2. Sums over tiles add roundings of 6e-8 to what are means of thousands of
/// values.
pub(super) const GRADIENT: f64 = 1e-5;
/// With Winograd's method a pixel's rounding depends on where its 4x4 tile begins, and ReLU and pooling decisions within
/// rounding of a tie fall either way, as between two devices; see `goldens`.
pub(super) const WINOGRAD_GRADIENT: f64 = 2e-4;
/// The same with the default statistic of style, whose matrix roots amplify roundings of covariances, and on two devices. At
/// 320 px in tiles of 48 the CPU device's gradient differs by 1.3e-3 without Winograd's method, where Gram matrices make it
/// 6e-7; of whole pictures of 512 px the CPU device's and lavapipe's are 3.3e-3 apart.
pub(super) const ROOTS: f64 = 5e-3;
/// As in `mirage::LOSS_LIMIT`: some losses are small differences of statistics, which are within 1e-6.
const LOSSES: f64 = 1e-3;

/// All factors: style in and between blocks, and what tiles have to put together for the deep layers.
pub(super) fn request(photo: Picture, statistic: &str) -> Request {
    let mut request = Request::new(photo);
    let mut preset = Preset::default();
    preset.style.layers = layers("relu1_1,conv1_2:0.5,relu2_2,relu3_1,relu4_1,relu5_1").unwrap();
    preset.style.statistic = by_name(statistic).unwrap();
    preset.style.target = Target::Images(Arc::new([(picture(67, 90, 23), 1.0)]));
    preset.spatial.layers = layers("relu2_1,relu4_2").unwrap();
    preset.abstracted.layers = layers("fc6,fc8").unwrap();
    request.groups = preset.groups();
    request.scales = Scales::single(2);
    weigh(&mut request, |name| if name == "spatial" { 0.3 } else { 1.0 });
    request
}

/// Losses and gradient.
type Evaluated = (Vec<TermLoss>, Vec<f32>);

/// At a picture that meets no target.
pub(super) fn evaluate(
    engine: &Arc<Engine>,
    network: &Arc<Network>,
    request: &Request,
    tile: Option<u32>,
) -> Evaluated {
    let mut request = request.clone();
    request.tiling = tile.map_or(Tiling::Whole, Tiling::Side);
    let start = picture(request.photo.width, request.photo.height, 19);
    Session::new(engine, network, request).unwrap().evaluate(&start).unwrap()
}

fn check(engine: &Arc<Engine>, request: &Request, tiles: &[u32], limit: f64, what: &str) {
    let expected = evaluate(engine, &network(), request, None);
    assert!(expected.1.iter().any(|value| *value != 0.0), "{what}");
    for tile in tiles {
        let what = format!("{what}, tiles of {tile} on {}", engine.describe());
        compare(&evaluate(engine, &network(), request, Some(*tile)), &expected, limit, &what);
    }
}

/// Losses and gradient, to [`LOSSES`] and to `limit`.
pub(super) fn compare(found: &Evaluated, expected: &Evaluated, limit: f64, what: &str) {
    let ((losses, found), (expected, gradient)) = (found, expected);
    assert_eq!(losses.len(), expected.len(), "{what}");
    for (found, expected) in losses.iter().zip(expected) {
        let error = (found.loss - expected.loss).abs() / expected.loss.abs().max(1e-12);
        assert!(
            error <= LOSSES,
            "{what}: {} {}: {} against {}",
            found.group,
            found.source,
            found.loss,
            expected.loss
        );
    }
    let error = relative_l2(found, &widen(gradient));
    println!("{what}: {error:.2e}");
    assert!(error <= limit, "{what}: the gradient is off by {error:.3e} (relative L2)");
}

#[test]
fn tiles_give_the_gradient_of_the_whole_picture() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    let variations = ["total-variation", "total-variation-absolute", "total-variation-diagonal"];
    let mut variations = variations.into_iter().cycle();
    // Odd and prime sizes, wide and tall; at most one of the tiles below in a direction, and many.
    let pictures = [
        ((131, 97), "gram", PoolKind::Max),
        ((97, 160), "gram-pixels", PoolKind::Average),
        ((64, 149), "gram-relative", PoolKind::Average),
        ((150, 101), "mean-covariance", PoolKind::Average),
        ((113, 127), "mean-variance", PoolKind::Max),
        ((139, 66), "wasserstein", PoolKind::Max),
        ((101, 103), "feature", PoolKind::Average),
    ];
    for ((width, height), statistic, pooling) in pictures {
        let mut request = request(picture(width, height, 17), statistic);
        if statistic == "feature" {
            // It compares with a picture of the same size only.
            let mut groups = request.groups.clone();
            groups
                .iter_mut()
                .flat_map(|group| &mut group.losses)
                .for_each(|loss| loss.target = Target::Photo);
            request.groups = groups;
        }
        request.pooling = match pooling {
            PoolKind::Max => PoolKind::Max.into(),
            PoolKind::Average => Pooling { kind: PoolKind::Average, gain: 2.0 },
        };
        request.border = if width % 2 == 0 { Padding::Zeros } else { Padding::Replicate };
        for loss in
            request.groups.iter_mut().filter(|group| group.name == "smooth").flat_map(|g| &mut g.losses)
        {
            loss.statistic = by_name(variations.next().unwrap()).unwrap();
        }
        let what = format!("{width}x{height}, {statistic}, {pooling:?}, {:?}", request.border);
        check(&engine, &request, &[8, 32, 50], GRADIENT, &what);
    }
}

/// The default network and objective.
pub(super) fn default_request([width, height]: [usize; 2]) -> (Arc<Network>, Request) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let network = Arc::new(Network::open(&root.join("weights/vgg16-narrow.safetensors"), None).unwrap());
    let photo = image_io::read(&root.join("docs/photos/astronaut.png")).unwrap().picture;
    let mut request = Request::new(image_io::resize(&photo, width, height).unwrap());
    // Measuring the weights would take as long as some iterations.
    weigh(&mut request, |name| if name == "spatial" { 0.3 } else { 1.0 });
    request.scales = Scales::single(1);
    (network, request)
}

/// The same with Gram matrices for style.
pub(super) fn with_gram_matrices(mut request: Request) -> Request {
    let style = request.groups.iter_mut().filter(|group| group.name == "style");
    style.flat_map(|group| &mut group.losses).for_each(|loss| loss.statistic = by_name("gram").unwrap());
    request
}

/// A tile and its halo are 224 pixels wide for all layers of such a network, so only in wider pictures does a tile not see
/// all of it. In tiles of 8 all layers are in tiles, in those of 100 the first ones.
#[test]
fn tiles_that_see_a_part_of_the_picture_give_its_gradient() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    for (width, height) in [(391, 43), (37, 391)] {
        let request = request(picture(width, height, 17), "mean-covariance");
        check(&engine, &request, &[8, 100], GRADIENT, &format!("{width}x{height}"));
    }
}

/// In tiles of 64 the first layers are in tiles, in tiles of 16 all convolutions.
#[test]
fn tiles_give_the_gradient_of_the_default_network() {
    let _turn = turn();
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    for (size, tile) in [([149, 41], 64), ([97, 41], 16)] {
        let (network, request) = default_request(size);
        let request = with_gram_matrices(request);
        let expected = evaluate(&engine, &network, &request, None);
        let found = evaluate(&engine, &network, &request, Some(tile));
        compare(&found, &expected, GRADIENT, &format!("tiles of {tile}"));
    }
}

#[test]
fn tiles_give_the_gradient_on_every_device() {
    let _turn = turn();
    let plain = DeviceOptions { family: Family::Naive, exact: true, ..Default::default() };
    for statistic in ["mean-variance", "mean-covariance"] {
        let request = request(picture(83, 71, 17), statistic);
        check(&engine_with(&plain, |_| {}), &request, &[32], GRADIENT, statistic);
        for engine in both() {
            check(&engine, &request, &[32], WINOGRAD_GRADIENT, statistic);
        }
    }
}

/// Without the abstract factor nothing needs the deep layers, and nothing is put together but sums.
#[test]
fn tiles_of_a_shallow_objective() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    let mut request = request(picture(120, 85, 17), "gram");
    request.top_classes = 0;
    let mut groups = request.groups.clone();
    for group in &mut groups {
        group.losses.retain(|loss| {
            ["relu1_1", "relu2_1", "relu2_2", "picture"].contains(&loss.source.to_string().as_str())
        });
    }
    request.groups = groups;
    check(&engine, &request, &[8, 64], GRADIENT, "shallow");
}

/// What one picture gave must not stay for the next.
#[test]
fn another_picture_is_computed_anew() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    let mut request = request(picture(97, 83, 17), "gram");
    request.tiling = Tiling::Side(32);
    let session = || Session::new(&engine, &network(), request.clone()).unwrap();
    let [first, second] = [19, 23].map(|seed| picture(97, 83, seed));
    let mut both = session();
    let before = both.evaluate(&first).unwrap();
    let found = both.evaluate(&second).unwrap();
    assert!(found.0 != before.0 && found.1 != before.1);
    assert_eq!(found, session().evaluate(&second).unwrap());
    assert_eq!(both.evaluate(&first).unwrap(), before);
}

/// A target that is a large map is kept in 16 bits a value, rounded by at most 2^-8 of itself: a third of that on average.
/// Without that the gradient would be within [`GRADIENT`].
#[test]
fn large_targets_of_tiles_are_kept_in_16_bits() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    // Its first layers have 64 channels: more than 16 million values at this size.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-narrow.safetensors");
    let network = Arc::new(Network::open(Path::new(path), None).unwrap());
    let (width, height) = (521, 509);
    let mut request = request(picture(width, height, 17), "gram");
    request.top_classes = 0;
    let mut groups = request.groups.clone();
    for group in &mut groups {
        group.losses.retain(|loss| loss.source.to_string() == "relu2_1" && group.name == "spatial");
        group.losses.iter_mut().for_each(|loss| loss.source = Source::Layer("relu1_1".to_owned()));
    }
    groups.retain(|group| !group.losses.is_empty());
    request.groups = groups;
    let gradient = |tiling| {
        let request = Request { tiling, ..request.clone() };
        Session::new(&engine, &network, request).unwrap().evaluate(&picture(width, height, 19)).unwrap().1
    };
    let error = relative_l2(&gradient(Tiling::Side(200)), &widen(&gradient(Tiling::Whole)));
    println!("16 bits a value: {error:.2e}");
    assert!((GRADIENT..=4e-3).contains(&error), "{error:.3e}");
}

/// A run with measured shares, reports and two scales, the first of which is one tile.
#[test]
fn a_run_in_tiles_paints_the_same_picture() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    let run = |tile: Option<u32>, optimizer: Arc<dyn Optimizer>| {
        let mut request = request(picture(120, 101, 17), "mean-covariance");
        request.optimizer = optimizer;
        request.groups = Preset::default().groups();
        request.scales = Scales { count: ScaleCount::Exactly(2), min_size: 40, iterations: vec![3] };
        request.init = Init::Noise;
        request.schedule.report_every = 1;
        request.tiling = tile.map_or(Tiling::Whole, Tiling::Side);
        let mut session = Session::new(&engine, &network(), request).unwrap();
        let mut totals = Vec::new();
        let result = session.run(&mut |event: Event<'_>| {
            if let Event::Report(report) = event {
                totals.push(report.total);
            }
            Ok(ControlFlow::Continue(()))
        });
        (result.unwrap().picture.rgb.clone(), totals)
    };
    let optimizers: [Arc<dyn Optimizer>; 2] = [Arc::new(Adam::default()), Arc::new(Lbfgs::default())];
    for optimizer in optimizers {
        let name = optimizer.name();
        let (whole, tiled) = (run(None, optimizer.clone()), run(Some(64), optimizer));
        assert_eq!(whole.1.len(), tiled.1.len());
        for (whole, tiled) in whole.1.iter().zip(&tiled.1) {
            assert!((whole - tiled).abs() <= 1e-3 * whole.abs(), "{name}: {whole} against {tiled}");
        }
        let error = relative_l2(&tiled.0, &widen(&whole.0));
        println!("{name}: pictures differ by {error:.2e}");
        // Adam follows the sign of what is next to nothing.
        assert!(error <= 1e-3, "{name}: {error:.3e}");
    }
}

#[test]
fn tiles_are_chosen_where_the_whole_does_not_fit() {
    let _turn = turn();
    let options = DeviceOptions { family: Family::Naive, exact: true, ..Default::default() };
    // Room for a tile's maps, not for those of the whole, and not for the picture, of 960 KB.
    let small = engine_with(&options, |profile| profile.max_binding = 900_000);
    let mut request = request(picture(300, 200, 17), "mean-covariance");
    let refused = Session::new(&small, &network(), request.clone()).unwrap_err();
    assert!(matches!(refused, Error::OutOfMemory { .. }), "{refused}");
    let start = picture(300, 200, 19);
    let whole = cpu(DeviceOptions { exact: true, ..Default::default() });
    let (_, expected) = Session::new(&whole, &network(), request.clone()).unwrap().evaluate(&start).unwrap();
    request.tiling = Tiling::Auto;
    let mut session = Session::new(&small, &network(), request).unwrap();
    let (_, found) = session.evaluate(&start).unwrap();
    let error = relative_l2(&found, &widen(&expected));
    assert!(error <= WINOGRAD_GRADIENT, "{error:.3e}");
    let mut notes = Vec::new();
    // The run is stopped at once.
    let _ = session.run(&mut |event: Event<'_>| {
        if let Event::Started(started) = event {
            notes.extend(started.notes.clone());
        }
        Ok(ControlFlow::Break(()))
    });
    assert!(notes.iter().any(|note| note.contains("tiles of 128 pixels")), "{notes:?}");
}
