//! Reads the golden files written with PyTorch by the scripts listed in `tools/goldens.py`.

use neural_mirage::ops::Shape;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One golden file: tensors and the description of the cases.
pub struct Golden {
    bytes: Vec<u8>,
    /// The JSON in the metadata key `cases`.
    pub cases: Value,
}

/// Returns the path of a file in `tests/golden`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).expect("the golden file is committed");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let text = metadata.metadata().as_ref().and_then(|map| map.get("cases")).expect("metadata `cases`");
        let cases = serde_json::from_str(text).expect("JSON");
        Self { bytes, cases }
    }

    /// Returns a tensor's sizes and values.
    pub fn tensor(&self, key: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let tensor = tensors.tensor(key).unwrap_or_else(|_| panic!("no tensor {key}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{key}");
        (tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data()))
    }
}

/// Converts sizes to a shape: three sizes are a map, two a matrix, one a vector.
pub fn shape(sizes: &[usize]) -> Shape {
    match *sizes {
        [channels, height, width] => Shape::map(channels, height, width),
        [rows, columns] => Shape::Matrix { rows, columns },
        [length] => Shape::Vector(length),
        _ => panic!("no shape has sizes {sizes:?}"),
    }
}

/// Reads a JSON list of two sizes.
pub fn pair(value: &Value) -> [usize; 2] {
    let number = |index: usize| value[index].as_u64().expect("a size") as usize;
    [number(0), number(1)]
}

/// Reads a JSON string.
pub fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}
