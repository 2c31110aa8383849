//! The first layers of a network computed tile by tile: losses and gradient match the whole picture.

use super::recompute::picture;
use crate::common::objective::{network, weigh};
use crate::common::{both_devices, cpu, engine_with, relative_l2, turn, widen};
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

/// Acceptance limit of gradients, relative L2. Sums over tiles add rounding errors of 6e-8 to means of thousands of
/// values.
pub(super) const GRADIENT: f64 = 1e-5;
/// With Winograd's method a pixel's rounding depends on where its 4x4 tile begins. ReLU and pooling decisions near a
/// tie may differ, as between two devices; see `goldens`.
pub(super) const WINOGRAD_GRADIENT: f64 = 2e-4;
/// Limit for the default style statistic, whose matrix roots amplify rounding of covariances, and for two devices. At
/// 320 px in tiles of 48 the CPU device's gradient differs by 8.3e-5 without Winograd's method, and by 6e-7 with Gram
/// matrices. For whole pictures of 512 px the gradients of the CPU device and lavapipe differ by 1.8e-4.
pub(super) const ROOTS: f64 = 1e-3;
/// As `mirage::LOSS_LIMIT`: some losses are small differences of statistics, which are accurate to 1e-6.
const LOSSES: f64 = 1e-3;

/// A request with all factors: style inside and between blocks, and deep layers that need the maps of all tiles.
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

/// Computes losses and gradient.
type Evaluated = (Vec<TermLoss>, Vec<f32>);

/// Evaluates at a picture that differs from every target.
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

/// Compares losses within [`LOSSES`] and gradients within `limit`.
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
fn tiled_gradient_matches_whole_picture() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    let variations = ["total-variation", "total-variation-absolute", "total-variation-diagonal"];
    let mut variations = variations.into_iter().cycle();
    // Odd and prime sizes, wide and tall; with one tile or many per direction.
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
            // It needs a target of the same size.
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

/// Creates a request of the default objective and the default network.
pub(super) fn default_request([width, height]: [usize; 2]) -> (Arc<Network>, Request) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let network = Arc::new(Network::open(&root.join("weights/vgg16-narrow.safetensors"), None).unwrap());
    let photo = image_io::read(&root.join("docs/photos/astronaut.png")).unwrap().picture;
    let mut request = Request::new(image_io::resize(&photo, width, height).unwrap());
    // Given weights: measuring them would take as long as several iterations.
    weigh(&mut request, |name| if name == "spatial" { 0.3 } else { 1.0 });
    request.scales = Scales::single(1);
    (network, request)
}

/// Replaces the style statistic by Gram matrices.
pub(super) fn with_gram_matrices(mut request: Request) -> Request {
    let style = request.groups.iter_mut().filter(|group| group.name == "style");
    style.flat_map(|group| &mut group.losses).for_each(|loss| loss.statistic = by_name("gram").unwrap());
    request
}

/// With all layers of this network, a tile and its halo are 224 pixels wide, so only in wider pictures a tile sees just
/// a part. With tiles of 8 all layers are tiled, with tiles of 100 only the first ones.
#[test]
fn tiled_gradient_matches_when_tiles_see_part_of_picture() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    for (width, height) in [(391, 43), (37, 391)] {
        let request = request(picture(width, height, 17), "mean-covariance");
        check(&engine, &request, &[8, 100], GRADIENT, &format!("{width}x{height}"));
    }
}

/// With tiles of 64 the first layers are tiled, with tiles of 16 all convolutions.
#[test]
fn tiled_gradient_matches_for_default_network() {
    let _turn = turn();
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    for (size, tile) in [([149, 41], 64), ([53, 37], 16)] {
        let (network, request) = default_request(size);
        // The matrix roots of the default statistic take most of the time.
        let more = (tile == 16).then(|| (request.clone(), ROOTS));
        for (request, limit) in [(with_gram_matrices(request), GRADIENT)].into_iter().chain(more) {
            let expected = evaluate(&engine, &network, &request, None);
            let found = evaluate(&engine, &network, &request, Some(tile));
            compare(&found, &expected, limit, &format!("limit {limit:.0e}, tiles of {tile}"));
        }
    }
}

#[test]
fn tiled_gradient_matches_on_every_device() {
    let _turn = turn();
    let plain = DeviceOptions { family: Family::Naive, exact: true, ..Default::default() };
    for statistic in ["mean-variance", "mean-covariance"] {
        let request = request(picture(83, 71, 17), statistic);
        check(&engine_with(&plain, |_| {}), &request, &[32], GRADIENT, statistic);
        for engine in both_devices() {
            check(&engine, &request, &[32], WINOGRAD_GRADIENT, statistic);
        }
    }
}

/// Without the abstract factor no deep layers are needed, and only sums are combined across tiles.
#[test]
fn tiled_gradient_matches_for_shallow_objective() {
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

/// Results of one picture must not affect the next.
#[test]
fn results_do_not_depend_on_previous_picture() {
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

/// Targets that are large maps are stored in 16 bits per value, with a relative rounding error of at most 2^-8, a third
/// of that on average. Without it the gradient would be within [`GRADIENT`].
#[test]
fn large_tiled_targets_are_stored_in_16_bits() {
    let engine = cpu(DeviceOptions { exact: true, ..Default::default() });
    // The first layers have 64 channels: more than 16 million values at this size.
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

/// A run with measured shares, reports and two scales, the first of which fits in one tile.
#[test]
fn tiled_run_matches_whole_run() {
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
        // Adam amplifies the sign of tiny gradients.
        assert!(error <= 1e-3, "{name}: {error:.3e}");
    }
}

#[test]
fn tiles_are_chosen_when_whole_picture_does_not_fit() {
    let _turn = turn();
    let options = DeviceOptions { family: Family::Naive, exact: true, ..Default::default() };
    // Room for a tile's maps, but not for those of the whole picture, nor for the picture itself (960 KB).
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
    // The run is stopped immediately.
    let _ = session.run(&mut |event: Event<'_>| {
        if let Event::Started(started) = event {
            notes.extend(started.notes.clone());
        }
        Ok(ControlFlow::Break(()))
    });
    assert!(notes.iter().any(|note| note.contains("tiles of 128 pixels")), "{notes:?}");
}
