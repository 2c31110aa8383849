//! A picture larger than the device. Run by hand: see docs/memory.md.

use super::recompute::picture;
use super::tiles::{GRADIENT, WINOGRAD_GRADIENT, compare, evaluate, request};
use crate::common::objective::{network, weigh};
use crate::common::{both, cpu, engine_with, turn};
use neural_mirage::gpu::DeviceOptions;
use neural_mirage::graph::Engine;
use neural_mirage::image_io::{self, WriteOptions};
use neural_mirage::mirage::preset::Preset;
use neural_mirage::mirage::{Event, MemoryPlan, Request, ScaleCount, Scales, Session, Tiling};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const SIDE: usize = 4096;
const GIB: u64 = 1 << 30;
/// The side of the default network's tiles: the largest that take less than that.
const TILE: u32 = 288;
/// Limit of gradients of the default network on two devices, relative L2: ReLU and pooling decisions within rounding of a
/// tie fall either way. Of whole pictures of 512 px the CPU device's and lavapipe's are 3.3e-3 apart.
const BETWEEN_DEVICES: f64 = 5e-3;

/// A device that binds 128 MiB at once, half of a tensor of such a picture. With `minimal` the driver enforces that and has
/// no subgroups; without it only the choice of kernels keeps to it, and those of the texture family are among them.
fn small_device(minimal: bool) -> Arc<Engine> {
    engine_with(&DeviceOptions { minimal, ..Default::default() }, |profile| {
        profile.max_binding = profile.max_binding.min(128 << 20);
        profile.max_buffer = profile.max_buffer.min(256 << 20);
    })
}

/// Paints on the small device within 1 GiB, planned and measured, and keeps the picture as `name` for a look at its tiles' edges.
fn paint(engine: &Arc<Engine>, network: &Arc<Network>, request: Request, name: &str) {
    let plan = MemoryPlan::new(engine, network, &request).unwrap();
    let planned = plan.phases.iter().map(|phase| phase.device.total()).max().unwrap();
    assert!(planned <= GIB, "{} MiB: {plan:?}", planned >> 20);
    let begun = Instant::now();
    let mut session = Session::new(engine, network, request).unwrap();
    let mut losses = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Report(report) = event {
            losses.push(report.total);
        }
        Ok(ControlFlow::Continue(()))
    };
    let result = session.run(&mut observe).unwrap();
    assert_eq!([result.picture.width, result.picture.height], [SIDE, SIDE]);
    assert!(losses.len() >= 2 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    let device = session.memory().total();
    let seconds = begun.elapsed().as_secs();
    println!("losses {losses:?}, {} of {} MiB on the device, {seconds} s", device >> 20, planned >> 20);
    assert!(device <= GIB, "{} MiB", device >> 20);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    image_io::write(&path, &result.picture, &WriteOptions { overwrite: true, ..WriteOptions::default() })
        .unwrap();
    println!("{}", path.display());
}

/// A run of three scales whose weights are measured; then losses and gradient against the CPU device with other tiles, whose
/// edges lie elsewhere. A network of few channels.
#[test]
#[ignore = "takes 20 minutes on a software driver"]
fn a_picture_of_4096_pixels_is_painted_on_a_device_of_one_gibibyte() {
    let small = small_device(true);
    let mut request = request(picture(SIDE, SIDE, 17), "mean-covariance");
    let painted = Request {
        tiling: Tiling::Side(512),
        groups: Preset::default().groups(),
        scales: Scales { count: ScaleCount::Exactly(3), iterations: vec![2, 1], ..request.scales.clone() },
        ..request.clone()
    };
    paint(&small, &network(), painted, "large.png");
    request.scales = Scales::single(1);
    let expected = evaluate(&cpu(DeviceOptions::default()), &network(), &request, Some(448));
    let found = evaluate(&small, &network(), &request, Some(512));
    compare(&found, &expected, WINOGRAD_GRADIENT, "4096 pixels");
}

/// The default network and objective.
fn default_request(side: usize) -> (Arc<Network>, Request) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let network = Arc::new(Network::open(&root.join("weights/vgg16-narrow.safetensors"), None).unwrap());
    let photo = image_io::read(&root.join("docs/photos/astronaut.png")).unwrap().picture;
    let mut request = Request::new(image_io::resize(&photo, side, side).unwrap());
    // Measuring the weights would take as long as some iterations.
    weigh(&mut request, |name| if name == "spatial" { 0.3 } else { 1.0 });
    request.scales = Scales::single(1);
    (network, request)
}

#[test]
#[ignore = "takes half an hour or more on a software driver"]
fn the_default_network_paints_4096_pixels_on_a_device_of_one_gibibyte() {
    let (network, request) = default_request(SIDE);
    let scales = Scales { count: ScaleCount::Exactly(2), iterations: vec![1], ..request.scales.clone() };
    let painted = Request { tiling: Tiling::Side(TILE), scales, ..request };
    paint(&small_device(false), &network, painted, "large-default.png");
}

/// Other tiles of the same device give the same gradient, and the small device that of the CPU device, as far as two devices
/// agree.
#[test]
#[ignore = "takes half an hour or more on a software driver"]
fn the_gradient_of_4096_pixels_is_the_same_on_a_device_of_one_gibibyte() {
    let (network, request) = default_request(SIDE);
    let native = cpu(DeviceOptions::default());
    let [expected, other] = [448, TILE].map(|tile| evaluate(&native, &network, &request, Some(tile)));
    compare(&other, &expected, GRADIENT, "4096 pixels, other tiles");
    let found = evaluate(&small_device(false), &network, &request, Some(TILE));
    compare(&found, &expected, BETWEEN_DEVICES, "4096 pixels, another device");
}

#[test]
fn tiles_give_the_gradient_of_the_default_network() {
    let _turn = turn();
    let (network, request) = default_request(320);
    for engine in both() {
        let expected = evaluate(&engine, &network, &request, None);
        let found = evaluate(&engine, &network, &request, Some(160));
        compare(&found, &expected, GRADIENT, &engine.describe());
    }
}
