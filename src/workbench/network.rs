//! The ops of a VGG network as cases, to time kernels at realistic shapes.

use crate::ops::{
    AdaptivePool, Add, Case, Conv, ConvBackward, Filter, Gram, GramBackward, Linear, LinearBackward, Matrix,
    MatrixValues, MeanSquaredError, MseBackward, Op, Pool, PoolBackward, PoolKind, Preprocess,
    PreprocessBackward, Relu, ReluBackward, Shape, TotalVariation, TotalVariationBackward, VariationKind,
};
use crate::vgg::{LayerKind, Network, Preprocessing};
use std::sync::Arc;

/// The properties of a layer that determine its kernels' speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerShape {
    /// A 3x3 convolution with padding 1 and stride 1: input and output channels.
    Conv(usize, usize),
    /// A pooling layer that halves the map.
    Halve,
    /// A fully connected layer: input and output features.
    Linear(usize, usize),
}

/// Returns the layers of a standard network (Simonyan and Zisserman 2014): `vgg11`, `vgg13`, `vgg16` or `vgg19`.
pub fn topology(name: &str) -> Option<Vec<LayerShape>> {
    let convs = match name {
        "vgg11" => [1, 1, 2, 2, 2],
        "vgg13" => [2, 2, 2, 2, 2],
        "vgg16" => [2, 2, 3, 3, 3],
        "vgg19" => [2, 2, 4, 4, 4],
        _ => return None,
    };
    let mut layers = Vec::new();
    let mut channels = 3;
    for (count, width) in convs.into_iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..count {
            layers.push(LayerShape::Conv(channels, width));
            channels = width;
        }
        layers.push(LayerShape::Halve);
    }
    layers.extend(
        [(512 * 49, 4096), (4096, 4096), (4096, 1000)].map(|(ins, outs)| LayerShape::Linear(ins, outs)),
    );
    Some(layers)
}

/// Returns the layers of a network from a file, without convolutions that differ from VGG's.
pub fn layers_of(network: &Network) -> Vec<LayerShape> {
    let shape = |layer: &crate::vgg::Layer| match &layer.kind {
        LayerKind::Conv(conv) if conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.padding == [1, 1] => {
            Some(LayerShape::Conv(conv.in_channels, conv.out_channels))
        }
        LayerKind::Pool { size: 2, stride: 2 } => Some(LayerShape::Halve),
        LayerKind::Linear(linear) => Some(LayerShape::Linear(linear.in_features, linear.out_features)),
        _ => None,
    };
    network.layers.iter().filter_map(shape).collect()
}

/// Returns every op of a run of these layers on a square picture of `side` pixels, forward and backward, each shape
/// once, with a name such as `conv 64->128@128`. Weights are synthetic.
///
/// The tolerance is ten times that of the op's own cases, because sums have hundreds of times as many terms. (Largest
/// difference seen on lavapipe, including Winograd F(4x4, 3x3) at 512 channels: 2e-5.)
pub fn network_cases(layers: &[LayerShape], side: usize) -> Vec<(String, Case)> {
    let mut cases = Cases::default();
    let picture = Shape::map(3, side, side);
    let affine = Preprocessing::Torchvision.affine();
    let forward = Preprocess { order: affine.order, scale: affine.scale, bias: affine.bias };
    cases.add(format!("preprocess @{side}"), forward, &[picture], 1e-5);
    cases.add(format!("preprocess_backward @{side}"), PreprocessBackward { forward }, &[picture], 1e-5);
    let kind = VariationKind::Squared;
    cases.add(format!("total_variation @{side}"), TotalVariation { kind }, &[picture], 1e-5);
    let one = Shape::Vector(1);
    cases.add(
        format!("total_variation_backward @{side}"),
        TotalVariationBackward { kind, of: None },
        &[picture, one],
        1e-5,
    );
    let (mut side, mut channels) = (side, 3);
    for layer in layers {
        match *layer {
            LayerShape::Conv(ins, outs) => {
                cases.conv(ins, outs, side);
                cases.map(outs, side);
                channels = outs;
            }
            LayerShape::Halve if side > 1 => {
                cases.halve(channels, side);
                side /= 2;
            }
            LayerShape::Halve => {}
            LayerShape::Linear(ins, outs) => {
                if ins == channels * 49 {
                    let pool = AdaptivePool { kind: PoolKind::Max, size: [7, 7] };
                    let map = Shape::map(channels, side, side);
                    cases.add(format!("adaptive_pool {channels}@{side}"), pool, &[map], 1e-6);
                }
                let linear = Linear { matrix: matrix(outs, ins), relu: false };
                let (x, y) = (Shape::Vector(ins), Shape::Vector(outs));
                cases.add(format!("linear {ins}->{outs}"), linear.clone(), &[x], 1e-5);
                cases.add(format!("linear_backward {ins}->{outs}"), LinearBackward { linear }, &[y, y], 1e-5);
            }
        }
    }
    cases.0
}

#[derive(Default)]
struct Cases(Vec<(String, Case)>);

impl Cases {
    fn add(&mut self, name: String, op: impl Op + 'static, shapes: &[Shape], tolerance: f64) {
        if !self.0.iter().any(|(earlier, _)| *earlier == name) {
            self.0.push((name, Case::normal(op, shapes, 10.0 * tolerance)));
        }
    }

    fn conv(&mut self, ins: usize, outs: usize, side: usize) {
        let conv = Conv::same(filter(outs, ins), true);
        let (input, output) = (Shape::map(ins, side, side), Shape::map(outs, side, side));
        let backward = ConvBackward { conv: conv.clone(), size: [side, side], epilogue: Default::default() };
        self.add(format!("conv {ins}->{outs}@{side}"), conv, &[input], 1e-5);
        self.add(format!("conv_backward {ins}->{outs}@{side}"), backward, &[output, output], 1e-5);
    }

    /// Adds the ops of losses and gradients on a map.
    fn map(&mut self, channels: usize, side: usize) {
        let map = Shape::map(channels, side, side);
        let matrix = Shape::Matrix { rows: channels, columns: channels };
        let at = format!("{channels}@{side}");
        self.add(format!("gram {at}"), Gram, &[map], 1e-5);
        self.add(format!("gram_backward {at}"), GramBackward, &[map, matrix], 1e-5);
        self.add(format!("relu {at}"), Relu, &[map], 1e-6);
        self.add(format!("relu_backward {at}"), ReluBackward, &[map, map], 1e-6);
        self.add(format!("add {at}"), Add, &[map, map], 1e-6);
        self.add(format!("mse {at}"), MeanSquaredError, &[map, map], 1e-5);
        self.add(format!("mse_backward {at}"), MseBackward, &[map, map, Shape::Vector(1)], 1e-5);
    }

    fn halve(&mut self, channels: usize, side: usize) {
        let (map, halved) = (Shape::map(channels, side, side), Shape::map(channels, side / 2, side / 2));
        for (name, kind) in [("max", PoolKind::Max), ("average", PoolKind::Average)] {
            let pool = Pool::halve(kind);
            self.add(format!("pool {name} {channels}@{side}"), pool, &[map], 1e-6);
            let backward = PoolBackward { pool, size: [side, side], rectified: false };
            let shapes: &[Shape] = if kind == PoolKind::Max { &[map, halved] } else { &[halved] };
            self.add(format!("pool_backward {name} {channels}@{side}"), backward, shapes, 1e-6);
        }
    }
}

/// Returns a pseudo-random value between -1 and 1 (Knuth's multiplicative hash), cheap enough for a hundred million.
fn value(index: usize) -> f32 {
    let hash = (index as u32).wrapping_mul(2_654_435_761) ^ 0x5bd1_e995;
    (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Returns a synthetic weight that preserves the magnitude of activations (He et al. 2015; uniform values have a third
/// of the variance).
fn weight(index: usize, fan_in: usize) -> f32 {
    value(index) * (6.0 / fan_in as f32).sqrt()
}

fn filter(outs: usize, ins: usize) -> Arc<Filter> {
    Arc::new(Filter {
        id: format!("made up {outs}x{ins}"),
        out_channels: outs,
        in_channels: ins,
        kernel: [3, 3],
        weights: Arc::new(move || Ok((0..outs * ins * 9).map(|index| weight(index, ins * 9)).collect())),
        bias: Arc::new(move || Ok((0..outs).map(value).collect())),
    })
}

fn matrix(rows: usize, columns: usize) -> Arc<Matrix> {
    Arc::new(Matrix {
        id: format!("made up {rows}x{columns}"),
        rows,
        columns,
        half: false,
        values: Arc::new(move |range| {
            let range = range.start * columns..range.end * columns;
            Ok(MatrixValues::F32(range.map(|index| weight(index, columns)).collect()))
        }),
        bias: Arc::new(move || Ok((0..rows).map(value).collect())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_unique_and_deep_maps_shrink() {
        let layers = topology("vgg19").unwrap();
        assert_eq!(layers.len(), 16 + 5 + 3);
        let names: Vec<String> = network_cases(&layers, 224).into_iter().map(|(name, _)| name).collect();
        let once = |name: &str| assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        for name in ["conv 3->64@224", "conv 512->512@14", "conv_backward 256->512@28", "gram 64@224"] {
            once(name);
        }
        for name in
            ["pool max 512@14", "adaptive_pool 512@7", "linear 25088->4096", "linear_backward 4096->1000"]
        {
            once(name);
        }
        assert!(topology("resnet50").is_none());
    }

    #[test]
    fn tiny_picture_gives_no_empty_maps() {
        for (name, case) in network_cases(&topology("vgg11").unwrap(), 1) {
            assert!(case.inputs.iter().all(|(shape, _)| shape.elements() > 0), "{name}");
        }
    }
}
