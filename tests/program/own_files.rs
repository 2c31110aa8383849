//! A run replaces the files that it saved itself, if they are as it saved them.

use crate::support::Place;
use predicates::prelude::*;
use predicates::str::contains as says;

/// A file is changed at its end, as by a program that appends metadata, and in its middle, among the pixels.
fn edits(file: &[u8]) -> [Vec<u8>; 2] {
    let mut changed = file.to_vec();
    changed[file.len() / 2] ^= 0x10;
    [[file, b"\n"].concat(), changed]
}

/// Returns a sweep at 48 px on the small network.
fn sweep(place: &Place, folder: &str, words: &[&str]) -> assert_cmd::Command {
    let mut command = place.mirage();
    command.arg("sweep").arg(place.path("photo.png")).arg("--weights").arg(place.network());
    command.args(["--size", "48", "-o", folder]).args(words);
    command
}

/// Waits until a checkpoint that can't be saved at its name is saved elsewhere.
#[cfg(unix)]
fn wait_for_rescue(place: &Place) {
    let is_rescued = || place.entries().iter().any(|name| name.starts_with("mirage-rescued-"));
    crate::common::process::wait_for("no checkpoint is rescued", is_rescued);
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
    place.photo("photo.png", 64, 48);
    let words = ["--vary", "seed=1", "--columns", "iterations=1,2"];
    let sweep = || sweep(&place, "cells", &words).assert().success();
    sweep();
    let [edited, _] = edits(&std::fs::read(place.path("cells/r1c1.png")).unwrap());
    place.file("cells/r1c1.png", &edited);
    // The run starts again for the missing cell.
    std::fs::remove_file(place.path("cells/r1c2.png")).unwrap();
    sweep().stderr(says("r1c1.png: kept"));
    assert_eq!(std::fs::read(place.path("cells/r1c1.png")).unwrap(), edited);
    assert!(place.path("cells/r1c2.png").exists());
    // The last cell too.
    std::fs::rename(place.path("cells/r1c1.png"), place.path("first.png")).unwrap();
    let [edited, _] = edits(&std::fs::read(place.path("cells/r1c2.png")).unwrap());
    place.file("cells/r1c2.png", &edited);
    sweep().stderr(says("r1c2.png: kept"));
    assert_eq!(std::fs::read(place.path("cells/r1c2.png")).unwrap(), edited);
}

#[cfg(unix)]
#[test]
fn read_only_files_of_a_sweep_are_kept() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let sweep = |columns: &str| sweep(&place, "cells", &["--vary", "seed=1", "--columns", columns]).assert();
    sweep("iterations=1,2").success();
    for name in ["r1c1.png", "sheet.png", "sheet.html"] {
        let path = place.path(&format!("cells/{name}"));
        let content = std::fs::read(&path).unwrap();
        let set = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        set(0o444);
        match name {
            "r1c1.png" => {
                std::fs::remove_file(place.path("cells/r1c2.png")).unwrap();
                sweep("iterations=1,2").success().stderr(says("r1c1.png: kept"));
            }
            sheet => drop(sweep("iterations=1,2,3").code(2).stderr(says(sheet))),
        }
        assert_eq!(std::fs::read(&path).unwrap(), content, "{name}");
        set(0o644);
    }
}

#[test]
fn sweep_removes_no_checkpoint_but_its_own() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let words = ["--iterations", "1", "--vary", "seed=1"];
    std::fs::create_dir(place.path("cells")).unwrap();
    place.file("cells/run-1-checkpoint.safetensors", b"precious");
    sweep(&place, "cells", &words).arg("--overwrite").assert().success();
    assert_eq!(std::fs::read(place.path("cells/run-1-checkpoint.safetensors")).unwrap(), b"precious");
    // A stranger's file with the name of a cell is not one.
    place.file("cells/r1c1.png", b"precious");
    let refused = sweep(&place, "cells", &words).assert().code(2);
    refused.stderr(says("not a cell").and(says("--overwrite")));
}

/// Neither a log nor another file of a run takes the name of a cell that a sweep is about to paint.
#[cfg(unix)]
#[test]
fn names_of_cells_are_reserved() {
    use crate::common::process::{code, wait_for};
    use crate::interrupt::signal;
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let words = ["--vary", "seed=1", "--columns", "iterations=1,1000000", "--adapter", "cpu", "--quiet"];
    let sweep = sweep(&place, "cells", &words);
    let mut child = place.spawn(&sweep);
    wait_for("no cell", || place.path("cells/r1c1.png").exists());
    for (option, name) in
        [("--log", "cells/r1c1.png"), ("--trace", "cells/r1c2.png"), ("--log", "cells/sheet.png")]
    {
        let mut run = place.deviceless_render(&photo);
        run.args([option, name, "--overwrite"]).assert().code(2).stderr(says("another run"));
    }
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
}

/// A picture that is as another run saved it, in the place of a cell, and another sweep's sheet.
#[test]
fn files_of_other_runs_and_sweeps_are_kept() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let sweep =
        |folder: &str, seeds: &str| sweep(&place, folder, &["--iterations", "1", "--vary", seeds]).assert();
    sweep("cells", "seed=1,2").success();
    sweep("other", "seed=3,4").success();
    for name in ["sheet.png", "sheet.html"] {
        let own = std::fs::read(place.path(&format!("cells/{name}"))).unwrap();
        let other = std::fs::read(place.path(&format!("other/{name}"))).unwrap();
        place.file(&format!("cells/{name}"), &other);
        sweep("cells", "seed=1,2").code(2).stderr(says(name));
        assert_eq!(std::fs::read(place.path(&format!("cells/{name}"))).unwrap(), other);
        place.file(&format!("cells/{name}"), &own);
    }
    // A sweep may be extended, but its sheet is not replaced by a smaller one.
    sweep("cells", "seed=1,2,3").success();
    sweep("cells", "seed=1,2").code(2).stderr(says("sheet.png"));
}

#[test]
fn checkpoint_of_a_longer_run_is_kept() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place
        .render_to(&photo, "out.png", "3")
        .args(["--seed", "1", "--checkpoint-every", "3"])
        .assert()
        .success();
    std::fs::create_dir(place.path("cells")).unwrap();
    let checkpoint = std::fs::read(place.path("out-checkpoint.safetensors")).unwrap();
    place.file("cells/run-1-checkpoint.safetensors", &checkpoint);
    let refused = sweep(&place, "cells", &["--iterations", "2", "--vary", "seed=1"]).assert().code(2);
    refused.stderr(says("run-1-checkpoint"));
    assert_eq!(std::fs::read(place.path("cells/run-1-checkpoint.safetensors")).unwrap(), checkpoint);
}

/// Changed in its data, whose checksum the header states, or made read-only.
#[test]
fn changed_checkpoint_is_kept() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.render_to(&photo, "out.png", "2").args(["--checkpoint-every", "1", "--quiet"]).assert().success();
    let checkpoint = place.path("out-checkpoint.safetensors");
    std::fs::copy(&checkpoint, place.path("out.safetensors")).unwrap();
    let own = std::fs::read(&checkpoint).unwrap();
    let resume = || {
        let mut command = place.mirage();
        command.args([
            "resume",
            "out.safetensors",
            "--iterations",
            "3",
            "--checkpoint-every",
            "1",
            "--quiet",
        ]);
        command.assert()
    };
    for edited in edits(&own) {
        place.file("out-checkpoint.safetensors", &edited);
        resume().code(2).stderr(says("out-checkpoint"));
        assert_eq!(std::fs::read(&checkpoint).unwrap(), edited);
    }
    place.file("out-checkpoint.safetensors", &own);
    let mut permissions = checkpoint.metadata().unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&checkpoint, permissions).unwrap();
    resume().code(2).stderr(says("read-only"));
    assert_eq!(std::fs::read(&checkpoint).unwrap(), own);
}

/// With --overwrite, a name may become a link to a file that the run reads while it runs.
#[cfg(unix)]
#[test]
fn files_that_the_run_reads_stay_behind_new_links() {
    use crate::common::process::{code, wait_for};
    use crate::interrupt::{endless, signal};
    let place = Place::new();
    let mut run = endless(&place);
    let words = ["--checkpoint-every", "10", "--overwrite", "--trace", "trace.json"];
    let mut child = place.spawn(run.args(words));
    let checkpoint = place.path("out-checkpoint.safetensors");
    wait_for("no checkpoint", || checkpoint.exists());
    let photo = std::fs::read(place.path("photo.png")).unwrap();
    let _ = std::fs::remove_file(&checkpoint);
    for name in ["out.png", "trace.json", "out-checkpoint.safetensors"] {
        // The checkpoint may have been saved again.
        std::os::unix::fs::symlink("photo.png", place.path("link")).unwrap();
        std::fs::rename(place.path("link"), place.path(name)).unwrap();
    }
    wait_for_rescue(&place);
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(1));
    assert_eq!(std::fs::read(place.path("photo.png")).unwrap(), photo);
}

/// Made read-only, or edited without a trace in its length and time.
#[cfg(unix)]
#[test]
fn checkpoint_that_changes_during_the_run_stays() {
    use crate::common::process::{code, wait_for};
    use crate::interrupt::{endless, signal};
    use std::os::unix::fs::PermissionsExt;
    for edits in [false, true] {
        let place = Place::new();
        let mut run = endless(&place);
        let mut child = place.spawn(run.args(["--checkpoint-every", "50"]));
        let checkpoint = place.path("out-checkpoint.safetensors");
        wait_for("no checkpoint", || checkpoint.exists());
        signal(&child, "-STOP");
        let mut content = std::fs::read(&checkpoint).unwrap();
        if edits {
            let modified = checkpoint.metadata().unwrap().modified().unwrap();
            *content.last_mut().unwrap() ^= 1;
            std::fs::write(&checkpoint, &content).unwrap();
            let file = std::fs::File::options().write(true).open(&checkpoint).unwrap();
            file.set_modified(modified).unwrap();
        } else {
            std::fs::set_permissions(&checkpoint, PermissionsExt::from_mode(0o444)).unwrap();
        }
        signal(&child, "-CONT");
        wait_for_rescue(&place);
        signal(&child, "-INT");
        assert_eq!(code(&mut child), Some(130));
        assert_eq!(std::fs::read(&checkpoint).unwrap(), content);
    }
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
    wait_for("no checkpoint", || checkpoint.exists());
    std::fs::rename(place.file("precious", b"precious"), &checkpoint).unwrap();
    wait_for_rescue(&place);
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    assert_eq!(std::fs::read(&checkpoint).unwrap(), b"precious");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("no checkpoint: ") && said.contains("exists already"), "{said}");
}

/// With --overwrite, a file that the run has read is kept under its new name too.
#[cfg(unix)]
#[test]
fn photo_that_is_moved_onto_an_output_stays() {
    use crate::common::process::{code, wait_for};
    use crate::interrupt::{endless, signal};
    for name in ["out.png", "film.webp", "trace.json", "out-checkpoint.safetensors"] {
        let place = Place::new();
        let mut run = endless(&place);
        let words = ["--checkpoint-every", "10", "--overwrite", "--trace", "trace.json"];
        let mut child = place.spawn(run.args(words).args(["--film", "film.webp"]));
        wait_for("no checkpoint", || place.path("out-checkpoint.safetensors").exists());
        let photo = std::fs::read(place.path("photo.png")).unwrap();
        std::fs::rename(place.path("photo.png"), place.path(name)).unwrap();
        if name.starts_with("out-") {
            wait_for_rescue(&place);
        }
        signal(&child, "-INT");
        // Only the picture is what the run is for.
        assert_eq!(code(&mut child), Some(if name == "out.png" { 1 } else { 130 }), "{name}");
        assert!(std::fs::read(place.path(name)).unwrap() == photo, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn read_only_files_are_kept_with_overwrite() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    for name in ["out.png", "out-0001.png", "out-checkpoint.safetensors", "film.webp", "trace.json"] {
        let path = place.file(name, b"precious");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
        let words = ["--overwrite", "--save-at", "1", "--film", "film.webp", "--trace", "trace.json"];
        let painted = place.render_to(&photo, "out.png", "2").args(words).assert();
        painted.code(2).stderr(says(name)).stderr(says("it is read-only").or(says("the file is read-only")));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }
}

/// Another user's run must be able to see that a name is taken.
#[cfg(unix)]
#[test]
fn locks_can_be_read_by_other_users() {
    use crate::common::process::wait_for;
    use crate::interrupt::{endless, signal};
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let child = place.spawn(&place.in_shell("umask 077", &endless(&place)));
    let locks = || place.entries().into_iter().filter(|name| name.ends_with(".lock")).collect::<Vec<_>>();
    wait_for("no lock", || locks().len() > 2);
    for lock in locks() {
        let mode = place.path(&lock).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{lock}");
    }
    signal(&child, "-KILL");
}
