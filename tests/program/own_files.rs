//! A run replaces the files that it saved itself, if they are as it saved them.

use crate::support::Place;
use predicates::str::contains as says;

/// A file is changed at its end, as by a program that appends metadata, and in its middle, among the pixels.
fn edits(file: &[u8]) -> [Vec<u8>; 2] {
    let mut changed = file.to_vec();
    changed[file.len() / 2] ^= 0x10;
    [[file, b"\n"].concat(), changed]
}

#[test]
fn edited_picture_is_replaced_only_with_overwrite() {
    for ending in ["png", "jpg", "webp", "tif"] {
        let place = Place::new();
        let photo = place.photo("photo.png", 64, 48);
        let picture = format!("out.{ending}");
        let words = ["--checkpoint-every", "1", "--save-at", "1", "--quiet"];
        place.render_to(&photo, &picture, "2").args(words).assert().success();
        let resume = |more: &[&str]| {
            let mut command = place.mirage();
            command.args(["resume", "out-checkpoint.safetensors", "--iterations", "3", "--quiet"]).args(more);
            command.assert()
        };
        // A snapshot of this run is in the way of nothing, edited or not.
        let [snapshot, _] = edits(&std::fs::read(place.path(&format!("out-0001.{ending}"))).unwrap());
        place.file(&format!("out-0001.{ending}"), &snapshot);
        let file = std::fs::read(place.path(&picture)).unwrap();
        for edited in edits(&file) {
            place.file(&picture, &edited);
            resume(&[]).code(2).stderr(says(&picture)).stderr(says("--overwrite"));
            assert_eq!(std::fs::read(place.path(&picture)).unwrap(), edited, "{picture}");
        }
        place.file(&picture, &edits(&file)[0]);
        resume(&[]).code(2).stderr(says("changed since the run saved it"));
        // As it was saved, or with permission.
        place.file(&picture, &file);
        resume(&[]).success();
        place.file(&picture, &edits(&std::fs::read(place.path(&picture)).unwrap())[0]);
        resume(&["--iterations", "4", "--overwrite"]).success();
        assert_eq!(std::fs::read(place.path(&format!("out-0001.{ending}"))).unwrap(), snapshot);
    }
}

#[test]
fn edited_cell_of_a_sweep_is_kept() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let sweep = || {
        let mut command = place.mirage();
        command.arg("sweep").arg(&photo).arg("--weights").arg(place.network());
        command.args(["--size", "48", "--vary", "seed=1", "--columns", "iterations=1,2", "-o", "cells"]);
        command.assert().success()
    };
    sweep();
    let [edited, _] = edits(&std::fs::read(place.path("cells/r1c1.png")).unwrap());
    place.file("cells/r1c1.png", &edited);
    // The run starts again for the missing cell.
    std::fs::remove_file(place.path("cells/r1c2.png")).unwrap();
    sweep().stderr(says("r1c1.png: kept"));
    assert_eq!(std::fs::read(place.path("cells/r1c1.png")).unwrap(), edited);
    assert!(place.path("cells/r1c2.png").exists());
}

#[cfg(unix)]
#[test]
fn file_that_takes_the_name_of_a_checkpoint_stays() {
    use crate::common::process::{code, wait_for};
    use crate::interrupt::{endless, signal};
    use std::io::Read as _;

    let place = Place::new();
    let mut run = endless(&place);
    let mut child = place.spawn(run.args(["--checkpoint-every", "10"]));
    let checkpoint = place.path("out-checkpoint.safetensors");
    let is_rescued = || place.entries().iter().any(|name| name.starts_with("mirage-rescued-"));
    wait_for("no checkpoint", || checkpoint.exists());
    std::fs::rename(place.file("precious", b"precious"), &checkpoint).unwrap();
    wait_for("no checkpoint is rescued", is_rescued);
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    assert_eq!(std::fs::read(&checkpoint).unwrap(), b"precious");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("no checkpoint: ") && said.contains("exists already"), "{said}");
}
