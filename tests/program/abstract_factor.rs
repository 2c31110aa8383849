//! Sources of the abstract factor: the photo, other pictures, or named classes.

use crate::support::{Place, pixels, scene};
use serde_json::Value;

/// Labels for the nine classes of the small network.
const LABELS: &[u8] = b"ant\nbee\ncat\ndog\neel\nfox\ngnu\nhen\nibis\n";

fn option(place: &Place, picture: &str, name: &str) -> Value {
    let shown = place.mirage().args(["show", picture, "--json"]).output().unwrap();
    serde_json::from_slice::<Value>(&shown.stdout).unwrap()["options"][name].take()
}

#[test]
fn classes_and_images_replace_the_photos_classes() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.file("labels.txt", LABELS);
    let mut other = scene(64, 48);
    image::imageops::invert(&mut other);
    other.save(place.path("other.png")).unwrap();
    let paint = |output: &str, words: &[&str]| {
        let mut run = place.render_to(&photo, output, "6");
        run.args(["--scales", "1", "--balance", "spatial=10,abstract=80,style=10", "--labels", "labels.txt"]);
        run.args(words).assert().success();
        pixels(&place.path(output))
    };
    let plain = paint("plain.png", &[]);
    let classes = paint("classes.png", &["--classes", "gnu:0.7,bee:0.3"]);
    let others = paint("others.png", &["--classes", "ibis"]);
    let picture = paint("picture.png", &["--abstract-image", "other.png"]);
    assert!(
        classes != plain && others != plain && picture != plain,
        "the abstract factor makes no difference"
    );
    assert!(classes != others, "the classes make no difference");
    assert_eq!(option(&place, "classes.png", "classes"), "gnu:0.7,bee:0.3");
    assert_eq!(option(&place, "plain.png", "classes"), Value::Null);
    let image = option(&place, "picture.png", "abstract_image");
    assert!(image.to_string().contains("other.png"), "{image}");
}

#[test]
fn resume_accepts_classes() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    place.file("labels.txt", LABELS);
    let words = ["--scales", "1", "--checkpoint-every", "4", "--balance", "spatial=10,abstract=80,style=10"];
    place.render_for(&photo, "4").args(words).args(["--labels", "labels.txt"]).assert().success();
    let resume = |output: &str, words: &[&str]| {
        let mut command = place.mirage();
        command
            .args(["resume", "out-checkpoint.safetensors", "--iterations", "10", "-o", output])
            .args(words);
        command.assert().success();
        pixels(&place.path(output))
    };
    let plain = resume("plain.png", &[]);
    assert!(resume("classes.png", &["--classes", "gnu:0.7,bee:0.3"]) != plain);
    assert_eq!(option(&place, "classes.png", "classes"), "gnu:0.7,bee:0.3");
}
