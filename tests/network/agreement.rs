//! A whole iteration on a graphics device against the CPU device.

use crate::common::golden::Golden;
use crate::common::objective::{network, picture, use_style_statistic};
use crate::common::runs::{CONTINUE, run};
use crate::common::{cpu, engine, turn};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::image_io::{fit, read, resize};
use neural_mirage::mirage::{Agreement, CpuIteration, Event, Init, Request, ScaleCount, Scales, Session};
use neural_mirage::vgg::Network;
use std::path::Path;
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

/// The default objective with the shipped network. The covariances of its feature maps have eigenvalues over nine orders
/// of magnitude, which those of the tiny network don't have.
#[test]
fn default_run_matches_cpu_with_the_shipped_network() {
    let _turn = turn();
    let network = Arc::new(Network::open(Path::new("weights/vgg16-narrow.safetensors"), None).unwrap());
    let photo = read(Path::new("docs/photos/summer-palace.jpg")).unwrap().picture;
    let (width, height) = fit(photo.width, photo.height, 128);
    let mut request = Request::new(resize(&photo, width, height).unwrap());
    request.scales = Scales { count: ScaleCount::Exactly(1), iterations: vec![10], ..request.scales };
    // Each report takes as long as four iterations.
    request.schedule.report_every = 5;
    let (gpu, cpu) = (engine(Family::Auto), cpu(DeviceOptions::default()));

    let session = Session::new(&gpu, &network, request.clone()).unwrap();
    let expected = CpuIteration::compute(&gpu, &network, &request).unwrap();
    let Agreement { gradient, loss, .. } = session.compare_with(&expected).unwrap();
    println!("gradient {gradient:.1e}, loss {loss:.1e}");
    // Measured on lavapipe: 7.4e-5 and 1.2e-5. A CPU device that mirrored all products of the matrix roots differed by
    // 4.0e-2.
    assert!(gradient <= 4e-4 && loss <= 1e-4, "{gradient:.1e} {loss:.1e}");
    drop(session);

    let totals = |engine: &Arc<Engine>| {
        let mut totals = Vec::new();
        let mut session = Session::new(engine, &network, request.clone()).unwrap();
        run(&mut session, &mut |event: Event<'_>| {
            if let Event::Report(report) = event {
                totals.push(report.total);
            }
            CONTINUE
        });
        totals
    };
    let (gpu, cpu) = (totals(&gpu), totals(&cpu));
    assert_eq!((gpu.len(), cpu.len()), (3, 3));
    let difference = |(gpu, cpu): (&f64, &f64)| ((gpu - cpu) / gpu).abs();
    let worst = gpu.iter().zip(&cpu).map(difference).fold(0.0, f64::max);
    println!("losses in ten iterations: {worst:.1e}");
    // Measured: 2.0e-4. Rounding changes decisions of ReLU.
    assert!(worst <= 1e-3, "{worst:.1e}");
}

#[test]
fn cpu_iteration_matches_itself_exactly() {
    let _turn = turn();
    let options = DeviceOptions { threads: Some(1), ..Default::default() };
    let Agreement { gradient, loss, .. } = agreement(&cpu(options), "wasserstein");
    assert_eq!((gradient, loss), (0.0, 0.0));
}
