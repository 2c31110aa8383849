//! Writes networks under Caffe's names, for the PyTorch script: VGG-19 with random weights, or a network of any layout.

use crate::error::{Error, Result};
use crate::vgg::{LayerKind, Matrix, Network};
use crate::workbench::{LayerShape, topology};
use half::f16;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Normal};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::path::Path;

/// A tensor: its name, dimensions and numbers.
type Named = (String, Vec<usize>, Vec<f32>);

/// Writes the convolutional layers of VGG-19 with random weights, for timing: the real ones are a download of 550 MB.
/// The weights preserve the magnitude of activations (He et al. 2015), and are the same on every machine.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write_random(path: &Path) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(19);
    let mut tensors: Vec<Named> = Vec::new();
    let (mut block, mut index) = (1, 1);
    for layer in topology("vgg19").unwrap_or_default() {
        match layer {
            LayerShape::Conv(ins, outs) => {
                let deviation = (2.0 / (9 * ins) as f32).sqrt();
                let normal = Normal::new(0.0, deviation).map_err(|error| failed(path, error.to_string()))?;
                let filter = (0..outs * ins * 9).map(|_| normal.sample(&mut random)).collect();
                tensors.push((format!("conv{block}_{index}.weight"), vec![outs, ins, 3, 3], filter));
                tensors.push((format!("conv{block}_{index}.bias"), vec![outs], vec![0.01; outs]));
                index += 1;
            }
            LayerShape::Halve => (block, index) = (block + 1, 1),
            LayerShape::Linear(..) => {}
        }
    }
    write(path, &tensors, "vgg19", "caffe")
}

/// Writes a network of any layout, widened to f32, with batch norms folded in.
///
/// # Errors
/// [`Error::File`] if its weights can't be read or are not finite, [`Error::Io`] if the file can't be written.
pub(super) fn write_network(network: &Network, path: &Path) -> Result<()> {
    let mut tensors: Vec<Named> = Vec::new();
    for layer in &network.layers {
        let (shape, weight, bias) = match &layer.kind {
            LayerKind::Conv(conv) => {
                let [height, width] = conv.kernel;
                (vec![conv.out_channels, conv.in_channels, height, width], conv.filter()?, conv.bias()?)
            }
            LayerKind::Linear(linear) => {
                let matrix = match linear.matrix()? {
                    Matrix::F32(values) => values,
                    Matrix::F16(bits) => bits.into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect(),
                };
                (vec![linear.out_features, linear.in_features], matrix, linear.bias()?)
            }
            _ => continue,
        };
        tensors.push((format!("{}.weight", layer.name), shape, weight));
        tensors.push((format!("{}.bias", layer.name), vec![bias.len()], bias));
    }
    write(path, &tensors, "vgg", &network.preprocessing.to_string())
}

fn write(path: &Path, tensors: &[Named], architecture: &str, preprocessing: &str) -> Result<()> {
    let mut views = Vec::new();
    for (name, shape, values) in tensors {
        let bytes = bytemuck::cast_slice(values.as_slice());
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)
            .map_err(|error| failed(path, error.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = [("architecture", architecture), ("preprocessing", preprocessing)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    safetensors::serialize_to_file(views, Some(HashMap::from(metadata)), path)
        .map_err(|error| failed(path, error.to_string()))
}

fn failed(path: &Path, error: String) -> Error {
    Error::io(path, "writing weights")(std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vgg::{DType, KeyLayout, Preprocessing};

    #[test]
    fn other_layouts_are_converted_to_caffe() {
        let folder = tempfile::tempdir().unwrap();
        let numbers = |count: usize, from: usize| (from..from + count).map(|number| number as f32).collect();
        let tensors: Vec<Named> = vec![
            ("block1_conv1/kernel".into(), vec![3, 3, 3, 2], numbers(54, 1)),
            ("block1_conv1/bias".into(), vec![2], numbers(2, 100)),
            ("block2_conv1/kernel".into(), vec![3, 3, 2, 3], numbers(54, 200)),
            ("block2_conv1/bias".into(), vec![3], numbers(3, 300)),
            // Reads a map of 2x2 with 3 channels.
            ("fc1/kernel".into(), vec![12, 5], numbers(60, 400)),
            ("fc1/bias".into(), vec![5], numbers(5, 500)),
        ];
        let path = folder.path().join("keras.safetensors");
        write(&path, &tensors, "vgg", "torchvision").unwrap();
        let keras = Network::open(&path, None).unwrap();
        assert_eq!(keras.layout, KeyLayout::Keras);
        let path = folder.path().join("caffe.safetensors");
        write_network(&keras, &path).unwrap();
        let caffe = Network::open(&path, None).unwrap();
        assert_eq!((caffe.layout, caffe.dtype), (KeyLayout::Caffe, DType::F32));
        assert_eq!(caffe.preprocessing, Preprocessing::Torchvision);
        assert_eq!(caffe.layer_names(), keras.layer_names());
        for (caffe, keras) in caffe.convs().zip(keras.convs()) {
            assert_eq!(caffe.filter().unwrap(), keras.filter().unwrap());
            assert_eq!(caffe.weight.to_f32().unwrap(), keras.filter().unwrap());
            assert_eq!(caffe.bias().unwrap(), keras.bias().unwrap());
        }
        for (caffe, keras) in caffe.linears().zip(keras.linears()) {
            assert_eq!(caffe.matrix().unwrap(), keras.matrix().unwrap());
            assert_eq!(caffe.bias().unwrap(), keras.bias().unwrap());
        }
    }
}
