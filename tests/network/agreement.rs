//! A whole iteration on a graphics device against the CPU device.

use crate::common::golden::Golden;
use crate::common::objective::{network, picture, use_style_statistic};
use crate::common::runs::{CONTINUE, run};
use crate::common::{cpu, engine, turn};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::mirage::{Agreement, CpuIteration, Event, Init, Request, ScaleCount, Scales, Session};
use std::sync::Arc;

/// A request with this style statistic and two scales, the second at the photo's size. It starts from the photo, where
/// most losses are zero.
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
    let expected = CpuIteration::compute(engine, &network, &request).expect("an iteration");
    let agreement = session.compare_with(&expected).expect("agreement");
    assert_eq!(agreement.size, request.plan(&network).unwrap()[0].size);
    println!("{}: {agreement:?}", engine.describe());
    // The comparison must not affect the session.
    let after = run(&mut session, &mut |_: Event<'_>| CONTINUE);
    let mut fresh = Session::new(engine, &network, request).expect("a session");
    assert!(after.picture == run(&mut fresh, &mut |_: Event<'_>| CONTINUE).picture);
    agreement
}

#[test]
fn gpu_iteration_matches_cpu() {
    let _turn = turn();
    for family in [Family::Auto, Family::Buffer, Family::Naive] {
        // Twice the limits of `goldens`, which are distances from f64. The Wasserstein distance is a difference of
        // traces that are accurate to 1e-6 (docs/statistics.md); here it is a thousandth of them. The gradient keeps
        // its limit.
        for (statistic, limit) in [("mean-covariance", 4e-5), ("wasserstein", 1e-3)] {
            let Agreement { gradient, loss, .. } = agreement(&engine(family), statistic);
            // The bits differ, so it was a different device.
            assert!(gradient > 0.0, "{family:?}");
            assert!(gradient <= 4e-4 && loss <= limit, "{family:?} {statistic}: {gradient:.1e} {loss:.1e}");
        }
    }
}

#[test]
fn cpu_iteration_matches_itself_exactly() {
    let _turn = turn();
    let options = DeviceOptions { threads: Some(1), ..Default::default() };
    let Agreement { gradient, loss, .. } = agreement(&cpu(options), "wasserstein");
    assert_eq!((gradient, loss), (0.0, 0.0));
}
