//! `mirage report`: its files, failing parts, interruption.

use crate::common::process::{code, wait_for};
use crate::interrupt::signal;
use crate::support::Place;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::path::Path;

/// Returns a command for a report of tiny sizes on the small network, in the folder `report`.
fn report(place: &Place, parts: &str) -> assert_cmd::Command {
    let mut command = place.mirage();
    let photo = place.photo("photo.png", 40, 30);
    command.args([
        "report",
        "-o",
        "report",
        "--quick",
        "--filter",
        "relu",
        "--sizes",
        "48",
        "--adapter",
        "0",
    ]);
    command.args(["--parts", parts, "--photo"]).arg(photo).arg("--weights").arg(place.network());
    command
}

fn read(place: &Place) -> Value {
    serde_json::from_str(&std::fs::read_to_string(place.path("report/report.json")).unwrap()).unwrap()
}

fn page(place: &Place) -> String {
    std::fs::read_to_string(place.path("report/report.md")).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn report_has_all_parts_as_json_and_markdown() {
    let place = Place::new();
    report(&place, "device,kernels,bench,iterations,picture").assert().success();
    let report = read(&place);
    let mut names = keys(&report);
    names.sort_unstable();
    let expected = "bench commit date device filter format iterations kernels picture precision pytorch quick state system version";
    assert_eq!(names, expected.split(' ').collect::<Vec<_>>());
    assert_eq!(report["state"], "complete");
    for part in ["device", "kernels", "bench", "picture"] {
        assert_eq!(report[part]["status"], "done", "{part}: {}", report[part]);
        assert!(report[part]["seconds"].as_f64().unwrap() > 0.0);
    }
    let device = &report["device"]["result"];
    for key in
        ["description", "name", "backend", "driver", "driver_version", "limits", "features", "worked_around"]
    {
        assert!(!device[key].is_null(), "{key}");
    }
    let kernels = &report["kernels"]["result"];
    assert!(kernels["kernels"].as_u64().unwrap() > 0 && kernels["failed"].as_array().unwrap().is_empty());
    let rows = report["bench"]["result"]["rows"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["case"].as_str().unwrap().starts_with("relu ")));
    let iterations = report["iterations"].as_array().unwrap();
    let objectives: Vec<&Value> = iterations.iter().map(|iteration| &iteration["objective"]).collect();
    assert_eq!(objectives, ["style", "three"]);
    for iteration in iterations {
        assert_eq!((&iteration["side"], &iteration["status"]), (&48.into(), &"done".into()), "{iteration}");
        let seconds = |name: &str| iteration["result"][name].as_f64().unwrap();
        assert!(0.0 < seconds("least_seconds") && seconds("least_seconds") <= seconds("median_seconds"));
    }
    // The requested picture, at the quick size.
    assert_eq!(image::image_dimensions(place.path("report/picture.png")).unwrap(), (256, 192));
    assert!(report["picture"]["result"]["painted_seconds"].as_f64().unwrap() > 0.0);
    let page = page(&place);
    for text in ["## Device", "0 failed", "| style | 48 |", "of peak", "](picture.png)"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("not complete") && !page.contains("FAILED"));
    // A second report does not overwrite it.
    let again = ["report", "-o", "report", "--parts", "device"];
    place.mirage().args(again).assert().code(2).stderr(contains("already holds a report"));
}

#[test]
fn iterations_are_also_timed_with_tuned_kernels() {
    let place = Place::new();
    report(&place, "iterations").args(["--precision", "half-weights"]).assert().success();
    let report = read(&place);
    assert_eq!(report["precision"], "half-weights");
    for iteration in report["iterations"].as_array().unwrap() {
        assert_eq!(iteration["tuned"]["status"], "done", "{iteration}");
        assert!(iteration["tuned"]["result"]["median_seconds"].as_f64().unwrap() > 0.0);
    }
    assert!(page(&place).contains("| ms | half-weights, tuned | device memory |"));
    let on_cpu = ["report", "-o", "other", "--adapter", "cpu", "--precision", "half"];
    place.mirage().args(on_cpu).assert().code(2).stderr(contains("--precision"));
    assert!(!place.path("other").exists());
}

#[test]
fn failed_part_does_not_stop_the_others() {
    let place = Place::new();
    let files = ["kernels", "show", "relu", "--files", "mine"];
    place.deviceless().args(files).assert().success();
    let shader = place.path("mine/relu.wgsl");
    let text = std::fs::read_to_string(&shader).unwrap();
    let wrong = text.replacen("let x = input[i];", "let x = input[i ^ 1u];", 1);
    assert_ne!(text, wrong);
    std::fs::write(&shader, wrong).unwrap();
    let mut command = report(&place, "device,kernels,iterations,bench");
    command.args(["--shader-dir", "mine", "--against", "pytorch", "--python", "./no-such-python"]);
    command.assert().code(1).stderr(contains("FAILED kernels").and(contains("FAILED PyTorch")));
    let report = read(&place);
    assert_eq!(report["state"], "complete");
    assert_eq!(report["kernels"]["status"], "failed");
    assert!(report["kernels"]["reason"].as_str().unwrap().contains("relu/naive"), "{}", report["kernels"]);
    assert_eq!(report["kernels"]["result"]["failed"][0]["kernel"], "relu/naive");
    assert_eq!(report["pytorch"]["status"], "failed");
    for part in [&report["device"], &report["bench"], &report["iterations"][1]] {
        assert_eq!(part["status"], "done", "{part}");
    }
    assert_eq!(report["picture"]["status"], "not-asked-for");
    assert!(page(&place).contains("**FAILED**: 1 kernels give wrong results: relu/naive"));
}

/// Writes a shell script to be run instead of Python.
#[cfg(unix)]
fn python(place: &Place, script: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = place.file("python", script.as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Writes a substitute for Python that answers like the PyTorch script, twice as fast in one layout.
#[cfg(unix)]
fn fake_python(place: &Place) -> std::path::PathBuf {
    let script = r#"#!/bin/sh
case "$3 $6 $7" in
describe*) echo '{"version": "9.9", "device": "a stand-in", "tf32": true}' ;;
"time channels_last tf32") echo 'mirage: no such kernel' >&2; exit 1 ;;
"time channels_last f32") echo '{"least_seconds": 1.0, "median_seconds": 2.0}' ;;
time*) echo '{"least_seconds": 2.0, "median_seconds": 4.0}' ;;
esac
"#;
    python(place, script)
}

#[cfg(unix)]
#[test]
fn iterations_are_compared_with_pytorch() {
    let place = Place::with_adapter();
    let mut command = report(&place, "device,iterations");
    command.args(["--against", "pytorch", "--python"]).arg(fake_python(&place));
    command
        .assert()
        .code(1)
        .stderr(contains("FAILED PyTorch, style at 48 px, tf32 channels_last: no such kernel"));
    let report = read(&place);
    assert_eq!(report["pytorch"]["result"]["version"], "9.9");
    for iteration in report["iterations"].as_array().unwrap() {
        let rows = iteration["pytorch"].as_array().unwrap();
        let status: Vec<&str> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
        assert_eq!(status, ["done", "done", "done", "failed"]);
        let ours = iteration["result"]["median_seconds"].as_f64().unwrap();
        let page = page(&place);
        let ratio = page
            .lines()
            .find(|line| line.starts_with(&format!("| {} |", iteration["objective"].as_str().unwrap())));
        let cells: Vec<&str> = ratio.unwrap().trim_end_matches(" |").split(" | ").collect();
        let ratio: f64 = cells.last().unwrap().parse().unwrap();
        // The page has four digits.
        assert!((ratio - ours / 2.0).abs() <= 1e-3 * ratio + 1e-6, "{ratio}, not {}", ours / 2.0);
    }
}

#[cfg(unix)]
#[test]
fn interrupted_report_keeps_finished_parts() {
    let place = Place::with_adapter();
    let command = report(&place, "device,iterations,picture");
    let mut words: Vec<std::ffi::OsString> = command.get_args().map(Into::into).collect();
    // Long enough not to end by itself.
    let sizes = words.iter().position(|word| word == "48").unwrap();
    words[sizes] = "48,2000,1900,1800".into();
    let mut command = place.mirage();
    command.args(words);
    let mut child = place.spawn(&command);
    let has_begun = |path: &Path| {
        std::fs::read_to_string(path).is_ok_and(|text| {
            let report: Value = serde_json::from_str(&text).unwrap();
            report["iterations"][1]["status"] == "done"
        })
    };
    wait_for("the report did not begin", || has_begun(&place.path("report/report.json")));
    assert_eq!(read(&place)["state"], "running");
    assert!(page(&place).contains("not complete yet"));
    // The report is saved just before the process of the next part starts, which runs for minutes.
    std::thread::sleep(std::time::Duration::from_secs(2));
    signal(&child, "-INT");
    // The part's process has five seconds to end by itself.
    assert_eq!(code(&mut child), Some(130));
    let report = read(&place);
    assert_eq!(report["state"], "interrupted");
    assert_eq!(report["device"]["status"], "done");
    let status = |at: usize| report["iterations"][at]["status"].as_str().unwrap();
    assert_eq!([status(0), status(1), status(2), status(7)], ["done", "done", "interrupted", "not-run"]);
    assert_eq!(report["picture"]["status"], "not-run");
    assert!(page(&place).contains("This report was interrupted"));
}

#[test]
fn bad_options_are_refused_before_anything_is_written() {
    let place = Place::new();
    for words in
        [&["--parts", "engine"][..], &["--sizes", "0"], &["--against", "caffe"], &["--process", "x:1"]]
    {
        place.deviceless().arg("report").args(words).assert().code(2);
    }
    assert!(place.entries().is_empty(), "{:?}", place.entries());
}

/// Writes a substitute for Python that saves its arguments and weights.
#[cfg(unix)]
fn recording_python(place: &Place) -> std::path::PathBuf {
    let script = r#"#!/bin/sh
echo "$2 $3" >> words.txt
case "$3" in
describe) echo '{"version": "9.9", "device": "a stand-in", "tf32": false}' ;;
time) cp "$9" "$4.safetensors" && echo '{"least_seconds": 1.0, "median_seconds": 2.0}' ;;
esac
"#;
    python(place, script)
}

/// Returns a command for a report that compares with PyTorch through that substitute.
#[cfg(unix)]
fn report_with_pytorch(place: &Place, parts: &str, adapter: &str, weights: &str) -> assert_cmd::Command {
    let mut command = place.mirage();
    command.args(["report", "-o", "report", "--quick", "--sizes", "48", "--parts", parts]);
    command.args(["--adapter", adapter, "--weights", weights, "--against", "pytorch", "--python"]);
    command.arg(recording_python(place));
    command
}

#[cfg(unix)]
#[test]
fn pytorch_uses_the_same_device_without_device_part() {
    let words = |parts: &str, adapter: &str| {
        let place = Place::new();
        let network = place.network();
        report_with_pytorch(&place, parts, adapter, network.to_str().unwrap()).assert().success();
        std::fs::read_to_string(place.path("words.txt")).unwrap()
    };
    let on_cpu = words("iterations", "cpu");
    assert_eq!(on_cpu.lines().next(), Some("cpu describe"));
    assert_eq!(on_cpu.lines().filter(|line| *line == "cpu time").count(), 4, "{on_cpu}");
    // For an adapter, the driver reports whether it is software.
    assert_eq!(words("iterations", "0"), words("device,iterations", "0"));
}

#[cfg(unix)]
#[test]
fn pytorch_receives_networks_of_any_layout() {
    use neural_mirage::vgg::{DType, KeyLayout, Network};
    // By its short name.
    let place = Place::new();
    report_with_pytorch(&place, "iterations", "cpu", "narrow").assert().success();
    for objective in ["style", "three"] {
        let network = Network::open(&place.path(&format!("{objective}.safetensors")), None).unwrap();
        assert_eq!((network.layout, network.dtype), (KeyLayout::Caffe, DType::F32), "{objective}");
        assert_eq!(network.classes(), Some(1000));
    }
    // With torchvision's names, and the classifier in 16 bits.
    let place = Place::new();
    let original = crate::support::network(&[8, 7, 9]);
    let mut network = crate::support::network(&[8, 7, 9]);
    for (caffe, torchvision) in [
        ("conv1_1", "features.0"),
        ("conv2_1", "features.3"),
        ("conv3_1", "features.6"),
        ("conv4_1", "features.9"),
        ("conv4_2", "features.11"),
        ("conv5_1", "features.14"),
        ("fc6", "classifier.0"),
        ("fc7", "classifier.3"),
        ("fc8", "classifier.6"),
    ] {
        for kind in ["weight", "bias"] {
            let tensor = network.tensors.remove(&format!("{caffe}.{kind}")).unwrap();
            network.tensors.insert(format!("{torchvision}.{kind}"), tensor);
        }
    }
    network.convert("F16", |name| name.starts_with("classifier"));
    place.file("torchvision.safetensors", &network.bytes());
    report_with_pytorch(&place, "iterations", "cpu", "torchvision.safetensors").assert().success();
    let network = Network::open(&place.path("three.safetensors"), None).unwrap();
    assert_eq!((network.layout, network.dtype), (KeyLayout::Caffe, DType::F32));
    for conv in network.convs() {
        let values: Vec<u8> =
            conv.weight.to_f32().unwrap().iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(values, original.tensors[conv.weight.name()].bytes, "{}", conv.weight.name());
    }
    // A network that can't be opened fails only its own rows.
    let place = Place::new();
    let mut command = report_with_pytorch(&place, "device,iterations", "cpu", "none.safetensors");
    command
        .assert()
        .code(1)
        .stderr(contains("FAILED iteration of style").and(contains("FAILED PyTorch, style")));
    let report = read(&place);
    assert_eq!((&report["state"], &report["pytorch"]["status"]), (&"complete".into(), &"done".into()));
    for row in report["iterations"][0]["pytorch"].as_array().unwrap() {
        assert_eq!(row["status"], "failed");
        assert!(row["reason"].as_str().unwrap().contains("none.safetensors"), "{row}");
    }
}
