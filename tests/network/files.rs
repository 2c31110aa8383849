//! Effects of weights files on the computation: overflowing weights, replaced files.

use crate::common::golden::{Golden, path};
use crate::common::objective::{picture, use_style_statistic, weigh};
use crate::common::{both_devices, turn};
use neural_mirage::Error;
use neural_mirage::mirage::{Event, Request, Scales, Session, classify};
use neural_mirage::ops::PoolKind;
use neural_mirage::vgg::Network;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Writes the tiny network with some tensors multiplied by `factor`.
fn write(file: &Path, names: &[&str], factor: f32) {
    let bytes = std::fs::read(path("tiny_vgg.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let scaled: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let factor = if names.contains(&name.as_str()) { factor } else { 1.0 };
            let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes) * factor);
            (name, view.shape().to_vec(), values.flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views = scaled
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, header.metadata().clone(), file).unwrap();
}

/// Finite but too large weights: overflow is detected even though a ReLU follows.
#[test]
fn activation_overflow_is_an_error() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.safetensors");
    write(&file, &["conv5_1.weight", "conv5_2.weight", "conv5_3.weight"], 1e25);
    let network = Arc::new(Network::open(&file, None).unwrap());
    network.check_finite().unwrap();
    let photo = picture(&Golden::open("objective.safetensors"), "photo");
    for engine in both_devices() {
        let found = classify(&engine, &network, &photo, PoolKind::Average.into());
        assert!(matches!(found, Err(Error::File { .. })), "{found:?} on {}", engine.describe());
        let mut request = Request::new(photo.clone());
        use_style_statistic(&mut request, "mean-covariance");
        weigh(&mut request, |name| f32::from(u8::from(name == "abstract")));
        request.scales = Scales::single(2);
        let mut session = Session::new(&engine, &network, request).unwrap();
        let ended = session.run(&mut |_: Event<'_>| Ok(ControlFlow::Continue(())));
        assert!(matches!(ended, Err(Error::Unstable { .. })), "on {}", engine.describe());
    }
}

/// Packed weights are cached on the device, but not across different files of the same name.
#[test]
fn replaced_weights_file_is_reloaded() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network.safetensors");
    let photo = picture(&Golden::open("objective.safetensors"), "photo");
    for engine in both_devices() {
        let classes = |factor: f32| {
            write(&file, &["conv1_1.weight", "fc8.weight"], factor);
            let network = Network::open(&file, None).unwrap();
            classify(&engine, &network, &photo, PoolKind::Max.into()).unwrap()
        };
        let (one, other) = (classes(1.0), classes(-1.0));
        assert_ne!(one, other, "on {}", engine.describe());
        assert_eq!(classes(1.0), one, "on {}", engine.describe());
    }
}
