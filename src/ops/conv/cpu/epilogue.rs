//! Last steps of a convolution or its adjoint, applied where the values are written.

use crate::ops::relu::rectified;

/// The last steps, applied in this order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// Bias to add: one value per channel, padded to whole blocks.
    pub bias: Option<&'a [f32]>,
    /// True to apply a ReLU.
    pub relu: bool,
    /// True to add the output's previous values.
    pub add: bool,
    /// Map of the output's shape: the result is zero where it is not positive.
    pub mask: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Applies the steps to a quad's channels at consecutive texels of the output and writes them. `texel`, counted
    /// from the start of the map, is the first.
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
