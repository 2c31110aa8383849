//! Tiny weights files in every layout, built from one set of logical weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};

/// A tensor to write.
#[derive(Clone)]
pub struct Stored {
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Builds a safetensors file.
#[derive(Clone, Default)]
pub struct FileBuilder {
    pub tensors: BTreeMap<String, Stored>,
    pub metadata: BTreeMap<String, String>,
}

impl FileBuilder {
    pub fn add(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), Stored { dtype: "F32", shape: shape.to_vec(), bytes });
        self
    }

    /// Converts all tensors whose names satisfy `which` to another number format.
    pub fn convert(&mut self, dtype: &'static str, which: impl Fn(&str) -> bool) -> &mut Self {
        for (_, tensor) in self.tensors.iter_mut().filter(|(name, _)| which(name)) {
            let values = tensor.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            tensor.bytes = match dtype {
                "F16" => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
                "BF16" => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
                "F64" => values.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
                other => panic!("no {other}"),
            };
            tensor.dtype = dtype;
        }
        self
    }

    pub fn reshape(&mut self, name: &str, shape: &[usize]) -> &mut Self {
        let tensor = self.tensors.get_mut(name).unwrap();
        assert_eq!(tensor.shape.iter().product::<usize>(), shape.iter().product::<usize>());
        tensor.shape = shape.to_vec();
        self
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        assert!(self.tensors.remove(name).is_some(), "{name}");
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".into(), serde_json::json!(self.metadata));
        }
        let mut data = Vec::new();
        for (name, tensor) in &self.tensors {
            let start = data.len();
            data.extend_from_slice(&tensor.bytes);
            header.insert(
                name.clone(),
                serde_json::json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]}),
            );
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&data);
        bytes
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("net.safetensors");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// Logical weights, which must be read back from every layout.
#[derive(Clone)]
pub struct Net {
    pub blocks: Vec<Vec<LogicalConv>>,
    pub linears: Vec<LogicalLinear>,
    /// Channels and side of the first fully connected layer's input map.
    pub map: (usize, usize),
}

#[derive(Clone)]
pub struct LogicalConv {
    pub out: usize,
    pub input: usize,
    pub side: usize,
    /// Out, in, row, column.
    pub filter: Vec<f32>,
    pub bias: Vec<f32>,
    /// Gamma, beta, mean, variance.
    pub norm: Option<[Vec<f32>; 4]>,
}

#[derive(Clone)]
pub struct LogicalLinear {
    pub out: usize,
    pub input: usize,
    /// Out, in; the columns of the first layer are in channel, row, column order.
    pub matrix: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Generates varying small numbers that are exact in f16 and bf16.
pub struct Numbers(u32);

impl Numbers {
    pub fn new(seed: u32) -> Self {
        Self(seed)
    }

    pub fn take(&mut self, count: usize) -> Vec<f32> {
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((*state >> 24) as i32 - 128) as f32 / 64.0
        };
        (0..count).map(|_| next(&mut self.0)).collect()
    }
}

impl Net {
    /// `widths`: output channels of each convolution of each block; `fc`: output features.
    pub fn new(widths: &[&[usize]], side: usize, fc: &[usize], norm: bool) -> Self {
        let mut numbers = Numbers::new(7);
        let mut input = 3;
        let mut blocks = Vec::new();
        for widths in widths {
            let mut block = Vec::new();
            for &out in *widths {
                let norm = norm.then(|| {
                    let variance = numbers.take(out).iter().map(|v| v.abs() + 0.25).collect();
                    [numbers.take(out), numbers.take(out), numbers.take(out), variance]
                });
                block.push(LogicalConv {
                    out,
                    input,
                    side: 3,
                    filter: numbers.take(out * input * 9),
                    bias: numbers.take(out),
                    norm,
                });
                input = out;
            }
            blocks.push(block);
        }
        let map = (input, side);
        let mut input = input * side * side;
        let mut linears = Vec::new();
        for &out in fc {
            linears.push(LogicalLinear {
                out,
                input,
                matrix: numbers.take(out * input),
                bias: numbers.take(out),
            });
            input = out;
        }
        Self { blocks, linears, map }
    }

    pub fn small() -> Self {
        Self::new(&[&[4, 5], &[6]], 2, &[8, 7, 9], false)
    }

    fn convs(&self) -> impl Iterator<Item = (usize, usize, &LogicalConv)> {
        self.blocks
            .iter()
            .enumerate()
            .flat_map(|(b, block)| block.iter().enumerate().map(move |(i, c)| (b, i, c)))
    }

    pub fn torchvision(&self) -> FileBuilder {
        let mut file = FileBuilder::default();
        self.features(&mut file);
        // ReLU and dropout are between the linear layers.
        for (i, fc) in self.linears.iter().enumerate() {
            file.add(&format!("classifier.{}.weight", i * 3), &[fc.out, fc.input], &fc.matrix);
            file.add(&format!("classifier.{}.bias", i * 3), &[fc.out], &fc.bias);
        }
        file
    }

    pub fn timm(&self) -> FileBuilder {
        let mut file = FileBuilder::default();
        self.features(&mut file);
        for (i, fc) in self.linears.iter().enumerate() {
            let (channels, side) = if i == 0 { self.map } else { (fc.input, 1) };
            let last = i + 1 == self.linears.len();
            let name = if last { "head.fc".to_owned() } else { format!("pre_logits.fc{}", i + 1) };
            let conv = [fc.out, channels, side, side];
            let shape: &[usize] = if last { &[fc.out, fc.input] } else { &conv };
            file.add(&format!("{name}.weight"), shape, &fc.matrix);
            file.add(&format!("{name}.bias"), &[fc.out], &fc.bias);
        }
        file
    }

    fn features(&self, file: &mut FileBuilder) {
        let mut position = 0;
        for block in &self.blocks {
            for conv in block {
                let shape = [conv.out, conv.input, conv.side, conv.side];
                file.add(&format!("features.{position}.weight"), &shape, &conv.filter);
                file.add(&format!("features.{position}.bias"), &[conv.out], &conv.bias);
                position += 1;
                if let Some([gamma, beta, mean, variance]) = &conv.norm {
                    let names = ["weight", "bias", "running_mean", "running_var"];
                    for (name, values) in names.iter().zip([gamma, beta, mean, variance]) {
                        file.add(&format!("features.{position}.{name}"), &[conv.out], values);
                    }
                    let counter = Stored { dtype: "I64", shape: vec![], bytes: vec![0; 8] };
                    file.tensors.insert(format!("features.{position}.num_batches_tracked"), counter);
                    position += 1;
                }
                position += 1; // ReLU
            }
            position += 1; // pooling
        }
    }

    pub fn caffe(&self) -> FileBuilder {
        let mut file = FileBuilder::default();
        for (b, i, conv) in self.convs() {
            let (name, shape) =
                (format!("conv{}_{}", b + 1, i + 1), [conv.out, conv.input, conv.side, conv.side]);
            file.add(&format!("{name}.weight"), &shape, &conv.filter);
            file.add(&format!("{name}.bias"), &[conv.out], &conv.bias);
            if let Some([gamma, beta, mean, variance]) = &conv.norm {
                let names = ["weight", "bias", "running_mean", "running_var"];
                for (part, values) in names.iter().zip([gamma, beta, mean, variance]) {
                    file.add(&format!("bn{}_{}.{part}", b + 1, i + 1), &[conv.out], values);
                }
            }
        }
        for (i, fc) in self.linears.iter().enumerate() {
            file.add(&format!("fc{}.weight", 6 + i), &[fc.out, fc.input], &fc.matrix);
            file.add(&format!("fc{}.bias", 6 + i), &[fc.out], &fc.bias);
        }
        file
    }

    /// `kernel` and `bias` are patterns of a variable's path, in which `*` stands for the layer's name.
    pub fn keras(&self, kernel: &str, bias: &str) -> FileBuilder {
        let mut file = FileBuilder::default();
        let path = |pattern: &str, layer: &str| pattern.replace('*', layer);
        for (b, i, conv) in self.convs() {
            let name = format!("block{}_conv{}", b + 1, i + 1);
            let mut hwio = vec![0.0; conv.filter.len()];
            let taps = conv.side * conv.side;
            for o in 0..conv.out {
                for c in 0..conv.input {
                    for t in 0..taps {
                        hwio[(t * conv.input + c) * conv.out + o] =
                            conv.filter[(o * conv.input + c) * taps + t];
                    }
                }
            }
            file.add(&path(kernel, &name), &[conv.side, conv.side, conv.input, conv.out], &hwio);
            file.add(&path(bias, &name), &[conv.out], &conv.bias);
            if let Some([gamma, beta, mean, variance]) = &conv.norm {
                let names = ["gamma", "beta", "moving_mean", "moving_variance"];
                for (part, values) in names.iter().zip([gamma, beta, mean, variance]) {
                    file.add(&format!("block{}_bn{}/{part}", b + 1, i + 1), &[conv.out], values);
                }
            }
        }
        for (i, fc) in self.linears.iter().enumerate() {
            let last = i + 1 == self.linears.len();
            let name = if last { "predictions".to_owned() } else { format!("fc{}", i + 1) };
            let (channels, side) = if i == 0 { self.map } else { (fc.input, 1) };
            let mut matrix = vec![0.0; fc.matrix.len()];
            for o in 0..fc.out {
                for c in 0..channels {
                    for p in 0..side * side {
                        matrix[(p * channels + c) * fc.out + o] =
                            fc.matrix[o * fc.input + c * side * side + p];
                    }
                }
            }
            file.add(&path(kernel, &name), &[fc.input, fc.out], &matrix);
            file.add(&path(bias, &name), &[fc.out], &fc.bias);
        }
        file
    }
}
