//! Fused max pool of a rectified map, and the pool indices that are saved instead of the map.
//!
//! For each 2x2 window the maximum and its *pool index* are kept: four bits, with the bit of the first maximum in
//! row-major order set, or none if the maximum is not positive. One index thus serves both the backward pass of the
//! pool and the mask of the ReLU. The indices of four channels form one number below 65536, which f32 represents
//! exactly; a texel holds those of 2x2 windows, the 4x4 pixels of one Winograd tile.
//!
//! In memory, pool indices are a map ([`PoolIndices::layout`]) with as many quads as the pooled map: channel `4 q + 2
//! (y % 2) + x % 2` at (y / 2, x / 2) holds the indices of quad q at pooled pixel (y, x). Its size is a quarter of the
//! pooled map, a sixteenth of the full map.

use crate::gpu::Profile;
use crate::ops::pool::{halve_max, halved};
use crate::ops::{Dispatch, Kernel, MapLayout, Operand, Pool, PoolKind, Shape, window};
use std::ops::Range;

/// Invocations per workgroup; as in the shader.
const GROUP: usize = 64;

/// The pool indices of one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolIndices {
    pub map: MapLayout,
}

impl PoolIndices {
    /// The pool that is fused.
    pub const POOL: Pool = Pool::halve(PoolKind::Max);

    /// Pool indices of this map.
    pub fn of(map: MapLayout) -> Self {
        Self { map }
    }

    /// Layout of the map after the pool.
    pub fn pooled(self) -> MapLayout {
        halved(self.map)
    }

    /// Layout of the map of indices.
    pub fn layout(self) -> MapLayout {
        let pooled = self.pooled();
        let [height, width] = [pooled.height, pooled.width].map(|size| size.div_ceil(2));
        MapLayout { channels: self.map.quads() * 4, height, width }
    }

    /// Shape of the map of indices, see [`Self::layout`].
    pub fn shape(self) -> Shape {
        let MapLayout { channels, height, width } = self.layout();
        Shape::map(channels, height, width)
    }

    /// Turns the kernel of an op without the pool into that of the pooled op: the full map goes to scratch memory, and
    /// two more passes read it from there.
    pub fn pool_after(self, mut kernel: Kernel, device: &Profile) -> Kernel {
        let Self { map } = self;
        let full = Operand::Scratch(kernel.scratch.len());
        kernel.redirect_output(&full);
        kernel.dispatches.extend(halve_max(map, &full, device));
        let maps = [("input", map), ("output", self.layout())];
        let find = |quads: Range<usize>| {
            dispatch("find", map.part(&quads))
                .bind("input", full.clone())
                .bind("output", Operand::Saved)
                .linear(self.layout().part(&quads).texels(), GROUP, device)
                .narrow(&maps, &quads)
        };
        kernel.dispatches.extend(window::quads(&maps.map(|(_, map)| map), 1, device).into_iter().map(find));
        kernel.scratch.push((map.texels() * 16) as u64);
        kernel
    }

    /// Dispatches that route the gradient of the pooled map (input 1) by the indices (input 0) to `output`, the
    /// gradient of the full map.
    pub fn route(self, output: &Operand, device: &Profile) -> Vec<Dispatch> {
        let Self { map } = self;
        let maps = [("upstream", self.pooled()), ("indices", self.layout()), ("output", map)];
        let part = |quads: Range<usize>| {
            dispatch("route", map.part(&quads))
                .bind("indices", Operand::Input(0))
                .bind("upstream", Operand::Input(1))
                .bind("output", output.clone())
                .linear(map.part(&quads).texels(), GROUP, device)
                .narrow(&maps, &quads)
        };
        window::quads(&maps.map(|(_, map)| map), 1, device).into_iter().map(part).collect()
    }

    /// Calls `visit(pooled element, element of the indices, first bit, the window's four values)` for each channel and
    /// window in logical order.
    fn for_each_window(self, values: &[f64], mut visit: impl FnMut(usize, usize, u32, [f64; 4])) {
        let (map, pooled, indices) = (self.map, self.pooled(), self.layout());
        for c in 0..map.channels {
            for y in 0..pooled.height {
                for x in 0..pooled.width {
                    let first = (c * map.height + 2 * y) * map.width + 2 * x;
                    let window =
                        [first, first + 1, first + map.width, first + map.width + 1].map(|at| values[at]);
                    let channel = c / 4 * 4 + 2 * (y % 2) + x % 2;
                    let index = (channel * indices.height + y / 2) * indices.width + x / 2;
                    visit((c * pooled.height + y) * pooled.width + x, index, 4 * (c % 4) as u32, window);
                }
            }
        }
    }

    /// The largest value of each window, in f64.
    pub fn reference_pooled(self, values: &[f64]) -> Vec<f64> {
        let mut largest = vec![0.0; self.map.channels * self.pooled().pixels()];
        self.for_each_window(values, |at, _, _, window| {
            // Unlike `max`, this keeps NaN.
            let larger = |best: f64, value: f64| if value > best || value.is_nan() { value } else { best };
            largest[at] = window.into_iter().fold(f64::NEG_INFINITY, larger);
        });
        largest
    }

    /// Pool indices of the map's rectified values.
    pub fn reference(self, values: &[f64]) -> Vec<f64> {
        let mut indices = vec![0u32; self.shape().elements()];
        self.for_each_window(values, |_, at, bit, window| {
            let first = (1..4).fold(0, |best, k| if window[k] > window[best] { k } else { best });
            if window[first] > 0.0 {
                indices[at] |= 1 << (bit + first as u32);
            }
        });
        indices.into_iter().map(f64::from).collect()
    }

    /// Describes what is wrong with the indices of these rectified values, if anything. Values that differ by no more
    /// than `error` count as equal, since a kernel rounds differently from the reference.
    pub fn fault(self, values: &[f64], indices: &[f32], error: f64) -> Option<String> {
        let expected = self.shape().elements();
        if indices.len() != expected {
            return Some(format!("{} pool indices, not {expected}", indices.len()));
        }
        if let Some(index) =
            indices.iter().find(|index| !(0.0..65536.0).contains(*index) || index.fract() != 0.0)
        {
            return Some(format!("{index} is not a pool index"));
        }
        let mut left: Vec<u32> = indices.iter().map(|index| *index as u32).collect();
        let mut fault = None;
        self.for_each_window(values, |_, at, bit, window| {
            let index = left[at] >> bit & 15;
            left[at] &= !(15 << bit);
            let largest = window.into_iter().fold(f64::NEG_INFINITY, f64::max);
            let right = match index {
                0 => largest <= error,
                1 | 2 | 4 | 8 => {
                    let value = window[index.trailing_zeros() as usize];
                    value >= largest - error && largest > -error && (value > 0.0 || largest <= error)
                }
                _ => false,
            };
            if !right && fault.is_none() {
                fault = Some(format!("pool index {index} for the window {window:?}"));
            }
        });
        // Bits outside every window must be zero.
        let stray = left.iter().position(|bits| *bits != 0);
        fault
            .or_else(|| stray.map(|at| format!("element {at} has bits outside every window: {:b}", left[at])))
    }

    /// Gradient of the full map from that of the pooled map, in f64.
    pub fn reference_route(self, indices: &[f64], upstream: &[f64]) -> Vec<f64> {
        let mut dx = vec![0.0; self.map.channels * self.map.pixels()];
        // Element indices as values, so that each window holds its own positions.
        let places: Vec<f64> = (0..dx.len()).map(|at| at as f64).collect();
        self.for_each_window(&places, |from, at, bit, window| {
            for (k, to) in window.into_iter().enumerate() {
                if indices[at] as i64 >> (bit + k as u32) & 1 == 1 {
                    dx[to as usize] += upstream[from];
                }
            }
        });
        dx
    }
}

fn dispatch(entry: &'static str, map: MapLayout) -> Dispatch {
    Dispatch::new("pool_indices", entry)
        .size("height", map.height)
        .size("width", map.width)
        .size("quads", map.quads())
}

/// Pool indices of four channels for test cases, some without any bit set; 37 of them, so that neighbours differ in all
/// directions.
pub(super) const SAMPLE: [f32; 37] = {
    let mut indices = [0.0; 37];
    let mut at = 0;
    while at < indices.len() {
        let (mut index, mut channel) = (0, 0);
        while channel < 4 {
            let place = (at * 7 + channel * 3 + at / 5) % 5;
            index |= if place < 4 { 1 << (4 * channel + place) } else { 0 };
            channel += 1;
        }
        indices[at] = index as f32;
        at += 1;
    }
    indices
};

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: MapLayout = MapLayout { channels: 5, height: 7, width: 4 };

    /// Values with many ties, some at zero.
    fn values() -> Vec<f64> {
        (0..MAP.channels * MAP.pixels()).map(|at| (at * 7 % 4) as f64).collect()
    }

    #[test]
    fn indices_route_gradients_to_first_positive_maximum() {
        let (values, indices) = (values(), PoolIndices::of(MAP));
        let upstream: Vec<f64> = (1..=MAP.channels * 3 * 2).map(|value| value as f64).collect();
        let dx = indices.reference_route(&indices.reference(&values), &upstream);
        let mut left = 0.0;
        indices.for_each_window(&values, |from, _, _, window| {
            let largest = window.into_iter().fold(0.0, f64::max);
            left += if largest > 0.0 { upstream[from] } else { 0.0 };
        });
        assert_eq!(dx.iter().sum::<f64>(), left);
        for (d, value) in dx.iter().zip(&values) {
            assert!(*d == 0.0 || *value > 0.0);
        }
    }

    #[test]
    fn wrong_indices_are_detected() {
        let (values, indices) = (values(), PoolIndices::of(MAP));
        let right: Vec<f32> = indices.reference(&values).iter().map(|index| *index as f32).collect();
        assert_eq!(indices.fault(&values, &right, 1e-6), None);
        let at = right.iter().position(|index| *index as u32 & 15 == 1).unwrap();
        for wrong in [0.5, -1.0, f32::NAN, 65536.0, right[at] + 2.0, right[at] - 1.0, right[at] + 14.0] {
            let mut changed = right.clone();
            changed[at] = wrong;
            assert!(indices.fault(&values, &changed, 1e-6).is_some(), "{wrong} instead of {}", right[at]);
        }
        // Rows 4 and 5 form the third and last row of windows, so nothing lies below it.
        let mut stray = right.clone();
        let below = (2 * 2 + 1) * indices.layout().width;
        stray[below] = 1.0;
        assert!(indices.fault(&values, &stray, 1e-6).is_some());
        assert!(indices.fault(&values, &right[1..], 1e-6).is_some());
    }
}
