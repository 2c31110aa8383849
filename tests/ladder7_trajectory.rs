//! Rung 7: ten steps of the whole optimisation against PyTorch, and repeatability.

mod common;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/objective.rs"]
mod objective;

use common::{engine, relative_l2, turn, widen};
use golden::{Golden, path, text};
use neural_mirage::gpu::Family;
use neural_mirage::graph::Engine;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::{AdamOptions, Event, Init, Outcome, Request, Session};
use neural_mirage::vgg::Network;
use objective::{picture, request};
use std::ops::ControlFlow;
use std::sync::Arc;

/// With per-conv noise of 1e-6 PyTorch's own final picture moves by up to 7e-5, its totals by 6e-6.
const PICTURE: f64 = 5e-4;
const TOTALS: f64 = 1e-4;
/// The acceptance limit on single pixels, in units of [0, 1].
const PIXEL: f64 = 1e-3;

fn planar(picture: &Picture) -> Vec<f32> {
    (0..3).flat_map(|channel| picture.rgb.iter().skip(channel).step_by(3).copied()).collect()
}

fn run(
    engine: &Arc<Engine>,
    network: &Network,
    request: Request,
) -> (Outcome, Vec<f64>, Vec<(u32, Picture)>) {
    let mut totals = Vec::new();
    let mut snapshots = Vec::new();
    let mut session = Session::new(engine, network, request).expect("a session");
    let outcome = session
        .run(&mut |event| {
            match event {
                Event::Report(report) => totals.push(report.total),
                Event::Snapshot { iteration, picture } => snapshots.push((iteration, picture.clone())),
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
    let engine = engine(Family::Auto);
    let golden = Golden::open("objective.safetensors");
    let network = Network::open(&path("tiny_vgg.safetensors"), None).expect("the tiny network");
    let trajectories = golden.cases["trajectories"].as_array().expect("a list");
    assert_eq!(trajectories.len(), 2);
    for trajectory in trajectories {
        let name = text(&trajectory["name"]);
        let requests = golden.cases["requests"].as_array().expect("a list");
        let described = requests.iter().find(|r| r["name"] == trajectory["request"]).expect("its request");
        let mut request = request(&golden, described);
        let number = |key: &str| trajectory[key].as_f64().expect("a number");
        request.init = Init::Picture(picture(&golden, text(&trajectory["start"])));
        request.iterations = number("steps") as u32;
        request.adam = AdamOptions {
            learning_rate: number("lr") as f32,
            beta1: number("beta1"),
            beta2: number("beta2"),
            epsilon: number("eps"),
        };
        request.schedule.report_every = 1;
        let (outcome, totals, _) = run(&engine, &network, request);
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

/// A small request with everything on, a balance, snapshots.
fn small_request(golden: &Golden) -> Request {
    let mut request = Request::new(picture(golden, "photo"));
    request.iterations = 12;
    request.schedule.report_every = 5;
    request.schedule.snapshot_at = vec![3, 12];
    request
}

#[test]
fn the_same_seed_gives_the_same_picture_and_another_seed_another() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let golden = Golden::open("objective.safetensors");
    let network = Network::open(&path("tiny_vgg.safetensors"), None).expect("the tiny network");
    let first = run(&engine, &network, small_request(&golden));
    let second = run(&engine, &network, small_request(&golden));
    assert_eq!(first.0.picture, second.0.picture);
    assert_eq!(first.1, second.1);
    let mut other = small_request(&golden);
    other.seed = 1;
    assert_ne!(run(&engine, &network, other).0.picture, first.0.picture);
}

#[test]
fn reports_and_snapshots_do_not_change_the_run() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let golden = Golden::open("objective.safetensors");
    let network = Network::open(&path("tiny_vgg.safetensors"), None).expect("the tiny network");
    let (outcome, totals, snapshots) = run(&engine, &network, small_request(&golden));
    assert_eq!(totals.len(), 4, "reports at 0, 5, 10, 12");
    assert!(totals.iter().all(|total| total.is_finite() && *total > 0.0));
    assert_eq!(snapshots.iter().map(|(iteration, _)| *iteration).collect::<Vec<_>>(), [3, 12]);
    assert_eq!(snapshots[1].1, outcome.picture);
    let mut quiet = small_request(&golden);
    quiet.schedule = Default::default();
    assert_eq!(run(&engine, &network, quiet).0.picture, outcome.picture);
    // A run of three iterations ends where the snapshot after three was taken, weights given.
    let mut short = small_request(&golden);
    short.iterations = 3;
    assert_eq!(run(&engine, &network, short).0.picture, snapshots[0].1);
}
