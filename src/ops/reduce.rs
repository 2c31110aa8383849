//! Reduces a tensor to one number: sums, the count of non-finite values, dot products.
//!
//! The order of summation is fixed, so a result repeats bit for bit on the same device.

use super::cpu::write_number;
use super::lanes::sums;
use super::shape::expect_same;
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// Reduction over all elements x_i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceKind {
    /// `sum x_i`
    Sum,
    /// `sum |x_i|`
    L1,
    /// Number of NaN and infinite values. Stored as f32, so exact up to 2^24 and within one millionth above.
    NonFinite,
}

/// Reduces a tensor of any shape to one number, a vector of length 1. For reports on tensors, so it has no adjoint;
/// losses are separate ops.
#[derive(Debug, Clone, Copy)]
pub struct Reduce {
    /// Which reduction.
    pub kind: ReduceKind,
}

/// `sum_i a_i b_i` of two tensors of the same shape, as a vector of length 1. For optimisers, so it has no adjoint.
#[derive(Debug, Clone, Copy)]
pub struct Dot;

/// Invocations per workgroup; as in the shader.
const GROUP: usize = 64;
/// Most workgroups of the first stage: enough to fill a large GPU, few enough that the second stage is negligible.
const LARGEST: usize = 512;
/// Fewest quads per invocation of the first stage. Less work is not worth another workgroup; a short vector gets only
/// one.
const SMALLEST: usize = 16;

/// Appends the second stage if the first leaves several numbers.
fn kernel(first: Dispatch, shape: Shape, device: &Profile) -> Kernel {
    let quads = shape.stored() / 4;
    let groups = quads.div_ceil(GROUP * SMALLEST).clamp(1, LARGEST.min(device.max_groups as usize));
    let fill = |dispatch: Dispatch, count: usize, groups: usize| {
        dispatch.size("count", count).size("stride", groups * GROUP).groups([groups, 1, 1])
    };
    if groups == 1 {
        return Kernel::single("naive", fill(first.bind("output", Operand::Output), quads, 1));
    }
    let first = fill(first.bind("output", Operand::Scratch(0)), quads, groups);
    let second =
        Dispatch::new("reduce", "finish").bind("input", Operand::Scratch(0)).bind("output", Operand::Output);
    let dispatches = vec![first, fill(second, groups, 1)];
    Kernel { variant: "naive", dispatches, scratch: vec![groups as u64 * 16] }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn output(&self, _inputs: &[Shape]) -> Result<Shape> {
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let first = Dispatch::new("reduce", "partial")
            .consts(&[("KIND", self.kind as u32)])
            .bind("input", Operand::Input(0));
        Ok(vec![kernel(first, signature.inputs[0], device)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let kind = self.kind;
        Ok(CpuKernel::new(move |call| {
            let inputs = [call.inputs[0]];
            let [sum] = match kind {
                ReduceKind::Sum => sums(inputs, |[x]| [x]),
                ReduceKind::L1 => sums(inputs, |[x]| [x.abs()]),
                ReduceKind::NonFinite => sums(inputs, |[x]| [if x.is_finite() { 0.0 } else { 1.0 }]),
            };
            write_number(call.output, sum as f32);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let values = inputs[0].iter().copied();
        vec![match self.kind {
            ReduceKind::Sum => values.sum(),
            ReduceKind::L1 => values.map(f64::abs).sum(),
            ReduceKind::NonFinite => values.filter(|x| !x.is_finite()).count() as f64,
        }]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        signature.inputs[0].elements() as u64
    }
}

impl Op for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        expect_same("dot", inputs)?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let first = Dispatch::new("reduce", "partial_dot")
            .bind("input", Operand::Input(0))
            .bind("other", Operand::Input(1));
        Ok(vec![kernel(first, signature.inputs[0], device)])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|call| {
            let [sum] = sums([call.inputs[0], call.inputs[1]], |[a, b]| [a * b]);
            write_number(call.output, sum as f32);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        vec![inputs[0].iter().zip(inputs[1]).map(|(a, b)| a * b).sum()]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        2 * signature.inputs[0].elements() as u64
    }
}

/// Sums of positive terms: a component of an invocation sums a few dozen terms before the trees, so rounding stays at a
/// few units in the last place, 6e-8 each.
const TOLERANCE: f64 = 1e-6;

/// Sums of terms of both signs: the same rounding, but the result is smaller than the sum of the absolute values by the
/// square root of the number of terms, up to 400 here, and may be smaller still by chance.
const SIGNED_TOLERANCE: f64 = 1e-4;

/// Tiny, prime, every amount of padding; one workgroup, several, and finally more than the second stage has
/// invocations.
fn shapes() -> [Shape; 10] {
    [
        Shape::Vector(1),
        Shape::Vector(7),
        Shape::Vector(1021),
        Shape::Vector(50_021),
        Shape::map(1, 1, 1),
        Shape::map(5, 7, 3),
        Shape::map(3, 97, 101),
        Shape::map(18, 127, 131),
        Shape::Matrix { rows: 3, columns: 5 },
        Shape::Matrix { rows: 131, columns: 129 },
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in shapes() {
        let mut push = |kind, input, tolerance| {
            cases.push(Case::drawn(Reduce { kind }, &[(shape, input)], tolerance));
        };
        push(ReduceKind::Sum, CaseInput::Picture, TOLERANCE);
        push(ReduceKind::Sum, CaseInput::Normal, SIGNED_TOLERANCE);
        push(ReduceKind::L1, CaseInput::Normal, TOLERANCE);
        // Exact.
        push(ReduceKind::NonFinite, CaseInput::NonFinite, 0.0);
        push(ReduceKind::NonFinite, CaseInput::Normal, 0.0);
    }
    cases.push(Case::drawn(
        Reduce { kind: ReduceKind::Sum },
        &[(Shape::map(64, 97, 89), CaseInput::Picture)],
        TOLERANCE,
    ));
    cases
}

pub(super) fn dot_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in shapes() {
        let both = |input| [(shape, input), (shape, input)];
        cases.push(Case::drawn(Dot, &both(CaseInput::Positive), TOLERANCE));
        cases.push(Case::drawn(Dot, &both(CaseInput::Normal), SIGNED_TOLERANCE));
    }
    cases
}
