//! What is done to the values of a convolution, or of its adjoint, where they are written.

use rayon::prelude::*;

/// The last steps, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    /// Added: a value per channel, padded to whole blocks.
    pub bias: Option<&'a [f32]>,
    /// Rectify. NaN stays NaN, so that a run notices it.
    pub relu: bool,
    /// Add what the output holds.
    pub add: bool,
    /// A map as the output: where it is not positive, the result is zero.
    pub mask: Option<&'a [f32]>,
}

impl Finish<'_> {
    /// Finishes the value of a quad's channels at a texel of the output (counted from the map's start) and writes it.
    #[inline(always)]
    pub fn write(&self, quad: usize, texel: usize, mut values: [f32; 4], to: &mut [f32; 4]) {
        if let Some(bias) = self.bias {
            let bias = &bias[quad * 4..][..4];
            values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
        if self.relu {
            values = values.map(|value| if value < 0.0 { 0.0 } else { value });
        }
        if self.add {
            values.iter_mut().zip(&*to).for_each(|(value, add)| *value += add);
        }
        if let Some(mask) = self.mask {
            let mask = &mask[texel * 4..][..4];
            values.iter_mut().zip(mask).for_each(|(value, y)| *value = if *y > 0.0 { *value } else { 0.0 });
        }
        *to = values;
    }
}

/// The gradient where the activation is positive, else zero.
pub(super) fn masked(gradient: &[f32], activation: &[f32]) -> Vec<f32> {
    let pairs = gradient.par_iter().zip(activation);
    pairs.map(|(gradient, y)| if *y > 0.0 { *gradient } else { 0.0 }).collect()
}
