//! Coarse-to-fine runs: sizes, events, state carried between scales, and bit-identical resuming.

use crate::common::golden::Golden;
use crate::common::objective::{network, picture, use_style_statistic};
use crate::common::runs::{CONTINUE, Setting, run, session, states};
use crate::common::{cpu, engine, turn};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::Engine;
use neural_mirage::mirage::optimizer::{Adam, Lbfgs, Optimizer};
use neural_mirage::mirage::{Checkpoint, Ending, Event, Request, ScaleCount, Scales, scale_at};
use neural_mirage::ops::Padding;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The tiny network on the shared device, and a request of two scales with an average.
fn setting() -> Setting {
    setting_on(engine(Family::Auto))
}

fn setting_on(engine: Arc<Engine>) -> Setting {
    let golden = Golden::open("objective.safetensors");
    let mut request = Request::new(picture(&golden, "photo_large"));
    use_style_statistic(&mut request, "mean-covariance");
    request.scales = Scales { count: ScaleCount::Exactly(2), min_size: 1, iterations: vec![5, 4] };
    request.average_decay = 0.8;
    request.border = Padding::Replicate;
    request.schedule.report_every = 3;
    (engine, network(), request)
}

#[test]
fn pictures_grow_from_scale_to_scale() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.picture_every = 1;
    let plan = request.plan(&setting.1).unwrap();
    let whole = request.size();
    assert_eq!((plan.len(), plan[1].size), (2, whole));
    assert!(plan[0].size[0] < whole[0] && plan[0].size[1] < whole[1]);
    let (mut scales, mut seen, mut reports) = (Vec::new(), Vec::new(), Vec::new());
    let result = run(&mut session(&setting, request), &mut |event: Event<'_>| {
        match event {
            Event::Started(started) => assert_eq!((started.size, &started.scales), (whole, &plan)),
            Event::Scale(started) => scales.push((started.index, started.count, started.scale)),
            Event::Picture { iteration, picture, .. } => {
                let size = plan[scale_at(&plan, iteration)].size;
                assert_eq!([picture.height, picture.width], size, "after {iteration}");
                seen.push(iteration);
            }
            Event::Report(report) => reports.push((report.iteration, report.total)),
            _ => {}
        }
        CONTINUE
    });
    assert_eq!(scales, [(0, 2, plan[0]), (1, 2, plan[1])]);
    assert_eq!(seen, (0..=9).collect::<Vec<_>>());
    assert_eq!(reports.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 3, 6, 9]);
    assert!(reports.iter().all(|(_, total)| total.is_finite() && *total > 0.0), "{reports:?}");
    assert_eq!((result.iterations, result.ending), (9, Ending::Finished));
    assert_eq!([result.picture.height, result.picture.width], whole);
}

/// The second scale begins with the enlarged result of the first.
#[test]
fn next_scale_inherits_average_and_moments() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.state_every = 1;
    let mut coarse = request.clone();
    let size = request.plan(&setting.1).unwrap()[0].size;
    let mut photo = neural_mirage::image_io::resize(&request.photo, size[1], size[0]).unwrap();
    photo.rgb.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    coarse.photo = Arc::new(photo);
    coarse.scales = Scales::single(5);
    let (ended, _) = states(&mut session(&setting, coarse));
    let (_, saved) = states(&mut session(&setting, request));
    let first = saved.iter().find(|state| state.iteration == 5).expect("a state");
    assert_eq!((first.scale, first.size), (1, setting.2.size()));
    let mean =
        |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
    let picture = first.tensor("picture").expect("a picture");
    // Enlarging keeps the mean, except for border pixels.
    assert!((mean(picture) - mean(&ended.picture.rgb)).abs() < 5e-3);
    assert!(picture.iter().all(|value| (0.0..=1.0).contains(value)));
    let second = first.tensor("adam:second_moment").expect("a moment");
    assert!(second.iter().all(|value| *value >= 0.0) && second.iter().any(|value| *value > 0.0));
    assert!(first.tensor("adam:first_moment").expect("a moment").iter().any(|value| *value != 0.0));
    // The step counter continues, and the average restarts.
    assert_eq!(first.tensor("adam:counters").expect("counters")[0], 5.0);
    assert_eq!(first.tensor("average_counters").expect("counters")[0], 0.0);
}

/// Saves the states after these iterations and resumes from each.
fn resumes_from(setting: &Setting, name: &str, request: &Request, iterations: &[u32]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let plain = run(&mut session(setting, request.clone()), &mut |_: Event<'_>| CONTINUE);
    let mut request = request.clone();
    request.schedule.state_every = 1;
    let (whole, saved) = states(&mut session(setting, request.clone()));
    assert!(whole.picture == plain.picture, "{name}: saving changes nothing");
    assert_eq!(saved.iter().map(|state| state.iteration).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    for state in saved.into_iter().filter(|state| iterations.contains(&state.iteration)) {
        let iteration = state.iteration;
        Checkpoint { state, texts: Default::default() }.save(&file).unwrap();
        let mut later = session(setting, request.clone());
        later.resume(Checkpoint::load(&file).unwrap().state).unwrap();
        let (result, _) = states(&mut later);
        assert!(result.picture == whole.picture, "{name}: from {iteration}");
    }
}

const EVERY: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];

#[test]
fn two_scale_run_resumes_bit_identically() {
    let _turn = turn();
    let request = setting().2;
    let rebalanced = Request { rebalance_every: 2, ..request.clone() };
    let adam: Arc<dyn Optimizer> = Arc::new(Adam { decay: 0.1, ..Adam::default() });
    let decaying = Request { optimizer: adam, average_decay: 0.0, ..request.clone() };
    let lbfgs: Arc<dyn Optimizer> = Arc::new(Lbfgs::default());
    let lbfgs = Request { optimizer: lbfgs, rebalance_every: 2, ..request.clone() };
    let mut default_style = request.clone();
    use_style_statistic(&mut default_style, "wasserstein");
    let runs = [
        ("Adam", request),
        ("rebalanced", rebalanced),
        ("decaying", decaying),
        ("L-BFGS", lbfgs),
        ("Wasserstein", default_style),
    ];
    let setting = setting();
    for (name, request) in runs {
        // For the other kinds: the first states, those around the end of a scale, and the last one.
        let some = if matches!(name, "Adam" | "L-BFGS") { EVERY } else { &[1, 4, 5, 6, 9] };
        resumes_from(&setting, name, &request, some);
    }
}

#[test]
fn cpu_run_resumes_bit_identically() {
    let _turn = turn();
    let setting = setting_on(cpu(DeviceOptions::default()));
    let lbfgs: Arc<dyn Optimizer> = Arc::new(Lbfgs::default());
    let lbfgs = Request { optimizer: lbfgs, rebalance_every: 2, ..setting.2.clone() };
    for (name, request) in [("Adam", setting.2.clone()), ("L-BFGS", lbfgs)] {
        resumes_from(&setting, name, &request, &[3, 5, 6, 9]);
    }
}

#[test]
fn run_stopped_between_scales_resumes() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.state_when_stopped = true;
    let whole = run(&mut session(&setting, request.clone()), &mut |_: Event<'_>| CONTINUE);
    for stop in [1, 2, 3, 4, 5] {
        let mut state = None;
        let stopped = run(&mut session(&setting, request.clone()), &mut |event: Event<'_>| {
            match event {
                Event::State(found) => state = Some(found.clone()),
                Event::Progress { iteration, .. } if iteration == stop => return Ok(ControlFlow::Break(())),
                _ => {}
            }
            CONTINUE
        });
        assert_eq!(stopped.ending, Ending::Stopped);
        let state = state.expect("a state");
        assert_eq!([stopped.picture.height, stopped.picture.width], state.size);
        let mut later = session(&setting, request.clone());
        later.resume(state).unwrap();
        let result = run(&mut later, &mut |_: Event<'_>| CONTINUE);
        assert!(result.picture == whole.picture, "stopped after {}", stopped.iterations);
    }
}

#[test]
fn state_of_different_plan_is_refused() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.state_every = 7;
    let (_, saved) = states(&mut session(&setting, request.clone()));
    let state = saved.into_iter().find(|state| state.iteration == 7).expect("a state");
    for scales in [
        Scales::single(9),
        Scales { iterations: vec![8, 1], ..request.scales.clone() },
        Scales { count: ScaleCount::Exactly(3), ..request.scales.clone() },
    ] {
        let other = Request { scales, ..request.clone() };
        let error = session(&setting, other).resume(state.clone()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    // More iterations at the last scale are accepted.
    let longer = Request { scales: Scales { iterations: vec![5, 6], ..request.scales.clone() }, ..request };
    let mut later = session(&setting, longer);
    later.resume(state).unwrap();
    assert_eq!(run(&mut later, &mut |_: Event<'_>| CONTINUE).iterations, 11);
}

#[test]
fn scale_without_iterations_is_passed_through() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.scales = Scales { count: ScaleCount::Exactly(3), min_size: 1, iterations: vec![2, 0, 3] };
    let mut entered = Vec::new();
    let result = run(&mut session(&setting, request), &mut |event: Event<'_>| {
        if let Event::Scale(started) = event {
            entered.push(started.index);
        }
        CONTINUE
    });
    assert_eq!((entered, result.iterations), (vec![0, 1, 2], 5));
}

#[test]
fn restarted_session_begins_at_first_scale() {
    let _turn = turn();
    let setting = setting();
    let mut used = session(&setting, setting.2.clone());
    let first = run(&mut used, &mut |_: Event<'_>| CONTINUE);
    assert!(run(&mut used, &mut |_: Event<'_>| CONTINUE).picture == first.picture, "a second run differs");
    let seeded = Request { seed: 4, ..setting.2.clone() };
    let fresh = run(&mut session(&setting, seeded.clone()), &mut |_: Event<'_>| CONTINUE);
    used.restart(seeded).unwrap();
    assert!(run(&mut used, &mut |_: Event<'_>| CONTINUE).picture == fresh.picture);
    assert!(fresh.picture != first.picture);
}
