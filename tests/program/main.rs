//! The program on real files: bad input, output, log, interruption.
//!
//! Checks that should need no device run without one, so a check made too late shows up as "no adapter".
#![cfg(feature = "cli")]

mod abstract_factor;
mod alpha;
mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod expanding;
#[cfg(unix)]
mod full_disk;
mod history;
mod hostile;
mod install;
#[cfg(unix)]
mod interrupt;
mod kernels;
mod kernels_run;
mod kernels_run_calls;
mod less_memory;
mod log;
mod lost_device;
mod memory;
mod own_files;
#[cfg(unix)]
mod paths;
mod preprocessing;
mod render;
mod report;
mod resume;
#[cfg(target_os = "linux")]
mod small_network;
mod support;
mod sweep;
mod terminal_text;
mod tune;
#[cfg(unix)]
mod writing;

use common::process::code;
use predicates::prelude::*;
use std::io::Read as _;
use support::Place;

#[test]
fn help_lists_every_option_with_its_default() {
    let place = Place::new();
    let output = place.mirage().env("COLUMNS", "500").args(["render", "--help"]).output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    let headings =
        ["Input and output:", "Factors:", "Balance:", "Network:", "Optimisation:", "Watching:", "Device:"];
    let places: Vec<usize> = headings.iter().map(|heading| help.find(heading).expect(heading)).collect();
    assert!(places.is_sorted(), "{places:?}");
    for (option, default) in [
        ("--output", "the photo's name with -mirage.png, in the current folder"),
        ("--size", "512"),
        ("--memory", "the free memory"),
        ("--alpha", "white"),
        ("--bit-depth", "8"),
        ("--overwrite", "refuse to"),
        ("--spatial", "relu4_2"),
        ("--abstract", "fc8"),
        ("--style", "relu1_1,relu2_1:0.5,relu3_1:0.25,relu4_1:0.125"),
        ("--spatial-image", "the photo"),
        ("--abstract-image", "the photo"),
        ("--classes", "the photo's"),
        ("--style-statistic", "wasserstein"),
        ("--style-image", "the photo itself"),
        ("--style-blend", "equal weights"),
        ("--balance", "spatial=15,abstract=15,style=70"),
        ("--spatial-weight", "1 if"),
        ("--abstract-weight", "1 if"),
        ("--style-weight", "1 if"),
        ("--tv-weight", "2"),
        ("--weights", "the one that comes with the program"),
        ("--preprocessing", "as its file says"),
        ("--tv-kind", "diagonal"),
        ("--border", "replicate"),
        ("--pooling", "avg2"),
        ("--labels", "ImageNet's"),
        ("--iterations", "60,40,26,13,9"),
        ("--scales", "auto"),
        ("--min-size", "128"),
        ("--average-decay", "0.9"),
        ("--grain", "1; 0 with a --style-image"),
        ("--init", "blur"),
        ("--seed", "0"),
        ("--optimizer", "adam"),
        ("--history", "20"),
        ("--learning-rate", "0.02"),
        ("--learning-rate-decay", "0.1"),
        ("--beta1", "0.9"),
        ("--beta2", "0.99"),
        ("--epsilon", "1e-8"),
        ("--clamp", "on"),
        ("--rebalance-every", "0"),
        ("--stop-when-change-below", "0"),
        ("--print-every", "25"),
        ("--save-early", "off"),
        ("--film", "none"),
        ("--checkpoint-every", "0"),
        ("--web", "off"),
        ("--web-host", "127.0.0.1"),
        ("--save-every", "0"),
        ("--save-at", "none"),
        ("--log", "none"),
        ("--top", "5"),
        ("--verbose", "off"),
        ("--quiet", "off"),
        ("--adapter", "the most capable"),
        ("--threads", "all that"),
        ("--kernels", "auto"),
        ("--checkpoint-activations", "off"),
        ("--half-activations", "off"),
        ("--tile", "none"),
        ("--tuning-cache", "tuning.json in"),
        ("--no-tuning-cache", "use it"),
    ] {
        // The name stands in the first column; texts may mention other options.
        let line = help.lines().find(|line| {
            let name = line.trim_start().split("  ").next().unwrap_or_default();
            name.starts_with('-') && format!("{name} ").contains(&format!("{option} "))
        });
        let line = line.unwrap_or_else(|| panic!("{option} is missing from\n{help}"));
        assert!(line.contains(&format!("[default: {default}")), "{line}");
    }
    assert!(help.contains("--no-clamp"));
}

#[test]
fn usage_is_printed_without_a_command() {
    let place = Place::new();
    place.mirage().assert().code(2).stderr(predicate::str::contains("mirage render"));
    place.mirage().arg("--version").assert().success().stdout(predicate::str::starts_with("mirage "));
    place.mirage().arg("--help").assert().success().stdout(predicate::str::contains("classify"));
}

#[test]
fn devices_are_listed_with_their_limits() {
    let place = Place::with_adapter();
    place
        .mirage()
        .arg("devices")
        .assert()
        .success()
        .stdout(predicate::str::starts_with("0: "))
        .stdout(predicate::str::contains("[default]"))
        .stdout(predicate::str::contains("workgroup memory"))
        .stdout(predicate::str::contains("timestamps"));
}

#[test]
fn missing_adapter_names_package_to_install() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let weights = place.network();
    for words in [
        vec!["render".as_ref(), photo.as_os_str(), "--weights".as_ref(), weights.as_os_str()],
        vec!["classify".as_ref(), photo.as_os_str(), "--weights".as_ref(), weights.as_os_str()],
    ] {
        let assert = place.deviceless().args(&words).args(["--adapter", "0"]).assert().code(2);
        if cfg!(target_os = "linux") {
            assert.stderr(predicate::str::contains("mesa-vulkan-drivers"));
        }
    }
    assert_eq!(place.entries(), ["net.safetensors", "photo.png"], "files were left behind");
}

#[test]
fn cpu_is_used_without_an_adapter() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let listed = place.deviceless().arg("devices").assert().success();
    listed.stdout(predicate::str::contains("cpu: ").and(predicate::str::contains("[default]")));
    place.deviceless_render(&photo).args(["--iterations", "2"]).assert().success().stderr(
        predicate::str::contains("no GPU was found")
            .and(predicate::str::contains("--adapter llvmpipe").not()),
    );
    let mut classify = place.deviceless();
    classify.args(["classify", "photo.png", "--weights"]).arg(place.network()).assert().success();
}

#[test]
fn cpu_and_gpu_losses_agree() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let losses = |adapter: &str| {
        let log = format!("{adapter}.jsonl");
        let mut run = place.render_to(&photo, &format!("{adapter}.png"), "3");
        run.args(["--adapter", adapter, "--print-every", "1", "--log", &log]).assert().success();
        let text = std::fs::read_to_string(place.path(&log)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line["total"].as_f64()).collect::<Vec<f64>>()
    };
    let (cpu, graphics) = (losses("cpu"), losses("0"));
    assert!(cpu.len() > 2 && cpu.len() == graphics.len(), "{cpu:?} {graphics:?}");
    for (cpu, graphics) in cpu.iter().zip(&graphics) {
        // Rounding changes decisions of ReLU and pooling. The limit is the acceptance limit for ten steps.
        assert!((cpu - graphics).abs() <= 1e-3 * graphics.abs(), "{cpu} {graphics}");
    }
}

#[test]
fn threads_option_applies_to_cpu_only() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let paint = |threads: &str| {
        let mut run = place.render_to(&photo, &format!("{threads}.png"), "3");
        run.args(["--adapter", "cpu", "--threads", threads, "--checkpoint-every", "2"]);
        let words = if threads == "1" { "(CPU, 1 thread, " } else { "(CPU, 3 threads, " };
        run.assert().success().stderr(predicate::str::contains(words));
        support::pixels(&place.path(&format!("{threads}.png")))
    };
    let one = paint("1");
    assert!(paint("3") == one, "the picture depends on the number of threads");
    // The number of threads does not make it a different device.
    let mut resume = place.mirage();
    resume.args(["resume", "1-checkpoint.safetensors", "--adapter", "cpu", "--threads", "3"]);
    resume.assert().success().stderr(predicate::str::contains("rounds differently").not());
    assert!(support::pixels(&place.path("1.png")) == one);

    let weights = place.network();
    let network = ["--weights".as_ref(), weights.as_os_str()];
    let before = place.entries();
    for words in [
        &["render", "photo.png", "-o", "x.png"][..],
        &["classify", "photo.png"],
        &["sweep", "photo.png", "--vary", "seed=1,2", "-o", "sheet"],
        &["kernels", "test", "relu"],
        &["kernels", "bench", "relu"],
        &["report", "-o", "x", "--parts", "device"],
    ] {
        let command = || {
            let mut command = place.mirage();
            command.args(words);
            if words[0] != "kernels" {
                command.args(network);
            }
            command
        };
        let refused = command().args(["--adapter", "0", "--threads", "2"]).assert().code(2);
        refused.stderr(predicate::str::contains("--threads applies only to the CPU device"));
        command().args(["--adapter", "cpu", "--threads", "0"]).assert().code(2);
    }
    // A sweep creates its folder before it opens a device.
    let after: Vec<String> = place.entries().into_iter().filter(|name| name != "sheet").collect();
    assert_eq!(after, before, "files were left behind");
    let test = ["kernels", "test", "relu", "--adapter", "cpu", "--threads", "1"];
    place.mirage().args(test).assert().success().stdout(predicate::str::contains("(CPU, 1 thread, "));
}

#[test]
fn unknown_adapter_lists_available_ones() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    for adapter in ["no such device", "99"] {
        place
            .render(&photo)
            .args(["--adapter", adapter])
            .assert()
            .code(2)
            .stderr(predicate::str::contains(adapter).and(predicate::str::contains("0: ")));
    }
}

#[test]
fn weights_are_described() {
    let place = Place::new();
    let weights = place.network();
    for (command, words) in [
        (place.deviceless().args(["weights".as_ref(), weights.as_os_str()]), "conv4_2"),
        (place.deviceless().arg("weights"), "vgg16-narrow.safetensors"),
        (place.deviceless().arg("weights").env("MIRAGE_WEIGHTS", &weights), "conv4_2"),
    ] {
        command
            .assert()
            .success()
            .stdout(predicate::str::contains(words).and(predicate::str::contains("SHA-256")))
            .stdout(predicate::str::contains("preprocessing").and(predicate::str::contains("relu1_1")));
    }
}

#[test]
fn failed_download_names_the_address() {
    let place = Place::new();
    // Nothing listens on port 9 (discard).
    let mut command = place.deviceless();
    command
        .args(["weights", "--fetch", "vgg19", "--dir", "here"])
        .env("MIRAGE_FETCH_BASE", "http://127.0.0.1:9");
    command.assert().code(1).stderr(predicate::str::contains("http://127.0.0.1:9/"));
    place
        .deviceless()
        .args(["weights", "--fetch", "vgg99"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("vgg19"));
}

#[test]
fn closed_stdout_ends_the_program_quietly() {
    let place = Place::new();
    let mut child = place.spawn(place.deviceless().arg("weights"));
    drop(child.stdout.take());
    assert_eq!(code(&mut child), Some(0));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(errors, "");
}

#[test]
fn classify_uses_labels_if_given() {
    let place = Place::new();
    let photo = place.photo("a photo.png", 64, 48);
    let weights = place.network();
    let mut command = place.mirage();
    command
        .arg("classify")
        .args([&photo, &photo])
        .arg("--weights")
        .arg(&weights)
        .args(["--top", "3", "--size", "64"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("a photo.png\n").count(), 2);
    assert!(text.contains("0.000 from ") && text.contains("a photo.png (0: the same classes"), "{text}");
    assert_eq!(text.matches("%  class ").count(), 6, "{text}");

    let labels = place.file("labels.txt", b"ant\nbee\ncat\ndog\neel\nfox\ngnu\nhen\nibis\n");
    let output = command.arg("--labels").arg(&labels).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("class ") && text.matches('%').count() == 6, "{text}");
}
