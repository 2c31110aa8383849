//! Opening a weights file: the layers it holds, every shape checked.

use crate::escape::shown;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::layer::{Conv, FilterOrder, Layer, LayerKind, Linear, MatrixOrder, Norm};
use super::layout::{ConvKeys, KeyLayout, Keys, ParameterKind, Sorted, sort};
use super::locate::{Location, NARROW, find_weights};
use super::preprocessing::{Preprocessing, PreprocessingSource};
use super::tensor::{CONVERT, DType, Tensor, WeightFile};
use crate::hex::hex;
use crate::{Error, Result};

/// Colour channels of the input.
const IMAGE_CHANNELS: usize = 3;
/// Largest filter side taken. A file doesn't state strides, and networks with larger filters than
/// this (AlexNet's 11x11) have strides other than 1 there.
const MAX_KERNEL: usize = 7;
/// Fully connected layers that have names: fc6, fc7, fc8.
const MAX_LINEARS: usize = 3;
/// The number of the first fully connected layer, whatever the number of blocks.
const FIRST_LINEAR: usize = 6;
/// Side and step of the pooling windows between blocks, pixels.
const POOL: usize = 2;
/// The metadata key of a batch norm's epsilon.
const EPSILON_KEY: &str = "batch_norm_eps";

/// A VGG-shaped network: a sequence of named layers whose weights stay in the file.
///
/// The sequence is `conv1_1, relu1_1, ..., pool1, conv2_1, ..., poolN`, and where the file has fully
/// connected layers, `poolN_HxW` (adaptive pooling to the size that the first of them expects),
/// `fc6, relu6, fc7, relu7, fc8, prob`. Only names and shapes in the file decide how many there are.
#[non_exhaustive]
pub struct Network {
    /// The layers in the order they run.
    pub layers: Vec<Layer>,
    /// What the network expects of its input.
    pub preprocessing: Preprocessing,
    /// Where [`Network::preprocessing`] comes from.
    pub preprocessing_source: PreprocessingSource,
    /// How the file names its tensors.
    pub layout: KeyLayout,
    /// How most of the weights are stored.
    pub dtype: DType,
    /// The file, as given; of a network inside the program its short name.
    pub path: PathBuf,
    /// Keys of the file that no layer uses.
    pub unused: Vec<String>,
    pub(super) file: WeightFile,
    sha256: OnceLock<String>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("path", &self.path)
            .field("layout", &self.layout)
            .field("layers", &self.layer_names())
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Opens a safetensors file of a VGG-shaped network.
    ///
    /// `preprocessing` overrides what the file's metadata state under `preprocessing` and, where
    /// they say nothing, what is customary for its key layout.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read, is no safetensors file or no VGG-shaped network,
    /// lacks a tensor or has one of a wrong shape. Values are not read: see
    /// [`Network::check_finite`].
    pub fn open(path: &Path, preprocessing: Option<Preprocessing>) -> Result<Self> {
        Self::read(WeightFile::open(path)?, preprocessing)
    }

    /// Opens a network wherever it is. [`Network::open`] says what `preprocessing` does.
    ///
    /// # Errors
    /// As for [`Network::open`].
    pub fn open_at(location: &Location, preprocessing: Option<Preprocessing>) -> Result<Self> {
        let file = match location {
            Location::File(path) => WeightFile::open(path)?,
            Location::Embedded(bytes) => WeightFile::of_bytes(NARROW, bytes)?,
        };
        Self::read(file, preprocessing)
    }

    /// Opens what [`find_weights`] finds for `option`: a path, a short name, or without either the default network.
    ///
    /// # Errors
    /// As for [`find_weights`] and [`Network::open`].
    pub fn find(option: Option<&Path>, preprocessing: Option<Preprocessing>) -> Result<Self> {
        Self::open_at(&find_weights(option)?, preprocessing)
    }

    fn read(file: WeightFile, preprocessing: Option<Preprocessing>) -> Result<Self> {
        let sorted = sort(&file)?;
        let builder = Builder { file: &file, layout: sorted.layout, epsilon: epsilon(&file, sorted.layout)? };
        let layers = builder.layers(&sorted)?;
        let (preprocessing, preprocessing_source) =
            choose_preprocessing(&file, sorted.layout, preprocessing)?;
        let dtype = main_dtype(&layers);
        Ok(Self {
            layers,
            preprocessing,
            preprocessing_source,
            layout: sorted.layout,
            dtype,
            path: file.path().to_owned(),
            unused: sorted.unused,
            file,
            sha256: OnceLock::new(),
        })
    }

    /// Whether the network has fully connected layers.
    pub fn has_head(&self) -> bool {
        self.linears().next().is_some()
    }

    /// The number of classes: the length of the last fully connected layer's output.
    pub fn classes(&self) -> Option<usize> {
        self.linears().last().map(|linear| linear.out_features)
    }

    /// The position of a layer in [`Network::layers`].
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such layer; it lists all there are, and the likeliest one.
    pub fn index_of(&self, layer: &str) -> Result<usize> {
        if let Some(index) = self.layers.iter().position(|l| l.name == layer) {
            return Ok(index);
        }
        let mut message = format!("there is no layer '{layer}' in {}", shown(&self.path));
        let nearest = self.layers.iter().map(|l| (edit_distance(layer, &l.name), l.name.as_str())).min();
        if let Some((distance, name)) = nearest
            && distance <= 2.max(name.len() / 3)
        {
            // Writing to a String can't fail.
            let _ = write!(message, "; did you mean {name}?");
        } else {
            message.push('.');
        }
        let _ = write!(message, " Its layers: {}", self.layer_names().join(", "));
        Err(Error::Usage(message))
    }

    /// The names of all layers, in order.
    pub fn layer_names(&self) -> Vec<&str> {
        self.layers.iter().map(|layer| layer.name.as_str()).collect()
    }

    /// How many convolutions each block has: `[2, 2, 3, 3, 3]` for VGG-16.
    pub fn convs_per_block(&self) -> Vec<usize> {
        let mut counts = vec![0];
        for layer in &self.layers {
            match (&layer.kind, counts.last_mut()) {
                (LayerKind::Conv(_), Some(count)) => *count += 1,
                (LayerKind::Pool { .. }, _) => counts.push(0),
                _ => {}
            }
        }
        counts.pop();
        counts
    }

    /// The convolutions, in order.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Conv(conv) => Some(conv),
            _ => None,
        })
    }

    /// The fully connected layers, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            LayerKind::Linear(linear) => Some(linear),
            _ => None,
        })
    }

    /// Names the file's content: another text for another file, and for one that was replaced.
    pub(crate) fn identity(&self) -> String {
        self.file.identity()
    }

    /// SHA-256 of the whole file, 64 hexadecimal digits. The first call reads all of it.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read.
    pub fn sha256(&self) -> Result<String> {
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        self.file.read(|piece| hash.update(piece))?;
        Ok(self.sha256.get_or_init(|| hex(&hash.finalize())).clone())
    }

    /// Checks that every weight is finite. Reads them all.
    ///
    /// # Errors
    /// [`Error::File`] that names the first tensor with a NaN or an infinity.
    pub fn check_finite(&self) -> Result<()> {
        self.tensors().try_for_each(Tensor::check_finite)
    }

    /// How many trained numbers the network has, as stored.
    pub fn parameters(&self) -> usize {
        self.tensors().map(Tensor::elements).sum()
    }

    /// Bytes of the network that are in memory besides what is made of it: all, where it is a part of the program.
    pub fn resident_bytes(&self) -> usize {
        self.file.resident()
    }

    /// Size of the file, bytes.
    pub fn file_len(&self) -> usize {
        self.file.length()
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        tensors(&self.layers)
    }
}

/// Every tensor of `layers`, in order.
fn tensors(layers: &[Layer]) -> impl Iterator<Item = &Tensor> {
    layers.iter().flat_map(|layer| -> Vec<&Tensor> {
        match &layer.kind {
            LayerKind::Conv(conv) => conv.tensors().collect(),
            LayerKind::Linear(linear) => vec![&linear.weight, &linear.bias],
            _ => Vec::new(),
        }
    })
}

/// The format that most numbers are stored in.
fn main_dtype(layers: &[Layer]) -> DType {
    let count = |dtype| tensors(layers).filter(|t| t.dtype() == dtype).map(Tensor::elements).sum::<usize>();
    [DType::Bf16, DType::F16, DType::F32].into_iter().max_by_key(|dtype| count(*dtype)).unwrap_or(DType::F32)
}

/// The batch norms' epsilon: stated by the file, or the default of the framework that wrote it.
fn epsilon(file: &WeightFile, layout: KeyLayout) -> Result<f64> {
    let default = if layout == KeyLayout::Keras { 1e-3 } else { 1e-5 };
    let Some(text) = file.metadata(EPSILON_KEY) else { return Ok(default) };
    match text.trim().parse::<f64>() {
        Ok(epsilon) if epsilon.is_finite() && epsilon >= 0.0 => Ok(epsilon),
        _ => Err(file.error(
            format!("its metadata state {EPSILON_KEY} '{text}', which is not a number of 0 or more"),
            "Correct the file's metadata",
        )),
    }
}

fn choose_preprocessing(
    file: &WeightFile,
    layout: KeyLayout,
    option: Option<Preprocessing>,
) -> Result<(Preprocessing, PreprocessingSource)> {
    if let Some(preprocessing) = option {
        return Ok((preprocessing, PreprocessingSource::Option));
    }
    if let Some(text) = file.metadata("preprocessing") {
        let stated = text.parse().map_err(|_| {
            file.error(
                format!("its metadata state the unknown preprocessing '{text}'"),
                "Say which to use: caffe or torchvision",
            )
        })?;
        return Ok((stated, PreprocessingSource::Metadata));
    }
    let custom = match layout {
        KeyLayout::Torchvision | KeyLayout::Timm => Preprocessing::Torchvision,
        KeyLayout::Caffe | KeyLayout::Keras => Preprocessing::Caffe,
    };
    Ok((custom, PreprocessingSource::Layout))
}

/// Turns sorted keys into layers.
struct Builder<'a> {
    file: &'a WeightFile,
    layout: KeyLayout,
    epsilon: f64,
}

impl Builder<'_> {
    fn layers(&self, sorted: &Sorted) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        let mut channels = IMAGE_CHANNELS;
        for (block, convs) in (1..).zip(&sorted.blocks) {
            for (index, keys) in (1..).zip(convs) {
                let conv = self.conv(keys, channels)?;
                channels = conv.out_channels;
                let mut push = |name, kind| layers.push(Layer { name, kind, channels });
                push(format!("conv{block}_{index}"), LayerKind::Conv(conv));
                push(format!("relu{block}_{index}"), LayerKind::Relu);
            }
            let kind = LayerKind::Pool { size: POOL, stride: POOL };
            layers.push(Layer { name: format!("pool{block}"), kind, channels });
        }
        self.head(&mut layers, channels, sorted)?;
        Ok(layers)
    }

    /// Checks one convolution's tensors against each other and the map that it reads.
    fn conv(&self, keys: &ConvKeys, in_channels: usize) -> Result<Conv> {
        let weight = self.file.tensor(keys.conv.require(self.file, ParameterKind::Weight)?)?;
        let &[a, b, c, d] = weight.shape() else {
            return Err(self.misshaped(&weight, "a filter of 4 dimensions"));
        };
        let (order, [out_channels, filter_in, height, width]) = match self.layout {
            KeyLayout::Keras => (FilterOrder::Hwio, [d, c, a, b]),
            _ => (FilterOrder::Oihw, [a, b, c, d]),
        };
        if filter_in != in_channels {
            return Err(weight.error(
                format_args!(
                    "(shape {:?}) takes {filter_in} channels, but what comes before it gives {in_channels}",
                    weight.shape()
                ),
                CONVERT,
            ));
        }
        let side = |n: usize| n % 2 == 1 && n <= MAX_KERNEL;
        if !side(height) || !side(width) {
            return Err(weight.error(
                format_args!(
                    "is a {height}x{width} filter, but only odd sides up to {MAX_KERNEL} can be read (VGG's are 3x3)"
                ),
                CONVERT,
            ));
        }
        let norm = match &keys.norm {
            None => None,
            Some(norm) => Some(Box::new(Norm {
                gamma: self.vector(norm, ParameterKind::Weight, out_channels)?,
                beta: self.vector(norm, ParameterKind::Bias, out_channels)?,
                mean: self.vector(norm, ParameterKind::Mean, out_channels)?,
                variance: self.vector(norm, ParameterKind::Variance, out_channels)?,
                epsilon: self.epsilon,
            })),
        };
        // A convolution ahead of a batch norm is often trained without a bias of its own.
        let bias = match keys.conv.get(ParameterKind::Bias) {
            None if norm.is_some() => None,
            _ => Some(self.vector(&keys.conv, ParameterKind::Bias, out_channels)?),
        };
        Ok(Conv {
            weight,
            bias,
            in_channels,
            out_channels,
            kernel: [height, width],
            stride: [1, 1],
            padding: [height / 2, width / 2],
            order,
            norm,
        })
    }

    /// Adds the fully connected part, if the file has one.
    fn head(&self, layers: &mut Vec<Layer>, channels: usize, sorted: &Sorted) -> Result<()> {
        let count = sorted.linears.len();
        if count == 0 {
            return Ok(());
        }
        if count > MAX_LINEARS {
            return Err(self.file.error(
                format!("it has {count} fully connected layers, but VGG-shaped networks have at most {MAX_LINEARS}"),
                CONVERT,
            ));
        }
        let mut features = None;
        for (index, keys) in sorted.linears.iter().enumerate() {
            let number = FIRST_LINEAR + index;
            let (linear, side) = self.linear(keys, channels, features)?;
            if let Some(side) = side {
                let name = format!("pool{}_{side}x{side}", sorted.blocks.len());
                layers.push(Layer {
                    name,
                    kind: LayerKind::AdaptivePool { height: side, width: side },
                    channels,
                });
            }
            let out = linear.out_features;
            features = Some(out);
            layers.push(Layer {
                name: format!("fc{number}"),
                kind: LayerKind::Linear(linear),
                channels: out,
            });
            if index + 1 < count {
                layers.push(Layer { name: format!("relu{number}"), kind: LayerKind::Relu, channels: out });
            } else {
                layers.push(Layer { name: "prob".to_owned(), kind: LayerKind::Softmax, channels: out });
            }
        }
        Ok(())
    }

    /// Checks one fully connected layer. `features` is the length of the layer before it; without
    /// one, the layer reads a map of `channels`, whose side comes with the result.
    fn linear(
        &self,
        keys: &Keys,
        channels: usize,
        features: Option<usize>,
    ) -> Result<(Linear, Option<usize>)> {
        let weight = self.file.tensor(keys.require(self.file, ParameterKind::Weight)?)?;
        let (out_features, in_features, order) = match *weight.shape() {
            [input, output] if self.layout == KeyLayout::Keras => {
                let channels = if features.is_some() { input } else { channels };
                (output, input, MatrixOrder::InOut { channels })
            }
            [output, input] => (output, input, MatrixOrder::OutIn),
            // A convolution over the whole map, as timm and fully convolutional models store it.
            [output, depth, height, width] if self.layout != KeyLayout::Keras => {
                let expected = features.unwrap_or(channels);
                if depth != expected || height != width || (features.is_some() && height != 1) {
                    let side = if features.is_some() { "1, 1" } else { "N, N" };
                    return Err(self.misshaped(&weight, &format!("[_, {expected}, {side}]")));
                }
                (output, depth * height * width, MatrixOrder::OutIn)
            }
            _ => return Err(self.misshaped(&weight, "a matrix of 2 dimensions")),
        };
        let side = match features {
            None => Some(self.side(&weight, in_features, channels)?),
            Some(features) if features == in_features => None,
            Some(features) => {
                return Err(weight.error(
                    format_args!(
                        "(shape {:?}) takes {in_features} features, but the layer before it gives {features}",
                        weight.shape()
                    ),
                    CONVERT,
                ));
            }
        };
        let bias = self.vector(keys, ParameterKind::Bias, out_features)?;
        Ok((Linear { weight, bias, in_features, out_features, order }, side))
    }

    /// The side of the square map that the first fully connected layer reads, pixels.
    fn side(&self, weight: &Tensor, in_features: usize, channels: usize) -> Result<usize> {
        let side = (in_features / channels).isqrt();
        if side * side * channels == in_features && side > 0 {
            return Ok(side);
        }
        Err(weight.error(
            format_args!(
                "(shape {:?}) takes {in_features} features, which is not a square map of the last convolution's \
                 {channels} channels",
                weight.shape(),
            ),
            CONVERT,
        ))
    }

    /// A tensor that must hold exactly `length` numbers in one dimension.
    fn vector(&self, keys: &Keys, kind: ParameterKind, length: usize) -> Result<Tensor> {
        let tensor = self.file.tensor(keys.require(self.file, kind)?)?;
        if tensor.shape() != [length] {
            return Err(self.misshaped(&tensor, &format!("[{length}]")));
        }
        Ok(tensor)
    }

    fn misshaped(&self, tensor: &Tensor, expected: &str) -> Error {
        tensor.error(
            format_args!("has shape {:?}, expected {expected}", tensor.shape()),
            format!("The file doesn't fit a VGG network, or is damaged. {CONVERT}"),
        )
    }
}

/// Insertions, deletions and replacements of characters that turn `a` into `b`; ASCII case is free.
pub(super) fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(to));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edit_distance;

    #[test]
    fn edit_distance_counts_single_changes() {
        for (a, b, distance) in [
            ("relu4_2", "relu4_2", 0),
            ("RELU4_2", "relu4_2", 0),
            ("relu42", "relu4_2", 1),
            ("rleu4_2", "relu4_2", 2),
            ("", "fc6", 3),
            ("conv", "fc6", 4),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }
}
