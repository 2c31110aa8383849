//! `--alpha`: keeping a photo's transparency or compositing it on a colour.

use crate::support::{Place, pixels};
use image::{Rgba, RgbaImage};
use predicates::prelude::*;
use predicates::str::contains as says;
use std::path::{Path, PathBuf};

/// A photo whose left half is transparent, with a soft edge.
fn cutout(place: &Place) -> PathBuf {
    let scene = crate::support::scene(64, 48);
    let path = place.path("cutout.png");
    RgbaImage::from_fn(64, 48, |x, y| {
        let [red, green, blue] = scene.get_pixel(x, y).0;
        Rgba([red, green, blue, (x.saturating_sub(24) * 16).min(255) as u8])
    })
    .save(&path)
    .unwrap();
    path
}

fn alpha(path: &Path) -> Vec<u8> {
    let image::DynamicImage::ImageRgba8(image) = image::open(path).unwrap() else { panic!("no alpha") };
    assert_eq!(image.dimensions(), (48, 36));
    image.pixels().map(|pixel| pixel[3]).collect()
}

#[test]
fn photo_transparency_is_kept() {
    let place = Place::new();
    let photo = cutout(&place);
    let mut run = place.render(&photo);
    run.args(["--alpha", "keep", "--checkpoint-every", "2", "--save-at", "1"]).assert().success();
    let kept = alpha(&place.path("out.png"));
    assert_eq!(kept, alpha(&place.path("out-0001.png")));
    for row in kept.chunks_exact(48) {
        // 64 pixels become 48: the edge is from 18 to 30.
        assert!(row[..15].iter().all(|a| *a == 0) && row[33..].iter().all(|a| *a == 255), "{row:?}");
        assert!(row[20..28].is_sorted() && row[24] > 60 && row[24] < 200, "{row:?}");
    }
    place.mirage().args(["show", "out.png"]).assert().success().stdout(says("alpha").and(says("keep")));
    std::fs::remove_file(place.path("out.png")).unwrap();
    place.mirage().args(["resume", "out-checkpoint.safetensors", "-q"]).assert().success();
    assert_eq!(kept, alpha(&place.path("out.png")));
    // Where the photo is opaque, the result equals that of a run on white.
    place.render_to(&photo, "white.png", "3").arg("-q").assert().success();
    let flat = |name: &str| neural_mirage::image_io::read(&place.path(name)).unwrap().picture.rgb;
    let (kept, white) = (flat("out.png"), flat("white.png"));
    for (at, (kept, white)) in kept.iter().zip(&white).enumerate().filter(|(at, _)| at / 3 % 48 >= 33) {
        assert_eq!(kept, white, "{at}");
    }
}

#[test]
fn transparent_photo_is_composited_on_colour() {
    let place = Place::new();
    let photo = cutout(&place);
    for (color, output) in [("white", "white.png"), ("#102030", "blue.png")] {
        place
            .render_to(&photo, output, "1")
            .args(["--init", "photo", "-q", "--alpha", color])
            .assert()
            .success();
        assert!(matches!(image::open(place.path(output)).unwrap(), image::DynamicImage::ImageRgb8(_)));
    }
    let [white, blue] = ["white.png", "blue.png"].map(|name| pixels(&place.path(name)));
    // The first step changes a colour by at most 0.02.
    assert!(white[..3].iter().all(|level| *level > 240), "{:?}", &white[..3]);
    assert!(blue[..3].iter().zip([0x10, 0x20, 0x30]).all(|(a, b)| a.abs_diff(b) < 12), "{:?}", &blue[..3]);
    place.mirage().args(["show", "blue.png"]).assert().success().stdout(says("#102030"));
}

#[test]
fn unsupported_alpha_is_reported() {
    let place = Place::new();
    let photo = cutout(&place);
    let refused = |words: &[&str]| place.deviceless().arg("render").arg(&photo).args(words).assert().code(2);
    refused(&["--alpha", "keep", "-o", "out.jpg"]).stderr(says("out.jpg").and(says("--alpha white")));
    refused(&["--alpha", "pink"]).stderr(says("--alpha").and(says("#f4ecd8")));
    let opaque = place.photo("opaque.png", 64, 48);
    place
        .render(&opaque)
        .args(["--alpha", "keep"])
        .assert()
        .success()
        .stderr(says("no transparency to keep"));
    assert!(matches!(image::open(place.path("out.png")).unwrap(), image::DynamicImage::ImageRgb8(_)));
}
