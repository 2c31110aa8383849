//! Error messages for unusable weights files.

use std::path::Path;

use neural_mirage::Error;
use neural_mirage::vgg::{Matrix, Network, Preprocessing};
use proptest::prelude::*;

use crate::common::synthetic::{FileBuilder, Net};

/// Returns the message for a file that must be refused as [`Error::File`] with path, problem and remedy.
fn refused(path: &Path) -> String {
    let error = Network::open(path, None).expect_err("must be refused");
    let Error::File { path: named, problem, remedy } = &error else { panic!("{error:?}") };
    assert_eq!(named, path);
    assert!(!problem.is_empty() && !remedy.is_empty() && !remedy.ends_with('.'), "{error}");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

/// Weights are read lazily, so another program may have changed the file after it was opened.
#[test]
fn file_shortened_after_opening_is_an_error() {
    let net = Net::small();
    for mut file in [net.torchvision(), net.caffe(), net.keras("*/kernel", "*/bias")] {
        for half in [false, true] {
            if half {
                file.convert("F16", |_| true);
            }
            let folder = tempfile::tempdir().unwrap();
            let path = file.write(folder.path());
            let shorten = |length: usize| {
                std::fs::File::options().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
            };
            let network = Network::open(&path, None).unwrap();
            let unreadable = |error: Error| {
                assert!(matches!(&error, Error::File { path: named, .. } if *named == path), "{error:?}");
                assert_says(&error.to_string(), &["can't be read", "no other program changes the file"]);
            };
            network.check_finite().unwrap();
            shorten(file.bytes().len() - 1);
            unreadable(network.check_finite().unwrap_err());
            let header = u64::from_le_bytes(file.bytes()[..8].try_into().unwrap()) as usize;
            shorten(8 + header);
            for conv in network.convs() {
                unreadable(conv.filter().unwrap_err());
                unreadable(conv.bias().unwrap_err());
            }
            for linear in network.linears() {
                unreadable(linear.matrix().unwrap_err());
                unreadable(linear.bias().unwrap_err());
            }
        }
    }
}

fn refused_bytes(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    std::fs::write(&path, bytes).unwrap();
    refused(&path)
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn paths_without_regular_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_says(
        &refused(&folder.path().join("missing.safetensors")),
        &["missing.safetensors", "can't be opened"],
    );
    assert_says(&refused(folder.path()), &["folder"]);
    assert_says(&refused_bytes(b""), &["0 bytes"]);
    #[cfg(unix)]
    assert_says(&refused(Path::new("/dev/null")), &["not a regular file"]);
}

#[test]
fn files_of_other_kinds_are_refused() {
    assert_says(&refused_bytes(b"PK\x03\x04"), &["not a safetensors file", "convert_weights"]);
    assert_says(&refused_bytes(b"\x89PNG\r\n\x1a\n0000IHDR0000000"), &["not a safetensors file"]);
    assert_says(&refused_bytes(&[0; 100]), &["not a safetensors file"]);
    let json = b"{\"a\": 1}";
    let damaged = [&(json.len() as u64).to_le_bytes()[..], json].concat();
    assert_says(&refused_bytes(&damaged), &["header is damaged"]);
    let endless = [&u64::MAX.to_le_bytes()[..], json].concat();
    assert_says(&refused_bytes(&endless), &["truncated"]);
}

#[test]
fn overflowing_lengths_are_refused() {
    // Consistent offsets of tensors that together fill almost the whole address space.
    let each = (1u64 << 61) - 1;
    let tensor = |i: u64| {
        format!(
            r#""conv1_{i}.weight":{{"dtype":"U8","shape":[{each}],"data_offsets":[{},{}]}}"#,
            i * each,
            (i + 1) * each
        )
    };
    let header = format!("{{{}}}", (0..8).map(tensor).collect::<Vec<_>>().join(","));
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    assert_says(&refused_bytes(&bytes), &["truncated"]);
}

#[test]
fn truncated_and_overlong_files_are_refused() {
    let bytes = Net::small().caffe().bytes();
    assert_says(&refused_bytes(&bytes[..bytes.len() - 1]), &["truncated", "again"]);
    assert_says(&refused_bytes(&bytes[..100]), &["truncated"]);
    assert_says(&refused_bytes(&[&bytes[..], b"x"].concat()), &["1 bytes follow"]);
}

#[test]
fn other_architectures_are_refused() {
    let with = |keys: &[&str]| {
        let mut file = FileBuilder::default();
        for key in keys {
            file.add(key, &[2, 3, 1, 1], &[0.0; 6]);
        }
        refused_bytes(&file.bytes())
    };
    let resnet = with(&[
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.conv2.weight",
        "layer2.0.conv1.weight",
        "z",
    ]);
    assert_says(&resnet, &["conv1.weight", "and 1 more", "torchvision", "timm", "Caffe", "Keras"]);
    assert_says(&with(&["features.0.0.weight"]), &["not named like"]);
    assert_says(&with(&["features.0.weight", "features.3.squeeze.weight"]), &["features.3.squeeze.weight"]);
    assert_says(&refused_bytes(&FileBuilder::default().bytes()), &["no tensors"]);
    // AlexNet has the keys of a VGG, but a filter that needs a stride.
    let mut alexnet = FileBuilder::default();
    alexnet.add("features.0.weight", &[2, 3, 11, 11], &[0.0; 726]).add("features.0.bias", &[2], &[0.0; 2]);
    assert_says(&refused_bytes(&alexnet.bytes()), &["11x11"]);
}

/// Removes each tensor of every layout in turn: the file is refused, and the error names the tensor.
#[test]
fn missing_tensors_are_named() {
    let net = Net::small();
    let layouts = [net.torchvision(), net.timm(), net.caffe(), net.keras("*/kernel", "*/bias")];
    for file in layouts.iter().chain([&Net::new(&[&[4, 5], &[6]], 2, &[3], true).caffe()]) {
        for key in file.tensors.keys() {
            // Without both tensors of the last convolution the network is just shorter, so remove only
            // one of each pair. A batch norm makes the bias of its convolution optional.
            if key.starts_with("conv") && key.ends_with("bias") && file.tensors.contains_key("bn1_1.bias") {
                continue;
            }
            let text = refused_bytes(&file.clone().remove(key).bytes());
            let owner = key.rsplit_once(['.', '/']).unwrap().0;
            assert_says(&text, &["missing", owner]);
        }
    }
}

#[test]
fn gaps_in_the_numbering_are_reported() {
    let without = |file: &FileBuilder, owner: &str| {
        let mut file = file.clone();
        file.tensors.retain(|key, _| !key.starts_with(owner));
        refused_bytes(&file.bytes())
    };
    let net = Net::new(&[&[4, 4, 4], &[4], &[4]], 1, &[4, 4, 4], false);
    assert_says(&without(&net.caffe(), "conv1_1"), &["conv1_1 are missing", "conv1_2 is there"]);
    assert_says(&without(&net.caffe(), "conv1_2"), &["conv1_2 are missing"]);
    assert_says(&without(&net.caffe(), "conv2_"), &["conv2_1 are missing"]);
    assert_says(&without(&net.caffe(), "fc6"), &["fc6 are missing", "fc7 is there"]);
    assert_says(&without(&net.keras("*/kernel", "*/bias"), "block2_"), &["block2_conv1 are missing"]);
    assert_says(&without(&net.keras("*/kernel", "*/bias"), "fc1"), &["fc1 are missing"]);
    assert_says(&without(&net.timm(), "head."), &["head.fc.weight is missing"]);
    assert_says(&without(&net.timm(), "pre_logits.fc1"), &["pre_logits.fc1 are missing"]);
    assert_says(&without(&net.torchvision(), "features.0."), &["features.0.weight"]);
    assert_says(&without(&net.torchvision(), "features.2."), &["features.0 and features.4", "differ by 4"]);
}

#[test]
fn misshaped_tensors_are_named() {
    let net = Net::small();
    let caffe = |name: &str, shape: &[usize]| refused_bytes(&net.caffe().reshape(name, shape).bytes());
    assert_says(&caffe("conv1_2.bias", &[1, 5]), &["conv1_2.bias", "[1, 5]", "[5]"]);
    assert_says(&caffe("conv1_2.weight", &[5, 4, 9]), &["conv1_2.weight", "4 dimensions"]);
    assert_says(&caffe("conv1_2.weight", &[4, 5, 3, 3]), &["conv1_2.weight", "expects 5 channels", "has 4"]);
    assert_says(&caffe("conv1_2.weight", &[5, 4, 1, 9]), &["1x9"]);
    assert_says(&caffe("conv2_1.weight", &[3, 5, 6, 3]), &["6x3"]);
    assert_says(&caffe("fc6.weight", &[192]), &["fc6.weight", "2 dimensions"]);
    assert_says(&caffe("fc7.weight", &[8, 7]), &["fc7.weight", "expects 7 features", "has 8"]);
    assert_says(&caffe("fc6.weight", &[16, 12]), &["fc6.weight", "not a square map", "6 channels"]);
    assert_says(&caffe("fc6.weight", &[64, 3]), &["fc6.weight", "not a square map"]);
    let timm = |name: &str, shape: &[usize]| refused_bytes(&net.timm().reshape(name, shape).bytes());
    assert_says(&timm("pre_logits.fc1.weight", &[8, 6, 1, 4]), &["pre_logits.fc1.weight", "[_, 6, N, N]"]);
    assert_says(&timm("pre_logits.fc2.weight", &[7, 2, 2, 2]), &["pre_logits.fc2.weight", "[_, 8, 1, 1]"]);
    let keras = net.keras("*/kernel", "*/bias").reshape("fc1/kernel", &[2, 2, 6, 8]).bytes();
    assert_says(&refused_bytes(&keras), &["fc1/kernel", "2 dimensions"]);
}

#[test]
fn unsupported_input_channels_and_heads_are_refused() {
    let mut net = Net::new(&[&[4]], 1, &[3], false);
    net.blocks[0][0].input = 1;
    net.blocks[0][0].filter.truncate(4 * 9);
    assert_says(&refused_bytes(&net.caffe().bytes()), &["expects 1 channels", "has 3"]);
    let net = Net::new(&[&[4]], 1, &[3, 3, 3, 3], false);
    assert_says(&refused_bytes(&net.torchvision().bytes()), &["4 fully connected"]);
}

#[test]
fn bad_dtypes_empty_tensors_and_duplicate_keys_are_refused() {
    let net = Net::small();
    let f64 = net.caffe().convert("F64", |key| key == "conv1_1.bias").bytes();
    assert_says(&refused_bytes(&f64), &["conv1_1.bias", "F64"]);
    let mut empty = net.caffe();
    empty.add("conv2_1.weight", &[0, 5, 3, 3], &[]);
    assert_says(&refused_bytes(&empty.bytes()), &["conv2_1.weight", "empty"]);
    let mut doubled = net.keras("*/kernel", "*/bias");
    doubled.add("fc1/kernel:0", &[1, 1], &[0.0]);
    assert_says(&refused_bytes(&doubled.bytes()), &["fc1/kernel", "fc1/kernel:0", "twice"]);
}

#[test]
fn invalid_metadata_is_refused() {
    for (key, value) in [("preprocessing", "resnet"), ("batch_norm_eps", "-1"), ("batch_norm_eps", "NaN")] {
        let mut file = Net::small().caffe();
        file.metadata.insert(key.into(), value.into());
        assert_says(&refused_bytes(&file.bytes()), &[value]);
    }
    // The option overrides invalid metadata.
    let folder = tempfile::tempdir().unwrap();
    let mut file = Net::small().caffe();
    file.metadata.insert("preprocessing".into(), "resnet".into());
    Network::open(&file.write(folder.path()), Some(Preprocessing::Caffe)).unwrap();
}

#[test]
fn non_finite_values_name_their_tensor() {
    for (dtype, bad) in [
        ("F32", f32::NAN.to_le_bytes().to_vec()),
        ("F32", f32::NEG_INFINITY.to_le_bytes().to_vec()),
        ("F16", half::f16::INFINITY.to_le_bytes().to_vec()),
        ("BF16", half::bf16::NAN.to_le_bytes().to_vec()),
    ] {
        for key in ["conv1_2.weight", "conv1_2.bias", "fc7.weight", "fc7.bias"] {
            let mut file = Net::small().caffe();
            if dtype != "F32" {
                file.convert(dtype, |_| true);
            }
            let bytes = &mut file.tensors.get_mut(key).unwrap().bytes;
            let end = bytes.len();
            bytes[end - bad.len()..].copy_from_slice(&bad);
            let folder = tempfile::tempdir().unwrap();
            let network = Network::open(&file.write(folder.path()), None).unwrap();
            let conv = network.convs().nth(1).unwrap();
            let linear = network.linears().nth(1).unwrap();
            let read = match key {
                "conv1_2.weight" => conv.filter().err(),
                "conv1_2.bias" => conv.bias().err(),
                "fc7.weight" => linear.matrix().err(),
                _ => linear.bias().err(),
            };
            for error in [read, network.check_finite().err()] {
                let error = error.expect("must be refused");
                assert!(matches!(error, Error::File { .. }));
                assert_says(&error.to_string(), &[key, "net.safetensors", "NaN or infinite"]);
            }
        }
    }
}

#[test]
fn negative_variances_are_refused() {
    let mut file = Net::new(&[&[2]], 1, &[], true).caffe();
    file.add("bn1_1.running_var", &[2], &[1.0, -1.0]);
    let folder = tempfile::tempdir().unwrap();
    let network = Network::open(&file.write(folder.path()), None).unwrap();
    let error = network.convs().next().unwrap().filter().unwrap_err();
    assert_says(&error.to_string(), &["bn1_1.running_var", "negative variance"]);
}

/// Opens a file and reads all its tensors. Any outcome except a panic is fine.
fn exercise(path: &Path) {
    let Ok(network) = Network::open(path, None) else { return };
    let _ = (network.check_finite(), network.summary(), network.index_of("x"), network.classes());
    for conv in network.convs() {
        if let (Ok(filter), Ok(bias)) = (conv.filter(), conv.bias()) {
            assert_eq!(filter.len(), conv.out_channels * conv.in_channels * conv.kernel[0] * conv.kernel[1]);
            assert_eq!(bias.len(), conv.out_channels);
        }
    }
    for linear in network.linears() {
        let length = match linear.matrix() {
            Ok(Matrix::F32(values)) => values.len(),
            Ok(Matrix::F16(bits)) => bits.len(),
            Err(_) => continue,
        };
        assert_eq!(length, linear.in_features * linear.out_features);
    }
}

fn any_layout() -> impl Strategy<Value = Vec<u8>> {
    let net = Net::new(&[&[2], &[3]], 2, &[3, 2], true);
    let files = [net.torchvision(), net.timm(), net.caffe(), net.keras("*/kernel", "*/bias")];
    prop::sample::select(files.map(|file| file.bytes()).to_vec())
}

proptest! {
    #[test]
    fn truncation_anywhere_is_refused(bytes in any_layout(), at in any::<prop::sample::Index>()) {
        refused_bytes(&bytes[..at.index(bytes.len())]);
    }

    #[test]
    fn corrupted_bytes_never_panic(
        mut bytes in any_layout(),
        // Most of the damage is in the header, where it has the greatest effect.
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), prop::bool::weighted(0.8)), 1..12),
    ) {
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, value, in_header) in damage {
            let length = if in_header { header } else { bytes.len() };
            bytes[at.index(length)] = value;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        exercise(&path);
    }

    /// Replaces numbers in the header by other numbers, so the JSON stays valid.
    #[test]
    fn wrong_numbers_in_the_header_never_panic(
        bytes in any_layout(),
        at in any::<prop::sample::Index>(),
        number in prop_oneof![Just(0u64), Just(1), 0..100u64, Just(u64::MAX), any::<u64>()],
    ) {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        let digits: Vec<_> = header.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(i, _)| i).collect();
        let start = digits[at.index(digits.len())];
        let end = header[start..].find(|c: char| !c.is_ascii_digit()).map_or(header.len(), |n| start + n);
        let header = format!("{}{number}{}", &header[..start], &header[end..]);
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.safetensors");
        std::fs::write(&path, bytes).unwrap();
        exercise(&path);
    }
}
