//! External text is escaped on terminals and stays on its line.

use crate::common::synthetic::FileBuilder;
use crate::support::{Place, network};
use assert_cmd::Command;
use std::path::Path;

/// Terminal commands, right-to-left override, an invisible tag character, and a line break.
const POISON: &str = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{e0041}\nmirage: fake\r";

/// Checks that the output has no unsafe characters, but does contain the text.
#[track_caller]
fn escapes(command: &mut Command) {
    let printed = printed(command);
    assert!(printed.contains("owned"), "the text is not shown at all: {printed}");
}

/// Returns a command's output after checking that it has no unsafe characters.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let mut both = String::new();
    for text in [output.stdout, output.stderr] {
        let text = String::from_utf8(text).unwrap();
        let bad = |c: char| {
            (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{e0000}'..='\u{e007f}')
        };
        assert!(!text.contains(bad), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("mirage: fake")), "{text}");
        both += &text;
    }
    both
}

/// File names in errors, notes and results.
#[cfg(unix)]
#[test]
fn file_names_are_escaped() {
    let place = Place::new();
    let name = |ending: &str| format!("a{POISON}{ending}");
    let photo = place.photo(&name(".png"), 64, 48);
    let weights = place.network();
    std::fs::create_dir(place.path(&name(" folder"))).unwrap();
    place.file(&name(".txt"), b"no picture");
    place.file(&name(".safetensors"), b"no network");
    place.file(&name(".json"), b"no figures");
    let run = |words: &[&str]| {
        let mut command = place.mirage();
        command.args(words);
        command
    };
    let render = |words: &[&str]| {
        let mut command = place.mirage();
        command.arg("render").arg(&photo).arg("--weights").arg(&weights).args([
            "--size",
            "48",
            "--iterations",
            "2",
        ]);
        command.args(words);
        command
    };
    escapes(&mut render(&[
        "-o",
        &name("-out.png"),
        "--save-at",
        "1",
        "-v",
        "--film",
        &name(".gif"),
        "--trace",
        &name("t"),
    ]));
    // It exists now.
    escapes(&mut render(&["-o", &name("-out.png")]));
    escapes(&mut render(&["-o", &name("/out.png")]));
    escapes(&mut render(&["-o", &name(" folder")]));
    escapes(&mut render(&["-o", "b.png", "--log", &name(" folder")]));
    escapes(&mut render(&["-o", "c.png", "--init", &name(".png")]));
    escapes(&mut render(&["-o", "d.png", "--style-image", &name(".txt")]));
    escapes(&mut render(&["-o", "e.png", "--tuning-cache", &name(".json"), "--adapter", POISON]));
    escapes(&mut render(&["-o", "f.png", "--labels", &name(".txt")]));
    escapes(&mut render(&["-o", "g.png", "--spatial", POISON]));
    for words in [
        &["show", &name("-out.png")][..],
        &["show", &name("-out.png"), &name(".png")],
        &["show", &name(".txt")],
        &["show", &name("-out.png"), &name("-out-0001.png")],
        &["show", "--json", &name("-out.png")],
        &["classify", &name(".png"), &name(".png"), "--weights", "net.safetensors"],
        &["classify", &name(".txt")],
        &["resume", &name(".safetensors")],
        &["resume", &name("none")],
        &["sweep", "--continue", &name(".png")],
        &["sweep", &name(".png"), "--vary", POISON],
        &["sweep", &name(".png"), "--vary", "seed=1", "-o", &name(".png"), "--weights", "net.safetensors"],
        &["weights", &name(".safetensors")],
        &["weights", &name("none")],
        &["weights", "--fetch", POISON],
        &["kernels", "bench", "--compare", &name(".json")],
        &["kernels", "run", &name(".wgsl")],
        &["kernels", "test", POISON, "--adapter", "cpu"],
        &["tune", "--tuning-cache", &name(".json"), "--weights", "net.safetensors"],
        &["kernels", "list", "--shader-dir", &name("none")],
        // Messages from clap.
        &["render", "photo.png", &name(".png")],
        &[POISON],
        &["render", "photo.png", "--size", POISON],
        &["render", POISON, POISON],
    ] {
        escapes(&mut run(words));
    }
}

/// Tensor names, metadata, and labels.
#[test]
fn file_contents_are_escaped() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let weights = |name: &str, change: &dyn Fn(&mut FileBuilder)| {
        let mut file = network(&[8, 7, 9]);
        change(&mut file);
        place.file(name, &file.bytes())
    };
    let rename = |from: &'static str, to: String| {
        move |file: &mut FileBuilder| {
            let tensor = file.tensors.remove(from).unwrap();
            file.tensors.insert(to.clone(), tensor);
        }
    };
    let copy = |to: String| {
        move |file: &mut FileBuilder| {
            let tensor = file.tensors["conv1_1.weight"].clone();
            file.tensors.insert(to.clone(), tensor);
        }
    };
    escapes(place.deviceless().arg("weights").arg(weights("unused.safetensors", &copy(POISON.to_owned()))));
    for path in [
        weights("odd.safetensors", &copy(format!("conv9_9{POISON}.weight"))),
        weights("missing.safetensors", &rename("conv4_1.weight", format!("{POISON}.weight"))),
        weights("stated.safetensors", &|file| {
            _ = file.metadata.insert("preprocessing".into(), POISON.into())
        }),
        weights("topology.safetensors", &|file| _ = file.metadata.insert(POISON.into(), POISON.into())),
    ] {
        printed(place.deviceless().arg("weights").arg(&path));
        printed(place.deviceless().args(["render", "photo.png", "--adapter", "0", "--weights"]).arg(&path));
    }
    let labels: String =
        (0..9).map(|class| format!("{class}{}\n", POISON.replace(['\n', '\r'], " "))).collect();
    place.file("labels.txt", labels.as_bytes());
    let net = place.network();
    escapes(place.mirage().args(["classify", "photo.png", "--labels", "labels.txt", "--weights"]).arg(&net));
    let mut render = place.render(Path::new("photo.png"));
    escapes(render.args(["--labels", "labels.txt", "--print-every", "1"]));
    escapes(place.mirage().args(["show", "out.png"]));
    // A log on stdout is escaped but still parses to the same values.
    let mut render = place.render_to(Path::new("photo.png"), "b.png", "2");
    let output = render.args(["--labels", "labels.txt", "--log", "-", "--quiet"]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    for line in lines.lines() {
        assert!(!line.contains(char::is_control), "{line:?}");
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["event"] == "iteration" {
            let label = line["classes"][0]["label"].as_str().unwrap();
            assert!(label.contains("\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{e0041}"), "{label:?}");
        }
    }
}
