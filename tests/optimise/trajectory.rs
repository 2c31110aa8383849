//! Ten steps of the whole optimisation against PyTorch, and repeatability.

use crate::common::golden::{Golden, text};
use crate::common::objective::{
    iterate, network, picture, request_of_trajectory, use_style_statistic, weigh,
};
use crate::common::{both_devices, cpu, engine, engine_with, planar, relative_l2, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::optimizer::Adam;
use neural_mirage::mirage::{Ending, Event, Request, RunResult, Session, Weights};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::sync::Arc;

/// With noise of 1e-6 per convolution PyTorch's own final picture changes by up to 7e-5, its totals by 6e-6.
const PICTURE: f64 = 5e-4;
const TOTALS: f64 = 1e-4;
/// The acceptance limit on single pixels, in units of [0, 1].
const PIXEL: f64 = 1e-3;

fn run(
    engine: &Arc<Engine>,
    network: &Arc<Network>,
    request: Request,
) -> (RunResult, Vec<f64>, Vec<(u32, Picture)>) {
    let mut totals = Vec::new();
    let mut snapshots = Vec::new();
    let mut session = Session::new(engine, network, request).expect("a session");
    let outcome = session
        .run(&mut |event: Event<'_>| {
            match event {
                Event::Report(report) => totals.push(report.total),
                Event::Snapshot { iteration, picture, .. } => snapshots.push((iteration, picture.clone())),
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })
        .expect("a run");
    (outcome, totals, snapshots)
}

#[test]
fn ten_steps_match_pytorch() {
    let _turn = turn();
    both_devices().iter().for_each(check_trajectories);
}

/// Whole iterations without optional features and with WebGPU's default limits.
#[test]
fn ten_steps_match_pytorch_on_a_minimal_device() {
    let _turn = turn();
    for family in [Family::Auto, Family::Buffer] {
        let engine = engine_with(&DeviceOptions { family, minimal: true, ..Default::default() }, |_| {});
        let profile = engine.profile();
        assert_eq!(
            (profile.lanes, profile.max_binding, profile.max_workgroup_storage),
            (None, 128 << 20, 16 << 10)
        );
        assert_eq!((profile.max_invocations, profile.binding_alignment), (256, 256));
        check_trajectories(&engine);
    }
}

fn check_trajectories(engine: &Arc<Engine>) {
    println!("{}", engine.describe());
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let trajectories = golden.cases["trajectories"].as_array().expect("a list");
    assert_eq!(trajectories.len(), 2);
    for trajectory in trajectories {
        let name = text(&trajectory["name"]);
        let mut request = request_of_trajectory(&golden, trajectory);
        let number = |key: &str| trajectory[key].as_f64().expect("a number");
        iterate(&mut request, number("steps") as u32);
        request.optimizer = Arc::new(Adam {
            learning_rate: number("lr") as f32,
            beta1: number("beta1"),
            beta2: number("beta2"),
            epsilon: number("eps"),
            decay: 0.0,
            ..Adam::default()
        });
        request.schedule.report_every = 1;
        let (outcome, totals, _) = run(engine, &network, request);
        let expected = trajectory["totals"].as_array().expect("a list");
        assert_eq!(totals.len(), expected.len(), "{name}");
        for (iteration, (actual, expected)) in totals.iter().zip(expected).enumerate() {
            let expected = expected.as_f64().expect("a number");
            let error = (actual - expected).abs() / expected;
            assert!(error <= TOTALS, "{name} iteration {iteration}: {actual} against {expected}");
        }
        let expected = widen(&golden.tensor(text(&trajectory["final_image"])).1);
        let actual = planar(&outcome.picture);
        let error = relative_l2(&actual, &expected);
        assert!(error <= PICTURE, "{name}: final picture off by {error:.3e} (relative L2)");
        let worst = actual.iter().zip(&expected).map(|(a, e)| (f64::from(*a) - e).abs()).fold(0.0, f64::max);
        println!("{name}: relative L2 {error:.2e}, worst pixel {worst:.2e}");
        assert!(worst <= PIXEL, "{name}: worst pixel off by {worst:.3e}");
    }
}

/// A small request with all factors, a balance and snapshots.
fn small_request(golden: &Golden) -> Request {
    let mut request = Request::new(picture(golden, "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    iterate(&mut request, 12);
    request.schedule.report_every = 5;
    request.schedule.snapshot_at = vec![3, 12];
    request
}

#[test]
fn picture_depends_only_on_seed() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let first = run(&engine, &network, small_request(&golden));
        let second = run(&engine, &network, small_request(&golden));
        assert_eq!(first.0.picture, second.0.picture, "{}", engine.describe());
        assert_eq!(first.1, second.1);
        let mut other = small_request(&golden);
        other.seed = 1;
        assert_ne!(run(&engine, &network, other).0.picture, first.0.picture);
    }
}

/// With a balance, and pictures large enough for kernels to split their work.
#[test]
fn run_does_not_depend_on_thread_count() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let runs = [1, 2, 3].map(|threads| {
        let engine = cpu(DeviceOptions { threads: Some(threads), ..Default::default() });
        assert_eq!(engine.threads(), Some(threads));
        let mut request = Request::new(picture(&golden, "photo_large"));
        iterate(&mut request, 3);
        run(&engine, &network, request)
    });
    assert_eq!(runs[0].1.len(), 2, "reports at 0 and 3");
    for (other, threads) in runs[1..].iter().zip(2..) {
        assert!(other.0.picture == runs[0].0.picture, "{threads} threads give a different picture");
        assert_eq!(other.1, runs[0].1, "{threads} threads");
    }
}

#[test]
fn reports_and_snapshots_do_not_change_the_run() {
    let _turn = turn();
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for engine in both_devices() {
        let (outcome, totals, snapshots) = run(&engine, &network, small_request(&golden));
        assert_eq!(totals.len(), 4, "reports at 0, 5, 10, 12");
        assert!(totals.iter().all(|total| total.is_finite() && *total > 0.0));
        assert_eq!(snapshots.iter().map(|(iteration, _)| *iteration).collect::<Vec<_>>(), [3, 12]);
        assert_eq!(snapshots[1].1, *outcome.picture);
        let mut quiet = small_request(&golden);
        quiet.schedule = Default::default();
        assert_eq!(run(&engine, &network, quiet).0.picture, outcome.picture);
        // With given weights, a run of three iterations ends with the picture of the snapshot after three.
        let mut short = small_request(&golden);
        iterate(&mut short, 3);
        assert_eq!(*run(&engine, &network, short).0.picture, snapshots[0].1);
    }
}

/// The first step of a balanced run combines the measured gradients, each weighted. With the same weights given, it
/// uses one gradient of the whole objective.
#[test]
fn first_balanced_step_matches_measured_weights() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let mut request = small_request(&golden);
    iterate(&mut request, 1);
    // An epsilon of the order of the mean gradient: otherwise the first step depends only on signs.
    request.optimizer = Arc::new(Adam { epsilon: 1.0, ..Adam::default() });
    request.groups[2].losses[0].weight = 0.5;
    let mut weights = Weights::default();
    let mut shares = Vec::new();
    let mut session = Session::new(&engine, &network, request.clone()).expect("a session");
    let balanced = session
        .run(&mut |event: Event<'_>| {
            match event {
                Event::Weighted { weights: measured, .. } => weights = measured.clone(),
                Event::Report(report) => shares.push(report.gradient_shares.clone()),
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })
        .expect("a run");
    assert_eq!(weights.0.iter().filter(|weight| weight.norm.is_some()).count(), 3);
    // The second report measures the shares again, one step later.
    assert_eq!(shares.len(), 2);
    for ((kind, share), wanted) in shares[0].iter().zip([0.15, 0.15, 0.7]) {
        assert!((share - wanted).abs() < 1e-5, "{kind}: {share} of the gradient, {wanted} wanted");
    }
    assert_eq!(shares[1].len(), 3);
    assert_ne!(shares[1], shares[0]);
    weigh(&mut request, |name| weights.of(name));
    let given = run(&engine, &network, request.clone()).0;
    iterate(&mut request, 0);
    let start = planar(&run(&engine, &network, request).0.picture);
    let moved = |picture: &Picture| -> Vec<f32> {
        planar(picture).iter().zip(&start).map(|(to, from)| to - from).collect()
    };
    let (one, other) = (moved(&balanced.picture), moved(&given.picture));
    assert!(other.iter().any(|step| step.abs() > 1e-3), "nothing moved");
    // A pixel of up to 1 is rounded by 6e-8, about 1e-5 of a step of 1e-2.
    let error = relative_l2(&one, &widen(&other));
    assert!(error <= 1e-4, "the steps differ by {error:.3e}");
}

/// A request without a balance, because measuring it would wait for the device.
fn request_with_weights(golden: &Golden) -> Request {
    let mut request = small_request(golden);
    weigh(&mut request, |_| 1.0);
    iterate(&mut request, 9);
    request.schedule = Default::default();
    request
}

/// The loop runs ahead of the device by two iterations, whatever is read back, then waits for the oldest.
#[test]
fn loop_runs_at_most_two_iterations_ahead() {
    let _turn = turn();
    // A device of its own, because the test counts waits.
    let engine = engine_with(&DeviceOptions::default(), |_| {});
    let golden = Golden::open("objective.safetensors");
    let network = network();
    for every in [0, 1] {
        let mut request = request_with_weights(&golden);
        request.schedule.report_every = every;
        request.schedule.snapshot_every = every;
        let mut session = Session::new(&engine, &network, request).expect("a session");
        // A second run reuses the staging buffers of the first.
        for run in 0..2 {
            let (mut before, mut observed) = (0, Vec::new());
            let outcome = session.run(&mut |event: Event<'_>| {
                match event {
                    Event::Started(_) => before = engine.gpu().unwrap().waits(),
                    Event::Scale(_) => {}
                    Event::Weighted { .. } => observed.push("balance".to_owned()),
                    Event::Progress { iteration, .. } => observed.push(format!("done {iteration}")),
                    Event::Snapshot { iteration, .. } => observed.push(format!("snapshot {iteration}")),
                    Event::Report(report) => {
                        let shares: f32 = report.gradient_shares.iter().map(|(_, share)| share).sum();
                        assert!((shares - 1.0).abs() < 1e-5, "shares sum to {shares}");
                        observed.push(format!("report {}", report.iteration));
                    }
                    other => panic!("{other:?} was not requested"),
                }
                Ok(ControlFlow::Continue(()))
            });
            assert_eq!(outcome.expect("a run").iterations, 9);
            // Ten submissions (the last is the final report), each waited for at most once: a fast device may have
            // the values ready.
            let waits = engine.gpu().unwrap().waits() - before;
            // On a GPU the first run times its second iteration in parts and waits for each.
            assert!(run == 0 || waits <= 10, "{waits} waits with a report every {every}");
            let (most, staging) = session.in_flight();
            assert_eq!(most, 3, "a report every {every}");
            assert!(staging <= 9, "{staging} staging buffers");
            let mut expected = Vec::new();
            for iteration in 0..=9 {
                if every == 1 && iteration > 0 {
                    expected.push(format!("snapshot {iteration}"));
                }
                if every == 1 || iteration == 0 || iteration == 9 {
                    expected.push(format!("report {iteration}"));
                }
                if iteration < 9 {
                    expected.push(format!("done {}", iteration + 1));
                }
            }
            assert_eq!(observed, expected);
        }
    }
}

/// Runs and stops at the report of iteration `last`. Also returns the iterations of all reports.
fn run_until_report(session: &mut Session, last: u32) -> (neural_mirage::Result<RunResult>, Vec<u32>) {
    let mut reports = Vec::new();
    let result = session.run(&mut |event: Event<'_>| {
        if let Event::Report(report) = event {
            reports.push(report.iteration);
        }
        Ok(if reports.last() == Some(&last) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    (result, reports)
}

#[test]
fn stop_is_prompt_and_reports_submitted_iterations() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let mut request = request_with_weights(&golden);
    request.schedule.report_every = 1;
    let mut session = Session::new(&engine, &network, request.clone()).expect("a session");
    let (outcome, reports) = run_until_report(&mut session, 3);
    let outcome = outcome.expect("a run");
    assert_eq!((outcome.ending, outcome.iterations), (Ending::Stopped, 6));
    assert_eq!(reports, [0, 1, 2, 3, 4, 5, 6]);
    iterate(&mut request, 6);
    assert_eq!(run(&engine, &network, request).0.picture, outcome.picture);
}

#[test]
fn run_ends_after_max_setbacks() {
    let _turn = turn();
    both_devices().iter().for_each(check_max_setbacks);
}

fn check_max_setbacks(engine: &Arc<Engine>) {
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let mut request = request_with_weights(&golden);
    request.schedule.report_every = 1;
    // The squares already overflow f32 after the first step.
    request.optimizer = Arc::new(Adam { learning_rate: 1e30, clamp: false, ..Adam::default() });
    let mut session = Session::new(engine, &network, request).expect("a session");
    let (error, reports) = run_until_report(&mut session, u32::MAX);
    let Err(neural_mirage::Error::Unstable { cause, iteration, setbacks }) = error else {
        panic!("{error:?}")
    };
    assert!(cause.contains("NaN or infinite"), "{cause}");
    assert_eq!((iteration, setbacks), (1, 5));
    // The run goes back to an iteration that was reported.
    assert_eq!(reports, [0]);
    let (good, picture) = session.last_good().expect("a picture");
    assert_eq!(good, 0);
    assert!(picture.rgb.iter().all(|value| value.is_finite()));
}
