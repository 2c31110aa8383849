//! Ctrl-C, with real signals.

use crate::support::Place;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Starts a run without end and waits until it paints.
fn start(place: &Place) -> Child {
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.mirage();
    command.arg("render").arg(&photo).args(["-o", "out.png", "--iterations", "10000000", "--size", "48"]);
    command.args(["--log", "run.jsonl", "--quiet", "--weights"]).arg(place.network());
    let child = place.spawn(&command);
    let begun = Instant::now();
    let log = place.path("run.jsonl");
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"iteration\"")) {
        assert!(begun.elapsed() < Duration::from_secs(120), "the run doesn't begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The exit code, if the program ends soon.
fn code(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("the program doesn't stop");
}

#[test]
fn ctrl_c_finishes_saves_and_exits_130() {
    for name in ["-INT", "-TERM"] {
        let place = Place::new();
        let mut child = start(&place);
        signal(&child, name);
        assert_eq!(code(&mut child), Some(130));
        assert_eq!(image::image_dimensions(place.path("out.png")).unwrap(), (48, 36));
        image::open(place.path("out.png")).unwrap();
        let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
        let end: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!((&end["event"], &end["ending"]), (&"end".into(), &"stopped".into()));
    }
}

#[test]
fn a_second_ctrl_c_quits_at_once() {
    let place = Place::new();
    let mut child = start(&place);
    signal(&child, "-INT");
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    // Whole or not there at all, whichever of the two was faster.
    if place.path("out.png").exists() {
        image::open(place.path("out.png")).unwrap();
    }
}
