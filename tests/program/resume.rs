//! Checkpoints and `mirage resume`, with real signals and killed processes.

use crate::common::process::{code, wait_for};
use crate::interrupt::{signal, start};
use crate::support::{Place, log, pixels, scene};
use neural_mirage::mirage::{Checkpoint, State};
use predicates::prelude::*;
use rand::{RngExt as _, SeedableRng as _};
use std::time::Duration;

/// Returns a command for a run on the small network.
fn render(place: &Place, output: &str, iterations: &str, more: &[&str]) -> assert_cmd::Command {
    let photo = place.path("photo.png");
    let mut command = place.mirage();
    command.arg("render").arg(&photo).args(["-o", output, "--size", "48", "--iterations", iterations]);
    command.arg("--weights").arg(place.network()).arg("--quiet").args(more);
    command
}

#[test]
fn resumed_run_is_bit_identical() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    render(&place, "whole.png", "17", &["--seed", "3"]).assert().success();
    let part = ["--seed", "3", "--checkpoint-every", "4"];
    render(&place, "my part.png", "8", &part).assert().success();
    assert_ne!(pixels(&place.path("my part.png")), pixels(&place.path("whole.png")));
    // Its own picture may be replaced, because it is the same run.
    let mut resume = place.mirage();
    resume.args(["resume", "my part-checkpoint.safetensors", "--iterations", "17", "--log", "run.jsonl"]);
    resume.assert().success().stderr(predicate::str::contains("Resuming after iteration 8"));
    assert_eq!(pixels(&place.path("my part.png")), pixels(&place.path("whole.png")));
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    assert!(log.contains("\"event\":\"checkpoint\",\"iteration\":12"), "{log}");
    assert!(!log.contains("\"event\":\"iteration\",\"iteration\":0"), "{log}");
    // All iterations are done, so nothing is left unless more are requested.
    place.mirage().args(["resume", "my part-checkpoint.safetensors", "--quiet"]).assert().success();
    let mut less = place.mirage();
    less.args(["resume", "my part-checkpoint.safetensors", "--iterations", "5"]);
    less.assert().code(2).stderr(predicate::str::contains("--iterations"));
}

/// Errors in the state are reported before anything is written. Any possible duration is accepted.
#[test]
fn state_of_wrong_scale_is_refused_without_output() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let words = ["--checkpoint-every", "2", "--scales", "1"];
    render(&place, "out.png", "2", &words).assert().success();
    let file = place.path("out-checkpoint.safetensors");
    let saved = Checkpoint::load(&file).unwrap();
    let pixels = |count: usize| vec![0.25; 3 * count];
    let forge = |change: &dyn Fn(&mut State)| {
        let mut checkpoint = saved.clone();
        change(&mut checkpoint.state);
        checkpoint.save(&file).unwrap();
    };
    let resume = |more: &[&str]| {
        let mut command = place.mirage();
        command.args([
            "resume",
            "out-checkpoint.safetensors",
            "--quiet",
            "--iterations",
            "3",
            "--log",
            "run.jsonl",
        ]);
        command.args(more);
        command.assert()
    };
    forge(&|state| state.scale = 1);
    resume(&[]).code(2).stderr(predicate::str::contains("at another scale"));
    forge(&|state| {
        state.size = [2, 8];
        state.tensors.iter_mut().for_each(|(_, values)| *values = pixels(16));
    });
    resume(&[]).code(2).stderr(predicate::str::contains("at 8x2 pixels and can't continue at 48x36"));
    assert!(!place.path("run.jsonl").exists());
    // The largest possible duration, to which the run adds its own.
    forge(&|state| state.seconds = 1e12);
    resume(&["--checkpoint-every", "3"]).success();
    assert_eq!(Checkpoint::load(&file).unwrap().state.iteration, 3);
}

/// The picture at a larger scale resulted from the earlier scales, so their iterations and sizes can't change.
#[test]
fn finished_scales_cannot_be_changed() {
    let place = Place::new();
    place.photo("photo.png", 96, 72);
    let words = ["--size", "80", "--scales", "2", "--checkpoint-every", "5"];
    let mut run = place.mirage();
    run.args(["render", "photo.png", "-o", "out.png", "--quiet", "--iterations", "4,2", "--weights"]);
    run.arg(place.network()).args(words).assert().success();
    let resume = |words: &[&str]| {
        let mut command = place.mirage();
        command.args(["resume", "out-checkpoint.safetensors", "--quiet"]).args(words);
        command.assert()
    };
    let refused = resume(&["--iterations", "3,9"]).code(2);
    refused.stderr(predicate::str::contains("completed scales"));
    resume(&["--size", "72"]).code(2).stderr(predicate::str::contains("keep --size"));
    resume(&["--iterations", "4,9"]).success();
}

#[test]
fn changed_balance_writes_a_new_picture() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let words = ["--checkpoint-every", "2", "--balance", "spatial=40"];
    render(&place, "out.png", "4", &words).assert().success();
    let first = pixels(&place.path("out.png"));
    let resume = |words: &[&str]| {
        let mut command = place.mirage();
        command.args(["resume", "out-checkpoint.safetensors", "--iterations", "9"]).args(words);
        command
    };
    resume(&["--balance", "style=1"]).assert().success().stderr(predicate::str::contains("out-2.png"));
    resume(&["--style-weight", "2e3", "--seed", "4"]).assert().success();
    resume(&["--style", "relu1_1", "--quiet", "-o", "named.png"]).assert().success();
    assert_eq!(pixels(&place.path("out.png")), first, "the original picture was changed");
    let branches = ["out-2.png", "out-3.png", "named.png"].map(|name| pixels(&place.path(name)));
    assert!(branches[0] != branches[1] && branches[1] != branches[2]);
    let show = |picture: &str| -> serde_json::Value {
        let shown = place.mirage().args(["show", picture, "--json"]).output().unwrap().stdout;
        serde_json::from_slice(&shown).unwrap()
    };
    // Shares not given keep the run's values, not the defaults.
    assert_eq!(show("out-2.png")["options"]["balance"], "spatial=40,abstract=15,style=1");
    // Raw weights not given keep the values in effect.
    let shown = show("out-3.png");
    assert_eq!(shown["options"]["style_weight"], 2e3);
    assert!(shown["options"]["balance"].is_null());
    let spatial = shown["options"]["spatial_weight"].as_f64().unwrap();
    assert!(spatial > 0.0 && spatial != 1.0, "{spatial}");
}

/// Options given at resume apply from the first step on. Those without an effect are refused.
#[test]
fn options_given_at_resume_apply() {
    let place = Place::new();
    for name in ["photo.png", "one.png"] {
        place.photo(name, 64, 48);
    }
    let mut other = scene(64, 48);
    image::imageops::invert(&mut other);
    other.save(place.path("other.png")).unwrap();
    let styles = ["--style-image", "one.png", "other.png", "--scales", "1"];
    let words = [&styles[..], &["--checkpoint-every", "8"]].concat();
    render(&place, "out.png", "8", &words).assert().success();
    let resume = |checkpoint: &str, output: &str, words: &[&str]| {
        let mut command = place.mirage();
        command.args(["resume", checkpoint, "--iterations", "11", "--quiet", "-o", output]).args(words);
        command.assert()
    };
    let mut branches = Vec::new();
    for (output, words) in [
        ("plain.png", &[][..]),
        ("smooth.png", &["--tv-weight", "500"]),
        ("blend.png", &["--style-blend", "1,9"]),
        ("web.png", &["--web", "0"]),
    ] {
        resume("out-checkpoint.safetensors", output, words).success();
        branches.push(pixels(&place.path(output)));
    }
    assert!(branches[1] != branches[0], "--tv-weight has no effect");
    assert!(branches[2] != branches[0], "--style-blend has no effect");
    assert!(branches[3] == branches[0], "the live page changes the picture");
    resume("out-checkpoint.safetensors", "init.png", &["--init", "gray"])
        .code(2)
        .stderr(predicate::str::contains("--init is for a new run"));
    let blend = render(&place, "new.png", "1", &["--style-blend", "1,9"]).assert();
    blend.code(2).stderr(predicate::str::contains("0 style images"));
}

/// A different optimiser or history length starts from the shown picture without previous state.
#[test]
fn changed_optimiser_starts_from_shown_picture() {
    use neural_mirage::mirage::Checkpoint;
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let words = ["--scales", "1", "--average-decay", "0", "--checkpoint-every", "8"];
    let rising = ["--optimizer", "lbfgs", "--history", "4", "--learning-rate", "30"];
    render(&place, "out.png", "8", &[&words[..], &rising].concat()).assert().success();
    let state = Checkpoint::load(&place.path("out-checkpoint.safetensors")).unwrap().state;
    assert!(state.tensor("picture") != state.tensor("lbfgs:accepted"), "the last step was accepted");
    let resume = |output: &str, words: &[&str]| {
        let mut command = place.mirage();
        command.args(["resume", "out-checkpoint.safetensors", "--quiet", "-o", output]).args(words);
        command.assert().success();
        pixels(&place.path(output))
    };
    let shown = pixels(&place.path("out.png"));
    for words in [
        &["--optimizer", "adam", "--iterations", "8"][..],
        &["--history", "9", "--iterations", "8"],
        &["--optimizer", "lbfgs-plain", "--iterations", "8"],
    ] {
        assert!(resume(&format!("{}.png", words[1]), words) == shown, "{words:?}");
    }
    assert!(resume("on.png", &["--history", "9", "--learning-rate", "1", "--iterations", "14"]) != shown);
}

/// A line search may try pictures whose loss is NaN. A checkpoint then holds the accepted picture too.
#[test]
fn line_search_resumes_while_its_loss_is_not_finite() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let words = [
        "--scales",
        "1",
        "--optimizer",
        "lbfgs",
        "--learning-rate",
        "1e15",
        "--no-clamp",
        "--average-decay",
        "0",
    ];
    render(&place, "whole.png", "80", &words).assert().success();
    for done in ["1", "5", "13"] {
        let (picture, checkpoint) = (format!("{done}.png"), format!("{done}-checkpoint.safetensors"));
        let log = format!("{done}.jsonl");
        let part = [&words[..], &["--checkpoint-every", done, "--log", &log]].concat();
        // The picture is still the start picture, which is an error.
        let stuck = render(&place, &picture, done, &part).assert().code(1);
        stuck.stderr(predicate::str::contains("Lower --learning-rate"));
        assert!(place.path(&picture).exists());
        let log = std::fs::read_to_string(place.path(&log)).unwrap();
        assert!(log.contains("\"loss\":null"), "the last loss is finite: {log}");
        place.mirage().args(["resume", &checkpoint, "--iterations", "80", "--quiet"]).assert().success();
        assert_eq!(pixels(&place.path(&picture)), pixels(&place.path("whole.png")), "{done}");
    }
}

/// Only files that the run will write must not exist.
#[test]
fn earlier_snapshots_do_not_block_resume() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    render(&place, "out.png", "8", &["--checkpoint-every", "8", "--save-at", "2,11"]).assert().success();
    place.photo("out-0002.png", 9, 9);
    let resume = || {
        let mut command = place.mirage();
        command.args(["resume", "out-checkpoint.safetensors", "--iterations", "12", "--quiet"]);
        command.assert()
    };
    place.photo("out-0011.png", 9, 9);
    resume().code(2).stderr(predicate::str::contains("out-0011.png"));
    std::fs::remove_file(place.path("out-0011.png")).unwrap();
    resume().success();
    assert_eq!(image::open(place.path("out-0002.png")).unwrap().width(), 9);
    assert_eq!(image::open(place.path("out-0011.png")).unwrap().width(), 48);
}

#[test]
fn changed_inputs_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    render(&place, "out.png", "4", &["--checkpoint-every", "2"]).assert().success();
    let refused = |words: &[&str], printed: &str| {
        let mut command = place.mirage();
        command.args(["resume", "out-checkpoint.safetensors", "--iterations", "9"]).args(words);
        command.assert().code(2).stderr(predicate::str::contains(printed.to_owned()));
    };
    refused(&["--size", "40"], "--size");
    refused(&["--balance", "colour=1"], "colour");
    let whole = std::fs::read(&photo).unwrap();
    place.photo("photo.png", 64, 47);
    refused(&[], "has changed");
    std::fs::rename(&photo, place.path("moved.png")).unwrap();
    refused(&[], "--photo");
    std::fs::write(place.path("moved.png"), &whole).unwrap();
    let mut moved = place.mirage();
    moved.args([
        "resume",
        "out-checkpoint.safetensors",
        "--iterations",
        "9",
        "--photo",
        "moved.png",
        "--quiet",
    ]);
    moved.assert().success();
    for (name, printed) in [("photo.png", "there is no such file"), ("moved.png", "not a checkpoint")] {
        let assert = place.mirage().args(["resume", name]).assert().code(2);
        assert.stderr(predicate::str::contains(printed).or(predicate::str::contains("can't be read")));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_resumable_checkpoint() {
    let place = Place::new();
    let mut child = start(&place);
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    let done = log(&place.path("run.jsonl")).last().unwrap()["iterations"].as_u64().unwrap();
    let more = (done + 3).to_string();
    let mut resume = place.mirage();
    resume.args(["resume", "out-checkpoint.safetensors", "--quiet", "--iterations", &more]);
    resume.assert().success();
    render(&place, "whole.png", &more, &[]).assert().success();
    assert_eq!(pixels(&place.path("out.png")), pixels(&place.path("whole.png")));
}

/// Twelve runs that write every kind of file are killed at random moments: no file under its final name is ever
/// incomplete, and the last checkpoint can be resumed.
#[cfg(unix)]
#[test]
fn kill_never_leaves_torn_files() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20);
    let words = [
        "--checkpoint-every",
        "1",
        "--save-every",
        "1",
        "--film",
        "out.apng",
        "--overwrite",
        "--log",
        "run.jsonl",
        "--print-every",
        "1",
    ];
    let (mut pictures, mut checkpoints) = (0, 0);
    for round in 0..12 {
        let mut child = place.spawn(&render(&place, "out.png", "10000000", &words));
        wait_for("no checkpoint was saved", || place.path("out-checkpoint.safetensors").exists());
        // Saving takes most of the time of this small run, so most kills hit a write.
        std::thread::sleep(Duration::from_micros(random.random_range(0..150_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!place.path("out.apng").exists(), "round {round}: an incomplete film");
        for name in place.entries() {
            let path = place.path(&name);
            if name.starts_with("out-0") {
                image::open(&path).unwrap_or_else(|error| panic!("round {round}: {name}: {error}"));
                pictures += 1;
            } else if name.ends_with("checkpoint.safetensors") {
                let found = neural_mirage::mirage::Checkpoint::load(&path);
                let state = found.unwrap_or_else(|error| panic!("round {round}: {error}")).state;
                assert!(state.iteration > 0);
                checkpoints += 1;
            }
        }
        if round == 11 {
            let state =
                neural_mirage::mirage::Checkpoint::load(&place.path("out-checkpoint.safetensors")).unwrap();
            let next = (state.state.iteration + 1).to_string();
            let mut resume = place.mirage();
            resume.args(["resume", "out-checkpoint.safetensors", "--quiet", "--iterations", &next]);
            resume.assert().success();
        }
        for name in
            place.entries().iter().filter(|name| name.starts_with("out") || name.starts_with(".mirage"))
        {
            std::fs::remove_file(place.path(name)).unwrap();
        }
    }
    assert!(pictures >= 12 && checkpoints == 12, "{pictures} pictures, {checkpoints} checkpoints");
}

/// The checkpoint records that weights are stored in 16 bits.
#[test]
fn half_weights_run_resumes_bit_identically() {
    let place = Place::with_adapter();
    place.photo("photo.png", 64, 48);
    let paint = |output: &str, iterations: &str, more: &[&str]| {
        // The weights of the convolutions are not exact in 16 bits.
        let words = ["--adapter", "0", "--kernels", "buffer", "--no-tuning-cache"];
        render(&place, output, iterations, &[&words[..], more].concat()).assert().success();
        pixels(&place.path(output))
    };
    let half = ["--precision", "half-weights", "--checkpoint-every", "5"];
    let whole = paint("whole.png", "9", &half);
    assert!(paint("single.png", "9", &[]) != whole, "--precision has no effect");
    paint("part.png", "5", &half);
    let mut resume = place.mirage();
    resume.args(["resume", "part-checkpoint.safetensors", "--iterations", "9", "--adapter", "0", "--quiet"]);
    resume.args(["--kernels", "buffer", "--no-tuning-cache"]).assert().success();
    assert!(pixels(&place.path("part.png")) == whole);
    let shown = place.mirage().args(["show", "part.png", "--json"]).output().unwrap().stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["options"]["precision"], "half-weights");
}
