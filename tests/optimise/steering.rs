//! Pausing, steering, saving and resuming a run apply the commands and change no other bit.

use crate::common::golden::Golden;
use crate::common::objective::{iterate, network, picture, share, use_style_statistic, weigh};
use crate::common::runs::{CONTINUE, Setting, run, session, states};
use crate::common::{engine, turn};
use neural_mirage::gpu::Family;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::optimizer::Adam;
use neural_mirage::mirage::preset::{FACTORS, LayerWeight, Preset, SMOOTH};
use neural_mirage::mirage::{
    Checkpoint, Controls, Ending, Event, Init, Request, Scales, Shares, Strength, Target,
};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A device with the tiny network, and a request with all features enabled.
fn setting() -> Setting {
    let golden = Golden::open("objective.safetensors");
    let network = network();
    let mut request = Request::new(picture(&golden, "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    iterate(&mut request, 14);
    request.schedule.report_every = 4;
    (engine(Family::Auto), network, request)
}

/// Variants of a request, each hard to resume in its own way.
fn kinds(request: &Request) -> Vec<(&'static str, Request)> {
    let balanced = Request { rebalance_every: 3, ..request.clone() };
    let mut raw = request.clone();
    weigh(&mut raw, |_| 1.0);
    let mut preset = Preset::default();
    preset.style.target = Target::Images([(turned(&request.photo), 1.0)].into());
    let photo = Request {
        init: Init::Photo,
        groups: preset.groups(),
        stop_when_change_below: 1e-9,
        ..request.clone()
    };
    let unclamped = Request { optimizer: Arc::new(Adam { clamp: false, ..Adam::default() }), ..raw.clone() };
    let averaged = Request { average_decay: 0.5, ..request.clone() };
    vec![
        ("default", request.clone()),
        ("rebalanced", balanced),
        ("raw weights", raw),
        ("from the photo", photo),
        ("unclamped", unclamped),
        ("averaged", averaged),
    ]
}

fn turned(picture: &Picture) -> Picture {
    let mut rgb = picture.rgb.clone();
    rgb.reverse();
    Picture { rgb, ..picture.clone() }
}

#[test]
fn run_resumes_bit_identically_from_every_state() {
    let _turn = turn();
    let setting = setting();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    for (name, mut request) in kinds(&setting.2) {
        let plain = run(&mut session(&setting, request.clone()), &mut |_: Event<'_>| CONTINUE);
        request.schedule.state_every = 1;
        let (whole, saved) = states(&mut session(&setting, request.clone()));
        assert!(whole.picture == plain.picture, "{name}: saving changes nothing");
        assert_eq!(
            saved.iter().map(|state| state.iteration).collect::<Vec<_>>(),
            (1..=14).collect::<Vec<_>>()
        );
        // For the other kinds: the first states, those around a report and a measurement, and the last ones.
        let every = matches!(name, "default" | "rebalanced");
        for state in
            saved.into_iter().filter(|state| every || [1, 2, 4, 5, 13, 14].contains(&state.iteration))
        {
            let iteration = state.iteration;
            // Through a file, in a separate session.
            Checkpoint { state, texts: Default::default() }.save(&file).unwrap();
            let state = Checkpoint::load(&file).unwrap().state;
            let mut later = session(&setting, request.clone());
            later.resume(state).unwrap();
            let (outcome, rest) = states(&mut later);
            assert!(outcome.picture == whole.picture, "{name}: from {iteration}");
            assert_eq!(rest.len() as u32, 14 - iteration.max(1) + 1, "{name}: from {iteration}");
        }
    }
}

#[test]
fn stopped_run_leaves_resumable_state() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.state_when_stopped = true;
    let whole = run(&mut session(&setting, request.clone()), &mut |_: Event<'_>| CONTINUE);
    for stop in [0, 1, 6, 9, 10, 11] {
        let mut first = session(&setting, request.clone());
        let mut state = None;
        let outcome = run(&mut first, &mut |event: Event<'_>| {
            match event {
                Event::State(found) => state = Some(found.clone()),
                Event::Progress { iteration, .. } if iteration > stop => return Ok(ControlFlow::Break(())),
                _ => {}
            }
            CONTINUE
        });
        assert_eq!(outcome.ending, Ending::Stopped);
        let state = state.expect("a state");
        assert_eq!(state.iteration, outcome.iterations);
        let mut later = session(&setting, request.clone());
        later.resume(state).unwrap();
        assert!(
            run(&mut later, &mut |_: Event<'_>| CONTINUE).picture == whole.picture,
            "stopped after {}",
            outcome.iterations
        );
    }
}

#[test]
fn states_of_other_runs_are_refused() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.state_every = 14;
    let mut first = session(&setting, request.clone());
    let (_, saved) = states(&mut first);
    let [state] = &saved[..] else { panic!("one state") };
    iterate(&mut request, 13);
    let error = session(&setting, request.clone()).resume(state.clone()).unwrap_err();
    assert!(error.to_string().contains("--iterations"), "{error}");
    let mut other = state.clone();
    other.size = [state.size[0] + 1, state.size[1]];
    assert!(first.resume(other).unwrap_err().to_string().contains("--size"));
    let mut damaged = state.clone();
    let second = damaged.tensors.iter_mut().find(|(name, _)| name == "adam:second_moment").expect("a moment");
    second.1[7] = f32::NAN;
    assert!(first.resume(damaged).unwrap_err().to_string().contains("second_moment"));
}

#[test]
fn restarted_session_matches_new_session() {
    let _turn = turn();
    let setting = setting();
    let mut requests: Vec<Request> = kinds(&setting.2).into_iter().map(|(_, request)| request).collect();
    let mut seeded = setting.2.clone();
    seeded.seed = 5;
    seeded.optimizer = Arc::new(Adam { learning_rate: 0.01, ..Adam::default() });
    share(&mut seeded, "spatial=60,abstract=10,style=30");
    let mut preset = Preset::default();
    preset.style.layers = vec![LayerWeight { layer: "relu1_1".into(), weight: 2.0 }];
    preset.abstracted.layers.clear();
    let layers = Request { groups: preset.groups(), ..setting.2.clone() };
    requests.extend([seeded, layers, setting.2.clone()]);
    let mut used = session(&setting, setting.2.clone());
    for request in requests {
        let fresh = run(&mut session(&setting, request.clone()), &mut |_: Event<'_>| CONTINUE);
        used.restart(request.clone()).unwrap();
        let reused = run(&mut used, &mut |_: Event<'_>| CONTINUE);
        assert!(reused.picture == fresh.picture, "{:?}", request.groups);
    }
    // Only weights, seeds and steps may change without preparing again.
    let same = &setting.2;
    assert!(same.shares_objective(&Request { seed: 3, scales: Scales::single(2), ..same.clone() }));
    for (name, other) in
        kinds(same).into_iter().filter(|(name, _)| *name != "default" && *name != "rebalanced")
    {
        assert!(!same.shares_objective(&other), "{name}");
    }
}

#[test]
fn pause_holds_the_run_until_resumed() {
    let _turn = turn();
    let setting = setting();
    let whole = run(&mut session(&setting, setting.2.clone()), &mut |_: Event<'_>| CONTINUE);
    let mut held = session(&setting, setting.2.clone());
    let controls = Controls::new();
    held.set_controls(&controls);
    let (mut done, mut paused_at, mut saved) = (0, None, Vec::new());
    let mut helper = None;
    let (arrived, pictures) = std::sync::mpsc::channel();
    let mut pictures = Some(pictures);
    let outcome = run(&mut held, &mut |event: Event<'_>| {
        match event {
            Event::Progress { iteration, .. } => {
                assert!(!(paused_at.is_some() && controls.is_paused()), "an iteration of a paused run");
                done = iteration;
                if iteration == 3 {
                    controls.pause();
                }
            }
            Event::Paused { iteration, paused: true } => {
                assert_eq!(iteration, done, "submitted iterations are reported first");
                paused_at = Some(iteration);
                let controls = controls.clone();
                let pictures = pictures.take().expect("one pause");
                helper = Some(std::thread::spawn(move || {
                    // Requests two pictures of the paused run, the second after the first has arrived, then resumes.
                    for _ in 0..2 {
                        std::thread::sleep(std::time::Duration::from_millis(80));
                        controls.save();
                        pictures.recv_timeout(std::time::Duration::from_secs(60)).expect("a picture");
                    }
                    std::thread::sleep(std::time::Duration::from_millis(80));
                    controls.resume();
                }));
            }
            Event::Paused { iteration, paused: false } => assert_eq!(Some(iteration), paused_at),
            Event::Snapshot { iteration, picture, readout, .. } => {
                assert!(!readout.classes.is_empty() && readout.distance.is_some());
                saved.push((iteration, picture.clone()));
                // The helper has finished if more arrive than it waits for, which is detected below.
                let _ = arrived.send(());
            }
            _ => {}
        }
        CONTINUE
    });
    helper.expect("a pause").join().unwrap();
    assert!(outcome.picture == whole.picture, "a pause changes no bit");
    assert_eq!(saved.len(), 2);
    assert!(saved[0] == saved[1], "two pictures of the same iteration");
    assert_eq!(Some(saved[0].0), paused_at);
    assert!(outcome.seconds < 60.0);
}

#[test]
fn paused_run_can_be_stopped() {
    let _turn = turn();
    let setting = setting();
    let mut held = session(&setting, setting.2.clone());
    let controls = Controls::new();
    held.set_controls(&controls);
    controls.pause();
    let outcome = run(&mut held, &mut |event: Event<'_>| {
        if let Event::Paused { paused: true, .. } = event {
            let controls = controls.clone();
            std::thread::spawn(move || controls.stop());
        }
        CONTINUE
    });
    assert_eq!((outcome.ending, outcome.iterations), (Ending::Commanded, 0));
}

/// Changed shares apply from the next submitted iteration on, also for a factor that had none and if raw weights were
/// given.
#[test]
fn shares_can_change_during_a_run() {
    let _turn = turn();
    let setting = setting();
    let wanted: Shares = "spatial=10,abstract=70,style=20".parse().unwrap();
    let mut shut = setting.2.clone();
    share(&mut shut, "spatial=50,abstract=0,style=50");
    let mut raw = setting.2.clone();
    weigh(&mut raw, |_| 1.0);
    for mut request in [setting.2.clone(), shut, raw] {
        request.adjustable = true;
        request.schedule.report_every = 1;
        let mut steered = session(&setting, request);
        let controls = Controls::new();
        steered.set_controls(&controls);
        let (mut asked_at, mut set_at, mut after) = (None, None, None);
        let mut done = 0;
        run(&mut steered, &mut |event: Event<'_>| {
            match event {
                Event::Progress { iteration, .. } => {
                    done = iteration;
                    if iteration == 5 {
                        controls.set_shares(wanted.clone());
                        asked_at = Some(iteration);
                    }
                }
                Event::Weighted { iteration, shares, .. } if *shares == wanted && set_at.is_none() => {
                    assert_eq!(iteration, done, "measured at the current iteration");
                    set_at = Some(iteration);
                }
                Event::Report(report) if set_at == Some(report.iteration) => {
                    after = Some(report.gradient_shares.clone());
                }
                _ => {}
            }
            CONTINUE
        });
        let (asked, set) = (asked_at.expect("asked"), set_at.expect("the shares were never set"));
        // Iterations already submitted, at most two, run unchanged.
        assert!(set - asked <= 2, "asked for after {asked}, set after {set}");
        for (kind, share) in after.expect("a report") {
            let wanted = wanted.get(&kind).expect("a share") / 100.0;
            assert!((share - wanted).abs() < 1e-4, "{kind}: {share}");
        }
    }
}

/// An invalid command from another thread must not end the run.
#[test]
fn invalid_shares_are_ignored() {
    let _turn = turn();
    let setting = setting();
    let whole = run(&mut session(&setting, setting.2.clone()), &mut |_: Event<'_>| CONTINUE);
    for (name, share) in
        [("spatial", -1.0), ("style", f32::NAN), ("abstract", f32::INFINITY), ("stile", 1.0), (SMOOTH, 30.0)]
    {
        let mut steered = session(&setting, setting.2.clone());
        let controls = Controls::new();
        steered.set_controls(&controls);
        controls.set_shares(Shares(vec![(name.to_owned(), share)]));
        let outcome = run(&mut steered, &mut |_: Event<'_>| CONTINUE);
        assert!(outcome.picture == whole.picture, "{name}={share}");
    }
}

/// Shares changed together with the stop command: the weights are measured when the run is resumed.
#[test]
fn shares_changed_at_stop_apply_after_resume() {
    let _turn = turn();
    let setting = setting();
    let wanted: Shares = "spatial=10,abstract=70,style=20".parse().unwrap();
    let mut request = setting.2.clone();
    request.adjustable = true;
    request.schedule.state_when_stopped = true;
    let mut first = session(&setting, request.clone());
    let controls = Controls::new();
    first.set_controls(&controls);
    let mut state = None;
    run(&mut first, &mut |event: Event<'_>| {
        match event {
            Event::State(found) => state = Some(found.clone()),
            Event::Progress { iteration: 11, .. } => {
                controls.set_shares(wanted.clone());
                controls.stop();
            }
            _ => {}
        }
        CONTINUE
    });
    let state = state.expect("a state");
    assert!(state.shares_changed && state.shares.agree(&wanted));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let stopped_at = state.iteration;
    Checkpoint { state, texts: Default::default() }.save(&file).unwrap();
    share(&mut request, "spatial=10,abstract=70,style=20");
    request.schedule.report_every = 1;
    let mut later = session(&setting, request);
    later.resume(Checkpoint::load(&file).unwrap().state).unwrap();
    let mut reported = None;
    run(&mut later, &mut |event: Event<'_>| {
        if let Event::Report(report) = event
            && report.iteration == stopped_at
        {
            reported = Some(report.gradient_shares.clone());
        }
        CONTINUE
    });
    for (kind, share) in reported.expect("a report") {
        let wanted = wanted.get(&kind).expect("a share") / 100.0;
        assert!((share - wanted).abs() < 1e-4, "{kind}: {share}");
    }
}

/// A factor with share 0 is in the objective only if its share may change, and does not affect the result.
#[test]
fn zero_share_factor_resumes_bit_identically() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    share(&mut request, "spatial=50,abstract=0,style=50");
    request.schedule.state_every = 7;
    for adjustable in [false, true] {
        let (whole, saved) = states(&mut session(&setting, Request { adjustable, ..request.clone() }));
        let mut later = session(&setting, Request { adjustable: !adjustable, ..request.clone() });
        later.resume(saved.into_iter().find(|state| state.iteration == 7).expect("a state")).unwrap();
        let mut measured = Vec::new();
        let outcome = run(&mut later, &mut |event: Event<'_>| {
            if let Event::Weighted { iteration, .. } = event {
                measured.push(iteration);
            }
            CONTINUE
        });
        assert_eq!(measured, [10], "adjustable: {adjustable}");
        assert!(outcome.picture == whole.picture, "adjustable: {adjustable}");
    }
}

/// Given weights apply from the first step of a resumed run, also if others are measured.
#[test]
fn given_weight_applies_after_resume() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    request.schedule.state_every = 12;
    let (_, saved) = states(&mut session(&setting, request.clone()));
    let smooth = |request: &mut Request, weight: f32| {
        let group = request.groups.iter_mut().find(|group| group.name == SMOOTH).expect("smoothness");
        group.strength = Strength::Weight(weight);
    };
    let weight_after = |weight: f32| {
        let mut request = request.clone();
        smooth(&mut request, weight);
        request.schedule.state_every = 14;
        let mut later = session(&setting, request);
        later.resume(saved[0].clone()).unwrap();
        states(&mut later).1.pop().expect("a state").weights.of(SMOOTH)
    };
    assert_eq!([0.25, 64.0].map(weight_after), [0.25, 64.0]);
}

#[test]
fn settled_picture_ends_the_run() {
    let _turn = turn();
    let setting = setting();
    let mut request = setting.2.clone();
    iterate(&mut request, 60);
    request.schedule.report_every = 1;
    request.optimizer = Arc::new(Adam { learning_rate: 1e-4, ..Adam::default() });
    // Adam changes a value by at most the learning rate per iteration.
    for (limit, ending) in [(2e-4, Ending::Settled), (1e-7, Ending::Finished)] {
        let mut settling = session(&setting, Request { stop_when_change_below: limit, ..request.clone() });
        let mut changes = Vec::new();
        let outcome = run(&mut settling, &mut |event: Event<'_>| {
            if let Event::Report(report) = event {
                changes.extend(report.change.map(|change| (report.iteration, change)));
            }
            CONTINUE
        });
        assert_eq!(outcome.ending, ending, "{changes:?}");
        assert!(
            changes.iter().all(|(at, change)| *at >= 10 && *change > 0.0 && *change < 2e-4),
            "{changes:?}"
        );
        if ending == Ending::Settled {
            // Detected at iteration 10, when at most two more were in flight.
            assert!((10..=13).contains(&outcome.iterations), "{}", outcome.iterations);
        }
    }
}

#[test]
fn rebalance_interval_is_respected() {
    let _turn = turn();
    let setting = setting();
    for (every, expected) in [(0, vec![0, 10]), (4, vec![0, 4, 8, 10, 12]), (1, (0..14).collect())] {
        let mut request = setting.2.clone();
        request.rebalance_every = every;
        request.schedule.report_every = 1;
        let mut measured = Vec::new();
        run(&mut session(&setting, request), &mut |event: Event<'_>| {
            match event {
                Event::Weighted { iteration, .. } => measured.push(iteration),
                // After iteration 10 the growth of a weight is limited.
                Event::Report(report)
                    if report.iteration <= 10 && measured.last() == Some(&report.iteration) =>
                {
                    for (kind, wanted) in FACTORS.into_iter().zip([0.15, 0.15, 0.7]) {
                        let share = report.gradient_share(kind).expect("a share");
                        assert!((share - wanted).abs() < 1e-4, "{kind}: {share}");
                    }
                }
                _ => {}
            }
            CONTINUE
        });
        assert_eq!(measured, expected, "every {every}");
    }
}

#[test]
fn pictures_follow_the_schedule() {
    let _turn = turn();
    let setting = setting();
    for (every, at, expected) in [(5, vec![], vec![0, 5, 10, 14]), (0, vec![2, 3], vec![2, 3, 14])] {
        let mut request = setting.2.clone();
        request.schedule.picture_every = every;
        request.schedule.picture_at = at;
        let mut seen = Vec::new();
        let mut lasts = Vec::new();
        let outcome = run(&mut session(&setting, request), &mut |event: Event<'_>| {
            if let Event::Picture { iteration, picture, last } = event {
                seen.push(iteration);
                if last {
                    lasts.push(picture.clone());
                }
            }
            CONTINUE
        });
        assert_eq!(seen, expected);
        assert!(lasts == [Picture::clone(&outcome.picture)], "the last picture is the result");
    }
}
