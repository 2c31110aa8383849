//! The layers of a network, and reading their weights in one form whatever the file's layout.

use super::tensor::Tensor;
use crate::Result;
use std::ops::Range;

/// One named step of the sequence.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Layer {
    /// The name used in options and reports: `conv3_1`, `relu3_1`, `pool3`, `fc6`, `prob`, ...
    pub name: String,
    /// What the layer does.
    pub kind: LayerKind,
    /// Channels of the layer's output; features, where the output has no height and width.
    pub channels: usize,
}

/// What a [`Layer`] does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LayerKind {
    /// A convolution with bias.
    Conv(Conv),
    /// `max(x, 0)`, element by element.
    Relu,
    /// Pooling over square windows, without padding.
    Pool {
        /// Side of the window, pixels.
        size: usize,
        /// Step between windows, pixels.
        stride: usize,
    },
    /// Pooling of a map of any size down to a fixed one, ahead of the first fully connected layer.
    AdaptivePool {
        /// Rows of the output.
        height: usize,
        /// Columns of the output.
        width: usize,
    },
    /// A fully connected layer with bias.
    Linear(Linear),
    /// Class scores to probabilities.
    Softmax,
}

/// A convolution; a batch norm that follows it in the file is folded into it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Conv {
    /// The filter as stored. [`Conv::filter`] gives it in one order for all files.
    pub weight: Tensor,
    /// The bias as stored; may be absent where a batch norm follows.
    pub bias: Option<Tensor>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the filter, odd.
    pub kernel: [usize; 2],
    /// Step in rows and columns, pixels.
    pub stride: [usize; 2],
    /// Zero rows above and below, zero columns left and right; keeps the map's size.
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
    /// The factor and the term of each channel.
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
    /// The filter in the order output channel, input channel, row, column
    /// (`out_channels * in_channels * kernel[0] * kernel[1]` numbers), batch norm folded in.
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

    /// The bias of each output channel, batch norm folded in.
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

    /// Whether a batch norm is folded into this convolution.
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
    /// The matrix as stored. [`Linear::matrix`] gives it in one order for all files.
    pub weight: Tensor,
    /// The bias as stored.
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
    /// Input feature, output feature; maps of `channels` flattened as row, column, channel. For an
    /// input that is no map, `channels` is the whole length, which makes the two orders one.
    InOut { channels: usize },
}

/// The numbers of a fully connected layer, row-major: one row per output feature, one column per
/// input feature; where the input is a map, its columns run over channel, row, column.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// Single precision.
    F32(Vec<f32>),
    /// Half-precision bit patterns, kept because the file has them.
    F16(Vec<u16>),
}

impl Linear {
    /// The matrix, `out_features` rows of `in_features` columns.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a number is NaN or infinite.
    pub fn matrix(&self) -> Result<Matrix> {
        Ok(match self.weight.to_f16_bits()? {
            Some(bits) => Matrix::F16(self.in_order(bits)),
            None => Matrix::F32(self.in_order(self.weight.to_f32()?)),
        })
    }

    /// Rows `rows` of the matrix. Where the file has them in order, only they are read.
    ///
    /// # Errors
    /// As [`Linear::matrix`].
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

    /// The bias of each output feature.
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
    /// Columns taken together, so that each cache line of the source is read once.
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
    fn transposing_places_every_element() {
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
