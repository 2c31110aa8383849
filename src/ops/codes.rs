//! A rectified map pooled where it is made: what is kept in its place.
//!
//! Of each 2x2 window the maximum is kept, and which value it was: a *code* of four bits, of which the one of the
//! first maximum in row-major order is set, none if the maximum is not positive. So a code is the pool's way
//! back and the rectifier's mask at once. The codes of four channels are one number below 65536, which f32 holds
//! exactly; a texel holds those of 2x2 windows, just the 4x4 pixels that one Winograd tile makes.
//!
//! In memory codes are a map ([`layout`]) with the quads of the pooled one: channel `4 q + 2 (y % 2) + x % 2` at
//! (y / 2, x / 2) is the code of quad q at pooled pixel (y, x). It takes a quarter of the pooled map, a sixteenth of
//! the map.

use super::shape::MapLayout;
use super::{Dispatch, Kernel, Operand, Shape, window};
use super::{Pool, PoolKind, pool};
use crate::gpu::Profile;
use std::ops::Range;

/// Invocations per workgroup; as in the shader.
const GROUP: usize = 64;

/// The pooled map of a map.
pub(super) fn pooled(map: MapLayout) -> MapLayout {
    MapLayout { height: map.height / 2, width: map.width / 2, ..map }
}

/// The map of the codes of a map.
pub(super) fn layout(map: MapLayout) -> MapLayout {
    let pooled = pooled(map);
    let [height, width] = [pooled.height, pooled.width].map(|size| size.div_ceil(2));
    MapLayout { channels: map.quads() * 4, height, width }
}

/// As [`layout`].
pub(super) fn shape(map: MapLayout) -> Shape {
    let MapLayout { channels, height, width } = layout(map);
    Shape::map(channels, height, width)
}

fn dispatch(entry: &'static str, map: MapLayout) -> Dispatch {
    Dispatch::new("codes", entry)
        .size("height", map.height)
        .size("width", map.width)
        .size("quads", map.quads())
}

/// The kernel of a pooled op from that of the same op without the pool, the output of which is `map`: that goes
/// to scratch memory, and two passes read it there.
pub(super) fn pool_after(mut kernel: Kernel, map: MapLayout, device: &Profile) -> Kernel {
    let full = Operand::Scratch(kernel.scratch.len());
    kernel.redirect_output(&full);
    kernel.dispatches.extend(pool::halve_max(map, &full, device));
    let maps = [("input", map), ("output", layout(map))];
    let find = |quads: Range<usize>| {
        dispatch("find", map.part(&quads))
            .bind("input", full.clone())
            .bind("output", Operand::Side)
            .linear(layout(map).part(&quads).texels(), GROUP, device)
            .narrow(&maps, &quads)
    };
    kernel.dispatches.extend(window::quads(&maps.map(|(_, map)| map), 1, device).into_iter().map(find));
    kernel.scratch.push((map.texels() * 16) as u64);
    kernel
}

/// The dispatches that spread the gradient of the pooled map (input 1) by the codes (input 0) over `output`, the
/// gradient of `map`.
pub(super) fn route(map: MapLayout, output: &Operand, device: &Profile) -> Vec<Dispatch> {
    let maps = [("upstream", pooled(map)), ("codes", layout(map)), ("output", map)];
    let part = |quads: Range<usize>| {
        dispatch("route", map.part(&quads))
            .bind("codes", Operand::Input(0))
            .bind("upstream", Operand::Input(1))
            .bind("output", output.clone())
            .linear(map.part(&quads).texels(), GROUP, device)
            .narrow(&maps, &quads)
    };
    window::quads(&maps.map(|(_, map)| map), 1, device).into_iter().map(part).collect()
}

/// Calls `visit(pooled element, element of the codes, first bit, the window's four values)` for each channel and
/// window of a map in logical order.
fn for_each_window(map: MapLayout, values: &[f64], mut visit: impl FnMut(usize, usize, u32, [f64; 4])) {
    let (pooled, codes) = (pooled(map), layout(map));
    for c in 0..map.channels {
        for y in 0..pooled.height {
            for x in 0..pooled.width {
                let first = (c * map.height + 2 * y) * map.width + 2 * x;
                let window =
                    [first, first + 1, first + map.width, first + map.width + 1].map(|at| values[at]);
                let channel = c / 4 * 4 + 2 * (y % 2) + x % 2;
                let code = (channel * codes.height + y / 2) * codes.width + x / 2;
                visit((c * pooled.height + y) * pooled.width + x, code, 4 * (c % 4) as u32, window);
            }
        }
    }
}

/// The largest value of each window, in f64.
pub(super) fn reference_pooled(map: MapLayout, values: &[f64]) -> Vec<f64> {
    let mut largest = vec![0.0; map.channels * pooled(map).pixels()];
    for_each_window(map, values, |at, _, _, window| {
        largest[at] = window.into_iter().fold(f64::NEG_INFINITY, f64::max);
    });
    largest
}

/// The codes of a rectified map.
pub(super) fn reference(map: MapLayout, values: &[f64]) -> Vec<f64> {
    let mut codes = vec![0u32; shape(map).elements()];
    for_each_window(map, values, |_, at, bit, window| {
        let first = (1..4).fold(0, |best, k| if window[k] > window[best] { k } else { best });
        if window[first] > 0.0 {
            codes[at] |= 1 << (bit + first as u32);
        }
    });
    codes.into_iter().map(f64::from).collect()
}

/// What is wrong with codes of a rectified map, where values that differ by no more than `error` may count as
/// equal: a kernel rounds otherwise than the reference.
pub(super) fn fault(map: MapLayout, values: &[f64], codes: &[f32], error: f64) -> Option<String> {
    let expected = shape(map).elements();
    if codes.len() != expected {
        return Some(format!("{} codes, not {expected}", codes.len()));
    }
    if let Some(code) = codes.iter().find(|code| !(0.0..65536.0).contains(*code) || code.fract() != 0.0) {
        return Some(format!("{code} is no code"));
    }
    let mut left: Vec<u32> = codes.iter().map(|code| *code as u32).collect();
    let mut fault = None;
    for_each_window(map, values, |_, at, bit, window| {
        let code = left[at] >> bit & 15;
        left[at] &= !(15 << bit);
        let largest = window.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let right = match code {
            0 => largest <= error,
            1 | 2 | 4 | 8 => {
                let value = window[code.trailing_zeros() as usize];
                value >= largest - error && largest > -error && (value > 0.0 || largest <= error)
            }
            _ => false,
        };
        if !right && fault.is_none() {
            fault = Some(format!("code {code} for the window {window:?}"));
        }
    });
    // What belongs to no window must be zero.
    let stray = left.iter().position(|bits| *bits != 0);
    fault.or_else(|| stray.map(|at| format!("element {at} has bits of no window: {:b}", left[at])))
}

/// The gradient of the map from that of the pooled map, in f64.
pub(super) fn reference_route(map: MapLayout, codes: &[f64], upstream: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; map.channels * map.pixels()];
    // The map's elements as values: so each window tells where it is.
    let places: Vec<f64> = (0..dx.len()).map(|at| at as f64).collect();
    for_each_window(map, &places, |from, at, bit, window| {
        for (k, to) in window.into_iter().enumerate() {
            if codes[at] as i64 >> (bit + k as u32) & 1 == 1 {
                dx[to as usize] += upstream[from];
            }
        }
    });
    dx
}

/// The pool that can be fused.
pub(super) fn halving() -> Pool {
    Pool::halve(PoolKind::Max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: MapLayout = MapLayout { channels: 5, height: 7, width: 4 };

    /// Values of which many tie, some at zero.
    fn values() -> Vec<f64> {
        (0..MAP.channels * MAP.pixels()).map(|at| (at * 7 % 4) as f64).collect()
    }

    #[test]
    fn codes_lead_each_gradient_to_the_first_maximum_if_it_is_positive() {
        let values = values();
        let upstream: Vec<f64> = (1..=MAP.channels * 3 * 2).map(|value| value as f64).collect();
        let dx = reference_route(MAP, &reference(MAP, &values), &upstream);
        let mut left = 0.0;
        for_each_window(MAP, &values, |from, _, _, window| {
            let largest = window.into_iter().fold(0.0, f64::max);
            left += if largest > 0.0 { upstream[from] } else { 0.0 };
        });
        assert_eq!(dx.iter().sum::<f64>(), left);
        for (d, value) in dx.iter().zip(&values) {
            assert!(*d == 0.0 || *value > 0.0);
        }
    }

    #[test]
    fn faults_are_found() {
        let values = values();
        let codes: Vec<f32> = reference(MAP, &values).iter().map(|code| *code as f32).collect();
        assert_eq!(fault(MAP, &values, &codes, 1e-6), None);
        let at = codes.iter().position(|code| *code as u32 & 15 == 1).unwrap();
        for wrong in [0.5, -1.0, f32::NAN, 65536.0, codes[at] + 2.0, codes[at] - 1.0, codes[at] + 14.0] {
            let mut codes = codes.clone();
            codes[at] = wrong;
            assert!(fault(MAP, &values, &codes, 1e-6).is_some(), "{wrong} in place of {}", codes[at]);
        }
        // Rows 4 and 5 make the third and last row of windows: below it is nothing.
        let mut stray = codes.clone();
        let below = (2 * 2 + 1) * layout(MAP).width;
        stray[below] = 1.0;
        assert!(fault(MAP, &values, &stray, 1e-6).is_some());
        assert!(fault(MAP, &values, &codes[1..], 1e-6).is_some());
    }
}
