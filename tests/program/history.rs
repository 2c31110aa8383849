//! Records of runs in pictures, films, early snapshots, classes, and warnings about the balance.

use crate::support::Place;
use predicates::prelude::*;
use serde_json::Value;

fn stdout(command: &mut assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn show_prints_records_and_differences() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.render_for(&photo, "4").args(["--save-at", "2", "--quiet"]).assert().success();
    place.render_to(&photo, "other.jpg", "4").args(["--seed", "9", "--quiet"]).assert().success();
    let printed = stdout(place.mirage().args(["show", "out.png"]));
    for words in [
        "adapter",
        "network SHA-256",
        "iterations",
        "duration",
        "loss after 4",
        "spatial",
        "classes",
        "weights at the end",
        "--style-weight",
        "learning-rate",
        "0.02\n",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    let printed = stdout(place.mirage().args(["show", "out.png", "other.jpg"]));
    assert!(
        printed.contains("seed") && printed.contains("0  |  9") && !printed.contains("learning-rate"),
        "{printed}"
    );
    let printed = stdout(place.mirage().args(["show", "out.png", "out-0002.png"]));
    assert!(printed.contains("the options are the same") && printed.contains("4  |  2"), "{printed}");
    let printed = stdout(place.mirage().args(["show", "out.png", "out.png"]));
    assert!(printed.contains("no differences"), "{printed}");
    let printed: Value =
        serde_json::from_str(&stdout(place.mirage().args(["show", "out.png", "--json"]))).unwrap();
    assert_eq!(printed["iterations"], 4);
    assert!(
        printed["losses"]["total"].as_f64().unwrap() > 0.0 && printed["seconds"].as_f64().unwrap() > 0.0,
        "{printed}"
    );
    place
        .mirage()
        .args(["show", "photo.png"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("no record of a run"));
}

#[test]
fn early_snapshots_and_films_are_written() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    for film in ["chain.gif", "chain.webp", "chain.apng"] {
        let mut command = place.render_for(&photo, "9");
        command.args(["--save-early", "--film", film, "--overwrite"]);
        command.assert().success().stderr(predicate::str::contains("Film of 10 frames"));
        let printed = stdout(place.mirage().args(["show", film]));
        assert!(
            printed.lines().any(|line| line.starts_with("  iterations ") && line.ends_with(" 9")),
            "{printed}"
        );
        // The existing film would be replaced.
        let mut again = place.render_to(&photo, "x.png", "3");
        again.args(["--film", film]);
        again.assert().code(2).stderr(predicate::str::contains("--film"));
    }
    let early: Vec<String> = place.entries().into_iter().filter(|name| name.starts_with("out-0")).collect();
    assert_eq!(early, ["out-0001.png", "out-0002.png", "out-0003.png", "out-0005.png", "out-0008.png"]);
    let assert = place.render_to(&photo, "x.png", "3").args(["--film", "chain.mp4"]).assert().code(2);
    assert.stderr(predicate::str::contains(".webp"));
}

#[test]
fn classify_prints_distance_between_pictures() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.render_for(&photo, "3").arg("--quiet").assert().success();
    let mut command = place.mirage();
    command
        .args(["classify", "photo.png", "out.png", "photo.png", "--top", "2", "--weights"])
        .arg(place.network());
    let printed = stdout(&mut command);
    let distances: Vec<&str> = printed.lines().filter(|line| line.contains(" from photo.png")).collect();
    assert_eq!(distances.len(), 2, "{printed}");
    assert!(!distances[0].contains("0.000") && distances[1].contains("0.000"), "{printed}");
}

#[test]
fn negligible_factor_warning_names_its_option() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.render_for(&photo, "2");
    command.args(["--spatial-weight", "1e9", "--style-weight", "1e-9", "--log", "run.jsonl"]);
    let said = command.output().unwrap();
    let printed = String::from_utf8_lossy(&said.stderr);
    assert!(
        printed.contains("warning: the spatial factor makes 100%") && printed.contains("--style-weight"),
        "{printed}"
    );
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    assert!(log.contains("\"event\":\"warning\""), "{log}");
    place
        .render_to(&photo, "even.png", "2")
        .assert()
        .success()
        .stderr(predicate::str::contains("warning").not());
}

/// Measured weights are printed as options, which reproduce the balance in another run.
#[test]
fn printed_weights_reproduce_the_balance() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let said = place.render_for(&photo, "9").args(["--print-every", "1"]).output().unwrap();
    let printed = String::from_utf8_lossy(&said.stderr).into_owned();
    let line =
        printed.lines().find(|line| line.starts_with("Weights for the shares after iteration 0: ")).unwrap();
    let words: Vec<&str> = line.rsplit(": ").next().unwrap().split(' ').collect();
    assert_eq!(words.len(), 6, "{line}");
    let mut raw = place.render_to(&photo, "raw.png", "1");
    raw.args(["--log", "raw.jsonl", "--quiet"]).args(words);
    raw.assert().success();
    let log = std::fs::read_to_string(place.path("raw.jsonl")).unwrap();
    let first: Value = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["event"] == "iteration")
        .unwrap();
    for (factor, wanted) in [("spatial", 0.15), ("abstract", 0.15), ("style", 0.7)] {
        let share = first["shares"][factor].as_f64().unwrap();
        assert!((share - wanted).abs() < 1e-4, "{factor}: {share}");
    }
}
