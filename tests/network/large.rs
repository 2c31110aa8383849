//! A picture larger than the device.

use super::recompute::picture;
use super::tiles::{WINOGRAD_GRADIENT, compare, evaluate, request};
use crate::common::objective::network;
use crate::common::{cpu, engine_with};
use neural_mirage::gpu::DeviceOptions;
use neural_mirage::mirage::preset::Preset;
use neural_mirage::mirage::{Event, MemoryPlan, Request, ScaleCount, Scales, Session, Tiling};
use std::ops::ControlFlow;

const SIDE: usize = 4096;
const GIB: u64 = 1 << 30;

/// On a device that binds 128 MiB at once, half of a tensor of such a picture, and has no more than 1 GiB: a run of three
/// scales whose weights are measured; then losses and gradient against the CPU device with other tiles, whose edges lie
/// elsewhere. With a network of few channels, since the default one takes a software driver hours.
#[test]
#[ignore = "takes 20 minutes on a software driver: see docs/memory.md"]
fn a_picture_of_4096_pixels_is_painted_on_a_device_of_one_gibibyte() {
    let small = engine_with(&DeviceOptions { minimal: true, ..Default::default() }, |profile| {
        assert!(profile.max_binding <= 128 << 20 && profile.max_buffer <= 256 << 20, "{profile:?}");
    });
    let mut request = request(picture(SIDE, SIDE, 17), "mean-covariance");
    let painted = Request {
        tiling: Tiling::Side(512),
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
    let expected = evaluate(&cpu(DeviceOptions::default()), &request, Some(448));
    compare(&evaluate(&small, &request, Some(512)), &expected, WINOGRAD_GRADIENT, "4096 pixels");
}
