//! Tensors larger than one binding: an op that treats its channels (or values) independently runs as several
//! dispatches, each bound to a window of its operands.
//!
//! A window of whole quads has the layout of a smaller map: the zero border that starts the next plane is the window's
//! closing border. So kernels need no special case for windows.

use super::op::{Dispatch, Kernel, Operand, Signature};
use super::shape::MapLayout;
use crate::gpu::Profile;
use std::ops::Range;

/// Bytes of a texel.
const TEXEL: u64 = 16;

/// Ranges of quads, the same for all `maps` (which have the same number of quads), such that each window fits a binding
/// and starts at the binding alignment; multiples of `step` quads. Returns one range for all quads if they fit, or if
/// even the smallest window does not (the graph then rejects the tensor).
pub(in crate::ops) fn quads(maps: &[MapLayout], step: usize, device: &Profile) -> Vec<Range<usize>> {
    let count = maps.first().map_or(0, MapLayout::quads);
    let everything = std::iter::once(0..count).collect();
    if maps.iter().all(|map| map.texels() as u64 * TEXEL <= device.max_binding) {
        return everything;
    }
    let mut most = count;
    let mut step = step;
    for map in maps {
        let plane = map.plane() as u64 * TEXEL;
        // Starts are multiples of the plane: find how many planes make a multiple of the alignment. Alignments and
        // steps are powers of two, so the larger one is a multiple of both.
        let aligned =
            (1..=device.binding_alignment).find(|n| (n * plane).is_multiple_of(device.binding_alignment));
        step = step.max(aligned.unwrap_or(1) as usize);
        let border = (map.pitch() as u64 + 1) * TEXEL;
        most = most.min((device.max_binding.saturating_sub(border) / plane) as usize);
    }
    most -= most % step;
    if most == 0 {
        return everything;
    }
    (0..count).step_by(most).map(|start| start..(start + most).min(count)).collect()
}

/// True if windows of whole `step`s fit a binding.
pub(in crate::ops) fn fits(map: MapLayout, step: usize, device: &Profile) -> bool {
    let largest = quads(&[map], step, device).iter().map(|range| map.part(range).texels()).max();
    largest.is_none_or(|texels| texels as u64 * TEXEL <= device.max_binding)
}

/// Ranges of texels of a plain run of values, each of which fits a binding.
pub(in crate::ops) fn texels(count: usize, device: &Profile) -> Vec<Range<usize>> {
    let unit = device.binding_alignment.max(TEXEL) / TEXEL;
    // Whole workgroups, so that the windows' partial sums don't overlap.
    let unit = (unit as usize).max(WORKGROUP_TEXELS);
    let most = (device.max_binding / TEXEL) as usize;
    let most = (most - most % unit).max(unit);
    (0..count).step_by(most).map(|start| start..(start + most).min(count)).collect()
}

/// Dispatches of an elementwise kernel with `count` texels in each of the variables `names`, one per window. `dispatch`
/// lacks only the parameter `count` and the number of workgroups.
pub(in crate::ops) fn elementwise(
    dispatch: &Dispatch,
    names: &[&str],
    count: usize,
    device: &Profile,
) -> Vec<Dispatch> {
    let each = |range: Range<usize>| {
        let part = dispatch.clone().size("count", range.len()).linear(range.len(), 64, device);
        part.narrow_run(names, &range, count)
    };
    texels(count, device).into_iter().map(each).collect()
}

/// Naive kernel of an elementwise op: the shader's entry point `forward` reads inputs with these names and writes
/// `output`.
pub(in crate::ops) fn elementwise_kernel(
    shader: &'static str,
    inputs: &[&'static str],
    signature: &Signature,
    device: &Profile,
) -> Kernel {
    let mut dispatch = Dispatch::new(shader, "forward");
    for (index, name) in inputs.iter().enumerate() {
        dispatch = dispatch.bind(name, Operand::Input(index));
    }
    let dispatch = dispatch.bind("output", Operand::Output);
    let names = [inputs, &["output"]].concat();
    Kernel::of("naive", elementwise(&dispatch, &names, signature.output.stored() / 4, device))
}

/// Most texels that one workgroup of an elementwise kernel reads: 64 invocations, 16 texels each.
const WORKGROUP_TEXELS: usize = 1024;

impl MapLayout {
    /// Layout of a window of these quads, as a map.
    pub(in crate::ops) fn part(&self, quads: &Range<usize>) -> Self {
        let channels = (quads.end * 4).min(self.channels) - quads.start * 4;
        Self { channels, ..*self }
    }

    /// Texels of these quads with their closing border.
    pub(in crate::ops) fn window(&self, quads: &Range<usize>) -> Range<usize> {
        let start = quads.start * self.plane();
        start..start + self.part(quads).texels()
    }
}

impl Operand {
    /// Window of the operand's texels; `all` is their total number.
    pub(in crate::ops) fn window(self, texels: &Range<usize>, all: usize) -> Self {
        if *texels == (0..all) {
            return self;
        }
        Self::Window {
            inner: Box::new(self),
            offset: texels.start as u64 * TEXEL,
            bytes: texels.len() as u64 * TEXEL,
        }
    }
}

impl Dispatch {
    /// Narrows the named variables to these quads of their maps.
    pub(in crate::ops) fn narrow(mut self, maps: &[(&str, MapLayout)], quads: &Range<usize>) -> Self {
        for (name, operand) in &mut self.bindings {
            if let Some((_, map)) = maps.iter().find(|(candidate, _)| candidate == name) {
                *operand = operand.clone().window(&map.window(quads), map.texels());
            }
        }
        self
    }

    /// Narrows the named variables to a range of their `all` texels.
    pub(in crate::ops) fn narrow_run(mut self, names: &[&str], texels: &Range<usize>, all: usize) -> Self {
        for (name, operand) in &mut self.bindings {
            if names.contains(name) {
                *operand = operand.clone().window(texels, all);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(max_binding: u64, binding_alignment: u64) -> Profile {
        Profile { max_binding, binding_alignment, max_buffer: 1 << 30, ..Profile::minimal() }
    }

    /// One range for the whole tensor.
    fn whole(count: usize) -> Vec<Range<usize>> {
        std::iter::once(0..count).collect()
    }

    #[test]
    fn windows_cover_everything_fit_and_are_aligned() {
        let maps = [
            MapLayout { channels: 250, height: 5, width: 7 },
            MapLayout { channels: 250, height: 2, width: 3 },
        ];
        for alignment in [16, 64, 256] {
            let device = device(20_000, alignment);
            let ranges = quads(&maps, 4, &device);
            assert!(ranges.len() > 1);
            assert_eq!(ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..63).collect::<Vec<_>>());
            for (range, map) in ranges.iter().flat_map(|range| maps.iter().map(move |map| (range, map))) {
                let window = map.window(range);
                assert!(window.len() as u64 * TEXEL <= device.max_binding);
                assert!((window.start as u64 * TEXEL).is_multiple_of(alignment));
                assert!(window.end <= map.texels());
            }
            assert_eq!(maps[0].window(ranges.last().unwrap()).end, maps[0].texels());
        }
        assert_eq!(quads(&maps, 4, &device(1 << 20, 256)), whole(63));
        assert_eq!(quads(&maps, 4, &device(64, 256)), whole(63));
    }

    #[test]
    fn texel_runs_cover_everything() {
        let ranges = texels(5000, &device(1024 * 16 + 100, 256));
        assert_eq!(ranges, [0..1024, 1024..2048, 2048..3072, 3072..4096, 4096..5000]);
        assert_eq!(texels(5000, &device(1 << 20, 256)), whole(5000));
    }
}
