//! Weights files in every layout, damaged files, and the default network.

use std::path::Path;

use neural_mirage::Error;
use neural_mirage::vgg::locate::{DEFAULT_NETWORK, DEFAULT_NETWORK_SHA256, Location, NARROW};
use neural_mirage::vgg::{DType, KeyLayout, LayerKind, Matrix, Network, Preprocessing, PreprocessingSource};

#[path = "../common/mod.rs"]
mod common;
mod errors;

use crate::common::synthetic::{FileBuilder, Net, Numbers};

fn open(file: &FileBuilder) -> Network {
    let folder = tempfile::tempdir().unwrap();
    // The file stays open, so it is readable after the folder is removed.
    Network::open(&file.write(folder.path()), None).unwrap()
}

/// Returns the same network in every layout, with the expected layout.
fn every_layout(net: &Net) -> Vec<(KeyLayout, FileBuilder)> {
    vec![
        (KeyLayout::Torchvision, net.torchvision()),
        (KeyLayout::Timm, net.timm()),
        (KeyLayout::Caffe, net.caffe()),
        (KeyLayout::Keras, net.keras("*/kernel", "*/bias")),
        (KeyLayout::Keras, net.keras("*/kernel:0", "*/bias:0")),
        (KeyLayout::Keras, net.keras("*/*/kernel:0", "*/*/bias:0")),
        (KeyLayout::Keras, net.keras("*/*_W_1:0", "*/*_b_1:0")),
    ]
}

fn floats(matrix: Matrix) -> Vec<f32> {
    match matrix {
        Matrix::F32(values) => values,
        Matrix::F16(bits) => bits.into_iter().map(|b| half::f16::from_bits(b).to_f32()).collect(),
    }
}

fn close(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
    // NaN makes the comparison false, so the test fails.
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance)
}

/// Compares all weights with the logical ones, exactly.
fn assert_weights(network: &Network, net: &Net, what: &str) {
    for (conv, logical) in network.convs().zip(net.blocks.iter().flatten()) {
        assert_eq!((conv.in_channels, conv.out_channels), (logical.input, logical.out), "{what}");
        assert_eq!((conv.kernel, conv.stride, conv.padding), ([3, 3], [1, 1], [1, 1]), "{what}");
        assert_eq!(conv.filter().unwrap(), logical.filter, "{what}");
        assert_eq!(conv.bias().unwrap(), logical.bias, "{what}");
    }
    for (linear, logical) in network.linears().zip(&net.linears) {
        assert_eq!((linear.in_features, linear.out_features), (logical.input, logical.out), "{what}");
        assert_eq!(floats(linear.matrix().unwrap()), logical.matrix, "{what}");
        assert_eq!(linear.bias().unwrap(), logical.bias, "{what}");
    }
    assert_eq!(network.convs().count(), net.blocks.iter().flatten().count(), "{what}");
    assert_eq!(network.linears().count(), net.linears.len(), "{what}");
}

#[test]
fn all_layouts_load_the_same_network() {
    let net = Net::small();
    for (layout, file) in every_layout(&net) {
        let network = open(&file);
        let what = format!("{layout} {:?}", file.tensors.keys().next());
        assert_eq!(network.layout, layout);
        assert_eq!(
            network.layer_names(),
            [
                "conv1_1",
                "relu1_1",
                "conv1_2",
                "relu1_2",
                "pool1",
                "conv2_1",
                "relu2_1",
                "pool2",
                "pool2_2x2",
                "fc6",
                "relu6",
                "fc7",
                "relu7",
                "fc8",
                "prob"
            ],
            "{what}"
        );
        let channels: Vec<usize> = network.layers.iter().map(|layer| layer.channels).collect();
        assert_eq!(channels, [4, 4, 5, 5, 5, 6, 6, 6, 6, 8, 8, 7, 7, 9, 9], "{what}");
        assert_eq!(network.convs_per_block(), [2, 1]);
        assert_eq!((network.has_head(), network.classes()), (true, Some(9)));
        assert!(matches!(network.layers[4].kind, LayerKind::Pool { size: 2, stride: 2 }));
        assert!(matches!(network.layers[8].kind, LayerKind::AdaptivePool { height: 2, width: 2 }));
        let expected = match layout {
            KeyLayout::Torchvision | KeyLayout::Timm => Preprocessing::Torchvision,
            _ => Preprocessing::Caffe,
        };
        assert_eq!(
            (network.preprocessing, network.preprocessing_source),
            (expected, PreprocessingSource::Layout)
        );
        assert!(network.unused.is_empty(), "{:?}", network.unused);
        assert_weights(&network, &net, &what);
        network.check_finite().unwrap();
    }
}

#[test]
fn f16_bf16_and_mixed_files_are_read_exactly() {
    let net = Net::small();
    for (layout, file) in every_layout(&net) {
        for (dtype, name) in [(DType::F16, "F16"), (DType::Bf16, "BF16")] {
            let network = open(file.clone().convert(name, |_| true));
            assert_eq!(network.dtype, dtype);
            assert_weights(&network, &net, &format!("{layout} {name}"));
            for linear in network.linears() {
                assert_eq!(matches!(linear.matrix().unwrap(), Matrix::F16(_)), dtype == DType::F16);
                let bits = linear.weight.to_f16_bits().unwrap();
                let widened =
                    bits.map(|bits| bits.iter().map(|b| half::f16::from_bits(*b).to_f32()).collect());
                assert_eq!(widened, (dtype == DType::F16).then(|| linear.weight.to_f32().unwrap()));
            }
        }
        // The last layer in half precision, the rest in single.
        let last =
            |key: &str| ["classifier.6", "head.fc", "fc8", "predictions"].iter().any(|p| key.starts_with(p));
        let network = open(file.clone().convert("F16", last));
        assert_eq!(network.dtype, DType::F32);
        assert_weights(&network, &net, &format!("{layout} mixed"));
    }
}

#[test]
fn batch_norm_is_folded_in_every_layout() {
    let net = Net::new(&[&[4, 5], &[6]], 2, &[9], true);
    for (layout, file) in every_layout(&net) {
        let network = open(&file);
        let default = if layout == KeyLayout::Keras { 1e-3 } else { 1e-5 };
        let stated = {
            let mut file = file.clone();
            file.metadata.insert("batch_norm_eps".into(), "0.5".into());
            open(&file)
        };
        for (network, epsilon) in [(network, default), (stated, 0.5)] {
            for (conv, logical) in network.convs().zip(net.blocks.iter().flatten()) {
                let [gamma, beta, mean, variance] = logical.norm.as_ref().unwrap();
                let (filter, bias) = (conv.filter().unwrap(), conv.bias().unwrap());
                assert!(conv.has_batch_norm());
                for o in 0..logical.out {
                    // On any input, the folded convolution must equal the convolution followed by the batch norm.
                    let size = logical.input * 9;
                    let x = Numbers::new(o as u32).take(size);
                    let dot =
                        |f: &[f32]| -> f32 { f[o * size..][..size].iter().zip(&x).map(|(f, x)| f * x).sum() };
                    let plain = dot(&logical.filter) + logical.bias[o];
                    let expected =
                        (plain - mean[o]) / (variance[o] + epsilon as f32).sqrt() * gamma[o] + beta[o];
                    let found = dot(&filter) + bias[o];
                    assert!(close(&[found], &[expected], 1e-3), "{layout} {found} {expected}");
                }
            }
        }
        assert_eq!(open(&file).convs_per_block(), [2, 1]);
    }
    // A convolution without a bias, as usual before a batch norm.
    let mut file = net.torchvision();
    let with = open(&file).convs().next().unwrap().bias().unwrap();
    file.tensors.get_mut("features.0.bias").unwrap().bytes.fill(0);
    let zero = open(&file).convs().next().unwrap().bias().unwrap();
    let without = open(file.remove("features.0.bias")).convs().next().unwrap().bias().unwrap();
    assert_eq!(zero, without);
    assert_ne!(with, without);
}

#[test]
fn heads_of_zero_to_three_layers_are_read() {
    let names: [&[&str]; 4] = [
        &[],
        &["pool1_3x3", "fc6", "prob"],
        &["pool1_3x3", "fc6", "relu6", "fc7", "prob"],
        &["pool1_3x3", "fc6", "relu6", "fc7", "relu7", "fc8", "prob"],
    ];
    for (fc, names) in [&[][..], &[5], &[6, 5], &[7, 6, 5]].into_iter().zip(names) {
        let net = Net::new(&[&[4]], 3, fc, false);
        for (layout, file) in every_layout(&net) {
            let network = open(&file);
            // Without a head, timm's files are identical to torchvision's.
            let expected =
                if fc.is_empty() && layout == KeyLayout::Timm { KeyLayout::Torchvision } else { layout };
            assert_eq!(network.layout, expected);
            assert_eq!(network.layer_names()[3..], *names, "{layout}");
            assert_eq!(network.has_head(), !fc.is_empty());
            assert_eq!(network.classes(), fc.last().copied());
            assert_weights(&network, &net, &format!("{layout} {fc:?}"));
        }
    }
}

#[test]
fn keras_flattening_is_undone() {
    // Keras flattens the map by row, column, channel and multiplies by a matrix of [in, out].
    let net = Net::new(&[&[5]], 3, &[4], false);
    let file = net.keras("*/kernel", "*/bias");
    let (channels, side, out) = (5, 3, 4);
    let chw = Numbers::new(3).take(channels * side * side);
    let kernel = &file.tensors["predictions/kernel"].bytes;
    let kernel: Vec<f32> = kernel.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut expected = vec![0.0; out];
    for row in 0..side {
        for column in 0..side {
            for channel in 0..channels {
                let hwc = (row * side + column) * channels + channel;
                let x = chw[channel * side * side + row * side + column];
                (0..out).for_each(|o| expected[o] += x * kernel[hwc * out + o]);
            }
        }
    }
    for file in [file.clone(), file.clone().convert("F16", |_| true).clone()] {
        let network = open(&file);
        let matrix = floats(network.linears().next().unwrap().matrix().unwrap());
        let rows = matrix.chunks(channels * side * side);
        let found: Vec<f32> = rows.map(|row| row.iter().zip(&chw).map(|(a, b)| a * b).sum()).collect();
        assert!(close(&found, &expected, 1e-4), "{found:?} {expected:?}");
    }
}

#[test]
fn published_depths_are_recognised() {
    for (name, convs, norm) in [
        ("VGG-11", [1, 1, 2, 2, 2], false),
        ("VGG-13", [2, 2, 2, 2, 2], false),
        ("VGG-16", [2, 2, 3, 3, 3], false),
        ("VGG-19", [2, 2, 4, 4, 4], false),
        ("VGG-16", [2, 2, 3, 3, 3], true),
        ("VGG-19", [2, 2, 4, 4, 4], true),
    ] {
        let widths: Vec<Vec<usize>> = convs.iter().zip([2, 3, 4, 5, 5]).map(|(n, c)| vec![c; *n]).collect();
        let widths: Vec<&[usize]> = widths.iter().map(Vec::as_slice).collect();
        let net = Net::new(&widths, 1, &[3], norm);
        for (layout, file) in every_layout(&net) {
            let network = open(&file);
            assert_eq!(network.convs_per_block(), convs, "{name} {layout}");
            let topology = network.topology();
            assert!(topology.starts_with(&format!("{name} with other channel widths")), "{topology}");
            assert_eq!(topology.contains("batch norm"), norm, "{topology}");
        }
    }
}

#[test]
fn odd_filter_sizes_keep_the_map_size() {
    let mut net = Net::new(&[&[4], &[5]], 1, &[2], false);
    for (side, conv) in [5, 1].into_iter().zip(net.blocks.iter_mut().flatten()) {
        conv.side = side;
        conv.filter = Numbers::new(1).take(conv.out * conv.input * side * side);
    }
    for (layout, file) in every_layout(&net) {
        let network = open(&file);
        let shapes: Vec<_> = network.convs().map(|conv| (conv.kernel, conv.padding)).collect();
        assert_eq!(shapes, [([5, 5], [2, 2]), ([1, 1], [0, 0])], "{layout}");
        for (conv, logical) in network.convs().zip(net.blocks.iter().flatten()) {
            assert_eq!(conv.filter().unwrap(), logical.filter, "{layout}");
        }
    }
}

#[test]
fn preprocessing_is_from_option_then_file_then_layout() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = Net::small().torchvision();
    file.metadata.insert("preprocessing".into(), "caffe".into());
    let path = file.write(folder.path());
    let network = Network::open(&path, None).unwrap();
    assert_eq!(
        (network.preprocessing, network.preprocessing_source),
        (Preprocessing::Caffe, PreprocessingSource::Metadata)
    );
    let network = Network::open(&path, Some(Preprocessing::Torchvision)).unwrap();
    assert_eq!(
        (network.preprocessing, network.preprocessing_source),
        (Preprocessing::Torchvision, PreprocessingSource::Option)
    );
}

#[test]
fn unknown_layer_lists_known_ones() {
    let network = open(&Net::small().caffe());
    assert_eq!(network.index_of("relu1_2").unwrap(), 3);
    let error = network.index_of("relu12").unwrap_err();
    assert!(matches!(error, Error::Usage(_)));
    let text = error.to_string();
    assert!(text.contains("did you mean relu1_2?") && text.contains("fc6, relu6, fc7"), "{text}");
    let text = network.index_of("something").unwrap_err().to_string();
    assert!(!text.contains("did you mean") && text.contains("conv1_1"), "{text}");
}

#[test]
fn unrelated_tensors_are_ignored_and_reported() {
    let mut file = Net::small().caffe();
    file.add("mean_image", &[3], &[1.0, 2.0, 3.0]);
    let network = open(&file);
    assert_eq!(network.unused, ["mean_image"]);
    assert!(network.summary().unwrap().contains("mean_image"));
}

/// An embedded network is read like its file.
#[test]
fn network_in_memory_matches_its_file() {
    let folder = tempfile::tempdir().unwrap();
    for file in [Net::small().caffe(), Net::small().torchvision()] {
        let path = folder.path().join("net.safetensors");
        let bytes: &'static [u8] = file.bytes().leak();
        std::fs::write(&path, bytes).unwrap();
        let disk = Network::open(&path, None).unwrap();
        let memory = Network::open_at(&Location::Embedded(bytes), None).unwrap();
        assert_eq!(memory.path, Path::new(NARROW));
        assert_eq!(memory.sha256().unwrap(), disk.sha256().unwrap());
        assert_eq!(memory.layer_names(), disk.layer_names());
        assert_eq!(memory.file_len(), bytes.len());
        memory.check_finite().unwrap();
        for (a, b) in memory.convs().zip(disk.convs()) {
            assert_eq!(a.weight.to_f32().unwrap(), b.weight.to_f32().unwrap());
        }
        assert!(memory.summary().unwrap().contains("narrow"));
        // The same errors are reported, with its name.
        for length in [0, 7, 100, bytes.len() - 1] {
            let text = Network::open_at(&Location::Embedded(&bytes[..length]), None).unwrap_err().to_string();
            assert!(text.starts_with("narrow: "), "{text}");
        }
    }
}

/// The shipped weights match their manifest.
#[test]
fn default_network_matches_manifest() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights");
    let manifest = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let hash = |file: &str| {
        let line = manifest.lines().find(|line| line.ends_with(&format!("  {file}"))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let network = Network::open(&folder.join(DEFAULT_NETWORK), None).unwrap();
    assert_eq!(network.sha256().unwrap(), hash(DEFAULT_NETWORK));
    assert_eq!(hash(DEFAULT_NETWORK), DEFAULT_NETWORK_SHA256);

    let mut expected: Vec<String> = Vec::new();
    for (block, convs) in (1..).zip([2, 2, 3, 3, 3]) {
        expected.extend((1..=convs).flat_map(|i| [format!("conv{block}_{i}"), format!("relu{block}_{i}")]));
        expected.push(format!("pool{block}"));
    }
    expected.extend(["pool5_7x7", "fc6", "relu6", "fc7", "relu7", "fc8", "prob"].map(String::from));
    assert_eq!(network.layer_names(), expected);
    let fc: Vec<_> = network.linears().map(|linear| (linear.in_features, linear.out_features)).collect();
    assert_eq!(fc, [(25088, 256), (256, 256), (256, 1000)]);
    let channels: Vec<_> = network.convs().map(|conv| conv.out_channels).collect();
    assert_eq!(channels, [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]);
    assert_eq!((network.layout, network.dtype), (KeyLayout::Caffe, DType::F16));
    assert_eq!(
        (network.preprocessing, network.preprocessing_source),
        (Preprocessing::Caffe, PreprocessingSource::Metadata)
    );
    network.check_finite().unwrap();
    assert_eq!(network.convs().last().unwrap().filter().unwrap().len(), 512 * 512 * 9);

    let summary = network.summary().unwrap();
    for part in [
        "VGG-16, narrow head (13 convs in 5 blocks: 2+2+3+3+3)",
        "64, 128, 256, 512, 512",
        "256x25088, 256x256, 1000x256",
        "caffe (stated in the file)",
        "21,460,264",
        "42,923,456 bytes",
        &hash("vgg16-narrow.safetensors"),
        "pool5 pool5_7x7 fc6 relu6 fc7 relu7 fc8 prob",
    ] {
        assert!(summary.contains(part), "{part} is not in\n{summary}");
    }
}
