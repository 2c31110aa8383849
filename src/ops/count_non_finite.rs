//! Detects non-finite values in tensors without a read-back: the result stays in a record on the device.

use super::cpu::write_number;
use super::lanes::sums;
use super::shape::{mismatch, takes};
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// Counts the NaN and infinite values of one to four tensors of the same shape, and records the first step with any.
///
/// Inputs: the record, a vector of length 8, `[steps so far, number of the first bad step, 0, 0, non-finite values in
/// each tensor after that step]`, all zeros before the first step; then the tensors. Updates the record in place; after
/// a bad step, only the number of steps. Output: the number of the first bad step, or 0, as a vector of length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountNonFinite;

impl CountNonFinite {
    /// Shape of the record.
    pub const RECORD: Shape = Shape::Vector(8);
    /// Most tensors that one op checks.
    pub const MOST: usize = 4;
}

/// Invocations per workgroup; as in the shader.
const GROUP: usize = 64;
/// Most workgroups per tensor, and fewest quads per invocation; as for [`super::Reduce`].
const MOST_GROUPS: usize = 512;
const LEAST_QUADS: usize = 16;

impl Op for CountNonFinite {
    fn name(&self) -> &'static str {
        "count_non_finite"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let [record, first, rest @ ..] = inputs else {
            return Err(mismatch("count_non_finite", "it takes a record and at least one tensor"));
        };
        if *record != Self::RECORD {
            return Err(mismatch(
                "count_non_finite",
                &format!("the record {record} must be {}", Self::RECORD),
            ));
        }
        if rest.len() >= Self::MOST {
            return Err(takes(
                "count_non_finite",
                &format!("it takes at most {} tensors", Self::MOST),
                rest.len() + 1,
            ));
        }
        if let Some(other) = rest.iter().find(|other| *other != first) {
            return Err(mismatch("count_non_finite", &format!("{first} and {other} differ")));
        }
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let tensors = signature.inputs.len() - 1;
        let quads = signature.inputs[1].stored() / 4;
        let groups =
            quads.div_ceil(GROUP * LEAST_QUADS).clamp(1, MOST_GROUPS.min(device.max_groups as usize));
        let dispatch = |entry, first: usize| {
            Dispatch::new("count_non_finite", entry)
                .consts(&[("TENSORS", tensors as u32)])
                .size("stride", groups * GROUP)
                .size("first", first)
        };
        let search = |index: usize| {
            dispatch("search", index * groups)
                .bind("input", Operand::Input(1 + index))
                .bind("found", Operand::Scratch(0))
                .size("count", quads)
                .loops(quads.div_ceil(groups * GROUP) + GROUP)
                .groups([groups, 1, 1])
        };
        let note = dispatch("note", 0)
            .bind("partials", Operand::Scratch(0))
            .bind("record", Operand::Input(0))
            .bind("output", Operand::Output)
            .size("count", groups);
        let dispatches = (0..tensors).map(search).chain([note]).collect();
        Ok(vec![Kernel { variant: "naive", dispatches, scratch: vec![(tensors * groups * 16) as u64] }])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        Ok(CpuKernel::new(|mut call| {
            let [record] = &mut call.mutated[..] else { return };
            let count =
                |tensor: &&[f32]| sums([*tensor], |[x]| [if x.is_finite() { 0.0 } else { 1.0 }])[0] as f32;
            let counts: Vec<f32> = call.inputs.iter().skip(1).map(count).collect();
            record[0] += 1.0;
            if record[1] == 0.0 && counts.iter().any(|count| *count > 0.0) {
                record[1] = record[0];
                record[4..8].fill(0.0);
                record[4..4 + counts.len()].copy_from_slice(&counts);
            }
            record[2..4].fill(0.0);
            write_number(call.output, record[1]);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let [record, tensors @ ..] = inputs else { return Vec::new() };
        let mut record = record.to_vec();
        record[0] += 1.0;
        record[2..4].fill(0.0);
        let counts = tensors.iter().map(|tensor| tensor.iter().filter(|x| !x.is_finite()).count() as f64);
        let counts: Vec<f64> = counts.collect();
        if record[1] == 0.0 && counts.iter().any(|count| *count > 0.0) {
            record[1] = record[0];
            record[4..].fill(0.0);
            record[4..4 + counts.len()].copy_from_slice(&counts);
        }
        record
    }

    fn mutates(&self) -> &'static [usize] {
        &[0]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        signature.inputs.iter().skip(1).map(|shape| shape.elements() as u64).sum()
    }
}

/// Before the first step, after some good steps, and after a bad one.
const FIRST: CaseInput = CaseInput::Exactly(0.0);
const GOOD: CaseInput = CaseInput::Values(&[41.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
const BAD: CaseInput = CaseInput::Values(&[41.0, 17.0, 0.0, 0.0, 3.0, 0.0, 2.0, 0.0]);

/// Tiny, every amount of padding, one workgroup and several; counts are exact.
pub(super) fn cases() -> Vec<Case> {
    let shapes = [
        Shape::map(3, 1, 1),
        Shape::map(5, 7, 3),
        Shape::map(3, 97, 101),
        Shape::Vector(13),
        Shape::Matrix { rows: 131, columns: 129 },
    ];
    let (good, bad) = (CaseInput::Normal, CaseInput::NonFinite);
    let tensors: [&[CaseInput]; 5] =
        [&[good], &[bad], &[good, bad], &[good, good, good], &[bad, good, bad, good]];
    let mut cases = Vec::new();
    for shape in shapes {
        for record in [FIRST, GOOD, BAD] {
            for tensors in tensors {
                let tensors = tensors.iter().map(|kind| (shape, *kind));
                let inputs: Vec<_> = [(CountNonFinite::RECORD, record)].into_iter().chain(tensors).collect();
                cases.push(Case::drawn(CountNonFinite, &inputs, 0.0));
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bad_step_is_recorded() {
        let shapes = [CountNonFinite::RECORD, Shape::Vector(2), Shape::Vector(2)];
        let mut record = vec![0.0; 8];
        let good = [1.0, -2.0];
        for (one, other) in
            [(good, good), (good, [f64::NAN, f64::INFINITY]), ([f64::NAN, 0.0], good), (good, good)]
        {
            record = CountNonFinite.reference(&[&record, &one, &other], &shapes);
        }
        assert_eq!(record, [4.0, 2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
    }

    #[test]
    fn inputs_are_a_record_and_up_to_four_equal_shapes() {
        let (record, map) = (CountNonFinite::RECORD, Shape::map(3, 2, 2));
        assert!(CountNonFinite.output(&[record, map, map, map, map]).is_ok());
        for inputs in [
            vec![record],
            vec![Shape::Vector(4), map],
            vec![record, map, map, map, map, map],
            vec![record, map, Shape::map(3, 2, 3)],
        ] {
            assert!(CountNonFinite.output(&inputs).is_err(), "{inputs:?}");
        }
    }
}
