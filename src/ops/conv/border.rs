//! Zeroes the border of a map (`border.wgsl`), for kernels that write only the pixels.

use crate::gpu::Profile;
use crate::ops::{Dispatch, MapLayout, Operand, window};
use std::ops::Range;

/// Invocations per workgroup; as in the shader.
const GROUP: usize = 64;

/// Dispatches that zero the border of `map` in `output`.
pub(super) fn clear(map: MapLayout, output: &Operand, device: &Profile) -> Vec<Dispatch> {
    let part = |quads: Range<usize>| {
        let texels = quads.len() * (map.pitch() + map.height) + map.pitch() + 1;
        Dispatch::new("border", "clear")
            .size("height", map.height)
            .size("width", map.width)
            .size("quads", quads.len())
            .bind("output", output.clone())
            .linear(texels, GROUP, device)
            .narrow(&[("output", map)], &quads)
    };
    window::quads(&[map], 1, device).into_iter().map(part).collect()
}
