//! Builds graph nodes from a network. Only this file translates layers into ops.

use crate::error::{Error, Result};
use crate::graph::{Graph, TensorId};
use crate::ops::{
    AdaptivePool, Conv, Filter, Flatten, Linear, LinearCombination, Matrix, MatrixValues, Padding, Pool,
    PoolKind, Preprocess, Relu, Softmax,
};
use crate::vgg::{self, DType, LayerKind, Network};
use std::collections::HashMap;
use std::sync::Arc;

/// Pooling between the blocks of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pooling {
    /// Maximum or average pooling.
    pub kind: PoolKind,
    /// Factor on pooled activations: 1 as networks are trained. With average pooling, 2 restores about the magnitude of
    /// the maxima that the network was trained with (Crowson's `style-transfer-pytorch`).
    pub gain: f32,
}

impl From<PoolKind> for Pooling {
    fn from(kind: PoolKind) -> Self {
        Self { kind, gain: 1.0 }
    }
}

/// Parameters of the forward pass that are not part of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct View {
    /// Pooling between blocks.
    pub pooling: Pooling,
    /// Padding of the first convolution; the others are padded with zeros.
    pub border: Padding,
}

/// Appends the preprocessing and the layers up to the deepest of `wanted` (indices into `network.layers`) to a graph,
/// and returns the tensor of each wanted layer.
///
/// A conv (or fully connected) layer and its ReLU become one node unless the layer itself is wanted. Dropout is the
/// identity. An adaptive max pool precedes the first fully connected layer whatever the pooling (Töyrylä 2016), so
/// pictures of any size fit.
///
/// # Errors
/// If the picture is too small for the deepest layer.
pub(super) fn forward(
    graph: &mut Graph,
    network: &Network,
    picture: TensorId,
    wanted: &[usize],
    view: View,
) -> Result<HashMap<usize, TensorId>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let affine = network.preprocessing.affine();
    let preprocess = Preprocess { order: affine.order, scale: affine.scale, bias: affine.bias };
    let preprocessed = graph.apply(preprocess, &[picture], "preprocessed")?;
    forward_from(graph, network, (0, preprocessed), wanted, view)
}

/// Same as [`forward`], but starts at a layer (by index) and the tensor that it reads.
///
/// # Errors
/// Same as [`forward`].
pub(super) fn forward_from(
    graph: &mut Graph,
    network: &Network,
    (mut index, mut current): (usize, TensorId),
    wanted: &[usize],
    view: View,
) -> Result<HashMap<usize, TensorId>> {
    let mut found = HashMap::new();
    let Some(&deepest) = wanted.iter().max() else { return Ok(found) };
    let first = network.layers.iter().position(|layer| matches!(layer.kind, LayerKind::Conv(_)));
    let first = first.unwrap_or(0);
    // Pending factor on the input of the next convolution, which is folded into its filter.
    let mut gain = 1.0;
    while index <= deepest {
        let layer = &network.layers[index];
        let rectified = matches!(network.layers.get(index + 1).map(|next| &next.kind), Some(LayerKind::Relu))
            && index < deepest
            && !wanted.contains(&index);
        let label = &network.layers[index + usize::from(rectified)].name;
        current = match &layer.kind {
            LayerKind::Conv(conv) => {
                let op = Conv {
                    filter: Arc::new(filter(network, &layer.name, conv, std::mem::replace(&mut gain, 1.0))),
                    stride: conv.stride,
                    padding: conv.padding,
                    mode: if index == first { view.border } else { Padding::Zeros },
                    relu: rectified,
                    pool: false,
                };
                graph.apply(op, &[current], label)?
            }
            LayerKind::Relu => graph.apply(Relu, &[current], label)?,
            LayerKind::Pool { size, stride } => {
                let op = Pool {
                    kind: view.pooling.kind,
                    kernel: [*size; 2],
                    stride: [*stride; 2],
                    padding: [0, 0],
                    ceil: false,
                };
                let pooled = graph.apply(op, &[current], label)?;
                let next = network.layers.get(index + 1).map(|next| &next.kind);
                if view.pooling.gain == 1.0 {
                    pooled
                } else if matches!(next, Some(LayerKind::Conv(_)))
                    && index < deepest
                    && !wanted.contains(&index)
                {
                    gain = view.pooling.gain;
                    pooled
                } else {
                    let scale = LinearCombination::scale(view.pooling.gain);
                    graph.apply(scale, &[pooled], format!("{label} scaled"))?
                }
            }
            LayerKind::AdaptivePool { height, width } => {
                let op = AdaptivePool { kind: PoolKind::Max, size: [*height, *width] };
                graph.apply(op, &[current], label)?
            }
            LayerKind::Linear(linear) => {
                if graph.shape(current).layout().is_some() {
                    current = graph.apply(Flatten, &[current], format!("{} input", layer.name))?;
                }
                let op = Linear { matrix: Arc::new(matrix(network, &layer.name, linear)), relu: rectified };
                graph.apply(op, &[current], label)?
            }
            LayerKind::Softmax => graph.apply(Softmax, &[current], label)?,
        };
        index += usize::from(rectified);
        if wanted.contains(&index) {
            found.insert(index, current);
        }
        index += 1;
    }
    Ok(found)
}

/// Returns the filter of a convolution, scaled by `gain` to stand in for scaling its input.
fn filter(network: &Network, name: &str, conv: &vgg::Conv, gain: f32) -> Filter {
    let (weights, bias) = (conv.clone(), conv.clone());
    let id = format!("{name} of {}", network.identity());
    Filter {
        id: if gain == 1.0 { id } else { format!("{id} times {gain}") },
        out_channels: conv.out_channels,
        in_channels: conv.in_channels,
        kernel: conv.kernel,
        weights: Arc::new(move || {
            let mut filter = weights.filter()?;
            filter.iter_mut().for_each(|weight| *weight *= gain);
            Ok(filter)
        }),
        bias: Arc::new(move || bias.bias()),
    }
}

fn matrix(network: &Network, name: &str, linear: &vgg::Linear) -> Matrix {
    let (weights, bias) = (linear.clone(), linear.clone());
    Matrix {
        id: format!("{name} of {}", network.identity()),
        rows: linear.out_features,
        columns: linear.in_features,
        half: linear.weight.dtype() == DType::F16,
        values: Arc::new(move |rows| {
            Ok(match weights.rows(rows)? {
                vgg::Matrix::F32(values) => MatrixValues::F32(values),
                vgg::Matrix::F16(bits) => MatrixValues::F16(bits),
            })
        }),
        bias: Arc::new(move || bias.bias()),
    }
}

/// Checks that a picture of this size is large enough for layer `deepest`.
///
/// # Errors
/// [`Error::Usage`] naming the layer and its smallest size.
pub(super) fn check_size(network: &Network, deepest: usize, height: usize, width: usize) -> Result<()> {
    let smallest = smallest_side(network, deepest);
    if height.min(width) >= smallest {
        return Ok(());
    }
    Err(Error::usage(format!(
        "a picture of {width}x{height} pixels is too small for layer {}: its shorter side must have at least {smallest} pixels. Use a larger picture or --size, or layers before it",
        network.layers[deepest].name
    )))
}

/// Returns the shorter side of the smallest picture that layer `deepest` accepts.
pub(super) fn smallest_side(network: &Network, deepest: usize) -> usize {
    let reaches = |mut side: usize| {
        network.layers[..=deepest].iter().all(|layer| {
            if let LayerKind::Pool { size, stride } = layer.kind {
                side = if side < size { 0 } else { (side - size) / stride + 1 };
            }
            side > 0
        })
    };
    // VGG networks have five pools, so 4096 is always enough.
    (1..=4096).find(|side| reaches(*side)).unwrap_or(4096)
}
