//! A picture larger than the device.

use super::recompute::picture;
use super::tiles::{WINOGRAD_GRADIENT, request};
use crate::common::objective::network;
use crate::common::{cpu, engine_with, relative_l2, widen};
use neural_mirage::gpu::DeviceOptions;
use neural_mirage::mirage::preset::Preset;
use neural_mirage::mirage::{Event, MemoryPlan, Request, ScaleCount, Scales, Session, Tiling};
use std::ops::ControlFlow;

const SIDE: usize = 4096;
const GIB: u64 = 1 << 30;

/// On a device that binds 128 MiB at once, half of a tensor of such a picture, and has no more than 1 GiB: a run of three
/// scales whose weights are measured; then losses and gradient against the CPU device with other tiles, whose edges lie
/// elsewhere. With a network of few channels, since the default one takes a driver in software hours.
#[test]
#[ignore = "takes 20 minutes on a driver in software: see docs/memory.md"]
fn a_picture_of_4096_pixels_is_painted_on_a_device_of_one_gibibyte() {
    let small = engine_with(&DeviceOptions { minimal: true, ..Default::default() }, |profile| {
        assert!(profile.max_binding <= 128 << 20 && profile.max_buffer <= 256 << 20, "{profile:?}");
    });
    let mut request = request(picture(SIDE, SIDE, 17), "mean-covariance");
    request.tiling = Tiling::Side(512);
    let painted = Request {
        groups: Preset::default().groups(),
        scales: Scales { count: ScaleCount::Exactly(3), iterations: vec![2, 1], ..request.scales.clone() },
        ..request.clone()
    };
    let plan = MemoryPlan::new(&small, &network(), &painted).unwrap();
    assert!(plan.phases.iter().all(|phase| phase.device.total() <= GIB), "{plan:?}");
    let mut session = Session::new(&small, &network(), painted).unwrap();
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
    println!("losses {losses:?}, {} MiB on the device", device >> 20);
    assert!(device <= GIB, "{} MiB", device >> 20);
    drop(session);

    request.scales = Scales::single(1);
    let start = picture(SIDE, SIDE, 19);
    let (found, gradient) =
        Session::new(&small, &network(), request.clone()).unwrap().evaluate(&start).unwrap();
    request.tiling = Tiling::Side(448);
    let engine = cpu(DeviceOptions::default());
    let (expected, reference) = Session::new(&engine, &network(), request).unwrap().evaluate(&start).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        let error = (found.loss - expected.loss).abs() / expected.loss.abs().max(1e-12);
        assert!(error <= 1e-3, "{} {}: {} against {}", found.group, found.source, found.loss, expected.loss);
    }
    let error = relative_l2(&gradient, &widen(&reference));
    println!("the gradient is off by {error:.2e}");
    assert!(error <= WINOGRAD_GRADIENT, "{error:.3e}");
}
