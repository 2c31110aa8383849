//! Non-UTF-8 paths: records restore the same bytes.

use crate::common::process::code;
use crate::interrupt::signal;
use crate::support::{Place, log, pixels};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// Names with invalid UTF-8, with control characters, and with characters used in escapes.
const NAMES: [&[u8]; 4] = [b"ph\xffoto", b"\xc3\x28 a\nb", b"bytes:%41", b"\x1b[31mred\xe2\x80"];

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn with(stem: &[u8], ending: &str) -> OsString {
    OsString::from_vec([stem, ending.as_bytes()].concat())
}

/// Writes a photo with this name.
fn photo(place: &Place, stem: &[u8]) -> PathBuf {
    let plain = place.photo("plain.png", 64, 48);
    let path = plain.with_file_name(with(stem, ".png"));
    std::fs::rename(plain, &path).unwrap();
    path
}

fn names(place: &Place) -> Vec<OsString> {
    let entries = std::fs::read_dir(place.path("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn run_resumes_with_non_utf8_paths() {
    for stem in NAMES {
        let place = Place::new();
        let photo = photo(&place, stem);
        let style = photo.with_file_name(with(stem, " style.png"));
        let start = photo.with_file_name(with(stem, " start.png"));
        let network = photo.with_file_name(with(stem, ".safetensors"));
        std::fs::rename(place.network(), &network).unwrap();
        std::fs::copy(&photo, &style).unwrap();
        std::fs::copy(&photo, &start).unwrap();
        let output = with(stem, "-out.png");
        let mut run = place.mirage();
        run.arg("render").arg(photo.file_name().unwrap()).arg("--weights").arg(network.file_name().unwrap());
        run.arg("--style-image").arg(&style).arg("--init").arg(&start).arg("-o").arg(&output);
        run.args([
            "--iterations",
            "4",
            "--size",
            "48",
            "--checkpoint-every",
            "2",
            "--save-at",
            "2",
            "--quiet",
        ]);
        run.arg("--log").arg(with(stem, ".jsonl"));
        run.assert().success().stderr("");
        let checkpoint = with(stem, "-out-checkpoint.safetensors");
        for name in [&output, &checkpoint, &with(stem, "-out-0002.png")] {
            assert!(names(&place).contains(name), "{name:?}: {:?}", names(&place));
        }
        let log = log(&place.path("").join(with(stem, ".jsonl")));
        let path = |event: &str, name: &str| {
            let line = log.iter().find(|line| line["event"] == event).unwrap();
            line[name].as_str().unwrap().to_owned()
        };
        // Recorded texts are escaped, without replacement characters.
        let texts = [
            path("snapshot", "path"),
            path("checkpoint", "path"),
            path("end", "output"),
            log[0]["network"]["path"].as_str().unwrap().to_owned(),
            log[0]["options"]["photo"].as_str().unwrap().to_owned(),
        ];
        for text in &texts {
            assert!(text.starts_with("bytes:") && !text.contains('\u{fffd}'), "{text:?}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }

        // The run resumes from a different folder, bit-identical to an uninterrupted run.
        let mut resume = place.mirage();
        resume.current_dir("/").arg("resume").arg(place.path("").join(&checkpoint));
        resume.args(["--iterations", "7", "--quiet"]).assert().success().stderr("");
        let mut whole = place.mirage();
        whole.arg("render").arg(&photo).arg("--weights").arg(&network).arg("--style-image").arg(&style);
        whole.arg("--init").arg(&start).args([
            "-o",
            "whole.png",
            "--iterations",
            "7",
            "--size",
            "48",
            "--quiet",
        ]);
        whole.assert().success();
        let output = place.path("").join(&output);
        assert!(pixels(&output) == pixels(&place.path("whole.png")), "{stem:?}");

        // From the record of the picture alone.
        let mut promote = place.mirage();
        promote.arg("sweep").arg("--continue").arg(&output).args([
            "--size",
            "48",
            "-o",
            "again.png",
            "--quiet",
        ]);
        promote.assert().success().stderr("");
        assert!(pixels(&place.path("again.png")) == pixels(&output), "{stem:?}");

        // A changed photo is detected.
        place.photo("other.png", 64, 40);
        std::fs::rename(place.path("other.png"), &photo).unwrap();
        let mut resume = place.mirage();
        resume.arg("resume").arg(place.path("").join(&checkpoint)).args(["--iterations", "9"]);
        let refused = resume.assert().code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(
            said.contains("has changed") && said.lines().last().unwrap().starts_with("mirage: "),
            "{said:?}"
        );
    }
}

#[test]
fn existing_snapshots_with_non_utf8_names_are_found() {
    let place = Place::new();
    let photo = photo(&place, NAMES[0]);
    std::fs::write(place.path("").join(os(b"o\xfe-0003.png")), "precious").unwrap();
    let mut run = place.deviceless();
    run.arg("render").arg(&photo).arg("-o").arg(os(b"o\xfe.png")).args([
        "--iterations",
        "5",
        "--save-at",
        "3",
    ]);
    let refused = run.args(["--weights", "none.safetensors"]).assert().code(2);
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("-0003.png"));
}

/// In a folder with such a name, the sweep's printed commands can be pasted into a shell.
#[test]
fn sweep_continues_in_non_utf8_folder() {
    let place = Place::new();
    let photo = photo(&place, NAMES[0]);
    let mut sweep = place.mirage();
    sweep.arg("sweep").arg(&photo).arg("--weights").arg(place.network()).arg("-o").arg(os(b"sw\xffeep"));
    sweep.args(["--vary", "seed=1,2", "--size", "48", "--iterations", "2", "--quiet"]).assert().success();
    let page = place.path("").join(os(b"sw\xffeep")).join("sheet.html");
    let text = String::from_utf8(std::fs::read(&page).unwrap()).unwrap();
    let (_, command) = text.split_once("<code>mirage ").unwrap();
    let command = command.split_once("</code>").unwrap().0.replace("&amp;", "&");
    let program = assert_cmd::cargo::cargo_bin!("mirage").display().to_string();
    let line = format!("'{program}' {command} --size 48 -o one.png --quiet");
    let status = std::process::Command::new("bash").args(["-c", &line]).current_dir(place.path("")).status();
    assert!(status.unwrap().success(), "{line}");
    assert!(place.path("one.png").exists());
}

#[test]
fn stopped_run_prints_resume_command() {
    let place = Place::new();
    let photo = photo(&place, NAMES[0]);
    let mut run = place.mirage();
    run.arg("render").arg(&photo).arg("--weights").arg(place.network()).arg("-o").arg(os(b"o\xff'ut.png"));
    run.args(["--iterations", "10000000", "--size", "48", "--print-every", "0"]);
    let mut child = place.spawn(&run);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("Weights for the shares") {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0);
    }
    signal(&child, "-INT");
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(code(&mut child), Some(130));
    let (_, words) = rest.trim_end().rsplit_once("To resume: mirage ").unwrap();
    let program = assert_cmd::cargo::cargo_bin!("mirage").display().to_string();
    let state = place.path("").join(os(b"o\xff'ut-checkpoint.safetensors"));
    let done = neural_mirage::mirage::Checkpoint::load(&state).unwrap().state.iteration;
    let line = format!("'{program}' {words} --quiet --iterations {}", done + 1);
    let status = std::process::Command::new("bash").args(["-c", &line]).current_dir(place.path("")).status();
    assert!(status.unwrap().success(), "{line}");
}

/// Plain text paths are recorded unchanged, and records from other systems are read unchanged.
#[test]
fn plain_paths_are_recorded_verbatim() {
    let place = Place::new();
    let photo = place.photo("Föto 100%.png", 64, 48);
    place
        .render(&photo)
        .args(["--checkpoint-every", "1", "--quiet", "--log", "run.jsonl"])
        .assert()
        .success();
    assert_eq!(log(&place.path("run.jsonl"))[0]["options"]["photo"], photo.to_str().unwrap());
    let mut checkpoint =
        neural_mirage::mirage::Checkpoint::load(&place.path("out-checkpoint.safetensors")).unwrap();
    let text = checkpoint.texts["options"].replace(photo.to_str().unwrap(), "C:\\\\Users\\\\me\\\\Föto.png");
    checkpoint.texts.insert("options".to_owned(), text);
    checkpoint.save(&place.path("out-checkpoint.safetensors")).unwrap();
    let mut resume = place.mirage();
    let refused = resume.args(["resume", "out-checkpoint.safetensors"]).assert().code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("C:\\Users\\me\\Föto.png") && said.contains("--photo"), "{said}");
}

/// In a record each byte of such a path takes three.
#[cfg(target_os = "linux")]
#[test]
fn long_non_utf8_path_round_trips() {
    let place = Place::new();
    let mut folder = place.path("");
    (0..7).for_each(|_| folder.push(os(&[0xff; 250])));
    std::fs::create_dir_all(&folder).unwrap();
    let photo = folder.join("photo.png");
    std::fs::rename(place.photo("photo.png", 64, 48), &photo).unwrap();
    let words = ["--iterations", "3", "--checkpoint-every", "2", "--quiet"];
    place.deviceless_render(&photo).args(words).assert().success();
    let words = ["resume", "out-checkpoint.safetensors", "--iterations", "4", "--quiet"];
    place.deviceless().args(words).assert().success();
}
