//! A picture larger than the device.

use super::recompute::picture;
use crate::common::objective::weigh;
use crate::common::{cpu, engine_with, relative_l2, widen};
use neural_mirage::gpu::DeviceOptions;
use neural_mirage::mirage::{Event, Init, MemoryPlan, Request, ScaleCount, Scales, Session, Tiling};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const SIDE: usize = 4096;
const GIB: u64 = 1 << 30;
/// As between two devices; see `tiles`.
const GRADIENT: f64 = 2e-4;

/// The default network and objective, from one scale to the next, on a device that binds 128 MiB at once and has no more
/// than 1 GiB; then losses and gradient against the CPU device with other tiles, whose edges lie elsewhere.
#[test]
#[ignore = "takes about an hour on a driver in software: see docs/memory.md"]
fn a_picture_of_4096_pixels_is_painted_on_a_device_of_one_gibibyte() {
    let small = engine_with(&DeviceOptions { minimal: true, ..Default::default() }, |profile| {
        assert!(profile.max_binding <= 128 << 20 && profile.max_buffer <= 256 << 20, "{profile:?}");
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-narrow.safetensors");
    let network = Arc::new(Network::open(Path::new(path), None).unwrap());
    let mut request = Request::new(picture(SIDE, SIDE, 17));
    // Measuring weights would more than triple the time.
    weigh(&mut request, |_| 1.0);
    request.scales = Scales { count: ScaleCount::Exactly(2), iterations: vec![1], ..request.scales };
    request.init = Init::Noise;
    request.schedule.report_every = 1;
    let in_tiles = |side| Request { tiling: Tiling::Side(side), ..request.clone() };
    let fits = |side: &u32| {
        let plan = MemoryPlan::new(&small, &network, &in_tiles(*side)).unwrap();
        let device = plan.phases.iter().map(|phase| phase.device.total()).max();
        device.is_some_and(|bytes| bytes <= GIB)
    };
    let side = [1024, 512, 256, 128].into_iter().find(fits).expect("tiles that fit");
    let mut session = Session::new(&small, &network, in_tiles(side)).unwrap();
    let mut losses = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Report(report) = event {
            println!("iteration {}: loss {}", report.iteration, report.total);
            losses.push(report.total);
        }
        Ok(ControlFlow::Continue(()))
    };
    let result = session.run(&mut observe).unwrap();
    assert_eq!([result.picture.width, result.picture.height], [SIDE, SIDE]);
    assert!(losses.len() >= 2 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    let device = session.memory().total();
    println!("tiles of {side}: {} MiB on the device", device >> 20);
    assert!(device <= GIB, "{} MiB", device >> 20);

    let start = picture(SIDE, SIDE, 19);
    let (found, gradient) = session.evaluate(&start).unwrap();
    drop(session);
    let mut other = in_tiles(448);
    other.scales = Scales::single(1);
    let engine = cpu(DeviceOptions::default());
    let (expected, reference) = Session::new(&engine, &network, other).unwrap().evaluate(&start).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        let error = (found.loss - expected.loss).abs() / expected.loss.abs().max(1e-12);
        println!("{} {}: {error:.1e}", found.group, found.source);
        assert!(error <= 1e-3, "{} {}: {} against {}", found.group, found.source, found.loss, expected.loss);
    }
    let error = relative_l2(&gradient, &widen(&reference));
    println!("the gradient is off by {error:.2e}");
    assert!(error <= GRADIENT, "{error:.3e}");
}
