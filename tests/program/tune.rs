//! `mirage tune` and runs that use its results.

use crate::support::Place;
use predicates::prelude::*;
use std::path::Path;

/// Returns the output of a verbose run.
fn verbose_output(place: &Place, photo: &Path, words: &[&str]) -> String {
    let mut run = place.render_for(photo, "1");
    let output = run.args(["--adapter", "0", "--top", "0", "-v"]).args(words).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{printed}");
    printed
}

/// Returns the line with the kernel counts.
fn kernels(printed: &str) -> &str {
    printed.lines().find(|line| line.starts_with("kernels: ")).unwrap_or_else(|| panic!("{printed}"))
}

/// Modifies the entries of the cache.
fn change(path: &Path, change: impl Fn(&mut serde_json::Value)) {
    let mut cache = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    change(&mut cache);
    std::fs::write(path, cache.to_string()).unwrap();
}

#[test]
fn tuned_choices_are_used_until_outdated() {
    let place = Place::new();
    let photo = place.photo("photo.png", 48, 32);
    let cache = place.path("caches/tuning.json");
    let mut tune = place.mirage();
    tune.args([
        "tune",
        "--adapter",
        "0",
        "--size",
        "48",
        "--tuning-cache",
        "caches/tuning.json",
        "--weights",
    ]);
    tune.arg(place.network());
    tune.assert().success().stdout(predicate::str::contains("conv ").and(predicate::str::contains("naive ")));

    // Selects the naive kernel everywhere, whichever was the fastest.
    change(&cache, |cache| {
        for entry in cache["entries"].as_array_mut().unwrap() {
            entry["variant"] = "naive".into();
        }
    });
    let with = ["--tuning-cache", "caches/tuning.json"];
    let without = verbose_output(&place, &photo, &["--no-tuning-cache"]);
    // Software drivers and GPUs prefer different families.
    let families = |printed: &str| ["texture", "buffer"].map(|family| kernels(printed).contains(family));
    let family = if families(&without)[0] { "texture" } else { "buffer" };
    assert!(families(&without).contains(&true), "{without}");
    let naive = verbose_output(&place, &photo, &[with[0], with[1], "--overwrite"]);
    assert!(families(&naive) == [false; 2] && !naive.contains("note: "), "{naive}");
    // A forced family overrides the cache.
    let forced = verbose_output(&place, &photo, &[with[0], with[1], "--overwrite", "--kernels", family]);
    assert_eq!(kernels(&forced), kernels(&without));

    change(&cache, |cache| {
        for entry in cache["entries"].as_array_mut().unwrap() {
            entry["content"] = "of other shaders".into();
        }
    });
    let outdated = verbose_output(&place, &photo, &[with[0], with[1], "--overwrite"]);
    assert!(outdated.contains("measured with other kernels"), "{outdated}");
    assert_eq!(kernels(&outdated), kernels(&without));

    change(&cache, |cache| {
        for entry in cache["entries"].as_array_mut().unwrap() {
            entry["adapter"]["driver"] = "another".into();
        }
    });
    let foreign = verbose_output(&place, &photo, &[with[0], with[1], "--overwrite"]);
    assert!(foreign.contains("another device or driver"), "{foreign}");
    assert_eq!(kernels(&foreign), kernels(&without));

    std::fs::write(&cache, "{\"format\": 1, \"ent").unwrap();
    let damaged = verbose_output(&place, &photo, &[with[0], with[1], "--overwrite"]);
    assert!(damaged.contains("is damaged"), "{damaged}");
    assert_eq!(kernels(&damaged), kernels(&without));
}

#[test]
fn missing_tuning_cache_is_noted() {
    let place = Place::new();
    let photo = place.photo("photo.png", 48, 32);
    let printed = verbose_output(&place, &photo, &["--tuning-cache", "none.json"]);
    assert!(printed.contains("note: there is no tuning cache none.json"), "{printed}");
}

#[test]
fn tuning_without_a_device_writes_nothing() {
    let place = Place::new();
    let mut tune = place.deviceless();
    tune.args(["tune", "--adapter", "0", "--tuning-cache", "caches/tuning.json", "--weights"]);
    tune.arg(place.network()).assert().code(2);
    // The CPU has only one kernel per op.
    let mut tune = place.deviceless();
    tune.args(["tune", "--tuning-cache", "caches/tuning.json", "--weights"]).arg(place.network());
    tune.assert().success().stdout(predicate::str::contains("nothing to tune"));
    assert_eq!(place.entries(), ["net.safetensors"]);
}
