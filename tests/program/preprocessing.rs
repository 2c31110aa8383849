//! Networks read with the wrong preprocessing are detected.

use crate::common::synthetic::Net;
use crate::support::Place;
use half::f16;
use predicates::prelude::*;
use predicates::str::contains as says;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// A variant of the default network, whose convolutions are those of the Caffe model.
#[derive(Clone, Copy)]
struct Made {
    /// Tensors have torchvision's names instead of Caffe's.
    renamed: bool,
    /// The first convolution is converted to torchvision's preprocessing.
    converted: bool,
    /// Number of classes; 0 for no fully connected layers.
    classes: usize,
}

/// Writes the network as `made.safetensors`.
fn make(place: &Place, made: Made, metadata: Option<HashMap<String, String>>) {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/vgg16-narrow.safetensors"));
    let bytes = bytes.unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let positions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    let convs = [(1, 2), (2, 2), (3, 3), (4, 3), (5, 3)];
    let convs =
        convs.into_iter().flat_map(|(block, count)| (1..=count).map(move |i| format!("conv{block}_{i}")));
    let mut names: Vec<(String, String)> =
        convs.zip(positions).map(|(name, at)| (name, format!("features.{at}"))).collect();
    if made.classes > 0 {
        for (name, at) in [("fc6", 0), ("fc7", 3), ("fc8", 6)] {
            names.push((name.to_owned(), format!("classifier.{at}")));
        }
    }
    let [weight, bias] = converted(&file);
    let mut tensors = Vec::new();
    for (name, other) in &names {
        for part in ["weight", "bias"] {
            let key = format!("{name}.{part}");
            let mut tensor = file.tensor(&key).unwrap();
            if name == "fc8" {
                let mut shape = tensor.shape().to_vec();
                let row = tensor.data().len() / shape[0];
                shape[0] = made.classes;
                tensor =
                    TensorView::new(tensor.dtype(), shape, &tensor.data()[..made.classes * row]).unwrap();
            }
            if name == "conv1_1" && made.converted {
                let data = if part == "weight" { &weight } else { &bias };
                tensor = TensorView::new(Dtype::F32, tensor.shape().to_vec(), data).unwrap();
            }
            tensors.push((if made.renamed { format!("{other}.{part}") } else { key }, tensor));
        }
    }
    place.file("made.safetensors", &safetensors::serialize(tensors, metadata).unwrap());
}

/// Returns weight and bias of the first convolution for torchvision's preprocessing. Caffe's input is a linear function of
/// torchvision's, with the channels reversed.
fn converted(file: &SafeTensors<'_>) -> [Vec<u8>; 2] {
    let read = |name: &str| -> Vec<f32> {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F16);
        tensor.data().as_chunks().0.iter().map(|bits| f16::from_le_bytes(*bits).to_f32()).collect()
    };
    let (filter, mut bias) = (read("conv1_1.weight"), read("conv1_1.bias"));
    let (means, deviations) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let caffe_means = [123.68, 116.779, 103.939];
    let mut weight = Vec::new();
    for (filter, bias) in filter.chunks_exact(27).zip(&mut bias) {
        for channel in 0..3 {
            for value in &filter[(2 - channel) * 9..][..9] {
                weight.push(value * 255.0 * deviations[channel]);
                *bias += value * (255.0 * means[channel] - caffe_means[channel]);
            }
        }
    }
    [weight, bias].map(|values: Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// Runs a command, the first of `words`, on the cat, and returns its messages.
fn cat(place: &Place, words: &[&str], network: &str) -> String {
    let cat = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/photos/chelsea.png");
    let mut command = place.mirage();
    command.args(&words[..1]).arg(&cat).args(["--adapter", "cpu", "--weights", network]).args(&words[1..]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // Values that are far too large may overflow; the warning is printed before.
    assert!(output.status.success() || says("NaN or infinite at iteration 0").eval(&said), "{said}");
    said
}

/// Paints without classes. Gram matrices are computed quickly.
const PAINT: [&str; 14] = [
    "render",
    "--size",
    "32",
    "--scales",
    "1",
    "--iterations",
    "1",
    "--abstract",
    "none",
    "--style-statistic",
    "gram",
    "-o",
    "out.png",
    "--overwrite",
];

#[test]
fn caffe_weights_in_torchvision_layout_give_a_warning() {
    let place = Place::new();
    let cat = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/photos/chelsea.png");
    let made = Made { renamed: true, converted: false, classes: 1000 };
    let classify = |words: &[&str]| {
        let mut command = place.mirage();
        command.arg("classify").arg(&cat).args(["--adapter", "cpu"]);
        command.args(["--weights", "made.safetensors", "--size", "224"]).args(words).assert().success()
    };
    make(&place, made, None);
    let warning = || says("--preprocessing caffe");
    classify(&[]).stderr(warning().and(says("made.safetensors")));
    classify(&["--preprocessing", "caffe"]).stderr(warning().not()).stdout(says("cat"));
    let stated = [("preprocessing".to_owned(), "caffe".to_owned())];
    make(&place, made, Some(stated.into()));
    classify(&[]).stderr(warning().not()).stdout(says("cat"));
}

#[test]
fn torchvision_weights_under_caffes_names_give_a_warning() {
    let place = Place::new();
    let made = Made { renamed: false, converted: true, classes: 1000 };
    let classify = ["classify", "--size", "64"];
    let warning = || says("made.safetensors").and(says("--preprocessing torchvision")).and(says("of fc8"));
    make(&place, made, None);
    let said = cat(&place, &classify, "made.safetensors");
    assert!(warning().eval(&said), "{said}");
    let said =
        cat(&place, &[&classify[..], &["--preprocessing", "torchvision"]].concat(), "made.safetensors");
    assert!(!says("does not state").eval(&said), "{said}");
    // Other classes than ImageNet's.
    make(&place, Made { classes: 20, ..made }, None);
    let said = cat(&place, &classify, "made.safetensors");
    assert!(warning().eval(&said), "{said}");
}

#[test]
fn convolutions_alone_give_a_warning() {
    let place = Place::new();
    for (renamed, converted, expected) in [
        (true, false, Some(["--preprocessing caffe", "last convolution"])),
        (false, true, Some(["--preprocessing torchvision", "of conv1_1"])),
        (true, true, None),
        (false, false, None),
    ] {
        make(&place, Made { renamed, converted, classes: 0 }, None);
        let said = cat(&place, &PAINT, "made.safetensors");
        match expected {
            Some(words) => assert!(words.iter().all(|word| says(*word).eval(&said)), "{words:?}: {said}"),
            None => assert!(!says("preprocessing").eval(&said), "{renamed} {converted}: {said}"),
        }
    }
    let stated = [("preprocessing".to_owned(), "torchvision".to_owned())];
    make(&place, Made { renamed: true, converted: false, classes: 0 }, Some(stated.into()));
    let said = cat(&place, &PAINT, "made.safetensors");
    assert!(!says("does not state").eval(&said), "{said}");
}

#[test]
fn other_classes_than_imagenets_give_a_warning() {
    let place = Place::new();
    for (renamed, warns) in [(true, true), (false, false)] {
        make(&place, Made { renamed, converted: false, classes: 20 }, None);
        let said = cat(&place, &["classify", "--size", "64"], "made.safetensors");
        assert_eq!(says("--preprocessing caffe").eval(&said), warns, "{said}");
        assert_eq!(says("does not state").eval(&said), warns, "{said}");
    }
}

#[test]
fn random_weights_give_no_warning() {
    let place = Place::new();
    for fc in [&[][..], &[8, 12][..]] {
        let net = Net::new(&[&[16], &[16], &[16], &[16], &[16]], 2, fc, false);
        for file in [net.torchvision(), net.caffe()] {
            file.write(&place.path(""));
            let words = ["--spatial", "relu4_1", "--style", "relu1_1"];
            let said = cat(&place, &[&PAINT[..], &words].concat(), "net.safetensors");
            assert!(!says("does not state").eval(&said), "{said}");
        }
    }
}
