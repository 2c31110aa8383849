//! `mirage sweep`: sheets, cells, and runs continued from cells.

use crate::common::process::{code, wait_for};
use crate::interrupt::{signal, wait_until_it_paints};
use crate::support::{Place, pixels};
use image::GenericImageView as _;
use predicates::prelude::*;

/// Returns a command for a sweep on the small network.
fn sweep(place: &Place, words: &[&str]) -> assert_cmd::Command {
    let mut command = place.mirage();
    command.arg("sweep").arg(place.path("photo.png")).arg("--weights").arg(place.network());
    command.args(["--size", "48", "-o", "my sweep"]).args(words);
    command
}

fn options(place: &Place, picture: &str) -> serde_json::Value {
    let shown = place.mirage().args(["show", picture, "--json"]).output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    serde_json::from_slice::<serde_json::Value>(&shown.stdout).unwrap()["options"].take()
}

/// The command started second is refused, and the first is not affected.
#[test]
fn sweep_and_run_lock_each_other_out() {
    let place = Place::new();
    let photo = place.photo("photo.png", 48, 32);
    let words = ["--vary", "seed=1,2", "--iterations", "10000000"];
    let mut first = place.spawn(&sweep(&place, &words));
    let locks = || {
        let entries = std::fs::read_dir(place.path("my sweep")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".lock")).count()
    };
    // Locks of the page, the sheet, two cells and two checkpoints.
    wait_for("not all files were locked", || locks() >= 6);
    let refused = |mut second: assert_cmd::Command, words: &[&str]| {
        second.args(words).assert().code(2).stderr(predicate::str::contains("another run"));
    };
    for output in ["r1c1.png", "r1c2.webp", "./r1c2.png", "sheet.png", "run-2.png"] {
        let output = format!("my sweep/{output}");
        refused(place.render_to(&photo, &output, "2"), &["--overwrite"]);
    }
    refused(place.render_to(&photo, "other.png", "2"), &["--log", "my sweep/sheet.html", "--overwrite"]);
    refused(sweep(&place, &words), &[]);
    signal(&first, "-INT");
    assert_eq!(code(&mut first), Some(130));
    assert_eq!(locks(), 0);

    let other = place.path("my sweep").join("r1c2.png");
    let log = place.path("run.jsonl");
    let mut single = place.render_to(&photo, other.to_str().unwrap(), "10000000");
    let mut first = place.spawn(single.arg("--log").arg(&log));
    wait_until_it_paints(&place);
    refused(sweep(&place, &["--vary", "seed=1,2", "--iterations", "2", "--overwrite"]), &[]);
    signal(&first, "-INT");
    assert_eq!(code(&mut first), Some(130));
}

#[test]
fn sheet_cells_match_single_runs() {
    let place = Place::new();
    let photo = place.photo("photo.png", 96, 64);
    let words = ["--vary", "spatial=5,50", "--vary", "style-layers=relu1_1+relu2_1,relu5_1", "--seed", "3"];
    let words = [&words[..], &["--columns", "iterations=6,2"]].concat();
    sweep(&place, &words).assert().success().stderr(predicate::str::contains("4/4"));
    let names = std::fs::read_dir(place.path("my sweep")).unwrap().count();
    assert_eq!(names, 8 + 2, "expected eight cells, the sheet and the page, and no checkpoint");
    for (cell, balance, layers, iterations) in [
        ("r1c1", "spatial=5,abstract=15,style=70", "relu1_1,relu2_1", "6"),
        ("r2c2", "spatial=5,abstract=15,style=70", "relu5_1", "2"),
        ("r4c1", "spatial=50,abstract=15,style=70", "relu5_1", "6"),
    ] {
        let file = format!("my sweep/{cell}.png");
        let printed = options(&place, &file);
        assert_eq!(printed["balance"], balance);
        assert_eq!(printed["style"], layers);
        assert_eq!(printed["iterations"].to_string(), format!("[{iterations}]"));
        // Bit-identical to a single run, although it ran in a reused session.
        let single = format!("{cell}.png");
        let mut alone = place.mirage();
        alone.arg("render").arg(&photo).args(["--weights"]).arg(place.network());
        alone.args(["--size", "48", "--seed", "3", "-o", &single, "--balance", balance, "--style", layers]);
        alone.args(["--iterations", iterations, "--quiet"]).assert().success();
        assert_eq!(pixels(&place.path(&single)), pixels(&place.path(&file)), "{cell}");
    }
    let page = std::fs::read_to_string(place.path("my sweep/sheet.html")).unwrap();
    assert!(
        page.contains("id=\"r4c2\"") && page.contains("spatial=50 (37%), style-layers=relu5_1"),
        "{page}"
    );
    assert!(!page.contains("http"), "the page refers to external resources");
    let (width, height) = image::open(place.path("my sweep/sheet.png")).unwrap().dimensions();
    assert!(width > 2 * 48 && height > 4 * 32, "{width}x{height}");

    // Repeated, everything exists already. With other values the folder is refused.
    sweep(&place, &words).assert().success().stderr(predicate::str::contains("4 of 4 runs"));
    let other = [&words[..5], &["4"], &words[6..]].concat();
    sweep(&place, &other).assert().code(2).stderr(predicate::str::contains("seed differs"));
    let longer = [&words[..6], &["--columns", "iterations=7,2"]].concat();
    sweep(&place, &longer).assert().code(2).stderr(predicate::str::contains("iterations differs"));
}

/// A run that fails with its values leaves its cell out; the others are painted.
#[test]
fn failed_run_does_not_end_the_sweep() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    let words = ["--optimizer", "lbfgs", "--no-clamp", "--average-decay", "0", "--scales", "1"];
    let vary = ["--iterations", "3", "--vary", "learning-rate=1,1e15,0.5", "--quiet"];
    for _ in 0..2 {
        let assert = sweep(&place, &[&words[..], &vary].concat()).assert().code(1);
        assert.stderr(
            predicate::str::contains("learning-rate=1e15: after 3 iterations, the line search")
                .and(predicate::str::contains("1 of 3 runs failed")),
        );
        for (cell, exists) in [("r1c1", true), ("r1c2", false), ("r1c3", true)] {
            assert_eq!(place.path(&format!("my sweep/{cell}.png")).exists(), exists, "{cell}");
        }
        assert!(place.path("my sweep/sheet.png").exists());
    }
}

/// Input files are identified by content, not by name.
#[test]
fn sweep_continues_after_inputs_are_renamed() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    place.photo("style.png", 40, 30);
    let words = ["--vary", "seed=1,2", "--iterations", "2", "--style-image", "style.png"];
    sweep(&place, &words).assert().success();
    let again = |photo: &str, style: &str| {
        let mut command = place.mirage();
        command.args(["sweep", photo, "--weights", "net.safetensors", "--size", "48", "-o", "my sweep"]);
        command.args(&words[..5]).arg(style).assert()
    };
    std::fs::copy(place.path("photo.png"), place.path("copy.png")).unwrap();
    again("copy.png", "./style.png")
        .success()
        .stderr(predicate::str::contains("2 of 2 runs are already painted"));
    again("copy.png", "photo.png").code(2).stderr(predicate::str::contains("another picture, has changed"));
}

/// Labels do not affect the picture, and a sweep's labels are not required for a cell.
#[test]
fn cell_of_sweep_with_labels_can_be_promoted() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    place.file("names.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\n".as_bytes());
    let words = ["--vary", "seed=1,2", "--iterations", "2", "--quiet", "--labels", "names.txt"];
    sweep(&place, &words).assert().success();
    for more in [&[][..], &["--labels", "names.txt", "--overwrite"]] {
        let mut promote = place.mirage();
        promote.args(["sweep", "--continue", "my sweep/r1c1.png", "--size", "48", "--quiet"]).args(more);
        promote.assert().success();
    }
}

#[test]
fn cell_can_be_promoted_to_full_size() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    sweep(&place, &["--vary", "seed=1,2", "--iterations", "3", "--quiet"]).assert().success();
    for (cell, output, seed) in
        [("my sweep/sheet.html#r1c2", "my sweep-r1c2.png", 2), ("my sweep/r1c1.png", "my sweep-r1c1.png", 1)]
    {
        let mut promote = place.mirage();
        promote.args([
            "sweep",
            "--continue",
            cell,
            "--size",
            "80",
            "--quiet",
            "--log",
            "run.jsonl",
            "--overwrite",
        ]);
        promote.assert().success();
        assert_eq!(image::open(place.path(output)).unwrap().dimensions(), (80, 53));
        let printed = options(&place, output);
        assert_eq!((&printed["seed"], &printed["iterations"]), (&seed.into(), &serde_json::json!([3])));
    }
    // A different photo gives a different picture, whatever else is given.
    place.photo("style.png", 40, 30);
    place.photo("photo.png", 95, 64);
    for more in [&[][..], &["--style-image", "style.png"]] {
        let mut promote = place.mirage();
        promote.args(["sweep", "--continue", "my sweep/r1c1.png", "--overwrite", "--log", "other.jsonl"]);
        promote.args(more).assert().code(2).stderr(predicate::str::contains("another picture that it was"));
        assert!(!place.path("other.jsonl").exists());
    }
    let assert = place.mirage().args(["sweep", "--continue", "my sweep/sheet.html#r7c7"]).assert();
    assert.code(2).stderr(predicate::str::contains("not a cell"));
    place.mirage().args(["sweep", "--continue", "photo.png"]).assert().code(2);
}

/// All runs and checkpoints use the photo as read at the start.
#[test]
fn sweep_continues_without_its_photo() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    let words = ["--vary", "seed=1,2,3", "--columns", "iterations=2,120", "--quiet"];
    let mut child = place.spawn(&sweep(&place, &words));
    wait_for("the sweep did not begin", || place.path("my sweep/r1c1.png").exists());
    let photo = std::fs::read(place.path("photo.png")).unwrap();
    std::fs::remove_file(place.path("photo.png")).unwrap();
    wait_for("the second run did not begin", || place.path("my sweep/r2c1.png").exists());
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    std::fs::write(place.path("photo.png"), photo).unwrap();
    let again = sweep(&place, &words).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(place.path("my sweep/r3c2.png").exists());
}

#[test]
fn unvaried_shares_default_to_those_for_style_images() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    place.photo("style.png", 64, 64);
    let words = ["--vary", "style=10", "--style-image", "style.png", "--iterations", "1", "--quiet"];
    sweep(&place, &words).assert().success();
    assert_eq!(options(&place, "my sweep/r1c1.png")["balance"], "spatial=25,abstract=0,style=10");
    let mut promote = place.mirage();
    promote.args([
        "sweep",
        "--continue",
        "my sweep/r1c1.png",
        "--balance",
        "spatial=1",
        "--size",
        "48",
        "--quiet",
    ]);
    promote.assert().success();
    assert_eq!(options(&place, "my sweep-r1c1.png")["balance"], "spatial=1,abstract=0,style=10");
}

#[test]
fn invalid_axes_are_refused_before_any_work() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    // More columns than fit in the maximum side of a picture.
    let many = format!("seed={}", (0..400).map(|seed| seed.to_string()).collect::<Vec<_>>().join(","));
    for (words, printed) in [
        (&[][..], "--vary"),
        (&["--vary", "seed"], "no values"),
        (&["--vary", "seed=1,x"], "seed"),
        (&["--vary", "colour=1"], "colour"),
        (&["--vary", "spatial-layers=relu9_9,relu1_1"], "relu9_9"),
        (&["--vary", "seed=1", "--vary", "size=40,44", "--vary", "top=1"], "rows and columns"),
        (&["--vary", "seed=1,2", "--columns", "seed=3"], "--columns"),
        (&["--vary", "iterations=1,2", "--columns", "iterations=3"], "twice"),
        (&["--vary", "spatial=1,2", "--style-weight", "3"], "raw weights"),
        (&["--vary", "seed=1", "--film", "a.gif"], "--continue"),
        (&["--vary", "seed=1", "--tile", "auto"], "single picture"),
        (&["--vary", &many], "the sheet is too large"),
    ] {
        let mut command = place.deviceless();
        command.arg("sweep").arg(place.path("photo.png")).arg("--weights").arg(place.network()).args(words);
        command.assert().code(2).stderr(predicate::str::contains(printed));
    }
}

#[cfg(unix)]
#[test]
fn interrupted_sweep_continues() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    let words = ["--vary", "seed=1,2,3", "--columns", "iterations=15,120", "--quiet"];
    let mut child = place.spawn(&sweep(&place, &words));
    // Wait until the second run has passed its first column.
    wait_for("the sweep did not reach the second run", || place.path("my sweep/r2c1.png").exists());
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    assert!(!place.path("my sweep/r3c1.png").exists() && place.path("my sweep/sheet.png").exists());
    let first = place.path("my sweep/r1c2.png");
    let before = first.metadata().unwrap().modified().unwrap();
    let interrupted = place.path("my sweep/run-2-checkpoint.safetensors");
    assert!(interrupted.exists() || place.path("my sweep/r2c2.png").exists());

    // Finished cells and the state depend on the original photo and network.
    let mut same = sweep(&place, &words);
    let [photo, network] =
        ["photo.png", "net.safetensors"].map(|file| std::fs::read(place.path(file)).unwrap());
    std::fs::write(place.path("net.safetensors"), [&network[..network.len() - 1], &[7]].concat()).unwrap();
    same.assert().code(2).stderr(predicate::str::contains("another sweep (its network has changed)"));
    std::fs::write(place.path("net.safetensors"), network).unwrap();
    place.photo("photo.png", 95, 64);
    same.assert().code(2).stderr(predicate::str::contains("another sweep (its photo"));
    if interrupted.exists() {
        let (folder, aside) = (place.path("my sweep"), place.path("aside"));
        std::fs::rename(&folder, &aside).unwrap();
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(aside.join(interrupted.file_name().unwrap()), &interrupted).unwrap();
        same.assert().code(2).stderr(predicate::str::contains("does not belong to this sweep"));
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::rename(&aside, &folder).unwrap();
    }
    std::fs::write(place.path("photo.png"), photo).unwrap();
    sweep(&place, &words).assert().success();
    assert!(!interrupted.exists());
    assert_eq!(first.metadata().unwrap().modified().unwrap(), before, "a finished cell was computed again");
    let mut alone = place.mirage();
    alone.arg("render").arg(place.path("photo.png")).arg("--weights").arg(place.network());
    alone.args(["--size", "48", "--seed", "2", "-o", "alone.png", "--iterations", "120", "--quiet"]);
    alone.assert().success();
    assert_eq!(pixels(&place.path("alone.png")), pixels(&place.path("my sweep/r2c2.png")));
}
