//! Replicate padding for kernels that support only zero padding: a second pass corrects the edge pixels
//! (`conv_edges.wgsl`). Its cost is proportional to the number of edge pixels.

use super::convolution::{Conv, Padding};
use super::filter::Packing;
use crate::gpu::Profile;
use crate::ops::{Dispatch, Kernel, MapLayout, Operand, window};
use std::ops::Range;

/// Invocations per workgroup; as in the shader.
const GROUP: usize = 64;
/// Edge pixels per invocation on software drivers, which load weights lane by lane. A GPU gets one: with more, the few
/// pixels would leave cores idle.
const SOFTWARE_PIXELS: usize = 4;

/// Operands of the adjoint's correction.
pub(super) struct Backward {
    /// Gradient of the convolution's own output, before a pool.
    pub upstream: Operand,
    /// That output: the gradient counts as zero where it is not positive.
    pub activation: Option<Operand>,
}

/// True if the tuned kernels need a correction.
pub(super) fn are_corrected(conv: &Conv) -> bool {
    conv.mode == Padding::Replicate && conv.tuned_taps() == Some(9)
}

/// Number of pixels on the edge of a map.
fn pixels(map: MapLayout) -> usize {
    map.pixels() - map.height.saturating_sub(2) * map.width.saturating_sub(2)
}

fn dispatch(entry: &'static str, conv: &Conv, map: MapLayout, window: &Range<usize>) -> Dispatch {
    Dispatch::new("conv_edges", entry)
        .consts(&[("RELU", u32::from(conv.relu))])
        .bind("weights", conv.filter.constant(4, false, Packing::Buffer))
        .bind("output", Operand::Output)
        .size("height", map.height)
        .size("width", map.width)
        .size("in_quads", conv.filter.in_channels.div_ceil(4))
        .size("first_quad", window.start)
        .size("quads", window.len())
}

/// Appends the correction to a kernel with zero padding: the edge pixels of `output` are recomputed.
pub(super) fn after(mut kernel: Kernel, conv: &Conv, output: MapLayout, device: &Profile) -> Kernel {
    let each = if device.software { SOFTWARE_PIXELS } else { 1 };
    let part = |quads: Range<usize>| {
        dispatch("forward", conv, output, &quads)
            .consts(&[("PIXELS", each as u32)])
            .bind("input", Operand::Input(0))
            .bind("bias", conv.filter.bias_constant())
            .size("dx_first_quad", 0)
            .size("dx_quads", 0)
            .loops(10 * conv.filter.in_channels.div_ceil(4))
            .linear(pixels(output).div_ceil(each) * quads.len(), GROUP, device)
            .narrow(&[("output", output)], &quads)
    };
    kernel.dispatches.extend(window::quads(&[output], 1, device).into_iter().map(part));
    kernel
}

/// Appends the correction to an adjoint kernel with zero padding: edge pixels of dx also get the gradients of the
/// positions that repeat them. `maps` are dx and dy.
pub(super) fn after_backward(
    mut kernel: Kernel,
    conv: &Conv,
    maps: [MapLayout; 2],
    operands: &Backward,
    device: &Profile,
) -> Kernel {
    let [dx, dy] = maps;
    let part = |to: &Range<usize>, from: &Range<usize>| {
        let relu = u32::from(operands.activation.is_some());
        let mut dispatch = dispatch("backward", &Conv { relu: relu == 1, ..conv.clone() }, dx, from)
            .bind("upstream", operands.upstream.clone())
            .size("dx_first_quad", to.start)
            .size("dx_quads", to.len())
            // Positions beyond the edge and their taps; at most 15 of these pairs contribute to an output.
            .loops(100 + 15 * from.len())
            .linear(pixels(dx) * to.len(), GROUP, device);
        if let Some(activation) = &operands.activation {
            dispatch = dispatch.bind("activation", activation.clone());
        }
        dispatch.narrow(&[("output", dx)], to).narrow(&[("upstream", dy), ("activation", dy)], from)
    };
    // Each window of the upstream gradient adds its part.
    for to in window::quads(&[dx], 1, device) {
        kernel.dispatches.extend(window::quads(&[dy], 1, device).iter().map(|from| part(&to, from)));
    }
    kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_pixels_are_counted_once() {
        for (height, width, expected) in [(1, 1, 1), (1, 7, 7), (7, 1, 7), (2, 2, 4), (3, 3, 8), (5, 4, 14)] {
            assert_eq!(pixels(MapLayout { channels: 3, height, width }), expected, "{height}x{width}");
        }
    }
}
