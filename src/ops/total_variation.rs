//! Total variation of a map, by the definitions of three other programs, without their constant factors.

use super::cpu::{fill_map, row, sums_in_order, write_number};
use super::lanes::{part_sums, update};
use super::shape::MapLayout;
use super::{
    Adjoint, AdjointOperand, Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature, sum,
};
use crate::error::Result;
use crate::gpu::Profile;

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;
/// Texels summed per invocation; matches the shader's `TERMS`.
const TERMS: usize = 8;

/// Definition of the total variation. `p` is a channel with H rows and W columns; `dx` and `dy` are the differences
/// between a pixel and the one to its right or below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VariationKind {
    /// `1/2 sum(dx^2 + dy^2)` over all channels and the pixels with y < H - 1, x < W - 1: neural-style's `TVLoss`. The
    /// last row and column have no terms of their own; a map of one row or column gives 0.
    #[default]
    Squared,
    /// `sum(|dx|) + sum(|dy|)` over all neighbours: neural-style-pt's. The gradient at equal neighbours is 0.
    Absolute,
    /// `2 (mean dx^2 / 3 + mean dy^2 / 3 + mean d1^2 / 12 + mean d2^2 / 12)`: style-transfer-pytorch's. `d1` and `d2`
    /// are the differences along the diagonals. The edge is repeated by one pixel on all sides, so the means are over H
    /// x W and (H + 1) x (W + 1) terms.
    Diagonal,
}

/// Total variation of a map, as a vector of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalVariation {
    /// Definition to use.
    pub kind: VariationKind,
}

/// Adjoint of [`TotalVariation`]. Inputs: the map; the upstream gradient, a vector of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalVariationBackward {
    /// Definition to use.
    pub kind: VariationKind,
    /// Rows and columns of the whole map, which the means are over, if the input is a part of it. The gradient is then
    /// correct for pixels whose eight neighbours are all in the part or beyond the edge of the whole map.
    pub of: Option<[usize; 2]>,
}

impl VariationKind {
    /// Weights of a squared difference of [`Self::Diagonal`]: to the right or below, and along a diagonal.
    fn weights(map: MapLayout) -> [f64; 2] {
        let cells = map.channels * (map.height + 1) * (map.width + 1);
        [2.0 / (3.0 * (map.channels * map.pixels()) as f64), 2.0 / (12.0 * cells as f64)]
    }

    fn dispatch(
        self,
        entry: &'static str,
        (map, whole): (MapLayout, MapLayout),
        partials: usize,
    ) -> Dispatch {
        let [straight, slanted] = Self::weights(whole);
        Dispatch::new("total_variation", entry)
            .consts(&[("KIND", self as u32)])
            .bind("input", Operand::Input(0))
            .size("height", map.height)
            .size("width", map.width)
            .size("quads", map.quads())
            .size("texels", map.texels())
            .size("partials", partials)
            .float("straight", straight as f32)
            .float("slanted", slanted as f32)
    }

    /// Calls `visit(from, to, weight)` for every difference; `from` and `to` are element indices.
    fn for_each_difference(self, map: MapLayout, whole: MapLayout, mut visit: impl FnMut(usize, usize, f64)) {
        let MapLayout { channels, height, width } = map;
        let [straight, slanted] = Self::weights(whole);
        for c in 0..channels {
            // Element index of a pixel; coordinates start at 1 and are clamped to the edge.
            let at = |y: usize, x: usize| {
                let inside = |index: usize, length: usize| index.clamp(1, length) - 1;
                (c * height + inside(y, height)) * width + inside(x, width)
            };
            for y in 1..=height {
                for x in 1..=width {
                    let weight = match self {
                        Self::Squared if y == height || x == width => continue,
                        Self::Squared => 0.5,
                        Self::Absolute => 1.0,
                        Self::Diagonal => straight,
                    };
                    visit(at(y, x), at(y, x + 1), weight);
                    visit(at(y, x), at(y + 1, x), weight);
                }
            }
            if self == Self::Diagonal {
                for y in 0..=height {
                    for x in 0..=width {
                        visit(at(y, x), at(y + 1, x + 1), slanted);
                        visit(at(y + 1, x), at(y, x + 1), slanted);
                    }
                }
            }
        }
    }
}

/// CPU kernels, by stored rows: the neighbour to the right is four floats further.
impl VariationKind {
    /// Sum of a row's terms: differences of its pixels to the right and below, and diagonals of the cells below it. The
    /// first row also includes the cells above.
    fn row_sum(self, input: &[f32], map: MapLayout, quad: usize, y: usize) -> f64 {
        let here = row(input, map, quad, y);
        let below = row(input, map, quad, (y + 1).min(map.height - 1));
        let last = y + 1 == map.height;
        let inner = here.len() - 4;
        let square = |[a, b]: [f32; 2]| [(b - a) * (b - a)];
        match self {
            Self::Squared if last => 0.0,
            Self::Squared => {
                let [across] = part_sums([&here[..inner], &here[4..]], square);
                let [down] = part_sums([&here[..inner], &below[..inner]], square);
                0.5 * (across + down)
            }
            Self::Absolute => {
                // The last row is its own neighbour below, which adds nothing.
                let [across] = part_sums([&here[..inner], &here[4..]], |[a, b]| [(b - a).abs()]);
                let [down] = if last { [0.0] } else { part_sums([here, below], |[a, b]| [(b - a).abs()]) };
                across + down
            }
            Self::Diagonal => {
                let [straight, slanted] = Self::weights(map);
                let [across] = part_sums([&here[..inner], &here[4..]], square);
                let [down] = if last { [0.0] } else { part_sums([here, below], square) };
                let mut diagonals = diagonals(here, below);
                if y == 0 {
                    diagonals += self::diagonals(here, here);
                }
                straight * (across + down) + slanted * diagonals
            }
        }
    }

    /// Gradient of a row's pixels for an upstream gradient of 1.
    fn row_gradient(
        self,
        (input, map, whole): (&[f32], MapLayout, MapLayout),
        (quad, y): (usize, usize),
        gradient: &mut [f32],
    ) {
        let here = row(input, map, quad, y);
        let above = (y > 0).then(|| row(input, map, quad, y - 1));
        let below = (y + 1 < map.height).then(|| row(input, map, quad, y + 1));
        let inner = here.len() - 4;
        let straight = match self {
            Self::Squared | Self::Absolute => 1.0,
            Self::Diagonal => 2.0 * Self::weights(whole)[0] as f32,
        };
        let slope = |sum: f32, [from, to]: [f32; 2]| {
            let difference = to - from;
            let slope = match self {
                // `signum` is 1 at 0. A product instead of a branch, so that the loop vectorises.
                Self::Absolute => difference.signum() * if difference == 0.0 { 0.0 } else { 1.0 },
                Self::Squared | Self::Diagonal => straight * difference,
            };
            sum + slope
        };
        gradient.fill(0.0);
        // The squared kind omits the differences of the last row and column.
        let all = self != Self::Squared;
        if all || below.is_some() {
            update(&mut gradient[..inner], [&here[4..], &here[..inner]], slope);
            update(&mut gradient[4..], [&here[..inner], &here[4..]], slope);
        }
        let width = if all { here.len() } else { inner };
        for other in [above, below].into_iter().flatten() {
            update(&mut gradient[..width], [&other[..width], &here[..width]], slope);
        }
        if self == Self::Diagonal {
            let weight = 2.0 * Self::weights(whole)[1] as f32;
            for other in [above, below] {
                // Beyond the edge is a copy of this row, so its diagonals count twice here.
                let (other, weight) = other.map_or((here, 2.0 * weight), |other| (other, weight));
                add_slanted(gradient, here, other, weight);
            }
        }
    }
}

/// Sum of the squared differences along both diagonals of the cells between two rows, including the cells at both ends,
/// where the rows' edge pixels are repeated.
fn diagonals(upper: &[f32], lower: &[f32]) -> f64 {
    let inner = upper.len() - 4;
    let rows = [&upper[..inner], &upper[4..], &lower[..inner], &lower[4..]];
    let [cells] = part_sums(rows, |[upper, upper_right, lower, lower_right]| {
        let (down, up) = (lower_right - upper, upper_right - lower);
        [down * down + up * up]
    });
    let end = |range: std::ops::Range<usize>| {
        part_sums([&upper[range.clone()], &lower[range]], |[upper, lower]| {
            [2.0 * (lower - upper) * (lower - upper)]
        })
    };
    let ([first], [last]) = (end(0..4), end(inner..inner + 4));
    cells + first + last
}

/// Adds the gradient of the diagonals to another row, times `weight`.
fn add_slanted(gradient: &mut [f32], here: &[f32], other: &[f32], weight: f32) {
    let inner = here.len() - 4;
    let slope = |sum: f32, [from, to]: [f32; 2]| sum + weight * (to - from);
    update(&mut gradient[..inner], [&other[4..], &here[..inner]], slope);
    update(&mut gradient[4..], [&other[..inner], &here[4..]], slope);
    let end = |sum: f32, [from, to]: [f32; 2]| sum + 2.0 * weight * (to - from);
    update(&mut gradient[..4], [&other[..4], &here[..4]], end);
    update(&mut gradient[inner..], [&other[inner..], &here[inner..]], end);
}

impl Op for TotalVariation {
    fn name(&self) -> &'static str {
        "total_variation"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_map("total_variation")?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.inputs[0].expect_map("total_variation")?;
        let partials = map.texels().div_ceil(TERMS).next_multiple_of(GROUP);
        let first = self
            .kind
            .dispatch("forward", (map, map), partials)
            .bind("sums", Operand::Scratch(0))
            .linear(partials, GROUP, device);
        let scale = if self.kind == VariationKind::Squared { 0.5 } else { 1.0 };
        Ok(vec![sum::total(vec![first], partials, scale, device)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.inputs[0].expect_map("total_variation")?;
        let kind = self.kind;
        Ok(CpuKernel::new(move |call| {
            let row_sum = |index| [kind.row_sum(call.inputs[0], map, index / map.height, index % map.height)];
            let [sum] = sums_in_order(map.quads() * map.height, row_sum);
            write_number(call.output, sum as f32);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let mut sum = 0.0;
        let map = shapes[0].layout().expect("a map");
        self.kind.for_each_difference(map, map, |from, to, weight| {
            let difference = inputs[0][to] - inputs[0][from];
            let absolute = self.kind == VariationKind::Absolute;
            sum += weight * if absolute { difference.abs() } else { difference * difference };
        });
        vec![sum]
    }

    fn adjoint(&self, _input: usize, _shapes: &[Shape]) -> Option<Adjoint> {
        Adjoint::new(
            TotalVariationBackward { kind: self.kind, of: None },
            &[AdjointOperand::Input(0), AdjointOperand::Upstream],
        )
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let each = if self.kind == VariationKind::Diagonal { 12 } else { 6 };
        each * signature.inputs[0].elements() as u64
    }
}

impl TotalVariationBackward {
    /// Layout of the map that the means are over.
    fn whole(&self, map: MapLayout) -> MapLayout {
        self.of.map_or(map, |[height, width]| MapLayout { height, width, ..map })
    }
}

impl Op for TotalVariationBackward {
    fn name(&self) -> &'static str {
        "total_variation_backward"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        inputs[0].expect_map("total_variation_backward")?;
        inputs[1].expect_number("total_variation_backward")?;
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let map = signature.output.expect_map("total_variation_backward")?;
        let kernel = self
            .kind
            .dispatch("backward", (map, self.whole(map)), 0)
            .bind("upstream", Operand::Input(1))
            .bind("output", Operand::Output)
            .linear(map.texels(), GROUP, device);
        Ok(vec![Kernel::single("naive", kernel)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let map = signature.output.expect_map("total_variation_backward")?;
        let (kind, whole) = (self.kind, self.whole(map));
        Ok(CpuKernel::new(move |call| {
            let upstream = call.inputs[1][0];
            fill_map(map, call.output, |quad, y, gradient| {
                kind.row_gradient((call.inputs[0], map, whole), (quad, y), gradient);
                update(gradient, [], |gradient, []| gradient * upstream);
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let mut gradient = vec![0.0; inputs[0].len()];
        let map = shapes[0].layout().expect("a map");
        self.kind.for_each_difference(map, self.whole(map), |from, to, weight| {
            let difference = inputs[0][to] - inputs[0][from];
            let slope = match self.kind {
                // Not `signum`, which is 1 at 0.
                VariationKind::Absolute if difference == 0.0 => 0.0,
                VariationKind::Absolute => difference.signum(),
                VariationKind::Squared | VariationKind::Diagonal => 2.0 * difference,
            };
            gradient[to] += weight * slope * inputs[1][0];
            gradient[from] -= weight * slope * inputs[1][0];
        });
        gradient
    }

    fn flops(&self, signature: &Signature) -> u64 {
        let each = if self.kind == VariationKind::Diagonal { 20 } else { 8 };
        each * signature.output.elements() as u64
    }
}

/// f32 sums of positive terms, at most 64 at a time and at most 64 such sums in sequence: 6e-8 * sqrt(64) = 5e-7 of the
/// result; the tolerance is twice that.
const TOLERANCE: f64 = 1e-6;

/// Up to a dozen roundings of 6e-8 each, of values no larger than the largest result.
const BACKWARD_TOLERANCE: f64 = 7e-7;

const KINDS: [VariationKind; 3] = [VariationKind::Squared, VariationKind::Absolute, VariationKind::Diagonal];

/// Single rows, columns and pixels, then maps of several quads and workgroups.
fn samples() -> Vec<(VariationKind, Shape)> {
    let sizes =
        [(3, 1, 1), (3, 1, 9), (2, 11, 1), (4, 2, 2), (3, 3, 2), (5, 7, 3), (9, 13, 31), (3, 127, 131)];
    let shapes = sizes.map(|(channels, height, width)| Shape::map(channels, height, width));
    KINDS.into_iter().flat_map(|kind| shapes.map(|shape| (kind, shape))).collect()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = samples()
        .into_iter()
        .map(|(kind, shape)| Case::normal(TotalVariation { kind }, &[shape], TOLERANCE))
        .collect();
    // Enough partial sums to be folded once before the last workgroup.
    let op = TotalVariation { kind: VariationKind::Squared };
    cases.push(Case::drawn(op, &[(Shape::map(3, 383, 389), CaseInput::Picture)], TOLERANCE));
    cases
}

pub(super) fn backward_cases() -> Vec<Case> {
    let case = |(kind, shape): (VariationKind, Shape), of, input| {
        let inputs = [(shape, input), (Shape::Vector(1), CaseInput::Normal)];
        Case::drawn(TotalVariationBackward { kind, of }, &inputs, BACKWARD_TOLERANCE)
    };
    // Include equal neighbours, where the absolute kind has a kink.
    let inputs = [CaseInput::Normal, CaseInput::Rectified];
    let wholes = samples().into_iter().flat_map(|sample| inputs.map(|input| case(sample, None, input)));
    let parts = KINDS.map(|kind| case((kind, Shape::map(3, 13, 31)), Some([97, 31]), CaseInput::Normal));
    wholes.chain(parts).collect()
}
