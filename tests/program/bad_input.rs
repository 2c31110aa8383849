//! User errors: exit code 2, a message with cause and remedy, and no files left behind.

use crate::support::{Place, jpeg, network};
use assert_cmd::Command;
use std::path::Path;

/// Runs a command that must fail before any device is opened, and checks for words in its message.
#[track_caller]
fn refuses(command: &mut Command, words: &[&str]) {
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(!message.contains("panicked") && !message.contains("mesa"), "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn unusable_photos_are_refused() {
    let place = Place::new();
    let photo = |name: &str, content: &[u8]| place.file(name, content);
    let whole = jpeg(64, 64);
    std::fs::create_dir(place.path("folder")).unwrap();
    for (path, words) in [
        (place.path("missing.png"), &["missing.png", "no"][..]),
        (place.path("folder"), &["folder"]),
        (photo("empty.png", b""), &["empty.png", "empty"]),
        (photo("text.png", b"Dear diary, today I took no photo at all."), &["text.png", "PNG"]),
        (photo("cut.jpg", &whole[..whole.len() / 2]), &["cut.jpg", "cut"]),
        (place.photo("dot.png", 1, 1), &["dot.png", "1x1", "at least 16"]),
        (place.photo("line.png", 64, 1), &["line.png", "64x1"]),
    ] {
        refuses(&mut place.deviceless_render(&path), words);
        refuses(place.deviceless().arg("classify").arg(&path), words);
    }
    assert!(!place.path("out.png").exists());
}

#[test]
fn unusable_style_images_and_inits_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    refuses(place.deviceless_render(&photo).args(["--style-image", "no.png"]), &["no.png"]);
    refuses(place.deviceless_render(&photo).args(["--init", "nois"]), &["nois"]);
    refuses(
        place.deviceless_render(&photo).args(["--style-image", "photo.png", "--style-blend", "1,2"]),
        &["--style-blend", "2 numbers", "1 style"],
    );
    refuses(
        place.deviceless_render(&photo).args(["--style-image", "photo.png", "--style-blend=0"]),
        &["blend", "above 0"],
    );
}

#[test]
fn picture_too_small_for_deepest_layer_is_refused() {
    let place = Place::new();
    let photo = place.photo("strip.png", 320, 16);
    refuses(&mut place.deviceless_render(&photo), &["too small", "--size"]);
}

#[test]
fn unusable_layers_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    for option in ["--spatial", "--abstract", "--style"] {
        refuses(place.deviceless_render(&photo).args([option, "relu9_9"]), &["relu9_9", "relu4_2", "fc8"]);
        refuses(place.deviceless_render(&photo).args([option, "relu1_1:x"]), &["relu1_1:x", "LAYER:NUMBER"]);
        refuses(place.deviceless_render(&photo).args([option, "relu1_1:-1"]), &["relu1_1:-1"]);
    }
    // A misspelt layer is refused even if its factor has no weight.
    refuses(
        place.deviceless_render(&photo).args(["--style", "rellu1_1", "--style-weight", "0"]),
        &["rellu1_1", "relu1_1"],
    );
    let headless = place.file("headless.safetensors", &network(&[]).bytes());
    let headless = headless.to_str().unwrap();
    let render = |words: &[&str]| {
        let mut command = place.deviceless();
        command.arg("render").arg(&photo).args(["-o", "out.png", "--weights", headless]).args(words);
        command
    };
    refuses(&mut render(&["--abstract", "fc8"]), &["fully connected", "--abstract none"]);
    refuses(
        place.deviceless().arg("classify").arg(&photo).args(["--weights", headless]),
        &["fully connected"],
    );
}

#[test]
fn unusable_networks_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let good = network(&[8, 7, 9]);
    let broken = |name: &str, change: &dyn Fn(&mut crate::common::synthetic::FileBuilder)| {
        let mut file = good.clone();
        change(&mut file);
        place.file(name, &file.bytes())
    };
    let whole = good.bytes();
    for (path, words) in [
        (place.path("none.safetensors"), &["none.safetensors"][..]),
        (
            broken("gap.safetensors", &|file| _ = file.remove("conv4_1.weight")),
            &["gap.safetensors", "conv4_1"],
        ),
        (
            broken("shape.safetensors", &|file| _ = file.reshape("conv1_1.weight", &[3, 4, 3, 3])),
            &["shape.safetensors", "conv1_1.weight"],
        ),
        (
            broken("nan.safetensors", &|file| {
                let tensor = file.tensors.get_mut("conv3_1.weight").unwrap();
                tensor.bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
            &["nan.safetensors", "conv3_1.weight", "NaN"],
        ),
        (place.file("cut.safetensors", &whole[..whole.len() - 100]), &["cut.safetensors"]),
        (place.file("head.safetensors", &whole[..20]), &["head.safetensors"]),
        (place.file("photo.safetensors", &jpeg(64, 64)), &["photo.safetensors"]),
    ] {
        let render = |command: &mut Command| {
            command.arg("render").arg(&photo).args(["-o", "out.png", "--weights"]).arg(&path);
        };
        let mut command = place.deviceless();
        render(&mut command);
        refuses(&mut command, words);
        let output = place.deviceless().arg("weights").arg(&path).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn unusable_outputs_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    std::fs::create_dir(place.path("folder")).unwrap();
    place.file("taken.png", b"precious");
    place.file("out-0002.png", b"precious");
    for (words, expected) in [
        (&["-o", "no/such/folder/out.png"][..], &["no/such/folder", "doesn't exist"][..]),
        (&["-o", "folder"], &["folder"]),
        (&["-o", "out"], &["extension"]),
        (&["-o", "out.gif"], &[".gif", ".png"]),
        (&["-o", "out.jpg", "--bit-depth", "16"], &["16 bits", ".png"]),
        (&["-o", "taken.png"], &["taken.png", "exists", "--overwrite"]),
        (&["-o", "photo.png", "--overwrite"], &["photo.png", "which the run reads"]),
        (&["-o", "./folder/../photo.png", "--overwrite"], &["which the run reads"]),
        (&["-o", "out.png", "--save-every", "1"], &["out-0002.png", "exists", "--overwrite"]),
        (&["-o", "out.png", "--log", "no/run.jsonl"], &["no/run.jsonl", "--log"]),
        (&["-o", "out.png", "--log", "folder"], &["folder"]),
        (&["-o", "out.png", "--log", "taken.png"], &["taken.png", "--overwrite"]),
        (&["-o", "out.png", "--log", "out.png", "--overwrite"], &["out.png", "--log"]),
        (&["-o", "out.png", "--log", "photo.png", "--overwrite"], &["photo.png", "--log"]),
    ] {
        // The weights are checked last, so these errors must be reported before the missing file.
        let mut command = place.deviceless();
        command
            .arg("render")
            .arg(&photo)
            .args(["--iterations", "3", "--weights", "none.safetensors"])
            .args(words);
        refuses(&mut command, expected);
    }
    if Path::new("/proc/version").exists() {
        refuses(
            place.deviceless().arg("render").arg(&photo).args(["-o", "/proc/out.png"]),
            &["/proc/out.png"],
        );
    }
    assert_eq!(std::fs::read(place.path("taken.png")).unwrap(), b"precious");
    assert_eq!(
        place.entries(),
        ["folder", "out-0002.png", "photo.png", "taken.png"],
        "files were left behind"
    );
}

#[test]
fn unusable_numbers_are_refused() {
    let place = Place::new();
    // These are detected before the photo is opened.
    let photo = place.path("missing.png");
    for (words, expected) in [
        (&["--spatial-weight", "-1"][..], &["--spatial-weight", "-1", ">= 0"][..]),
        (&["--abstract-weight", "nan"], &["--abstract-weight", "NaN"]),
        (&["--style-weight", "inf"], &["--style-weight"]),
        (&["--tv-weight", "-0.5"], &["--tv-weight", "-0.5"]),
        (&["--style-weight", "much"], &["--style-weight", "much"]),
        (
            &["--spatial-weight=0", "--abstract-weight=0", "--style-weight=0"],
            &["nothing would steer the picture", "above 0"],
        ),
        (&["--spatial", "none", "--abstract", "none", "--style", "none"], &["no factor has both layers"]),
        (&["--balance", "spatial=0,abstract=0,style=0"], &["--balance", "above 0"]),
        (&["--balance", "spatial=-1"], &["spatial=-1"]),
        (&["--balance", "colour=1"], &["colour", "abstract"]),
        (&["--balance", "style=1", "--style-weight", "2"], &["--balance", "--style-weight"]),
        (&["--learning-rate", "0"], &["--learning-rate", "0.02"]),
        (&["--learning-rate", "-1"], &["--learning-rate", "-1"]),
        (&["--grain", "-1"], &["--grain", "-1"]),
        (&["--grain", "nan"], &["--grain"]),
        (&["--grain", "inf"], &["--grain"]),
        (&["--grain", "1e30"], &["--grain", "1000"]),
        (&["--average-decay", "1"], &["--average-decay", "0.9"]),
        (&["--average-decay", "0.9999999"], &["--average-decay", "0.99999"]),
        (&["--beta1", "1"], &["--beta1"]),
        (&["--beta2", "-0.1"], &["--beta2"]),
        (&["--epsilon", "0"], &["--epsilon"]),
        (&["--iterations", "0"], &["--iterations"]),
        (&["--size", "0"], &["--size"]),
        (&["--size", "100000"], &["--size", "32768"]),
        (&["--bit-depth", "12"], &["--bit-depth", "16"]),
        (&["--pooling", "mean"], &["--pooling", "avg"]),
        (
            &["--style-statistic", "feature"],
            &["feature", "--style-statistic", "gram", "mean-covariance", "mean-variance", "wasserstein"],
        ),
        (&["--style-statistic", "total-variation"], &["total-variation", "wasserstein"]),
        (&["--kernels", "fast"], &["--kernels", "texture"]),
        (&["--preprocessing", "keras"], &["keras", "caffe", "torchvision"]),
        (&["--save-at", "1,x"], &["--save-at"]),
        (&["--seed", "-1"], &["--seed"]),
        (&["--quiet", "--verbose"], &["--quiet"]),
        (&["--sise", "100"], &["--sise", "--size"]),
    ] {
        refuses(place.deviceless().arg("render").arg(&photo).args(words), expected);
    }
}

#[test]
fn unusable_labels_are_refused() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.file("two.txt", b"cat\ndog\n");
    for (labels, words) in [("none.txt", &["none.txt"][..]), ("two.txt", &["2 labels", "9 classes"])] {
        refuses(place.deviceless_render(&photo).args(["--labels", labels]), words);
        let mut command = place.deviceless();
        command.arg("classify").arg(&photo).arg("--weights").arg(place.network()).args(["--labels", labels]);
        refuses(&mut command, words);
    }
}

/// A folder with the name of a network, for example for its pictures, does not hide the network.
#[test]
fn folder_does_not_hide_network_of_same_name() {
    let place = Place::new();
    std::fs::create_dir(place.path("vgg19")).unwrap();
    let mut command = place.deviceless();
    command
        .args(["weights", "vgg19"])
        .env("XDG_DATA_HOME", place.path("data"))
        .env("HOME", place.path("home"));
    command.assert().code(2).stderr(predicates::str::contains("vgg19 has not been downloaded"));
    // An empty variable counts as unset.
    let mut command = place.deviceless();
    command.args(["classify", "none.png"]).env("MIRAGE_WEIGHTS", "");
    command.assert().code(2).stderr(predicates::str::contains("none.png"));
}
