//! Full disks and removed folders: handling of files that can't be written.

use crate::common::not_run;
use crate::common::process::{code, wait_for};
use crate::interrupt::{signal, wait_until_it_paints};
use crate::support::{Place, pixels};
use crate::writing::refuses;
use neural_mirage::mirage::Checkpoint;
use predicates::prelude::*;
use predicates::str::contains as says;
use std::io::Read as _;
use std::path::PathBuf;

/// Cells that can't be written are rescued, and a sheet that can't be written does not stop the sweep.
#[test]
fn full_disk_loses_no_sweep_cell() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    place.network();
    std::fs::create_dir(place.path("tmp")).unwrap();
    let sweep = |vary: &str, folder: &str| {
        let mut command = place.mirage();
        command.args([
            "sweep",
            "photo.png",
            "--weights",
            "net.safetensors",
            "--size",
            "48",
            "--adapter",
            "cpu",
        ]);
        command.args(["--vary", vary, "--iterations", "2", "--quiet", "-o", folder]);
        command
    };
    // The unit is 512 bytes if bash is in POSIX mode, otherwise 1024.
    let mut limited = place.in_shell("ulimit -f 14", &sweep("seed=1,2,3", "cells"));
    let said = limited.assert().code(1).stderr(says("sheet.png"));
    let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    assert_eq!(said.matches("no contact sheet yet").count(), 1, "{said}");
    for cell in ["r1c1", "r1c2", "r1c3"] {
        image::open(place.path(&format!("cells/{cell}.png"))).unwrap();
    }
    // A disk too small for any cell; rescued files go to a different one.
    let Some(_disk) = Disk::mount(&place, "16k") else { return };
    std::fs::write(place.path("disk/filler"), vec![0; 12 << 10]).unwrap();
    let mut command = sweep("seed=1,2", "disk/sweep");
    let said = command.env("TMPDIR", place.path("tmp")).assert().code(1).stderr(says("the picture is in"));
    let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    let (_, rescued) = said.trim_end().rsplit_once("the picture is in ").unwrap();
    image::open(rescued).unwrap();
}

/// A sweep's checkpoint that has no room beside the cells is rescued; the last line says where it belongs.
#[test]
fn stopped_sweep_says_where_its_rescued_checkpoint_belongs() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    std::fs::create_dir(place.path("tmp")).unwrap();
    let Some(_disk) = Disk::mount(&place, "64k") else { return };
    let sweep = || {
        let mut command = place.mirage();
        command.args(["sweep", "photo.png", "--size", "48", "--adapter", "cpu", "-o", "disk/sweep"]);
        command.arg("--weights").arg(place.network()).args(["--columns", "iterations=2,1000000"]);
        command
    };
    let mut command = sweep();
    let mut child = place.spawn(command.env("TMPDIR", place.path("tmp")));
    wait_for("no cell", || {
        assert!(child.try_wait().unwrap().is_none(), "the sweep ended");
        place.path("disk/sweep/r1c1.png").exists()
    });
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let (_, last) = said.trim_end().rsplit_once("To continue this sweep, move ").expect(&said);
    let (from, rest) = last.split_once(" to ").expect(&said);
    let (to, rest) = rest.split_once(" and run ").expect(&said);
    assert_eq!(rest, "the same command.", "{said}");
    assert!(!place.path(to).exists(), "{said}");
    // With room for it, the sweep continues from there.
    let mut saved = Checkpoint::load(&place.path(from)).unwrap();
    assert!(saved.state.iteration >= 2);
    let options = ["-t", "tmpfs", "-o", "remount,size=1M", "tmpfs"];
    let grown = std::process::Command::new("mount").args(options).arg(place.path("disk")).status();
    assert!(grown.unwrap().success());
    // Longer than the test, so that the time shows that the run was resumed.
    saved.state.seconds = 1e6;
    saved.save(&place.path(to)).unwrap();
    let written = || place.path(to).metadata().and_then(|found| found.modified()).unwrap();
    let before = written();
    let mut child = place.spawn(&sweep());
    // Signals that come before the sweep has its files may end it at once.
    wait_for("the sweep has no lock", || {
        let mut entries = std::fs::read_dir(place.path("disk/sweep")).unwrap();
        entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".lock"))
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    assert!(written() > before);
    assert!(Checkpoint::load(&place.path(to)).unwrap().state.seconds > 1e6);
}

#[test]
fn disk_space_is_checked_before_the_run() {
    let place = Place::new();
    let photo = place.photo("photo.png", 300, 300);
    let mut command = place.deviceless();
    command.arg("render").arg(&photo).args([
        "-o",
        "out.png",
        "--size",
        "300",
        "--weights",
        "none.safetensors",
    ]);
    // 270 KB of pixels, 256 KiB of room.
    refuses(&place, &mut place.in_shell("ulimit -f 256", &command), &["out.png", "only 256 KiB is free"]);
    let mut more = place.in_shell("ulimit -f 300", &command);
    more.assert().code(2).stderr(says("none.safetensors"));
}

/// Optional outputs exceed the disk space: the run continues, warns once for each, and succeeds.
#[test]
fn full_disk_for_extras_is_a_warning() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let words = ["--print-every", "1", "--checkpoint-every", "5", "--film", "out.apng", "--log", "run.jsonl"];
    let mut run = place.render_for(&photo, "60");
    run.args(words).arg("--quiet");
    let output = place.in_shell("ulimit -f 24", &run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for words in ["no checkpoint: ", "the film lacks frames", "the log ends here"] {
        assert_eq!(said.matches(words).count(), 1, "{said}");
    }
    let whole = {
        let place = Place::new();
        let photo = place.photo("photo.png", 64, 48);
        place.render_for(&photo, "60").arg("--quiet").assert().success();
        pixels(&place.path("out.png"))
    };
    assert!(pixels(&place.path("out.png")) == whole, "the picture differs from that of an undisturbed run");
    // The part of the log that was written consists of whole lines.
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    assert!(log.lines().count() > 3 && log.ends_with('\n'));
    log.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect(line)));
    let rest = place.entries();
    assert!(!rest.iter().any(|name| name.starts_with(".mirage") || name.contains("rescued")), "{rest:?}");

    for option in ["--log", "--trace"] {
        let mut full = place.render_to(&photo, &format!("full{option}.png"), "3");
        full.args([option, "/dev/full", "--quiet"])
            .assert()
            .success()
            .stderr(says("/dev/full").and(says("warning: ")));
    }
}

#[test]
fn failed_snapshots_do_not_end_the_run() {
    let place = Place::new();
    std::fs::create_dir(place.path("gone")).unwrap();
    let photo = place.photo("photo.png", 64, 48);
    std::fs::create_dir(place.path("tmp")).unwrap();
    let mut run = place.render_to(&photo, "gone/out.png", "10000000");
    run.args(["--save-every", "1", "--checkpoint-every", "2", "--film", "gone/f.apng", "--log", "run.jsonl"]);
    run.env("TMPDIR", place.path("tmp")).arg("--quiet");
    let mut child = place.spawn(&run);
    wait_until_it_paints(&place);
    std::fs::rename(place.path("gone"), place.path("elsewhere")).unwrap();
    // Wait until a checkpoint is rescued: the snapshot before it could not be saved either.
    wait_for("nothing is rescued", || {
        assert!(child.try_wait().unwrap().is_none(), "the run ended");
        std::fs::read_dir(place.path("tmp")).unwrap().count() > 0
    });
    signal(&child, "-INT");
    // The picture is not in its place.
    assert_eq!(code(&mut child), Some(1));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("no snapshot: "), "{said}");
    // Picture, film and checkpoint are rescued, each in its own folder with an unpredictable name.
    let mut rescued: Vec<PathBuf> = Vec::new();
    for folder in std::fs::read_dir(place.path("tmp")).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.len() > "mirage-rescued-".len() + 10 && name.starts_with("mirage-rescued-"), "{name}");
        rescued.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    let find = |name: &str| {
        rescued.iter().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("{name}: {said}"))
    };
    for name in ["out.png", "f.apng", "out-checkpoint.safetensors"] {
        assert!(said.contains(&*find(name).to_string_lossy()), "{name}: {said}");
    }
    assert_eq!(rescued.len(), 3, "{rescued:?}");
    image::open(find("out.png")).unwrap();
    let log = std::fs::read_to_string(place.path("run.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], last["output"].as_str()), (&"error".into(), find("out.png").to_str()));
    let state = neural_mirage::mirage::Checkpoint::load(find("out-checkpoint.safetensors")).unwrap().state;
    let next = (state.iteration + 1).to_string();
    let mut resume = place.mirage();
    resume.arg("resume").arg(find("out-checkpoint.safetensors")).args(["--iterations", &next, "--quiet"]);
    resume.assert().success();
}

/// A small disk (tmpfs). If this user can't mount one, the test is recorded as not run.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Place, size: &str) -> Option<Self> {
        let path = place.path("disk");
        std::fs::create_dir(&path).unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        not_run("tests with a small disk: this user can't mount one");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn full_disk_moves_the_log_with_all_lines() {
    let place = Place::new();
    let Some(_disk) = Disk::mount(&place, "48k") else { return };
    let photo = place.photo("photo.png", 64, 48);
    std::fs::create_dir(place.path("tmp")).unwrap();
    let mut run = place.render_for(&photo, "80");
    run.args(["--print-every", "1", "--log", "disk/run.jsonl", "--quiet"]).env("TMPDIR", place.path("tmp"));
    let said = run.assert().success().stderr(says("the log continues in")).get_output().stderr.clone();
    let said = String::from_utf8_lossy(&said);
    let (_, moved) = said.trim_end().rsplit_once(" in ").unwrap();
    let log = std::fs::read_to_string(moved).unwrap();
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[events.len() - 1]["event"]), (&"start".into(), &"end".into()));
    assert_eq!(events.iter().filter(|event| event["event"] == "iteration").count(), 81);
    // The part of the log on the disk ends with a whole line.
    assert!(std::fs::read_to_string(place.path("disk/run.jsonl")).unwrap().ends_with("}\n"));
}

#[test]
fn low_disk_space_is_noted_before_the_run() {
    let place = Place::new();
    let Some(_disk) = Disk::mount(&place, "48k") else { return };
    let photo = place.photo("photo.png", 64, 48);
    std::fs::create_dir(place.path("tmp")).unwrap();
    let mut run = place.render_to(&photo, "disk/out.png", "20");
    run.args(["--checkpoint-every", "5"]).env("TMPDIR", place.path("tmp"));
    run.assert().success().stderr(says("note: a checkpoint takes about").and(says("no checkpoint: ")));
    image::open(place.path("disk/out.png")).unwrap();
    // A disk too small for the picture itself.
    let photo = place.photo("large.png", 300, 300);
    let mut large = place.deviceless();
    large.arg("render").arg(&photo).args([
        "-o",
        "disk/b.png",
        "--size",
        "400",
        "--weights",
        "none.safetensors",
    ]);
    refuses(&place, &mut large, &["disk/b.png", "is free"]);
}

/// Help that can't be written is an error.
#[cfg(target_os = "linux")]
#[test]
fn help_fails_on_full_disk() {
    let place = Place::new();
    for word in ["--help", "--version"] {
        let mut command = std::process::Command::new(place.mirage().get_program());
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.arg(word).stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("writing to stdout failed"), "{word}");
    }
}
