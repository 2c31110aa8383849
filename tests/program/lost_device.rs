//! Graphics devices that hang or are lost: the error is reported within the limit, and `--retry` continues.

use crate::support::{Place, pixels};
use image::AnimationDecoder as _;
use predicates::prelude::*;
use std::fs::File;
use std::io::BufReader;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Far more work than any device can do within the limit, in workgroups that each terminate.
const ENDLESS: &str = "
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var i = 0u; i < 65000u; i++) {
        y[id.x % 64u] += sin(y[id.x % 64u]);
        y[id.x % 64u] += sin(y[id.x % 64u]);
    }
}
";

#[test]
fn hung_device_ends_program_after_patience() {
    let place = Place::new();
    let shader = place.file("endless.wgsl", ENDLESS.as_bytes());
    let mut command = place.mirage();
    command.args(["kernels", "run", "--patience", "2", "--output", "y.npy:64", "--workgroups", "65535,1000"]);
    let started = Instant::now();
    let assert = command.arg(shader).timeout(Duration::from_secs(120)).assert();
    assert.code(1).stderr(predicate::str::contains("no answer within 2 s"));
    // Allows for opening the device and compiling; the work itself would take hours.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert!(!place.path("y.npy").exists());
}

/// Returns a command for a run on a graphics device. The matrix roots of the default style statistic would take most of the
/// time.
fn render(place: &Place, output: &str, more: &[&str]) -> assert_cmd::Command {
    let photo = place.path("photo.png");
    let mut command = place.mirage();
    command.arg("render").arg(photo).args(["-o", output, "--size", "48", "--iterations", "200"]);
    command.args(["--adapter", "0", "--style-statistic", "gram", "--print-every", "0"]);
    command.args(["--no-tuning-cache", "--weights"]);
    command.arg(place.network()).args(more);
    command
}

#[test]
fn lost_device_is_reopened_and_picture_is_identical() {
    let place = Place::new();
    place.photo("photo.png", 48, 32);
    render(&place, "whole.png", &["--quiet", "--film", "whole.gif"]).assert().success();
    let words =
        ["--retry", "50", "--lose-device-after", "200", "--checkpoint-every", "7", "--save-every", "50"];
    let files = ["--log", "run.jsonl", "--film", "out.gif"];
    let output = render(&place, "out.png", &[&words[..], &files].concat()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("Reopening it (1 of 50)") && printed.contains("Resuming after"), "{printed}");
    assert!(pixels(&place.path("out.png")) == pixels(&place.path("whole.png")));
    // Iterations that were repeated are in the film once.
    let frames = |name: &str| -> Vec<Vec<u8>> {
        let film = BufReader::new(File::open(place.path(name)).unwrap());
        let frames = image::codecs::gif::GifDecoder::new(film).unwrap().into_frames();
        frames.map(|frame| frame.unwrap().into_buffer().into_raw()).collect()
    };
    let film = frames("out.gif");
    assert!(film.len() > 40 && film == frames("whole.gif"), "{} frames", film.len());
    let entries = place.entries();
    let snapshots: Vec<&String> = entries.iter().filter(|name| name.starts_with("out-0")).collect();
    assert_eq!(snapshots, ["out-0050.png", "out-0100.png", "out-0150.png", "out-0200.png"]);
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    let starts = log.lines().filter(|line| line.starts_with("{\"event\":\"start\"")).count();
    assert!(starts >= 2 && log.contains("Reopening it"), "{starts} starts");
    assert!(log.lines().last().unwrap().contains("\"finished\""));
}

#[test]
fn permanently_lost_device_saves_the_picture() {
    let place = Place::new();
    place.photo("photo.png", 48, 32);
    let lost = |output: &str, words: &[&str]| {
        let output = render(&place, output, words).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{printed}");
        printed
    };
    let printed = lost("out.png", &["--lose-device-after", "200", "--checkpoint-every", "7"]);
    assert!(printed.contains("is saved as out.png") && printed.contains("mirage resume"), "{printed}");
    assert!(printed.contains("was lost") && !printed.contains("Reopening it"), "{printed}");
    image::open(place.path("out.png")).unwrap();
    // Lost each time before the first iteration.
    let printed = lost("none.png", &["--lose-device-after", "3", "--retry", "2"]);
    assert_eq!(printed.matches("Reopening it").count(), 2, "{printed}");
    assert!(!place.path("none.png").exists());
    // The saved checkpoint can be resumed on a working device.
    let mut resume = place.mirage();
    resume.args(["resume", "out-checkpoint.safetensors", "--adapter", "0", "--quiet"]).assert().success();
    render(&place, "whole.png", &["--quiet"]).assert().success();
    assert!(pixels(&place.path("out.png")) == pixels(&place.path("whole.png")));
}

/// If the checkpoint for the retry is missing, or is another run's now, picture and film are saved.
#[test]
fn missing_checkpoint_at_retry_saves_picture_and_film() {
    for other in [None, Some(&["--iterations", "100", "--checkpoint-every", "100", "--quiet"][..])] {
        let place = Place::new();
        place.photo("photo.png", 48, 32);
        let other = other.map(|words| {
            render(&place, "other.png", words).assert().success();
            std::fs::read(place.path("other-checkpoint.safetensors")).unwrap()
        });
        lose_checkpoint(&place, other.as_deref());
    }
}

/// Runs with a retry while the checkpoint is removed again and again, or replaced by this one.
fn lose_checkpoint(place: &Place, other: Option<&[u8]>) {
    let words =
        ["--retry", "2", "--lose-device-after", "200", "--checkpoint-every", "100", "--film", "film.gif"];
    let mut run = render(place, "out.png", &words);
    let checkpoint = place.path("out-checkpoint.safetensors");
    let is_done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The device is lost about 60 iterations after the checkpoint is saved.
            while !is_done.load(Ordering::Relaxed) {
                if checkpoint.exists() {
                    match other {
                        Some(other) => std::fs::rename(place.file("taken", other), &checkpoint).unwrap(),
                        None => std::fs::remove_file(&checkpoint).unwrap(),
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let output = run.output();
        is_done.store(true, Ordering::Relaxed);
        output.unwrap()
    });
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert_eq!(printed.matches("Reopening it").count(), 1, "{printed}");
    assert_eq!(printed.contains("of another run"), other.is_some(), "{printed}");
    assert!(printed.contains("is saved as out.png") && !printed.contains("to resume:"), "{printed}");
    image::open(place.path("out.png")).unwrap();
    image::open(place.path("film.gif")).unwrap();
}

/// Until a resumed run has saved its own checkpoint, each attempt starts from the one that it was resumed from.
#[test]
fn resumed_run_retries_from_its_checkpoint() {
    let place = Place::new();
    place.photo("photo.png", 48, 32);
    render(&place, "out.png", &["--quiet", "--checkpoint-every", "200"]).assert().success();
    let checkpoint = place.path("out-checkpoint.safetensors");
    let saved = std::fs::read(&checkpoint).unwrap();
    for words in [&[][..], &["--optimizer", "lbfgs", "--history", "4"]] {
        std::fs::write(&checkpoint, &saved).unwrap();
        let mut resume = place.mirage();
        resume.args(["resume", "out-checkpoint.safetensors", "--adapter", "0", "--iterations", "1000"]);
        resume.args(["--checkpoint-every", "1000", "--retry", "2", "--lose-device-after", "200"]).args(words);
        let output = resume.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert_eq!(printed.matches("Resuming after iteration 200").count(), 3, "{printed}");
        assert!(printed.contains("is saved as"), "{printed}");
    }
}

/// A run whose iterations take longer than the limit, so the device counts as hung.
#[test]
fn device_hung_during_run_is_reopened() {
    let place = Place::with_adapter();
    place.photo("photo.png", 1200, 900);
    let mut command = place.mirage();
    command.args(["render", "photo.png", "-o", "out.png", "--size", "1200", "--scales", "1", "--weights"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-narrow.safetensors"));
    command.args(["--adapter", "0", "--patience", "1", "--retry", "1", "--no-tuning-cache"]);
    let output = command.timeout(Duration::from_secs(120)).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert_eq!(printed.matches("gave no answer within 1 s").count(), 2, "{printed}");
    assert_eq!(printed.matches("Reopening it (1 of 1)").count(), 1, "{printed}");
}
