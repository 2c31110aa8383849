//! Memory-saving options: they keep the picture, and resumed runs keep them.

use crate::support::{Place, pixels};
use predicates::prelude::*;

#[test]
fn memory_saving_options_keep_the_picture() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let paint = |output: &str, more: &[&str]| {
        place.render_to(&photo, output, "4").args(["--scales", "1"]).args(more).assert().success();
        pixels(&place.path(output))
    };
    let plain = paint("plain.png", &[]);
    assert!(paint("again.png", &["--checkpoint-activations"]) == plain, "the pictures differ");
    for (output, more) in [("tiles.png", &[][..]), ("both.png", &["--checkpoint-activations"])] {
        let tiled = paint(output, &[&["--tile", "16"], more].concat());
        let furthest = plain.iter().zip(&tiled).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(furthest <= Some(2), "{output}: {furthest:?} of 255");
    }
    // Rounding of the gradient turns the sign of some steps of Adam.
    let half = paint("half.png", &["--half-activations"]);
    let mean =
        plain.iter().zip(&half).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / plain.len() as f64;
    assert!(mean > 0.0 && mean < 0.5, "{mean} of 255");
    place
        .render(&photo)
        .args(["--tile", "7"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("none, auto, or a number from 16"));
}

#[test]
fn tiled_run_resumes_in_tiles() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let render = |output: &str, iterations: &str, more: &[&str]| {
        let words = ["--tile", "16", "--checkpoint-activations", "--half-activations", "--scales", "1"];
        place.render_to(&photo, output, iterations).args(words).args(more).assert().success();
    };
    render("whole.png", "6", &[]);
    render("part.png", "4", &["--checkpoint-every", "2"]);
    let mut resume = place.mirage();
    resume.args(["resume", "part-checkpoint.safetensors", "--iterations", "6", "--log", "run.jsonl"]);
    resume.assert().success();
    assert!(pixels(&place.path("part.png")) == pixels(&place.path("whole.png")));
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    for recorded in ["\"tile\":\"16\"", "\"checkpoint_activations\":true", "\"half_activations\":true"] {
        assert!(log.contains(recorded), "{recorded}: {log}");
    }
    let mut varied = place.mirage();
    varied.arg("sweep").arg(&photo).arg("--weights").arg(place.network());
    varied.args(["--vary", "seed=1,2", "-o", "sheet", "--size", "48", "--iterations", "2", "--tile", "16"]);
    varied.assert().success();
}
