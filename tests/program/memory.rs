//! Memory estimates: `mirage plan`, `--memory`, `--size auto`, and whether runs match their estimates.

#[cfg(target_os = "linux")]
use crate::common::process::{memory, wait_for};
use crate::common::synthetic::Net;
#[cfg(target_os = "linux")]
use crate::interrupt;
use crate::support::Place;
use serde_json::Value;
#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;

/// Path of the default network, whose convolutions have the usual widths.
fn network() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-narrow.safetensors"))
}

/// Runs `mirage COMMAND photo.png` on the CPU device with these options.
fn run(place: &Place, command: &str, options: &[&str]) -> Output {
    let mut mirage = place.deviceless();
    mirage.args([command, "photo.png", "--weights"]).arg(place.network());
    mirage.args(["--adapter", "cpu"]).args(options).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn plan(place: &Place, options: &[&str]) -> Value {
    serde_json::from_str(&stdout(&run(place, "plan", &[options, &["--json"]].concat()))).unwrap()
}

#[test]
fn plan_reports_memory_and_time() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    let options = ["--size", "96", "--scales", "2", "--iterations", "4,3"];
    let found = plan(&place, &options);
    assert_eq!((found["width"].as_u64(), found["height"].as_u64()), (Some(96), Some(64)));
    assert_eq!(found["iterations"], 7);
    let scales = found["scales"].as_array().unwrap();
    assert_eq!(scales.len(), 2);
    for scale in scales {
        let mut keys: Vec<&String> = scale.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["computed_pixels", "height", "iterations", "preparing_pixels", "width"]);
        // With tiles, overlapping pixels count each time.
        let pixels = scale["width"].as_u64().unwrap() * scale["height"].as_u64().unwrap();
        assert!(scale["computed_pixels"].as_u64().unwrap() >= pixels, "{scale}");
        assert!(scale["preparing_pixels"].as_u64().unwrap() > 0, "{scale}");
    }
    assert!(
        found["seconds"].as_f64().unwrap() > 0.0 && found["fits"] == true && found["shared_memory"] == true
    );
    let bytes =
        |phase: &Value| phase["device_bytes"].as_u64().unwrap() + phase["host_bytes"].as_u64().unwrap();
    let largest = found["phases"].as_array().unwrap().iter().map(bytes).max().unwrap();
    assert_eq!(found["peak_bytes"].as_u64(), Some(largest));
    let text = stdout(&run(&place, "plan", &options));
    for words in ["68x45", "96x64", "activations and gradients", "Peak: ", "Time: about", "7 iterations"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // No picture is written, and no output path is checked.
    assert_eq!(place.entries().iter().filter(|name| name.contains("mirage")).count(), 0);
}

/// The weights of a wide layer are held a second time while those of the last direction are packed.
#[test]
fn plan_counts_reading_weights_of_wide_layers() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let net = Net::new(&[&[4], &[4], &[5], &[6], &[600, 600]], 2, &[], false);
    let weights = net.caffe().write(&place.path(""));
    let mut command = place.deviceless();
    command.args(["plan", "photo.png", "--adapter", "cpu", "--json", "--weights"]).arg(weights);
    command.args("--size 64 --scales 1 --spatial relu5_2 --style relu1_1 --abstract none --top 0".split(' '));
    let found: Value = serde_json::from_str(&stdout(&command.output().unwrap())).unwrap();
    let preparing = found["phases"].as_array().unwrap().iter().find(|phase| phase["phase"] == "preparing");
    let of = |class: &str| preparing.unwrap()["device"][class].as_u64().unwrap();
    let wide = 600 * 600 * 9 * 4;
    assert!(of("staging") >= wide && of("weights") >= 2 * wide, "{found}");
}

#[test]
fn run_prints_its_memory_needs_first() {
    let place = Place::new();
    place.photo("photo.png", 64, 48);
    let options = ["--size", "64", "--iterations", "2", "-o", "out.png"];
    let said = stderr(&run(&place, "render", &options));
    let line = said.lines().find(|line| line.starts_with("Needs up to ")).expect(&said);
    assert!(line.contains("weights ") && line.contains(", about "), "{line}");
    assert!(said.find("Needs up to") < said.find("Painting"), "{said}");
}

#[test]
fn insufficient_memory_suggests_fitting_size() {
    let place = Place::new();
    place.photo("photo.png", 320, 240);
    let needed =
        |size: &str| plan(&place, &["--size", size, "--scales", "1"])["peak_bytes"].as_u64().unwrap();
    let limit = format!("{}b", needed("160"));
    let options = ["--scales", "1", "--iterations", "1", "--memory", &limit, "-o", "out.png"];
    let refused = run(&place, "render", &[&options[..], &["--size", "320"]].concat());
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    for words in ["320x240", "--memory", "--size 160"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!place.path("out.png").exists());
    let found = plan(&place, &["--scales", "1", "--memory", &limit, "--size", "320"]);
    assert_eq!((&found["fits"], found["width"].as_u64()), (&Value::Bool(false), Some(320)));
    // The same limit with an automatic size.
    stdout(&run(&place, "render", &[&options[..], &["--size", "auto"]].concat()));
    assert_eq!(image::image_dimensions(place.path("out.png")).unwrap(), (160, 120));
    let shown = stdout(&place.mirage().args(["show", "out.png"]).output().unwrap());
    assert!(shown.contains("160") && !shown.contains("auto x"), "{shown}");
    // Photos are not enlarged.
    assert_eq!(plan(&place, &["--size", "auto", "--memory", "1TiB"])["width"], 320);
    let nothing = run(&place, "render", &["--size", "auto", "--memory", "1MB", "-o", "no.png"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", stderr(&nothing));
    assert!(stderr(&nothing).contains("this run needs") && stderr(&nothing).contains("--memory allows"));
}

#[test]
fn half_activations_are_suggested_where_they_fit() {
    let place = Place::new();
    place.photo("photo.png", 320, 240);
    let options = ["--size", "320", "--scales", "1", "--iterations", "1"];
    let peak = |more: &[&str]| plan(&place, &[&options[..], more].concat())["peak_bytes"].as_u64().unwrap();
    let (single, half) = (peak(&[]), peak(&["--half-activations"]));
    assert!(half < single, "{half} instead of {single} bytes");
    for (limit, fits) in [(u64::midpoint(half, single), true), (half - (1 << 20), false)] {
        let limit = format!("{}KB", limit / 1000);
        let limited = [&options[..], &["--memory", &limit, "-o", "out.png", "--overwrite"]].concat();
        let refused = run(&place, "render", &limited);
        assert_eq!(refused.status.code(), Some(2));
        let said = stderr(&refused);
        assert_eq!(said.contains(". Raise --memory, add --half-activations, or cut"), fits, "{said}");
        assert!(said.contains("--tile auto"), "{said}");
        let halved = run(&place, "render", &[&limited[..], &["--half-activations"]].concat());
        assert_eq!(halved.status.success(), fits, "{}", stderr(&halved));
        assert!(fits || !stderr(&halved).contains("--half-activations"), "{}", stderr(&halved));
    }
}

#[test]
fn auto_tiles_depend_on_memory_limit() {
    let place = Place::new();
    place.photo("photo.png", 400, 300);
    let options = ["--size", "400", "--scales", "1", "--iterations", "1", "--top", "0"];
    let needed = |tile: &str| {
        plan(&place, &[&options[..], &["--tile", tile]].concat())["peak_bytes"].as_u64().unwrap()
    };
    let (whole, tiled) = (needed("none"), needed("128"));
    assert!(tiled < whole, "{tiled} {whole}");
    let paint = |output: &str, tile: &str, memory: u64| {
        let memory = format!("{memory}b");
        let more = ["--tile", tile, "--memory", &memory, "-o", output];
        let painted = run(&place, "render", &[&options[..], &more].concat());
        stdout(&painted);
        let shown = stdout(&place.mirage().args(["show", output, "--json"]).output().unwrap());
        let record: Value = serde_json::from_str(&shown).unwrap();
        let rgb = image::open(place.path(output)).unwrap().into_rgb8().into_raw();
        (stderr(&painted), record["options"]["tile"].clone(), rgb)
    };
    // The chosen tile size is recorded, so that a resumed run computes the same.
    let (said, tile, chosen) = paint("chosen.png", "auto", tiled);
    assert_eq!(tile, "128", "{said}");
    assert!(said.contains("into tiles of 128 pixels"), "{said}");
    assert!(paint("stated.png", "128", whole).2 == chosen);
    let (said, tile, _) = paint("roomy.png", "auto", whole);
    assert!(tile == "none" && !said.contains("into tiles of"), "{tile}: {said}");
    // Down to the tiles that need the least; below that, tiles are not suggested.
    let sides = ["128", "64", "32", "16"];
    let (least, side) = sides.map(|side| (needed(side), side)).into_iter().min().unwrap();
    assert!(least < tiled, "{least} {tiled}");
    let (said, tile, _) = paint("small.png", "auto", least);
    assert_eq!(tile, side, "{said}");
    let refused = |tile: &str| {
        let memory = format!("{}b", least - 1);
        let more = ["--tile", tile, "--memory", &memory, "-o", "no.png"];
        let refused = run(&place, "render", &[&options[..], &more].concat());
        assert_eq!(refused.status.code(), Some(2));
        stderr(&refused)
    };
    let said = refused("auto");
    assert!(said.contains(&format!("in tiles of {side} pixels")), "{said}");
    assert!(!refused("none").contains("--tile"), "{}", refused("none"));
}

#[test]
fn verification_is_counted() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    let verified = plan(&place, &["--size", "96", "--verify"]);
    let phases = verified["phases"].as_array().unwrap();
    assert_eq!(phases[0]["phase"], "verifying");
    let plain = plan(&place, &["--size", "96"]);
    assert!(plain["phases"].as_array().unwrap().iter().all(|phase| phase["phase"] != "verifying"));
    // The tests alone take more than 96 px.
    assert!(verified["peak_bytes"].as_u64() > plain["peak_bytes"].as_u64(), "{verified}");
}

#[test]
fn unused_driver_is_counted() {
    let place = Place::new();
    place.photo("photo.png", 96, 64);
    let peak = |adapter: &[&str]| {
        let mut mirage = place.mirage();
        mirage.args(["plan", "photo.png", "--json", "--weights"]).arg(place.network()).args(adapter);
        let plan: Value = serde_json::from_str(&stdout(&mirage.output().unwrap())).unwrap();
        (plan["peak_bytes"].as_u64().unwrap(), plan["device"].as_str().unwrap_or_default().contains("(CPU"))
    };
    let ((searched, is_cpu), (chosen, _)) = (peak(&[]), peak(&["--adapter", "cpu"]));
    // The test machines have lavapipe. With a GPU there is nothing to compare.
    assert!(!is_cpu || searched - chosen == 48 << 20, "{searched} {chosen}");
}

#[test]
fn films_pages_and_sweeps_are_counted() {
    let place = Place::new();
    place.photo("photo.png", 160, 120);
    let peak = |more: &[&str]| {
        let words = ["--size", "160", "--scales", "1", "--iterations", "4"];
        plan(&place, &[&words, more].concat())["peak_bytes"].as_u64().unwrap()
    };
    let pixels = 160 * 120;
    let plain = peak(&[]);
    // Read-backs in transit, and the memory of film and page.
    assert_eq!(peak(&["--film", "f.webp"]) - plain, (24 + 12) * pixels);
    assert_eq!(peak(&["--web", "0"]) - plain, (24 + 9) * pixels);
    // Enough memory for one picture, but not for the cells of a sweep.
    let limit = format!("{}b", plain + 39 * pixels);
    let words = ["--size", "160", "--iterations", "1", "--memory", &limit, "--quiet"];
    let sweep = |vary: &str| run(&place, "sweep", &[&words[..], &["--vary", vary, "-o", vary]].concat());
    let refused = sweep("seed=1,2,3,4,5,6");
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("160x120 pixels"), "{}", stderr(&refused));
    assert_eq!(std::fs::read_dir(place.path("seed=1,2,3,4,5,6")).unwrap().count(), 0);
    stdout(&sweep("seed=1"));
}

/// Returns the peak resident bytes of a process that succeeds, or is interrupted after its first iteration.
/// (`ru_maxrss` would include this process's memory at the time of the fork.)
#[cfg(target_os = "linux")]
fn resident(command: &assert_cmd::Command, place: &Place, interrupts: bool) -> u64 {
    let mut child = place.spawn(command);
    if interrupts {
        interrupt::wait_until_it_paints(place);
        interrupt::signal(&child, "-INT");
    }
    let (mut largest, mut ended) = (0, None);
    // Its output fits into the pipe buffers.
    wait_for("the program doesn't stop", || {
        largest = largest.max(memory(child.id(), "VmHWM").unwrap_or(0));
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(ended.unwrap().code(), Some(if interrupts { 130 } else { 0 }), "{said}");
    largest
}

/// Which run's memory is measured.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measured {
    Whole,
    Interrupted,
    /// `mirage resume` from the checkpoint after the third iteration.
    Resumed,
}

/// Returns how much more memory 256 px need than 128 px with the first layers: planned and measured.
#[cfg(target_os = "linux")]
fn stated_and_taken(weights: &Path, more: &[&str], measured: Measured) -> [f64; 2] {
    let place = Place::new();
    place.photo("photo.png", 256, 171);
    let options = |command: &str, size: &str| {
        let mut mirage = place.deviceless();
        mirage.args([command, "photo.png", "--adapter", "cpu", "--size", size, "--scales", "1", "--quiet"]);
        mirage.args(["--top", "0", "--abstract", "none", "--spatial", "relu2_1"]);
        mirage.args(["--style", "relu1_1", "--style-statistic", "gram"]);
        mirage.arg("--weights").arg(weights).args(more);
        mirage
    };
    let stated = |size: &str| {
        let text = stdout(&options("plan", size).arg("--json").output().unwrap());
        let plan: Value = serde_json::from_str(&text).unwrap();
        plan["peak_bytes"].as_u64().unwrap() as f64
    };
    let taken = |size: &str| {
        // Removes the log of the other size.
        let _ = std::fs::remove_file(place.path("run.jsonl"));
        let mut mirage = options("render", size);
        mirage.args(["-o", "out.png", "--overwrite", "--log", "run.jsonl"]);
        if measured == Measured::Resumed {
            stdout(&mirage.args(["--checkpoint-every", "3"]).output().unwrap());
            mirage = place.deviceless();
            mirage.args(["resume", "out-checkpoint.safetensors", "--overwrite", "--quiet"]).args(more);
        }
        resident(&mirage, &place, measured == Measured::Interrupted) as f64
    };
    [stated("256") - stated("128"), taken("256") - taken("128")]
}

/// The difference of 63 MiB excludes the program and memory retained by allocators. Equal runs differ by up to 2 MiB at
/// each size, that is by up to 6 %; three times that is allowed, because allocators differ. (In docs/memory.md whole
/// networks from 256 to 1024 px are within 3 %.) From the second iteration on all planned memory is in use.
#[cfg(target_os = "linux")]
#[test]
fn run_memory_matches_plan() {
    for more in [&[][..], &["--half-activations"]] {
        let options = [&["--iterations", "3"], more].concat();
        let [stated, taken] = stated_and_taken(&network(), &options, Measured::Whole);
        let ratio = stated / taken;
        assert!(
            (ratio - 1.0).abs() <= 0.18,
            "{more:?}: {stated} bytes more planned, {taken} used, {ratio:.3}"
        );
        println!("{more:?}: {stated} bytes more planned, {taken} used, {ratio:.3}");
    }
}

/// The state dominates: 100 pairs take about 110 MiB more on the device at 256 px than at 128, and each copy of them 80
/// MiB. So a small network suffices.
#[cfg(target_os = "linux")]
#[test]
fn checkpointing_memory_matches_plan() {
    let place = Place::new();
    let network = place.network();
    let lbfgs = |iterations| ["--optimizer", "lbfgs", "--history", "100", "--iterations", iterations];
    let saved = [&lbfgs("3")[..], &["--checkpoint-every", "2"]].concat();
    let each = [&lbfgs("5")[..], &["--checkpoint-every", "1"]].concat();
    let (endless, further) = (lbfgs("1000000"), lbfgs("4"));
    for (options, measured) in [
        (&saved[..], Measured::Whole),
        (&each[..], Measured::Whole),
        (&endless[..], Measured::Interrupted),
        (&further[..], Measured::Resumed),
    ] {
        let [stated, taken] = stated_and_taken(&network, options, measured);
        let ratio = stated / taken;
        assert!((ratio - 1.0).abs() <= 0.18, "{measured:?}: {stated} more planned, {taken} used, {ratio:.3}");
        println!("{measured:?}: {stated} bytes more planned, {taken} used, {ratio:.3}");
    }
}
