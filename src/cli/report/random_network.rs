//! VGG-19 with random weights, for times: the real one is a download of 550 MB.

use crate::error::{Error, Result};
use crate::workbench::{LayerShape, topology};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Normal};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::path::Path;

/// Writes the convolutional layers, with weights that keep the size of activations (He et al. 2015). The same values on
/// every machine.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(path: &Path) -> Result<()> {
    let failed = |error: String| Error::io(path, "writing random weights")(std::io::Error::other(error));
    let mut random = ChaCha8Rng::seed_from_u64(19);
    let mut values: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let (mut block, mut index) = (1, 1);
    for layer in topology("vgg19").unwrap_or_default() {
        match layer {
            LayerShape::Conv(ins, outs) => {
                let deviation = (2.0 / (9 * ins) as f32).sqrt();
                let normal = Normal::new(0.0, deviation).map_err(|error| failed(error.to_string()))?;
                let filter = (0..outs * ins * 9).map(|_| normal.sample(&mut random)).collect();
                values.push((format!("conv{block}_{index}.weight"), vec![outs, ins, 3, 3], filter));
                values.push((format!("conv{block}_{index}.bias"), vec![outs], vec![0.01; outs]));
                index += 1;
            }
            LayerShape::Halve => (block, index) = (block + 1, 1),
            LayerShape::Linear(..) => {}
        }
    }
    let mut views = Vec::new();
    for (name, shape, values) in &values {
        let bytes = bytemuck::cast_slice(values.as_slice());
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|error| failed(error.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = [("architecture", "vgg19"), ("preprocessing", "caffe")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    safetensors::serialize_to_file(views, Some(HashMap::from(metadata)), path)
        .map_err(|error| failed(error.to_string()))
}
