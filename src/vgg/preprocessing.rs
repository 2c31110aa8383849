//! Conversion of RGB values to the input range of a network.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The preprocessing of a network's input: the two conventions of published VGGs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Preprocessing {
    /// Caffe: blue, green, red; 0 to 255; minus the mean of each channel.
    Caffe,
    /// torchvision: red, green, blue; 0 to 1; minus the mean, divided by the standard deviation.
    Torchvision,
}

/// The source of a [`Network`](super::Network)'s [`Preprocessing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PreprocessingSource {
    /// The caller's choice.
    Option,
    /// The file's metadata key `preprocessing`.
    Metadata,
    /// The default for the file's key layout.
    Layout,
}

/// A per-channel affine map: `net[k] = rgb[order[k]] * scale[k] + bias[k]` with `rgb` in 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Source of network channel `k`: red (0), green (1) or blue (2).
    pub order: [usize; 3],
    /// Scale of network channel `k`.
    pub scale: [f32; 3],
    /// Offset of network channel `k`, added after scaling.
    pub bias: [f32; 3],
}

/// Means of the ImageNet training set subtracted by Caffe's VGG models, blue first, on a scale of 255.
const CAFFE_MEAN: [f32; 3] = [103.939, 116.779, 123.68];
/// Means of the ImageNet training set subtracted by torchvision, red first, on a scale of 1.
const TORCHVISION_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// Standard deviations that torchvision divides by, red first, on a scale of 1.
const TORCHVISION_DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];

impl Preprocessing {
    /// Returns the map from RGB in 0 to 1 to the network's input.
    pub fn affine(&self) -> Affine {
        match self {
            Self::Caffe => Affine { order: [2, 1, 0], scale: [255.0; 3], bias: CAFFE_MEAN.map(|mean| -mean) },
            Self::Torchvision => Affine {
                order: [0, 1, 2],
                scale: TORCHVISION_DEVIATION.map(|deviation| (1.0 / deviation) as f32),
                bias: [0, 1, 2].map(|k| (-TORCHVISION_MEAN[k] / TORCHVISION_DEVIATION[k]) as f32),
            },
        }
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caffe => "caffe",
            Self::Torchvision => "torchvision",
        })
    }
}

impl FromStr for Preprocessing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "caffe" => Ok(Self::Caffe),
            "torchvision" => Ok(Self::Torchvision),
            _ => Err(Error::usage(format!("unknown preprocessing '{text}'. Use caffe or torchvision"))),
        }
    }
}

impl fmt::Display for PreprocessingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "as requested",
            Self::Metadata => "stated in the file",
            Self::Layout => "the default for this key layout",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(affine: Affine, rgb: [f32; 3]) -> [f32; 3] {
        [0, 1, 2].map(|k| rgb[affine.order[k]] * affine.scale[k] + affine.bias[k])
    }

    fn close(a: [f32; 3], b: [f32; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4)
    }

    #[test]
    fn caffe_uses_bgr_and_scale_255() {
        let net = apply(Preprocessing::Caffe.affine(), [1.0, 0.5, 0.0]);
        assert!(close(net, [-103.939, 127.5 - 116.779, 255.0 - 123.68]), "{net:?}");
    }

    #[test]
    fn torchvision_uses_rgb_and_normalises() {
        let net = apply(Preprocessing::Torchvision.affine(), [0.485, 0.456 + 0.224, 0.0]);
        assert!(close(net, [0.0, 1.0, -0.406 / 0.225]), "{net:?}");
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for preprocessing in [Preprocessing::Caffe, Preprocessing::Torchvision] {
            assert_eq!(preprocessing.to_string().parse::<Preprocessing>().unwrap(), preprocessing);
        }
        let error = "keras".parse::<Preprocessing>().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("'keras'"), "{error}");
    }
}
