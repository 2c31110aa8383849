//! Untrusted pictures and checkpoints: a record is data, never commands.

use crate::support::{Place, pixels};
use neural_mirage::Overwrite;
use neural_mirage::image_io::{self, WriteOptions};
use neural_mirage::mirage::Checkpoint;
use predicates::prelude::*;
use predicates::str::contains as says;
use serde_json::{Map, Value, json};
use std::path::Path;

type Record = Map<String, Value>;

/// Creates a folder with a photo, a network, and a finished run `out.png` of two iterations with its checkpoint.
fn finished() -> Place {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let mut command = place.render_for(&photo, "2");
    command.args(["--checkpoint-every", "1", "--save-at", "1", "--quiet"]).assert().success();
    place
}

/// Writes the checkpoint of `out.png` with edited options under a new name.
fn forge_checkpoint(place: &Place, name: &str, edit: impl FnOnce(&mut Record)) {
    let mut checkpoint = Checkpoint::load(&place.path("out-checkpoint.safetensors")).unwrap();
    let mut options: Record = serde_json::from_str(&checkpoint.texts["options"]).unwrap();
    edit(&mut options);
    checkpoint.texts.insert("options".to_owned(), Value::Object(options).to_string());
    checkpoint.save(&place.path(name)).unwrap();
}

/// Writes a picture with the edited record of `out.png`.
fn forge_picture(place: &Place, name: &str, edit: impl FnOnce(&mut Record)) {
    let mut metadata = image_io::read_metadata(&place.path("out.png")).unwrap();
    let (_, text) = metadata.iter_mut().find(|(key, _)| key == "neural-mirage:options").unwrap();
    let mut options: Record = serde_json::from_str(text).unwrap();
    edit(&mut options);
    *text = Value::Object(options).to_string();
    let picture = image_io::read(&place.path("photo.png")).unwrap().picture;
    let options = WriteOptions { metadata, overwrite: Overwrite::Always, ..WriteOptions::default() };
    image_io::write(&place.path(name), &picture, &options).unwrap();
}

fn resume(place: &Place, name: &str, words: &[&str]) -> assert_cmd::assert::Assert {
    place.mirage().args(["resume", name, "--iterations", "4"]).args(words).assert()
}

fn promote(place: &Place, name: &str, words: &[&str]) -> assert_cmd::assert::Assert {
    place.mirage().args(["sweep", "--continue", name, "--size", "48"]).args(words).assert()
}

#[test]
fn dangerous_options_in_record_are_refused() {
    let place = finished();
    std::fs::create_dir(place.path("sweep")).unwrap();
    std::fs::write(place.path("victim"), "precious").unwrap();
    let victim = place.path("victim").to_string_lossy().into_owned();
    let mut before = place.entries();
    before.push("evil-checkpoint.safetensors".to_owned());
    before.sort();
    for (name, value) in [
        ("log", json!(victim)),
        ("log", json!("-")),
        ("trace", json!("../trace.json")),
        ("film", json!("film.gif")),
        ("web", json!(0)),
        ("web_host", json!("0.0.0.0")),
        ("overwrite", json!(true)),
        ("tuning_cache", json!(victim)),
        ("no_tuning_cache", json!(true)),
        ("verify", json!(true)),
        ("threads", json!(1)),
        ("quiet", json!(true)),
        ("verbose", json!(true)),
        ("no_clamp", json!(true)),
    ] {
        let option = format!("--{}", name.replace('_', "-"));
        let edit = |options: &mut Record| drop(options.insert(name.to_owned(), value.clone()));
        forge_checkpoint(&place, "evil-checkpoint.safetensors", edit);
        resume(&place, "evil-checkpoint.safetensors", &[]).code(2).stderr(says(&option));
        forge_picture(&place, "sweep/r1c1.png", edit);
        for cell in ["sweep/r1c1.png", "sweep/sheet.html#r1c1", "./sweep/../sweep/r1c1.png"] {
            promote(&place, cell, &[]).code(2).stderr(says(&option));
        }
    }
    for (name, value) in [
        ("shader_dir", json!(victim)),
        ("colour", json!(1)),
        ("size", json!("48")),
        ("spatial", json!(["relu1_1"])),
        ("seed", json!({ "a": 1 })),
        ("pooling", json!("max\u{1b}]0;owned\u{7}")),
        ("style_image", json!([["a"]])),
        ("clamp", json!("false")),
    ] {
        let edit = |options: &mut Record| drop(options.insert(name.to_owned(), value.clone()));
        forge_checkpoint(&place, "evil-checkpoint.safetensors", edit);
        let name = name.replace('_', "-");
        let said = resume(&place, "evil-checkpoint.safetensors", &[]).code(2);
        said.stderr(says(&name).or(says(name.replace('-', "_"))).and(says("\u{1b}").not()));
    }
    assert_eq!(std::fs::read_to_string(place.path("victim")).unwrap(), "precious");
    assert_eq!(place.entries(), before, "files were written");
}

/// Before scales existed, records had a single number of iterations.
#[test]
fn old_records_work_in_resume_and_sweep() {
    let place = finished();
    std::fs::create_dir(place.path("sweep")).unwrap();
    forge_picture(&place, "sweep/r1c1.png", |options| {
        options.insert("iterations".to_owned(), json!(2));
        for name in
            ["scales", "min_size", "average_decay", "border", "tv_kind", "style_statistic", "optimizer"]
        {
            options.remove(name);
        }
    });
    promote(&place, "sweep/r1c1.png", &["--quiet"]).success();
    let metadata = image_io::read_metadata(&place.path("sweep-r1c1.png")).unwrap();
    let (_, text) = metadata.iter().find(|(key, _)| key == "neural-mirage:options").unwrap();
    let options: Record = serde_json::from_str(text).unwrap();
    assert_eq!((&options["iterations"], &options["scales"]), (&json!([2]), &json!("1")));
    assert_eq!((&options["border"], &options["style_statistic"]), (&json!("zeros"), &json!("gram")));
    forge_checkpoint(&place, "old-checkpoint.safetensors", |options| {
        options.insert("iterations".to_owned(), json!(3));
    });
    place.mirage().args(["resume", "old-checkpoint.safetensors", "--quiet"]).assert().success();
    let metadata = image_io::read_metadata(&place.path("old.png")).unwrap();
    assert!(metadata.contains(&("neural-mirage:iterations".to_owned(), "3".to_owned())));
}

#[test]
fn resumed_run_writes_beside_its_checkpoint() {
    let place = finished();
    let elsewhere = Place::new();
    elsewhere.file("victim.png", b"precious");
    std::fs::create_dir(place.path("inner")).unwrap();
    place.file("inner/victim.png", b"precious");
    place.file("victim.png", b"precious");
    for (index, output) in [
        elsewhere.path("victim.png").to_string_lossy().into_owned(),
        elsewhere.path("new.png").to_string_lossy().into_owned(),
        place.path("victim.png").to_string_lossy().into_owned(),
        place.path("inner/../inner/victim.png").to_string_lossy().into_owned(),
        "inner/victim.png".to_owned(),
        "../victim.png".to_owned(),
        "/dev/null".to_owned(),
        "victim.sh".to_owned(),
        "-rf.jpg".to_owned(),
        String::new(),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("evil{index}");
        let edit = |options: &mut Record| drop(options.insert("output".to_owned(), json!(output)));
        forge_checkpoint(&place, &format!("{name}-checkpoint.safetensors"), edit);
        let picture = if output.ends_with("jpg") { format!("{name}.jpg") } else { format!("{name}.png") };
        resume(&place, &format!("{name}-checkpoint.safetensors"), &[])
            .success()
            .stderr(says(&picture).and(says("beside its checkpoint")));
        assert!(place.path(&picture).exists(), "{output}");
    }
    for victim in [elsewhere.path("victim.png"), place.path("victim.png"), place.path("inner/victim.png")] {
        assert_eq!(std::fs::read(victim).unwrap(), b"precious");
    }
    assert_eq!(elsewhere.entries(), ["victim.png"]);
    // Only the checkpoint was moved, and renamed.
    std::fs::create_dir(place.path("moved")).unwrap();
    std::fs::copy(place.path("out-checkpoint.safetensors"), place.path("moved/state.safetensors")).unwrap();
    resume(&place, "moved/state.safetensors", &[]).success();
    assert!(place.path("moved/state.png").exists());
}

#[test]
fn resumed_run_replaces_only_its_own_files() {
    let place = finished();
    // Its own picture, snapshot and checkpoint.
    let first = pixels(&place.path("out.png"));
    let words = ["--save-at", "1,3"];
    resume(&place, "out-checkpoint.safetensors", &words).success();
    assert_ne!(pixels(&place.path("out.png")), first);
    // An unrelated file, a picture of a different run, and a picture without a record.
    let photo = place.path("photo.png");
    place.render_to(&photo, "other.png", "2").arg("--quiet").assert().success();
    let other = std::fs::read(place.path("other.png")).unwrap();
    let plain = std::fs::read(&photo).unwrap();
    for content in [b"precious", other.as_slice(), plain.as_slice()] {
        for victim in ["evil.png", "evil-0004.png"] {
            forge_checkpoint(&place, "evil-checkpoint.safetensors", |_| {});
            place.file(victim, content);
            let said = resume(&place, "evil-checkpoint.safetensors", &["--save-at", "4"]);
            said.code(2).stderr(says(victim).and(says("--overwrite")));
            assert_eq!(std::fs::read(place.path(victim)).unwrap(), content);
            std::fs::remove_file(place.path(victim)).unwrap();
        }
    }
    assert!(!place.path("evil.png").exists());
}

#[cfg(unix)]
#[test]
fn symbolic_links_do_not_redirect_outputs() {
    use std::os::unix::fs::symlink;
    let place = finished();
    let elsewhere = Place::new();
    elsewhere.file("victim.png", b"precious");
    for target in [elsewhere.path("victim.png"), elsewhere.path("missing.png"), place.path("out.png")] {
        forge_checkpoint(&place, "evil-checkpoint.safetensors", |_| {});
        symlink(&target, place.path("evil.png")).unwrap();
        let said = resume(&place, "evil-checkpoint.safetensors", &[]);
        said.code(2).stderr(says("evil.png").and(says("--overwrite")));
        std::fs::remove_file(place.path("evil.png")).unwrap();
    }
    assert_eq!(std::fs::read(elsewhere.path("victim.png")).unwrap(), b"precious");
    assert_eq!(elsewhere.entries(), ["victim.png"]);
    // A folder given through a link is the user's choice.
    std::fs::create_dir(place.path("real")).unwrap();
    symlink("real", place.path("linked")).unwrap();
    std::fs::copy(place.path("out-checkpoint.safetensors"), place.path("real/a-checkpoint.safetensors"))
        .unwrap();
    resume(&place, "linked/a-checkpoint.safetensors", &[]).success();
    assert!(place.path("real/a.png").exists());
}

#[test]
fn files_named_in_record_are_checked_and_listed() {
    let place = finished();
    place.photo("style.png", 40, 40);
    place.photo("other.png", 64, 48);
    let put = |name: &str, value: Value| {
        let name = name.to_owned();
        move |options: &mut Record| drop(options.insert(name, value))
    };
    resume(&place, "out-checkpoint.safetensors", &[])
        .success()
        .stderr(says("photo.png (photo)").and(says("net.safetensors (weights)")));
    // A file without a hash in the checkpoint, whose writer therefore need not know its content.
    let labels = place.file("labels.txt", b"a\nsecret\n");
    for (name, value) in [
        ("labels", json!(labels)),
        ("style_image", json!([place.path("style.png")])),
        ("init", json!(place.path("style.png"))),
        ("photo", json!(place.path("other.png"))),
    ] {
        forge_checkpoint(&place, "evil-checkpoint.safetensors", put(name, value));
        resume(&place, "evil-checkpoint.safetensors", &[]).code(2).stderr(says("no SHA-256 of"));
    }
    // A network that does not match its SHA-256.
    let other = crate::support::network(&[8, 6, 9]);
    std::fs::create_dir(place.path("nets")).unwrap();
    let weights = other.write(&place.path("nets"));
    forge_checkpoint(&place, "evil-checkpoint.safetensors", put("weights", json!(weights)));
    resume(&place, "evil-checkpoint.safetensors", &[]).code(2).stderr(says("not the network"));
    forge_picture(&place, "cell.png", put("weights", json!(weights)));
    promote(&place, "cell.png", &[]).code(2).stderr(says("not the network"));
    // A picture has no hashes of files, so labels are not taken from it.
    forge_picture(&place, "cell.png", |options| {
        options.insert("labels".to_owned(), json!(labels));
        options.insert("adapter".to_owned(), json!("$(touch owned)"));
        options.insert("output".to_owned(), json!("/tmp/elsewhere.png"));
    });
    promote(&place, "cell.png", &["-o", "full.png"]).success().stderr(
        says("photo.png (photo)")
            .and(says("--labels is not read from records"))
            .and(says("--adapter '$(touch owned)'")),
    );
    assert!(!std::fs::read(place.path("full.png")).unwrap().windows(6).any(|bytes| bytes == b"secret"));
}

#[test]
fn changed_photo_is_refused() {
    let place = finished();
    place.photo("other.png", 64, 40);
    resume(&place, "out-checkpoint.safetensors", &["--photo", "other.png"])
        .code(2)
        .stderr(says("not the photo"));
    std::fs::copy(place.path("photo.png"), place.path("copy.png")).unwrap();
    resume(&place, "out-checkpoint.safetensors", &["--photo", "copy.png"]).success();
    // The run now continues with the copy, which is then edited in place.
    place.photo("copy.png", 64, 40);
    resume(&place, "out-checkpoint.safetensors", &[]).code(2);
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_in_record_are_not_read() {
    let place = finished();
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [Path::new("/dev/zero"), &pipe, Path::new("/")] {
        for name in ["photo", "weights", "init", "labels"] {
            let edit = |options: &mut Record| drop(options.insert(name.to_owned(), json!(path)));
            forge_checkpoint(&place, "evil-checkpoint.safetensors", edit);
            let mut command = place.mirage();
            command
                .args(["resume", "evil-checkpoint.safetensors"])
                .timeout(std::time::Duration::from_secs(20));
            command.assert().code(2).stderr(says("not an ordinary file").and(says(format!("--{name}"))));
        }
    }
}

/// Files in /proc look like ordinary files of length 0, but reading this one would take minutes.
#[cfg(target_os = "linux")]
#[test]
fn proc_files_in_record_are_not_read() {
    let place = finished();
    let file = "/proc/self/pagemap";
    forge_checkpoint(&place, "evil-checkpoint.safetensors", |options| {
        options.insert("style_image".to_owned(), json!([file]));
    });
    let mut checkpoint = Checkpoint::load(&place.path("evil-checkpoint.safetensors")).unwrap();
    let mut inputs: Record = serde_json::from_str(&checkpoint.texts["inputs"]).unwrap();
    for (with_hash, words) in [(false, "no SHA-256 of"), (true, "has changed")] {
        if with_hash {
            inputs.insert(file.to_owned(), json!("0".repeat(64)));
            checkpoint.texts.insert("inputs".to_owned(), Value::Object(inputs.clone()).to_string());
            checkpoint.save(&place.path("evil-checkpoint.safetensors")).unwrap();
        }
        let mut command = place.mirage();
        command.args(["resume", "evil-checkpoint.safetensors"]).timeout(std::time::Duration::from_secs(20));
        command.assert().code(2).stderr(says(words).and(says(file)));
    }
    // Wherever such a file is named: one would yield gigabytes, the other would block forever.
    std::fs::write(place.path("add.wgsl"), "@compute @workgroup_size(1) fn main() {}\n").unwrap();
    for file in [file, "/proc/kmsg"] {
        for words in [
            &["show", file][..],
            &["classify", file],
            &["plan", file],
            &["resume", file],
            &["render", "photo.png", "--labels", file],
            &["kernels", "run", file, "--workgroups", "1"],
            &["kernels", "run", "add.wgsl", "--workgroups", "1", "--input", &format!("{file}:a")],
        ] {
            let mut command = place.in_shell("ulimit -v 2000000", place.deviceless().args(words));
            let ended = command.timeout(std::time::Duration::from_secs(20)).assert();
            assert!(ended.get_output().status.code().is_some_and(|code| code != 0), "{words:?}");
        }
    }
}

/// Each would need memory for a picture before the memory of the run is checked.
#[test]
fn too_many_files_in_record_are_refused() {
    let place = finished();
    let edit =
        |options: &mut Record| drop(options.insert("style_image".to_owned(), json!(vec!["out.png"; 65])));
    forge_picture(&place, "evil.png", edit);
    promote(&place, "evil.png", &["-o", "more.png"]).code(2).stderr(says("65 files; at most 64"));
}

/// Values that a record may not contain are refused when a run begins, not when it is resumed.
#[test]
fn unresumable_run_is_refused_at_start() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let many = (1_000_000..1_010_001).map(|at: u32| at.to_string()).collect::<Vec<_>>().join(",");
    let mut command = place.deviceless_render(&photo);
    command.args(["--save-at", &many]).assert().code(2).stderr(says("--save-at: it has 10001 values"));
    assert!(!place.path("out.png").exists());
    std::fs::write(place.path("labels.txt"), format!("a\n{}\n", "x".repeat(1 << 20))).unwrap();
    let mut command = place.deviceless_render(&photo);
    command
        .args(["--labels", "labels.txt"])
        .assert()
        .code(2)
        .stderr(says("line 2 is longer than 1000 bytes"));
}

/// Many long names and values: nothing is padded to the longest, and two records are compared in one pass.
#[test]
fn large_records_are_shown_within_limits() {
    let place = finished();
    let many = |seed: &'static str| {
        move |options: &mut Record| {
            options.insert("x".repeat(70_000), json!("y".repeat(70_000)));
            options.extend((0..20_000).map(|at| (format!("o{at}"), json!(seed))));
        }
    };
    forge_picture(&place, "one.png", many("1"));
    forge_picture(&place, "other.png", many("2"));
    for words in [&["one.png"][..], &["one.png", "other.png"]] {
        let mut command = place.in_shell("ulimit -v 1000000", place.mirage().arg("show").args(words));
        let shown = command.timeout(std::time::Duration::from_secs(20)).assert().success();
        let output = &shown.get_output().stdout;
        assert!(output.len() < 5 << 20, "{} bytes for {words:?}", output.len());
    }
}

#[test]
fn record_text_is_escaped_on_terminals() {
    let place = finished();
    let mut metadata = image_io::read_metadata(&place.path("out.png")).unwrap();
    let poison = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    for (key, text) in &mut metadata {
        match key.as_str() {
            "neural-mirage:options" => {
                *text = json!({ poison: poison, "spatial": format!("a{poison}\nseed 9"), "style_image": [poison] })
                    .to_string();
            }
            "neural-mirage:weights" => *text = format!("--style-weight 1; $(touch owned) {poison}"),
            "neural-mirage:classes" => {
                *text =
                    json!({ "classes": [{ "index": 1, "label": poison, "probability": 0.5 }] }).to_string();
            }
            "neural-mirage:losses" => {
                *text = json!({ "iteration": 1, "total": 1.0, "factors": { poison: { "loss": 1.0 } } })
                    .to_string();
            }
            key if key.starts_with("neural-mirage:") => *text = format!("{poison}\nfake 1"),
            _ => {}
        }
    }
    let picture = image_io::read(&place.path("photo.png")).unwrap().picture;
    let options = WriteOptions { metadata, ..WriteOptions::default() };
    image_io::write(&place.path("evil.png"), &picture, &options).unwrap();
    let clean = |output: std::process::Output| {
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            let bad = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
            assert!(!text.contains(bad), "{text:?}");
            assert!(
                !text.lines().any(|line| line.starts_with("fake") || line.starts_with("seed 9")),
                "{text}"
            );
        }
    };
    let run = |words: &[&str]| place.mirage().args(words).output().unwrap();
    let shown = run(&["show", "evil.png"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("--style-weight '1;' '$(touch' "), "{shown:?}");
    clean(shown);
    clean(run(&["show", "evil.png", "out.png"]));
    clean(run(&["sweep", "--continue", "evil.png"]));
    let shown = run(&["show", "evil.png", "--json"]);
    let value: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(value["options"][poison], poison, "JSON output must not be changed");
    clean(shown);
    let mut checkpoint = Checkpoint::load(&place.path("out-checkpoint.safetensors")).unwrap();
    checkpoint.texts.insert("adapter".to_owned(), format!("{poison}\nfake"));
    checkpoint.texts.insert("run".to_owned(), poison.to_owned());
    checkpoint.save(&place.path("evil-checkpoint.safetensors")).unwrap();
    std::fs::remove_file(place.path("evil.png")).unwrap();
    clean(run(&["resume", "evil-checkpoint.safetensors", "--iterations", "3"]));
}

/// The sheet is rewritten after each run of a sweep, but never over a file that is not the sweep's.
#[test]
fn sweep_replaces_only_its_own_sheet() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.file("victim", b"precious");
    let sweep = |folder: &str| {
        let mut command = place.deviceless();
        command.arg("sweep").arg(&photo).arg("--weights").arg(place.network());
        command.args(["--vary", "seed=1,2", "--size", "48", "-o", folder]).assert()
    };
    for name in ["sheet.png", "sheet.html"] {
        std::fs::create_dir_all(place.path("folder")).unwrap();
        place.file(&format!("folder/{name}"), b"precious");
        sweep("folder").code(2).stderr(says(name).and(says("--overwrite")));
        assert_eq!(std::fs::read(place.path(&format!("folder/{name}"))).unwrap(), b"precious");
        std::fs::remove_dir_all(place.path("folder")).unwrap();
        #[cfg(unix)]
        {
            std::fs::create_dir_all(place.path("folder")).unwrap();
            std::os::unix::fs::symlink("../victim", place.path(&format!("folder/{name}"))).unwrap();
            sweep("folder").code(2).stderr(says(name).and(says("--overwrite")));
            std::fs::remove_dir_all(place.path("folder")).unwrap();
        }
    }
    assert_eq!(std::fs::read(place.path("victim")).unwrap(), b"precious");
    // Also not beside its own cells.
    sweep("folder").success();
    for name in ["sheet.png", "sheet.html"] {
        let path = place.path(&format!("folder/{name}"));
        let own = std::fs::read(&path).unwrap();
        std::fs::copy(&photo, &path).unwrap();
        sweep("folder").code(2).stderr(says(name).and(says("--overwrite")));
        // Nor is its own sheet, once it was edited.
        let edited = [&own[..], b"\n"].concat();
        std::fs::write(&path, &edited).unwrap();
        sweep("folder").code(2).stderr(says(name).and(says("--overwrite")));
        assert_eq!(std::fs::read(&path).unwrap(), edited);
        std::fs::write(&path, own).unwrap();
    }
    sweep("folder").success();
}

/// Unwritable outputs are detected before the first iteration, even with `--overwrite`.
#[test]
fn sweep_checks_outputs_before_it_begins() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    for name in ["r1c2.png", "run-1-checkpoint.safetensors", "run-2-checkpoint.safetensors", "sheet.html"] {
        std::fs::create_dir_all(place.path("folder").join(name)).unwrap();
        let mut command = place.deviceless();
        command.arg("sweep").arg(&photo).arg("--weights").arg(place.network()).args(["--vary", "seed=1,2"]);
        command.args(["--columns", "iterations=1,2", "--size", "48", "-o", "folder", "--overwrite"]);
        command.assert().code(2).stderr(says(name).and(says("it is a folder")));
        assert_eq!(std::fs::read_dir(place.path("folder")).unwrap().count(), 1, "{name}");
        std::fs::remove_dir_all(place.path("folder")).unwrap();
    }
    // The same for a snapshot.
    std::fs::create_dir(place.path("out-0002.png")).unwrap();
    let mut command = place.deviceless();
    command.arg("render").arg(&photo).arg("--weights").arg(place.network());
    command.args(["--size", "48", "--iterations", "3", "--save-at", "2", "-o", "out.png"]);
    command.assert().code(2).stderr(says("out-0002.png").and(says("it is a folder")));
    command.arg("--overwrite").assert().code(2).stderr(says("it is a folder"));
}
