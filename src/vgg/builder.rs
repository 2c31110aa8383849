//! Builds the layers of a weights file and checks every shape.

use super::layer::{Conv, FilterOrder, Layer, LayerKind, Linear, MatrixOrder, Norm};
use super::layout::{ConvKeys, KeyLayout, Keys, ParameterKind, Sorted};
use super::tensor::{CONVERT, Tensor, WeightFile};
use crate::{Error, Result};

/// Colour channels of the input.
const IMAGE_CHANNELS: usize = 3;
/// Largest accepted filter side. Files don't contain strides, and layers with larger filters (AlexNet's
/// 11x11) have strides other than 1.
const MAX_KERNEL: usize = 7;
/// Maximum number of fully connected layers: fc6, fc7, fc8.
const MAX_LINEARS: usize = 3;
/// The number of the first fully connected layer, whatever the number of blocks.
const FIRST_LINEAR: usize = 6;
/// Side and stride of the pooling windows between blocks, in pixels.
const POOL: usize = 2;
/// The metadata key of a batch norm's epsilon.
const EPSILON_KEY: &str = "batch_norm_eps";

/// Builds layers from the tensors grouped by [`super::layout::sort`].
pub(super) struct Builder<'a> {
    file: &'a WeightFile,
    layout: KeyLayout,
    epsilon: f64,
}

impl<'a> Builder<'a> {
    /// Creates a builder for a file.
    ///
    /// # Errors
    /// [`Error::File`] if the batch norm epsilon in the metadata is invalid.
    pub fn new(file: &'a WeightFile, layout: KeyLayout) -> Result<Self> {
        Ok(Self { file, layout, epsilon: epsilon(file, layout)? })
    }

    /// Returns all layers, in execution order.
    pub fn layers(&self, sorted: &Sorted) -> Result<Vec<Layer>> {
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

    /// Builds a convolution that reads `in_channels` and checks the shapes of its tensors.
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
                    "(shape {:?}) expects {filter_in} channels, but its input has {in_channels}",
                    weight.shape()
                ),
                CONVERT,
            ));
        }
        let side = |n: usize| n % 2 == 1 && n <= MAX_KERNEL;
        if !side(height) || !side(width) {
            return Err(weight.error(
                format_args!(
                    "is a {height}x{width} filter, but only odd sides up to {MAX_KERNEL} are supported (VGG's are 3x3)"
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
        // A convolution before a batch norm is often trained without a bias.
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

    /// Adds the fully connected layers, if the file has them.
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

    /// Builds a fully connected layer and checks the shapes of its tensors. `features` is the output length of
    /// the previous fully connected layer. Without one, the layer reads a square map of `channels`, and the
    /// result includes its side in pixels.
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
            // A convolution over the whole map, as in timm and fully convolutional models.
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
                        "(shape {:?}) expects {in_features} features, but its input has {features}",
                        weight.shape()
                    ),
                    CONVERT,
                ));
            }
        };
        let bias = self.vector(keys, ParameterKind::Bias, out_features)?;
        Ok((Linear { weight, bias, in_features, out_features, order }, side))
    }

    /// Returns the side in pixels of the square map that the first fully connected layer reads.
    fn side(&self, weight: &Tensor, in_features: usize, channels: usize) -> Result<usize> {
        let side = (in_features / channels).isqrt();
        if side * side * channels == in_features && side > 0 {
            return Ok(side);
        }
        Err(weight.error(
            format_args!(
                "(shape {:?}) expects {in_features} features, which is not a square map of the last convolution's \
                 {channels} channels",
                weight.shape(),
            ),
            CONVERT,
        ))
    }

    /// Returns a tensor that must have one dimension of `length` numbers.
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
            format!("The file is not a VGG network, or is damaged. {CONVERT}"),
        )
    }
}

/// Returns the batch norms' epsilon from the file's metadata, or the default of the framework that wrote it.
fn epsilon(file: &WeightFile, layout: KeyLayout) -> Result<f64> {
    let default = if layout == KeyLayout::Keras { 1e-3 } else { 1e-5 };
    let Some(text) = file.metadata(EPSILON_KEY) else { return Ok(default) };
    match text.trim().parse::<f64>() {
        Ok(epsilon) if epsilon.is_finite() && epsilon >= 0.0 => Ok(epsilon),
        _ => Err(file.error(
            format!("its metadata hold {EPSILON_KEY} '{text}', which is not a number of 0 or more"),
            "Correct the file's metadata",
        )),
    }
}
