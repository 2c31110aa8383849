//! The layers of a network. Weights are returned in the same order for all key layouts.

use super::tensor::Tensor;
use crate::Result;
use std::ops::Range;

/// A named layer of the sequence.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Layer {
    /// The name used in options and reports: `conv3_1`, `relu3_1`, `pool3`, `fc6`, `prob`, ...
    pub name: String,
    /// Operation of the layer.
    pub kind: LayerKind,
    /// Channels of the output; its length if the output is a vector.
    pub channels: usize,
}

/// The operation of a [`Layer`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LayerKind {
    /// A convolution with bias.
    Conv(Conv),
    /// Elementwise `max(x, 0)`.
    Relu,
    /// Pooling over square windows, without padding.
    Pool {
        /// Side of the window, in pixels.
        size: usize,
        /// Stride, in pixels.
        stride: usize,
    },
    /// Adaptive pooling of a map of any size to a fixed one, before the first fully connected layer.
    AdaptivePool {
        /// Rows of the output.
        height: usize,
        /// Columns of the output.
        width: usize,
    },
    /// A fully connected layer with bias.
    Linear(Linear),
    /// Conversion of class scores to probabilities.
    Softmax,
}

/// A convolution. A batch norm that follows it in the file is folded into it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Conv {
    /// Filter as stored. [`Conv::filter`] returns it in the same order for all files.
    pub weight: Tensor,
    /// Bias as stored; may be absent if a batch norm follows.
    pub bias: Option<Tensor>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the filter, odd.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride, in pixels.
    pub stride: [usize; 2],
    /// Rows of zeros above and below, and columns of zeros left and right; preserves the map's size.
    pub padding: [usize; 2],
    pub(super) order: FilterOrder,
    pub(super) norm: Option<Box<Norm>>,
}

/// The order of a stored filter's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FilterOrder {
    /// Output channel, input channel, row, column.
    Oihw,
    /// Row, column, input channel, output channel.
    Hwio,
}

/// Batch norm at inference: `y = (x - mean) / sqrt(variance + epsilon) * gamma + beta`.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub gamma: Tensor,
    pub beta: Tensor,
    pub mean: Tensor,
    pub variance: Tensor,
    pub epsilon: f64,
}

impl Norm {
    /// Returns scale and shift of each channel.
    fn affine(&self) -> Result<Vec<(f64, f64)>> {
        let [gamma, beta] = [self.gamma.to_f32()?, self.beta.to_f32()?];
        let [mean, variance] = [self.mean.to_f32()?, self.variance.to_f32()?];
        if let Some(channel) = variance.iter().position(|v| f64::from(*v) + self.epsilon <= 0.0) {
            return Err(self.variance.error(
                format_args!("holds a negative variance (channel {channel})"),
                "The file is damaged; use another copy of the weights",
            ));
        }
        let channels = gamma.iter().zip(&beta).zip(mean.iter().zip(&variance));
        Ok(channels
            .map(|((gamma, beta), (mean, variance))| {
                let scale = f64::from(*gamma) / (f64::from(*variance) + self.epsilon).sqrt();
                (scale, f64::from(*beta) - f64::from(*mean) * scale)
            })
            .collect())
    }
}

impl Conv {
    /// Reads the filter in the order output channel, input channel, row, column
    /// (`out_channels * in_channels * kernel[0] * kernel[1]` numbers), with the batch norm folded in.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a number is NaN or infinite or a variance negative.
    pub fn filter(&self) -> Result<Vec<f32>> {
        let stored = self.weight.to_f32()?;
        let mut filter = match self.order {
            FilterOrder::Oihw => stored,
            FilterOrder::Hwio => {
                transpose(&stored, self.in_channels * self.taps(), self.out_channels, |row| {
                    let (tap, channel) = (row / self.in_channels, row % self.in_channels);
                    channel * self.taps() + tap
                })
            }
        };
        if let Some(norm) = &self.norm {
            let rows = filter.chunks_exact_mut(self.in_channels * self.taps());
            for (row, (scale, _)) in rows.zip(norm.affine()?) {
                row.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            }
        }
        Ok(filter)
    }

    /// Reads the bias of each output channel, with the batch norm folded in.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a number is NaN or infinite or a variance negative.
    pub fn bias(&self) -> Result<Vec<f32>> {
        let mut bias = match &self.bias {
            Some(bias) => bias.to_f32()?,
            None => vec![0.0; self.out_channels],
        };
        if let Some(norm) = &self.norm {
            for (b, (scale, shift)) in bias.iter_mut().zip(norm.affine()?) {
                *b = (f64::from(*b) * scale + shift) as f32;
            }
        }
        Ok(bias)
    }

    /// Returns true if a batch norm is folded into this convolution.
    pub fn has_batch_norm(&self) -> bool {
        self.norm.is_some()
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let norm = self.norm.iter().flat_map(|n| [&n.gamma, &n.beta, &n.mean, &n.variance]);
        std::iter::once(&self.weight).chain(&self.bias).chain(norm)
    }
}

/// A fully connected layer: `y = matrix * x + bias`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Linear {
    /// Matrix as stored. [`Linear::matrix`] returns it in the same order for all files.
    pub weight: Tensor,
    /// Bias as stored.
    pub bias: Tensor,
    /// Length of the input vector.
    pub in_features: usize,
    /// Length of the output vector.
    pub out_features: usize,
    pub(super) order: MatrixOrder,
}

/// The order of a stored matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatrixOrder {
    /// Output feature, input feature; maps flattened as channel, row, column.
    OutIn,
    /// Input feature, output feature; maps of `channels` flattened as row, column, channel. For a vector
    /// input `channels` is its length, and this order of input features equals that of `OutIn`.
    InOut { channels: usize },
}

/// The matrix of a fully connected layer, row-major: one row per output feature, one column per input
/// feature. If the input is a map, the order of columns is channel, row, column.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// Single precision.
    F32(Vec<f32>),
    /// Half-precision bit patterns, as in the file.
    F16(Vec<u16>),
}

impl Linear {
    /// Reads the matrix, `out_features` rows of `in_features` columns.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a number is NaN or infinite.
    pub fn matrix(&self) -> Result<Matrix> {
        Ok(match self.weight.to_f16_bits()? {
            Some(bits) => Matrix::F16(self.in_order(bits)),
            None => Matrix::F32(self.in_order(self.weight.to_f32()?)),
        })
    }

    /// Reads the rows `rows` of the matrix. Only these are read from the file if its order permits.
    ///
    /// # Errors
    /// The errors of [`Linear::matrix`].
    pub fn rows(&self, rows: Range<usize>) -> Result<Matrix> {
        if self.order == MatrixOrder::OutIn {
            return Self { weight: self.weight.rows(rows), ..self.clone() }.matrix();
        }
        let cells = rows.start * self.in_features..rows.end * self.in_features;
        Ok(match self.matrix()? {
            Matrix::F32(all) => Matrix::F32(all[cells].to_vec()),
            Matrix::F16(all) => Matrix::F16(all[cells].to_vec()),
        })
    }

    /// Reads the bias of each output feature.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a number is NaN or infinite.
    pub fn bias(&self) -> Result<Vec<f32>> {
        self.bias.to_f32()
    }

    fn in_order<T: Copy + Default>(&self, stored: Vec<T>) -> Vec<T> {
        match self.order {
            MatrixOrder::OutIn => stored,
            MatrixOrder::InOut { channels } => {
                let positions = self.in_features / channels;
                transpose(&stored, self.in_features, self.out_features, |row| {
                    let (position, channel) = (row / channels, row % channels);
                    channel * positions + position
                })
            }
        }
    }
}

/// Transposes a `rows` x `columns` matrix and moves its row `i` to column `place(i)`.
fn transpose<T: Copy + Default>(
    stored: &[T],
    rows: usize,
    columns: usize,
    place: impl Fn(usize) -> usize,
) -> Vec<T> {
    /// Columns processed together, so each cache line of the source is read once.
    const STRIP: usize = 16;
    let mut out = vec![T::default(); stored.len()];
    for start in (0..columns).step_by(STRIP) {
        let end = columns.min(start + STRIP);
        for (i, row) in stored.chunks_exact(columns).enumerate() {
            let target = place(i);
            for (column, value) in (start..end).zip(&row[start..end]) {
                out[column * rows + target] = *value;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::transpose;

    #[test]
    fn transpose_places_every_element() {
        // 6 rows x 35 columns: more than two strips, and a part of one.
        let stored: Vec<u32> = (0..6 * 35).collect();
        let place = |row: usize| 5 - row;
        let out = transpose(&stored, 6, 35, place);
        for row in 0..6 {
            for column in 0..35 {
                assert_eq!(out[column * 6 + place(row)], stored[row * 35 + column]);
            }
        }
    }
}
