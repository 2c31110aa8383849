//! What is done to the values of a convolution, or of its adjoint, where they are written.

use crate::ops::relu::rectified;

/// The last steps, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// Added: a value per channel, padded to whole blocks.
    pub bias: Option<&'a [f32]>,
    /// Rectify.
    pub relu: bool,
    /// Add what the output holds.
    pub add: bool,
    /// A map as the output: where it is not positive, the result is zero.
    pub mask: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Finishes a quad's channels at consecutive texels of the output, of which the first is `texel` (counted from the
    /// map's start), and writes them.
    #[inline(always)]
    pub fn write<const COUNT: usize>(
        &self,
        quad: usize,
        texel: usize,
        mut values: [[f32; 4]; COUNT],
        to: &mut [[f32; 4]; COUNT],
    ) {
        if let Some(bias) = self.bias {
            let bias = &bias[quad * 4..][..4];
            values.iter_mut().for_each(|value| (0..4).for_each(|lane| value[lane] += bias[lane]));
        }
        if self.relu {
            for value in values.as_flattened_mut() {
                *value = rectified(*value);
            }
        }
        if self.add {
            values
                .as_flattened_mut()
                .iter_mut()
                .zip(to.as_flattened())
                .for_each(|(value, add)| *value += add);
        }
        if let Some(mask) = self.mask {
            let mask = &mask[texel * 4..][..COUNT * 4];
            for (value, y) in values.as_flattened_mut().iter_mut().zip(mask) {
                *value = if *y > 0.0 { *value } else { 0.0 };
            }
        }
        *to = values;
    }
}
