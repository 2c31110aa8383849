//! Output files: no existing file is lost.

use crate::common::process::{code, wait_for};
use crate::interrupt::{endless, signal, wait_until_it_paints};
use crate::support::Place;
use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains as says;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::Path;

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Checks that a command fails with exit code 2 and these words before it opens a device, and changes no file.
#[track_caller]
pub fn refuses(place: &Place, command: &mut Command, words: &[&str]) {
    let content = |place: &Place| -> Vec<(String, Option<Vec<u8>>)> {
        let ordinary = |path: &Path| path.metadata().is_ok_and(|found| found.is_file());
        let read = |name: String| {
            let path = place.path(&name);
            (name, ordinary(&path).then(|| std::fs::read(path).unwrap()))
        };
        place.entries().into_iter().map(read).collect()
    };
    let before = content(place);
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(!message.contains("mesa"), "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(content(place) == before, "something was changed: {message}");
}

#[test]
fn traces_can_go_to_devices_and_pipes() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    symlink("/dev/null", place.path("null")).unwrap();
    fifo(&place.path("pipe"));
    let trace = |output: &str, path: &str| {
        let mut command = place.render_to(&photo, output, "2");
        command.args(["--trace", path, "--quiet"]);
        command
    };
    trace("null.png", "null").assert().success().stderr("");
    assert!(place.path("null").symlink_metadata().unwrap().is_symlink());
    // Without a reader, the program reports it and does not wait.
    let limit = std::time::Duration::from_secs(60);
    trace("a.png", "pipe").timeout(limit).assert().success().stderr(says("no program reads this pipe"));
    let pipe = place.path("pipe");
    let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
    trace("b.png", "pipe").assert().success().stderr("");
    let text = reader.join().unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&text).unwrap()["traceEvents"].is_array());
    assert!(place.path("pipe").metadata().unwrap().file_type().is_fifo());
    // Pictures and films are not streams: refused, even with --overwrite.
    symlink("/dev/null", place.path("null.png.png")).unwrap();
    fifo(&place.path("pipe.apng"));
    for words in [&["-o", "null.png.png"][..], &["-o", "c.png", "--film", "pipe.apng"]] {
        let mut command = place.deviceless();
        command.arg("render").arg(&photo).args(["--overwrite", "--weights", "none.safetensors"]).args(words);
        refuses(&place, &mut command, &["not an ordinary file"]);
    }
    assert!(!place.entries().iter().any(|name| name.starts_with(".mirage")), "{:?}", place.entries());
}

/// Returns a run with every kind of input; tests add the outputs.
fn reader(place: &Place) -> Command {
    let mut command = place.deviceless();
    command.arg("render").arg("photo.png").arg("--weights").arg("net.safetensors").args([
        "--style-image",
        "style.png",
        "--spatial-image",
        "layout.png",
        "--init",
        "start.png",
        "--labels",
        "labels.txt",
        "--tuning-cache",
        "tuning.json",
        "--overwrite",
    ]);
    // A missing device stops commands that are not refused earlier.
    command.args(["--size", "48", "--adapter", "no such device"]);
    command
}

#[test]
fn input_files_are_never_overwritten() {
    let place = Place::new();
    place.network();
    for name in ["photo.png", "style.png", "layout.png", "start.png"] {
        place.photo(name, 64, 48);
    }
    place.file("labels.txt", b"a\nb\nc\nd\ne\nf\ng\nh\ni\n");
    place.file("tuning.json", b"{}");
    std::fs::create_dir(place.path("inner")).unwrap();
    for read in
        ["photo.png", "style.png", "layout.png", "start.png", "labels.txt", "tuning.json", "net.safetensors"]
    {
        std::fs::hard_link(place.path(read), place.path("hard")).unwrap();
        symlink(read, place.path("soft")).unwrap();
        symlink("../soft", place.path("inner/softer")).unwrap();
        let whole = place.path(read).to_string_lossy().into_owned();
        for name in [read, "hard", "soft", "inner/softer", "inner/../hard", &whole] {
            for option in ["--log", "--trace"] {
                let words = ["which the run reads", option];
                refuses(&place, reader(&place).args(["-o", "out.png", option, name]), &words);
            }
        }
        for name in ["hard", "soft", "inner/softer"] {
            std::fs::remove_file(place.path(name)).unwrap();
        }
    }
    // Picture, snapshot, film and checkpoint, whose names have fixed extensions.
    for (link, words) in [
        ("out.png", &["-o", "out.png"][..]),
        ("out-0002.png", &["-o", "out.png", "--save-at", "2"]),
        ("out-checkpoint.safetensors", &["-o", "out.png"]),
        ("film.apng", &["-o", "out.png", "--film", "film.apng"]),
    ] {
        std::fs::hard_link(place.path("style.png"), place.path(link)).unwrap();
        refuses(&place, reader(&place).args(words), &[link, "which the run reads"]);
        std::fs::remove_file(place.path(link)).unwrap();
    }
}

#[test]
fn default_network_is_never_overwritten() {
    let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/vgg16-narrow.safetensors");
    if cfg!(feature = "embedded-network") || !network.exists() {
        return;
    }
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    symlink(&network, place.path("link")).unwrap();
    for given in [&[][..], &["--weights", "narrow"]] {
        let mut command = place.deviceless();
        command.args(["render", "photo.png", "-o", "out.png", "--overwrite", "--trace", "link"]).args(given);
        command.args(["--adapter", "no such device"]);
        refuses(&place, &mut command, &["vgg16-narrow", "which the run reads"]);
    }
}

#[test]
fn output_names_must_differ() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    symlink("out.png", place.path("dangling")).unwrap();
    for words in [
        &["--log", "./out.png"][..],
        &["--log", "OUT.png"],
        &["--log", "dangling"],
        &["--log", "out-checkpoint.safetensors"],
        &["--log", "out-0002.png", "--save-at", "2"],
        &["--trace", "out-0002.png", "--save-every", "1"],
        &["--log", "x", "--trace", "x"],
        &["--film", "x.apng", "--trace", "./x.apng"],
    ] {
        let mut command = place.deviceless();
        command.arg("render").arg(&photo).args(["-o", "out.png", "--overwrite", "--iterations", "3"]);
        command.args(["--weights", "none.safetensors"]).args(words);
        refuses(&place, &mut command, &["of this run"]);
    }
}

#[test]
fn resumed_checkpoint_and_cell_are_not_overwritten() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.render_for(&photo, "2").args(["--checkpoint-every", "1", "--quiet"]).assert().success();
    let checkpoint = "out-checkpoint.safetensors";
    std::fs::hard_link(place.path(checkpoint), place.path("hard")).unwrap();
    for words in [
        &["--log", checkpoint][..],
        &["--trace", "hard"],
        &["--log", "hard"],
        // A different run than the one of the checkpoint.
        &["--seed", "7", "-o", "out.png"],
    ] {
        let mut command = place.deviceless();
        command.args(["resume", checkpoint, "--iterations", "4", "--overwrite"]).args(words);
        refuses(&place, &mut command, &["which the run reads"]);
    }
    std::fs::copy(place.path("out.png"), place.path("cell.png")).unwrap();
    let mut command = place.deviceless();
    command.args(["sweep", "--continue", "cell.png", "-o", "./cell.png", "--overwrite"]);
    refuses(&place, &mut command, &["cell.png", "which the run reads"]);
    // The run itself may replace its checkpoint.
    place.mirage().args(["resume", checkpoint, "--iterations", "4", "--quiet"]).assert().success();
}

#[test]
fn sweep_never_overwrites_inputs_or_foreign_files() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    let photo = place.photo("folder/r1c1.png", 64, 48);
    let sweep = |photo: &Path, words: &[&str]| {
        let mut command = place.deviceless();
        command.arg("sweep").arg(photo).arg("--weights").arg(place.network());
        command.args(["--vary", "seed=1,2", "--size", "48", "-o", "folder", "--adapter", "none"]).args(words);
        command
    };
    refuses(&place, &mut sweep(&photo, &["--overwrite"]), &["r1c1.png", "which the run reads"]);
    assert_eq!(image::image_dimensions(&photo).unwrap(), (64, 48));
    std::fs::rename(&photo, place.path("photo.png")).unwrap();
    let photo = place.path("photo.png");
    std::fs::hard_link(&photo, place.path("folder/sheet.png")).unwrap();
    refuses(&place, &mut sweep(&photo, &["--overwrite"]), &["sheet.png", "which the run reads"]);
    std::fs::remove_file(place.path("folder/sheet.png")).unwrap();
    let foreign = place.file("folder/run-2-checkpoint.safetensors", b"precious");
    refuses(&place, &mut sweep(&photo, &[]), &["run-2-checkpoint", "--overwrite"]);
    assert_eq!(std::fs::read(foreign).unwrap(), b"precious");
}

#[test]
fn other_commands_overwrite_only_with_the_option() {
    let place = Place::new();
    place.network();
    place.file("taken", b"precious");
    place.file("taken.npy", b"precious");
    place.file("k.wgsl", b"@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn main() { y[0] = 1.0; }\n");
    let test = ["kernels", "test", "relu", "--shapes", "quick", "--adapter", "cpu"];
    let bench = ["kernels", "bench", "relu", "--size", "32", "--rounds", "1", "--adapter", "cpu"];
    let run = ["kernels", "run", "k.wgsl"];
    for (command, words, said) in [
        (&test[..], &["--json", "taken"][..], "--overwrite"),
        (&test, &["--junit", "taken"], "--overwrite"),
        (&test, &["--json", "new", "--junit", "./new"], "two outputs"),
        (&bench, &["--json", "taken"], "--overwrite"),
        (&bench, &["--json", "taken", "--compare", "taken", "--overwrite"], "reads"),
        (&run, &["--output", "taken.npy:1"], "--overwrite"),
        (&["tune"], &["--tuning-cache", "taken"], "not a tuning cache"),
    ] {
        refuses(
            &place,
            place.deviceless().args(command).args(words),
            &["taken", said][usize::from(said == "two outputs")..],
        );
    }
    // With --overwrite; and without it for files that the first command wrote.
    place.mirage().args(test).args(["--json", "taken", "--junit", "new", "--overwrite"]).assert().success();
    assert!(
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(place.path("taken")).unwrap()).is_ok()
    );
    refuses(&place, place.mirage().args(test).args(["--junit", "new"]), &["new", "--overwrite"]);

    place.mirage().args(["man", "pages"]).assert().success();
    std::fs::write(place.path("pages/mirage-render.1"), "mine").unwrap();
    place.mirage().args(["man", "pages"]).assert().code(2).stderr(says("--overwrite"));
    assert_eq!(std::fs::read(place.path("pages/mirage-render.1")).unwrap(), b"mine");
    place.mirage().args(["man", "pages", "--overwrite"]).assert().success();
    assert_ne!(std::fs::read(place.path("pages/mirage-render.1")).unwrap(), b"mine");

    std::fs::create_dir(place.path("report")).unwrap();
    place.file("report/report.md", b"mine");
    let mut report = place.mirage();
    report
        .args(["report", "--parts", "device", "--output", "report"])
        .assert()
        .code(2)
        .stderr(says("report.md"));
    assert_eq!(std::fs::read_dir(place.path("report")).unwrap().count(), 1);

    std::fs::create_dir(place.path("shaders")).unwrap();
    symlink("../victim", place.path("shaders/relu.wgsl")).unwrap();
    place.mirage().args(["kernels", "show", "relu", "--files", "shaders"]).assert().success();
    assert!(place.path("shaders/relu.wgsl").symlink_metadata().unwrap().is_symlink());
    assert!(!place.path("victim").exists());
}

#[test]
fn runs_with_same_output_lock_each_other_out() {
    let place = Place::new();
    let mut first = place.spawn(endless(&place).args(["--film", "f.apng", "--trace", "t.json"]));
    wait_until_it_paints(&place);
    let photo = place.path("photo.png");
    std::fs::create_dir(place.path("inner")).unwrap();
    for words in [
        &["-o", "out.png"][..],
        &["-o", "./inner/../out.png"],
        // Checkpoint and snapshots would have the same names.
        &["-o", "out.webp"],
        &["-o", "a.png", "--log", "run.jsonl"],
        &["-o", "b.png", "--film", "f.apng"],
        &["-o", "c.png", "--trace", "t.json"],
        // Different kinds of output with the name of a file of the first run.
        &["-o", "d.png", "--log", "out.png"],
        &["-o", "d.png", "--trace", "./out-checkpoint.safetensors"],
    ] {
        let mut second = place.deviceless();
        second.arg("render").arg(&photo).args(["--overwrite", "--weights", "none.safetensors"]).args(words);
        let output = second.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains("another run"), "{words:?}: {message}");
    }
    signal(&first, "-INT");
    assert_eq!(code(&mut first), Some(130));
    assert!(!place.entries().iter().any(|name| name.starts_with(".mirage")), "{:?}", place.entries());
    // Now only existing files are refused.
    place.render_for(&photo, "2").assert().code(2).stderr(says("exists").and(says("--overwrite")));
    // A killed run leaves no lock.
    let mut killed = place.spawn(&place.render_to(&photo, "killed.png", "10000000"));
    let locked =
        || place.entries().iter().any(|name| name.starts_with(".mirage-") && name.ends_with(".lock"));
    wait_for("the run did not take a lock", locked);
    killed.kill().unwrap();
    killed.wait().unwrap();
    place.render_to(&photo, "killed.png", "2").args(["--quiet"]).assert().success();
    assert!(!locked());
}

#[test]
fn output_names_are_checked_before_the_run() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let long = |length: usize| format!("{}.png", "x".repeat(length - 4));
    let film = format!("{}.apng", "x".repeat(300));
    let name = "x".repeat(300);
    let render = |output: &str, words: &[&str]| {
        let mut command = place.deviceless();
        command.arg("render").arg(&photo).args(["-o", output, "--weights", "none.safetensors"]).args(words);
        command
    };
    // With a name of 240 bytes the picture can be saved, but not its checkpoint.
    for length in [240, 255, 300] {
        refuses(&place, &mut render(&long(length), &[]), &["name", "too long"]);
    }
    for words in [["--log", &name], ["--trace", &name], ["--film", &film]] {
        refuses(&place, &mut render("out.png", &words), &["name", "too long"]);
    }
    // Names of folders, which the system would refuse only when saving.
    for words in [
        &["-o", "new.png/"][..],
        &["-o", "new.png/."],
        &["-o", "a.png", "--log", "l/"],
        &["-o", "a.png", "--log", "l/."],
        &["-o", "a.png", "--film", "f.gif/"],
        &["-o", "a.png", "--film", "f.gif/.."],
        &["-o", "a.png", "--trace", "t.json/."],
    ] {
        let mut command = place.deviceless();
        command.arg("render").arg(&photo).args(["--weights", "none.safetensors"]).args(words);
        refuses(&place, &mut command, &["name of a folder"]);
    }
    // The longest name for which the checkpoint can be saved.
    render(&long(236), &[]).assert().code(2).stderr(says("none.safetensors"));
    assert_eq!(place.entries(), ["photo.png"]);
}

#[test]
fn folders_that_cannot_be_created_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.network();
    for folder in ["photo.png", "photo.png/inner", "/proc/inner"] {
        for words in [
            &[
                "sweep",
                "photo.png",
                "--weights",
                "net.safetensors",
                "--size",
                "48",
                "--vary",
                "seed=1,2",
                "-o",
            ][..],
            &["man"],
            &["report", "--parts", "device", "--adapter", "cpu", "--output"],
            &["kernels", "show", "relu", "--files"],
        ] {
            refuses(&place, place.deviceless().args(words).arg(folder), &[folder, "Choose another folder"]);
        }
    }
    assert!(photo.exists());
}
