//! A whole iteration on a device against the same on the CPU device.

use crate::common::golden::Golden;
use crate::common::objective::{network, picture, use_style_statistic};
use crate::common::runs::{GO_ON, run};
use crate::common::{cpu, engine, turn};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::mirage::{Agreement, Event, Init, Request, ScaleCount, Scales, Session};
use std::sync::Arc;

/// Two scales, the second of which is the photo's, with this statistic of the style; starts from the photo, where most
/// losses are met.
fn request(statistic: &str) -> Request {
    let golden = Golden::open("objective.safetensors");
    let mut request = Request::new(picture(&golden, "photo_large"));
    use_style_statistic(&mut request, statistic);
    request.scales = Scales { count: ScaleCount::Exactly(2), min_size: 1, iterations: vec![2, 1] };
    request.init = Init::Photo;
    request
}

fn agreement(engine: &Arc<Engine>, statistic: &str) -> Agreement {
    let (network, request) = (network(), request(statistic));
    let mut session = Session::new(engine, &network, request.clone()).expect("a session");
    let agreement = session.compare_with_cpu().expect("agreement");
    assert_eq!(agreement.size, request.plan(&network).unwrap()[0].size);
    println!("{}: {agreement:?}", engine.describe());
    // The comparison leaves nothing behind.
    let after = run(&mut session, &mut |_: Event<'_>| GO_ON);
    let mut fresh = Session::new(engine, &network, request).expect("a session");
    assert!(after.picture == run(&mut fresh, &mut |_: Event<'_>| GO_ON).picture);
    agreement
}

#[test]
fn graphics_devices_agree_with_the_cpu_device_but_for_rounding() {
    let _turn = turn();
    for family in [Family::Auto, Family::Buffer, Family::Naive] {
        // Twice the limits of `goldens`, which are distances from f64. The Wasserstein distance is a difference of traces that
        // are accurate to 1e-6 (docs/statistics.md). Here it is as small as a thousandth of them. The gradient keeps its limit.
        for (statistic, limit) in [("mean-covariance", 4e-5), ("wasserstein", 1e-3)] {
            let Agreement { gradient, loss, .. } = agreement(&engine(family), statistic);
            // Other bits, so it was another device.
            assert!(gradient > 0.0, "{family:?}");
            assert!(gradient <= 4e-4 && loss <= limit, "{family:?} {statistic}: {gradient:.1e} {loss:.1e}");
        }
    }
}

#[test]
fn the_cpu_device_agrees_with_itself_to_the_bit() {
    let _turn = turn();
    let options = DeviceOptions { threads: Some(1), ..Default::default() };
    let Agreement { gradient, loss, .. } = agreement(&cpu(options), "wasserstein");
    assert_eq!((gradient, loss), (0.0, 0.0));
}
