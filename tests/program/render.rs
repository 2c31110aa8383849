//! `mirage render`: runs that succeed, or fail with a saved picture.

use crate::support::{Place, events, jpeg, log, network, scene};
use image::{DynamicImage, GenericImageView as _};
use neural_mirage::image_io;
use serde_json::Value;
use std::path::Path;

#[test]
fn run_writes_picture_snapshots_and_log() {
    let place = Place::new();
    let photo = place.photo("photo.png", 96, 64);
    let output = place
        .render_for(&photo, "12")
        .args(["--print-every", "5", "--save-every", "6", "--save-at", "1,2,99"])
        .args(["--log", "run.jsonl", "--seed", "7", "--top", "3", "-v"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert!(output.stdout.is_empty());
    assert!(printed.contains("time to first iteration") && printed.contains("kernels: "), "{printed}");
    let layer = printed.lines().find(|line| line.starts_with("  relu4_2 "));
    let families = ["cpu", "texture", "buffer"];
    let known = |line: &str| line.ends_with('%') && families.iter().any(|family| line.contains(family));
    assert!(layer.is_some_and(known), "{printed}");
    assert!(printed.contains("no snapshot after iteration 99"), "{printed}");
    assert!(printed.contains("Weights for the shares after iteration 0: --spatial-weight "), "{printed}");
    assert!(printed.contains("12/12  loss ") && printed.contains("% of gradient)"), "{printed}");
    assert!(!printed.contains('\u{1b}'), "a progress bar without a terminal: {printed}");

    let log = log(&place.path("run.jsonl"));
    let start = &log[0];
    assert_eq!(start["event"], "start");
    assert_eq!(start["size"]["width"], 48);
    assert_eq!(start["size"]["height"], 32);
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["network"]["sha256"].as_str().unwrap().len(), 64);
    assert!(!start["device"].as_str().unwrap().is_empty());
    assert_eq!(start["options"]["balance"], "spatial=15,abstract=15,style=70");
    assert_eq!(start["options"]["learning_rate"], 0.02);
    assert_eq!(start["options"]["grain"], 1.0);
    assert_eq!(start["photo_classes"].as_array().unwrap().len(), 3);
    let balances = events(&log, "balance");
    assert_eq!(balances[0]["iteration"], 0);
    assert_eq!(balances[0]["weights"].as_array().unwrap().len(), 3);

    let iterations = events(&log, "iteration");
    let numbers: Vec<u64> = iterations.iter().map(|line| line["iteration"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 5, 10, 12]);
    for line in iterations {
        let terms = line["terms"].as_array().unwrap();
        let layers: Vec<&str> = terms.iter().map(|term| term["layer"].as_str().unwrap()).collect();
        assert_eq!(layers, ["relu4_2", "fc8", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "picture"]);
        let sum: f64 = terms.iter().map(|term| term["loss"].as_f64().unwrap()).sum();
        let total = line["total"].as_f64().unwrap();
        assert!((sum - total).abs() <= 1e-6 * total.abs(), "{line}");
        let shares: f64 =
            line["shares"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-3, "{line}");
        let of_loss = line["loss_shares"].as_object().unwrap();
        let sum: f64 = of_loss.values().map(|share| share.as_f64().unwrap()).sum();
        assert!(of_loss.len() == 4 && (sum - 1.0).abs() < 1e-6, "{line}");
        let distance = line["class_distance"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&distance), "{line}");
        assert!(line["seconds"].as_f64().unwrap() >= 0.0);
        for class in line["classes"].as_array().unwrap() {
            assert!(class["index"].is_u64() && class["label"].is_string() && class["probability"].is_f64());
        }
    }
    let snapshots: Vec<&str> =
        events(&log, "snapshot").iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(snapshots, ["out-0001.png", "out-0002.png", "out-0006.png", "out-0012.png"]);
    for line in events(&log, "snapshot") {
        assert!(line["classes"].as_array().unwrap().len() == 3 && line["class_distance"].is_f64(), "{line}");
    }
    for snapshot in snapshots {
        assert_eq!(image::open(place.path(snapshot)).unwrap().dimensions(), (48, 32));
    }
    let end = log.last().unwrap();
    assert_eq!(
        (&end["event"], &end["ending"], &end["iterations"]),
        (&"end".into(), &"finished".into(), &12.into())
    );

    assert_eq!(image::open(place.path("out.png")).unwrap().dimensions(), (48, 32));
    let record = image_io::read_metadata(&place.path("out.png")).unwrap();
    let text = |key: &str| &record.iter().find(|(k, _)| k == key).unwrap_or_else(|| panic!("{key}")).1;
    assert_eq!(text("neural-mirage:seed"), "7");
    assert_eq!(text("neural-mirage:iterations"), "12");
    assert_eq!(text("neural-mirage:adapter"), start["device"].as_str().unwrap());
    assert_eq!(text("neural-mirage:network-sha256"), start["network"]["sha256"].as_str().unwrap());
    assert_eq!(serde_json::from_str::<Value>(text("neural-mirage:options")).unwrap(), start["options"]);
    let record = image_io::read_metadata(&place.path("out-0006.png")).unwrap();
    assert!(record.contains(&("neural-mirage:iterations".into(), "6".into())));
}

#[test]
fn default_output_is_named_after_the_photo() {
    let place = Place::new();
    place.photo("my holiday.jpg", 64, 48);
    let mut command = place.mirage();
    command.args(["render", "my holiday.jpg", "--iterations", "1", "--size", "48", "--quiet"]);
    command.env("MIRAGE_WEIGHTS", place.network());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.entries(), ["my holiday-mirage.png", "my holiday.jpg", "net.safetensors"]);
    // A second run would replace it.
    command.assert().code(2);
    command.arg("--overwrite").assert().success();
}

#[test]
fn log_can_go_to_stdout() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let output = place.render(&photo).args(["--log", "-", "--quiet"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines.last().unwrap()["event"]), (&"start".into(), &"end".into()));
}

#[test]
fn names_with_spaces_and_other_scripts_work() {
    let place = Place::new();
    std::fs::create_dir(place.path("Möwe über Ω")).unwrap();
    let photo = place.photo("Möwe über Ω/фото 写真.png", 64, 48);
    let output = place.path("Möwe über Ω/картина 絵.tiff");
    let mut command = place.mirage();
    command.arg("render").arg(&photo).arg("-o").arg(&output).arg("--weights").arg(place.network());
    command.args(["--size", "48", "--iterations", "2", "--save-at", "1", "--log", "журнал.jsonl"]);
    command.assert().success();
    assert!(output.is_file() && place.path("Möwe über Ω/картина 絵-0001.tiff").is_file());
    assert_eq!(log(&place.path("журнал.jsonl")).last().unwrap()["output"], output.to_str().unwrap());
}

#[test]
fn rotated_transparent_and_16_bit_photos_are_read() {
    let place = Place::new();
    // Orientation 6 in an EXIF segment after the start marker.
    let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let plain = jpeg(96, 64);
    let turned = place.file("turned.jpg", &[&plain[..2], exif, &plain[2..]].concat());
    let clear = place.path("clear.png");
    let mut picture = DynamicImage::ImageRgb8(scene(96, 64)).to_rgba8();
    picture.pixels_mut().for_each(|pixel| pixel.0[3] = 100);
    picture.save(&clear).unwrap();
    let deep = place.path("deep.png");
    DynamicImage::ImageRgb8(scene(96, 64)).to_rgb16().save(&deep).unwrap();
    let gray = place.path("gray.bmp");
    DynamicImage::ImageRgb8(scene(96, 64)).to_luma8().save(&gray).unwrap();
    for (photo, size, note) in [
        (turned, (32, 48), "orientation"),
        (clear, (48, 32), "alpha"),
        (deep, (48, 32), ""),
        (gray, (48, 32), ""),
    ] {
        let output = place.render(&photo).arg("--overwrite").output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains(note), "{printed}");
        assert_eq!(image::open(place.path("out.png")).unwrap().dimensions(), size, "{}", photo.display());
    }
    let output = place.path("out16.png");
    let mut command = place.mirage();
    command.args(["render", "deep.png", "-o", "out16.png", "--bit-depth", "16", "--size", "48"]);
    command.args(["--iterations", "1", "--weights"]).arg(place.network()).assert().success();
    assert!(matches!(image::open(output).unwrap(), DynamicImage::ImageRgb16(_)));
}

#[test]
fn missing_default_layers_are_replaced_with_a_note() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let headless = place.file("headless.safetensors", &network(&[]).bytes());
    let shallow = crate::common::synthetic::Net::small().caffe().write(&place.path(""));
    for (weights, note, abstract_layers, spatial, balance, shares) in [
        (
            headless,
            "abstract factor is left out",
            "none",
            "relu4_2",
            "spatial=15,style=70",
            "spatial 18%, style 82%",
        ),
        (
            shallow,
            "--style relu1_1,relu2_1",
            "fc8",
            "relu1_2",
            "spatial=15,abstract=15,style=70",
            "spatial 15%, abstract 15%, style 70%",
        ),
    ] {
        let mut command = place.mirage();
        command.arg("render").arg(&photo).args(["-o", "out.png", "--overwrite", "--size", "48"]);
        command.args(["--iterations", "2", "--log", "run.jsonl", "--weights"]).arg(&weights);
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && printed.contains(note), "{printed}");
        assert!(printed.contains(&format!("Target shares of the gradient: {shares}\n")), "{printed}");
        let log = log(&place.path("run.jsonl"));
        let options = &log[0]["options"];
        assert_eq!((&options["abstract"], &options["spatial"]), (&abstract_layers.into(), &spatial.into()));
        // Shares are relative to the active groups.
        assert_eq!(events(&log, "balance")[0]["balance"], balance);
    }
}

#[test]
fn raw_weights_style_images_and_inits_work() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.photo("style.jpg", 80, 80);
    place.photo("start.webp", 40, 40);
    let output = place
        .render(&photo)
        .args(["--spatial-weight", "5", "--abstract", "none", "--style", "relu1_1:0.5,relu3_1"])
        .args(["--style-image", "style.jpg", "photo.png", "--style-blend", "1,3", "--tv-weight", "0.1"])
        .args(["--init", "start.webp", "--pooling", "avg", "--no-clamp", "--log", "run.jsonl"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("start.webp: resized from 40x40 to 40x30"), "{printed}");
    // A start of the photo's shape is not resized unless it is larger than the run.
    for (size, resized) in [((24, 18), false), ((48, 36), false), ((64, 48), true)] {
        place.photo("start.png", size.0, size.1);
        let output = place.render(&photo).args(["--init", "start.png", "--overwrite"]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        assert_eq!(printed.contains("start.png: resized from 64x48 to 48x36"), resized, "{printed}");
        assert_eq!(printed.contains("resized"), resized, "{printed}");
    }
    let log = log(&place.path("run.jsonl"));
    let options = &log[0]["options"];
    assert!(options["balance"].is_null() && events(&log, "balance").is_empty());
    assert_eq!((&options["spatial_weight"], &options["style_weight"]), (&5.0.into(), &1.0.into()));
    assert_eq!(options["style"], "relu1_1:0.5,relu3_1");
    assert_eq!(options["style_blend"], serde_json::json!([1.0, 3.0]));
    let last = *events(&log, "iteration").last().unwrap();
    let layers: Vec<&str> =
        last["terms"].as_array().unwrap().iter().map(|term| term["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["relu4_2", "relu1_1", "relu3_1", "picture"]);
}

/// Features of a single-colour picture are constant, so their covariance is only rounding.
#[test]
fn single_colour_pictures_work_as_photo_and_style() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    for (name, level) in [("black.png", 0), ("gray.png", 128), ("red.png", 200)] {
        let color = image::Rgb([level, level / 2 + 64 * u8::from(level == 128), level / 3]);
        image::RgbImage::from_pixel(64, 48, color).save(place.path(name)).unwrap();
    }
    let mut number = 0;
    let mut paint = |photo: &Path, adapter: &str, words: &[&str]| {
        number += 1;
        let mut run = place.render_to(photo, &format!("out{number}.png"), "3");
        run.args(["--adapter", adapter, "--quiet"]).args(words).assert().success().stderr("");
    };
    for adapter in ["cpu", "0"] {
        paint(&photo, adapter, &["--init", "gray"]);
        paint(&photo, adapter, &["--style-image", "gray.png"]);
        paint(&place.path("black.png"), adapter, &[]);
        paint(
            &place.path("red.png"),
            adapter,
            &["--init", "photo", "--style-image", "gray.png", "--scales", "2"],
        );
    }
}

#[test]
fn picture_depends_only_on_seed() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let paint = |seed: &str| {
        place.render(&photo).args(["--seed", seed, "--overwrite", "--quiet"]).assert().success();
        image::open(place.path("out.png")).unwrap().to_rgb8()
    };
    let first = paint("1");
    // Not assert_eq: it would print every pixel.
    assert!(first == paint("1"), "the same seed gives a different picture");
    assert!(first != paint("2"), "a different seed gives the same picture");
}

#[test]
fn diverging_run_saves_last_good_picture() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let output = place
        .render_for(&photo, "30")
        .args(["--learning-rate", "1e38", "--no-clamp", "--print-every", "1"])
        .args(["--log", "run.jsonl"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("--learning-rate") && printed.contains("is saved as out.png"), "{printed}");
    assert_eq!(printed.matches("going back to iteration 0, with 1/").count(), 5, "{printed}");
    assert_eq!(image::open(place.path("out.png")).unwrap().dimensions(), (48, 36));
    let log = log(&place.path("run.jsonl"));
    let last = log.last().unwrap();
    assert_eq!(
        (&last["event"], &last["exit_code"], &last["output"]),
        (&"error".into(), &1.into(), &"out.png".into())
    );
    assert!(last["message"].as_str().unwrap().contains("NaN or infinite"));
    let back = events(&log, "setback");
    assert_eq!((back.len(), &back[4]["halvings"], &back[4]["to"]), (5, &5.into(), &0.into()));
}

/// With two scales, grain is on by default, off with a style image, and changes the picture.
#[test]
fn grain_is_off_by_default_with_style_image() {
    let place = Place::new();
    let photo = place.photo("photo.png", 96, 64);
    let paint = |name: &str, options: &[&str]| {
        let log_file = format!("{name}.jsonl");
        let mut command = place.deviceless();
        command.arg("render").arg(&photo).arg("--weights").arg(place.network()).args(["--adapter", "cpu"]);
        command.args([
            "--size",
            "96",
            "--scales",
            "2",
            "--iterations",
            "2,1",
            "-o",
            name,
            "--log",
            &log_file,
        ]);
        command.args(options).assert().success();
        let grain = log(&place.path(&log_file))[0]["options"]["grain"].clone();
        (grain, image::open(place.path(name)).unwrap().into_rgb8())
    };
    let (grain, default) = paint("default.png", &[]);
    assert_eq!(grain, 1.0);
    assert_eq!(paint("one.png", &["--grain", "1"]), (grain, default.clone()));
    let (grain, plain) = paint("plain.png", &["--grain", "0"]);
    assert!(grain == 0.0 && plain != default);
    let style = photo.to_str().unwrap();
    assert_eq!(paint("styled.png", &["--style-image", style]).0, 0.0);
    assert_eq!(paint("grainy.png", &["--style-image", style, "--grain", "0.5"]).0, 0.5);
}

/// Layouts are compared pixel by pixel, so an image of a different shape is fitted to the photo.
#[test]
fn spatial_image_is_fitted_to_the_photo() {
    let place = Place::new();
    let photo = place.photo("photo.png", 96, 72);
    for (name, width, height) in [("near.png", 96, 69), ("upright.png", 40, 95)] {
        place.photo(name, width, height);
        let mut command = place.render_to(&photo, &format!("of-{name}"), "2");
        let log = format!("{name}.jsonl");
        command.args(["--scales", "1", "--spatial-image", name, "--log", &log]);
        command.assert().success();
        let log = std::fs::read_to_string(place.path(&log)).unwrap();
        assert!(log.contains("the photo's shape"), "{log}");
        let [found, whole] = [format!("of-{name}"), "photo.png".to_owned()]
            .map(|name| image::open(place.path(&name)).unwrap());
        assert_eq!(found.width() * whole.height(), found.height() * whole.width());
    }
}
