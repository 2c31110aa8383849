//! Input values for test cases.

use super::shape::Shape;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};

/// Distribution of an input's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CaseInput {
    /// Normal with mean 0 and standard deviation 1.
    Normal,
    /// Output of a ReLU: half of the values are zero, so that maxima tie.
    Rectified,
    /// Uniform in [0, 1), like pictures.
    Picture,
    /// Uniform in [0, 1), for quantities that can't be negative (second moments).
    Positive,
    /// The same value everywhere.
    Exactly(f32),
    /// These values in order, repeated as often as needed.
    Values(&'static [f32]),
    /// Normal with mean 0 and this standard deviation.
    Scaled(f32),
    /// Normal, but about one value in five is NaN, infinite or minus infinite.
    NonFinite,
    /// A matrix each of whose rows is a stored tensor of this shape: normal values, zero padding.
    Stored(Shape),
    /// A symmetric square matrix with eigenvalues of 0.5 to about 4.5, like a covariance.
    Covariance,
    /// A covariance like those of feature maps: eigenvalues from about 1 down to 1e-5.
    DecayingCovariance,
}

impl CaseInput {
    /// Draws the values of a tensor, in logical order. Those of a map in half precision are rounded.
    pub fn draw(self, shape: Shape, random: &mut impl Rng) -> Vec<f32> {
        let values = self.drawn(shape, random);
        if matches!(shape, Shape::HalfMap { .. }) { shape.unpack(&shape.pack(&values)) } else { values }
    }

    fn drawn(self, shape: Shape, random: &mut impl Rng) -> Vec<f32> {
        match self {
            Self::Covariance => return covariance(shape, |_| 1.0, 0.5, random),
            Self::DecayingCovariance => return covariance(shape, |at| 0.1_f64.powf(5.0 * at), 1e-5, random),
            _ => {}
        }
        if let (Self::Stored(inner), Shape::Matrix { rows, columns }) = (self, shape) {
            let mut row = || {
                let mut stored = inner.pack(&Self::Normal.draw(inner, random));
                stored.resize(columns, 0.0);
                stored
            };
            return (0..rows).flat_map(|_| row()).collect();
        }
        (0..shape.elements())
            .map(|index| match self {
                Self::Normal | Self::Covariance | Self::DecayingCovariance | Self::Stored(_) => {
                    StandardNormal.sample(random)
                }
                Self::Rectified => {
                    let value: f32 = StandardNormal.sample(random);
                    value.max(0.0)
                }
                Self::Picture | Self::Positive => random.random::<f32>(),
                Self::Exactly(value) => value,
                Self::Values(values) => values[index % values.len()],
                Self::Scaled(deviation) => {
                    let value: f32 = StandardNormal.sample(random);
                    value * deviation
                }
                Self::NonFinite => match random.random_range(0..15) {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => f32::NEG_INFINITY,
                    _ => StandardNormal.sample(random),
                },
            })
            .collect()
    }
}

/// `W D W^T / n + ridge I` with W an n x n matrix of normal values, and D diagonal with `variance` of 0 to 1 along the
/// diagonal. Other shapes get the first values of the square matrix.
fn covariance(shape: Shape, variance: fn(f64) -> f64, ridge: f64, random: &mut impl Rng) -> Vec<f32> {
    let side = shape.elements().isqrt();
    let variances: Vec<f64> = (0..side).map(|index| variance(index as f64 / side as f64)).collect();
    let factor = CaseInput::Normal.draw(Shape::Matrix { rows: side, columns: side }, random);
    let row = |index: usize| &factor[index * side..(index + 1) * side];
    let element = |index: usize| {
        let (a, b) = (index / side, index % side);
        let products = row(a).iter().zip(row(b)).map(|(x, y)| f64::from(*x) * f64::from(*y));
        let sum: f64 = products.zip(&variances).map(|(product, variance)| product * variance).sum();
        (sum / side as f64 + if a == b { ridge } else { 0.0 }) as f32
    };
    (0..side * side).map(element).collect()
}
