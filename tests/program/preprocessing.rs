//! Networks read with the wrong preprocessing are detected.

use crate::support::Place;
use predicates::prelude::*;
use predicates::str::contains as says;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::Path;

/// Writes the default network with torchvision's names, as some converters do with Caffe models. Its convolutions are
/// those of the Caffe model.
fn renamed(place: &Place, metadata: Option<HashMap<String, String>>) {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/vgg16-narrow.safetensors"));
    let bytes = bytes.unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let positions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    let convs = [(1, 2), (2, 2), (3, 3), (4, 3), (5, 3)];
    let convs =
        convs.into_iter().flat_map(|(block, count)| (1..=count).map(move |i| format!("conv{block}_{i}")));
    let mut names: Vec<(String, String)> =
        convs.zip(positions).map(|(name, at)| (name, format!("features.{at}"))).collect();
    for (name, at) in [("fc6", 0), ("fc7", 3), ("fc8", 6)] {
        names.push((name.to_owned(), format!("classifier.{at}")));
    }
    let mut tensors = Vec::new();
    for (name, other) in &names {
        for part in ["weight", "bias"] {
            let tensor = file.tensor(&format!("{name}.{part}")).unwrap();
            tensors.push((format!("{other}.{part}"), tensor));
        }
    }
    place.file("renamed.safetensors", &safetensors::serialize(tensors, metadata).unwrap());
}

#[test]
fn caffe_weights_in_torchvision_layout_give_a_warning() {
    let place = Place::new();
    let cat = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/photos/chelsea.png");
    let classify = |words: &[&str]| {
        let mut command = place.mirage();
        // A graphics device, because the CPU device is slow in unoptimised builds.
        command.arg("classify").arg(&cat).args(["--adapter", "0"]);
        command.args(["--weights", "renamed.safetensors", "--size", "224"]).args(words).assert().success()
    };
    renamed(&place, None);
    let warning = || says("--preprocessing caffe");
    classify(&[]).stderr(warning().and(says("renamed.safetensors")));
    classify(&["--preprocessing", "caffe"]).stderr(warning().not()).stdout(says("cat"));
    let stated = [("preprocessing".to_owned(), "caffe".to_owned())];
    renamed(&place, Some(stated.into()));
    classify(&[]).stderr(warning().not()).stdout(says("cat"));
}
