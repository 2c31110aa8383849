//! Running mean of a tensor, in place: the average of an optimiser's iterates.

use super::cpu::{for_each_part, write_number};
use super::lanes::update;
use super::shape::{mismatch, takes};
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// One step of a bias-corrected exponential moving average, which style-transfer-pytorch uses for its output pictures:
///
/// `a = a + (1 - d) / (1 - d^t) * (x - a)`, which equals `sum_i d^(t-i) x_i / sum_i d^(t-i)` over all x so far.
///
/// Inputs: x; a, of the same shape; `state`, a vector `[t, 1 - d^t, weight of the last x, 0]`, all zeros before the
/// first step. Updates a and `state` in place. The first x replaces a, whatever a holds. Output: the number of x
/// averaged so far, as a vector of length 1.
///
/// A NaN in x makes the same element of a NaN from then on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Average {
    /// Decay d, in [0, 1): 0 keeps only the last x, 0.99 averages over about a hundred.
    pub decay: f64,
}

impl Op for Average {
    fn name(&self) -> &'static str {
        "average"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let [x, average, state] = inputs else {
            return Err(takes("average", "3 inputs", inputs.len()));
        };
        if x != average {
            return Err(mismatch("average", &format!("x {x} and the average {average} differ in shape")));
        }
        if *state != Shape::Vector(4) {
            return Err(mismatch("average", &format!("state {state} must be of length 4")));
        }
        // With a larger d, 1 - d is so small in f32 that later x would have no effect.
        if !(0.0..=0.999_999).contains(&self.decay) {
            return Err(mismatch("average", &format!("{self:?} is out of range")));
        }
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let quads = signature.inputs[0].stored() / 4;
        let dispatch = |entry| {
            Dispatch::new("average", entry)
                .bind("state", Operand::Input(2))
                .size("count", quads)
                .float("rate", (1.0 - self.decay) as f32)
        };
        let advance = dispatch("advance").bind("output", Operand::Output);
        let step = dispatch("step")
            .bind("x", Operand::Input(0))
            .bind("average", Operand::Input(1))
            .linear(quads, 64, device);
        Ok(vec![Kernel::of("naive", vec![advance, step])])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let rate = (1.0 - self.decay) as f32;
        Ok(CpuKernel::new(move |mut call| {
            let x = call.inputs[0];
            let [average, state] = &mut call.mutated[..] else { return };
            let (t, s) = (state[0] + 1.0, state[1] + rate * (1.0 - state[1]));
            let weight = if t == 1.0 || rate == 1.0 { 1.0 } else { rate / s };
            state.iter_mut().zip([t, s, weight, 0.0]).for_each(|(to, from)| *to = from);
            write_number(call.output, t);
            for_each_part(average, |range, average| match weight {
                // Ignore the old values: they may be NaN.
                1.0 => average.copy_from_slice(&x[range]),
                _ => update(average, [&x[range]], |average, [x]| average + weight * (x - average)),
            });
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let &[x, average, state] = inputs else { return Vec::new() };
        let t = state[0] + 1.0;
        // 1 - d^t follows from 1 - d^(t-1).
        let s = self.decay * state[1] + (1.0 - self.decay);
        let first = t == 1.0 || self.decay == 0.0;
        let weight = if first { 1.0 } else { (1.0 - self.decay) / s };
        let step = |(x, a): (&f64, &f64)| if first { *x } else { a + weight * (x - a) };
        let average: Vec<f64> = x.iter().zip(average).map(step).collect();
        [average, vec![t, s, weight, 0.0]].concat()
    }

    fn mutates(&self) -> &'static [usize] {
        &[1, 2]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        3 * signature.inputs[0].elements() as u64
    }
}

/// Half a dozen roundings, where the division may be off by 2.5 units in the last place.
const TOLERANCE: f64 = 6e-7;

/// State before the first step and after three: `[t, 1 - d^t, ...]` with d = 0.9.
const FIRST: CaseInput = CaseInput::Exactly(0.0);
const AFTER_3: CaseInput = CaseInput::Values(&[3.0, 0.271, 0.369, 0.0]);
const AFTER_40: CaseInput = CaseInput::Values(&[40.0, 0.985_219_1, 0.1015, 0.0]);

pub(super) fn cases() -> Vec<Case> {
    let shapes = [
        Shape::map(3, 1, 1),
        Shape::map(3, 37, 29),
        Shape::map(5, 7, 3),
        Shape::Vector(13),
        Shape::Matrix { rows: 3, columns: 5 },
    ];
    let mut cases = Vec::new();
    for shape in shapes {
        let mut push = |decay, average, state| {
            let inputs = [(shape, CaseInput::Normal), (shape, average), (Shape::Vector(4), state)];
            cases.push(Case::drawn(Average { decay }, &inputs, TOLERANCE));
        };
        // The initial values of the average must not matter, and with zero decay no earlier ones either.
        push(0.9, CaseInput::NonFinite, FIRST);
        push(0.9, CaseInput::Normal, AFTER_3);
        push(0.9, CaseInput::Scaled(0.1), AFTER_40);
        push(0.0, CaseInput::NonFinite, CaseInput::Values(&[3.0, 1.0, 1.0, 0.0]));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_is_the_weighted_mean_of_all_values() {
        let average = Average { decay: 0.8 };
        let shapes = [Shape::Vector(1), Shape::Vector(1), Shape::Vector(4)];
        let values = [3.0, -1.0, 4.0, 1.5, -9.0];
        let mut after = vec![f64::NAN, 0.0, 0.0, 0.0, 0.0];
        for t in 1..=values.len() {
            after = average.reference(&[&values[t - 1..t], &after[..1], &after[1..]], &shapes);
            let weight = |i: usize| 0.8f64.powi((t - i) as i32);
            let sum: f64 = (1..=t).map(|i| weight(i) * values[i - 1]).sum();
            let expected = sum / (1..=t).map(weight).sum::<f64>();
            assert!((after[0] - expected).abs() <= 1e-14 && after[1] == t as f64, "{after:?}");
        }
    }

    #[test]
    fn nan_persists() {
        let average = Average { decay: 0.8 };
        let shapes = [Shape::Vector(1), Shape::Vector(1), Shape::Vector(4)];
        let state = [2.0, 0.36, 0.5, 0.0];
        let after = average.reference(&[&[f64::NAN], &[1.0], &state], &shapes);
        assert!(after[0].is_nan());
        assert!(average.reference(&[&[1.0], &after[..1], &after[1..]], &shapes)[0].is_nan());
    }

    #[test]
    fn decay_must_be_in_range() {
        let shapes = [Shape::Vector(5), Shape::Vector(5), Shape::Vector(4)];
        for decay in [-0.1, 1.0, 2.0, f64::NAN] {
            assert!(Average { decay }.output(&shapes).is_err(), "{decay}");
        }
        assert!(Average { decay: 0.5 }.output(&[shapes[0], Shape::Vector(4), shapes[2]]).is_err());
        assert!(Average { decay: 0.5 }.output(&[shapes[0], shapes[1], Shape::Vector(3)]).is_err());
    }
}
