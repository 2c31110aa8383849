//! One step of the Adam optimiser, in place.

use super::cpu::{for_each_part_of, write_number};
use super::shape::{mismatch, takes};
use super::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};
use crate::error::Result;
use crate::gpu::Profile;

/// One step of Adam (Kingma and Ba, 2015) in PyTorch's form, which adds epsilon after the bias correction:
///
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, `x = x - rate / (1 - beta1^t) * m / (sqrt(v) /
/// sqrt(1 - beta2^t) + epsilon)`; with `clamp`, x is then clamped to [0, 1].
///
/// Inputs: x, g, m and v, all of the same shape; `state`, a vector `[t, 1 - beta1^t, 1 - beta2^t, 0]`, all zeros before
/// the first step; `control`, a vector `[rate, ...]` of length 4, which may change between steps. Updates x, m, v and
/// `state` in place. Output: the number of this step, as a vector of length 1.
///
/// A non-finite gradient makes its elements of x, m and v NaN, clamped or not: count them with [`super::Reduce`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Decay rate of the first moment, e.g. 0.9.
    pub beta1: f64,
    /// Decay rate of the second moment, e.g. 0.999.
    pub beta2: f64,
    /// Added to the denominator, e.g. 1e-8; must be positive.
    pub epsilon: f64,
    /// True to clamp x to [0, 1].
    pub clamp: bool,
}

/// Coefficients of one step on the CPU.
struct CpuStep {
    beta2: f32,
    /// `1 - beta`, each rounded once.
    rates: [f32; 2],
    epsilon: f32,
    /// Learning rate divided by the bias correction of m.
    length: f32,
    /// Square root of the bias correction of v.
    root: f32,
    clamp: bool,
}

impl CpuStep {
    fn new(adam: &Adam, rate: f32, corrections: [f32; 2]) -> Self {
        Self {
            beta2: adam.beta2 as f32,
            rates: [(1.0 - adam.beta1) as f32, (1.0 - adam.beta2) as f32],
            epsilon: adam.epsilon as f32,
            length: rate / corrections[0],
            root: corrections[1].sqrt(),
            clamp: adam.clamp,
        }
    }

    /// Padding stays zero: its g, m and v are 0, and 0 / (0 + epsilon) is 0.
    fn apply(&self, x: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((x, g), m), v) in x.iter_mut().zip(gradient).zip(m).zip(v) {
            *m += self.rates[0] * (g - *m);
            *v = self.beta2 * *v + self.rates[1] * g * g;
            let moved = *x - self.length * (*m / (v.sqrt() / self.root + self.epsilon));
            // `clamp` keeps NaN.
            *x = if self.clamp { moved.clamp(0.0, 1.0) } else { moved };
        }
    }
}

impl Op for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let [x, gradient, m, v, state, control] = inputs else {
            return Err(takes("adam", "6 inputs", inputs.len()));
        };
        if [gradient, m, v] != [x; 3] {
            let message = format!("x {x}, gradient {gradient} and moments {m}, {v} differ in shape");
            return Err(mismatch("adam", &message));
        }
        if [state, control] != [&Shape::Vector(4); 2] {
            return Err(mismatch(
                "adam",
                &format!("state {state} and control {control} must be of length 4"),
            ));
        }
        let betas_decay = [self.beta1, self.beta2].iter().all(|beta| (0.0..1.0).contains(beta));
        // A smaller epsilon is zero in f32, and elements with a zero gradient would become 0 / 0.
        let divides = (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&self.epsilon);
        if !betas_decay || !divides {
            return Err(mismatch("adam", &format!("{self:?} is out of range")));
        }
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let quads = signature.inputs[0].stored() / 4;
        let dispatch = |entry| {
            Dispatch::new("adam", entry)
                .consts(&[("CLAMP", u32::from(self.clamp))])
                .bind("state", Operand::Input(4))
                .size("count", quads)
                .float("beta2", self.beta2 as f32)
                .float("rate1", (1.0 - self.beta1) as f32)
                .float("rate2", (1.0 - self.beta2) as f32)
                .float("epsilon", self.epsilon as f32)
        };
        let advance = dispatch("advance").bind("output", Operand::Output);
        let step = dispatch("step")
            .bind("x", Operand::Input(0))
            .bind("gradient", Operand::Input(1))
            .bind("m", Operand::Input(2))
            .bind("v", Operand::Input(3))
            .bind("control", Operand::Input(5))
            .linear(quads, 64, device);
        Ok(vec![Kernel::of("naive", vec![advance, step])])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let adam = *self;
        Ok(CpuKernel::new(move |mut call| {
            let (gradient, rate) = (call.inputs[1], call.inputs[5][0]);
            let [x, m, v, state] = &mut call.mutated[..] else { return };
            let t = state[0] + 1.0;
            let advance = |s: f32, beta: f64| s + (1.0 - beta) as f32 * (1.0 - s);
            let corrections = [advance(state[1], adam.beta1), advance(state[2], adam.beta2)];
            state.iter_mut().zip([t, corrections[0], corrections[1], 0.0]).for_each(|(to, from)| *to = from);
            write_number(call.output, t);
            let step = CpuStep::new(&adam, rate, corrections);
            for_each_part_of([x, m, v], |range, [x, m, v]| step.apply(x, &gradient[range], m, v));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let &[x, gradient, m, v, state, control] = inputs else { return Vec::new() };
        let (t, rate) = (state[0] + 1.0, control[0]);
        // 1 - beta^t follows from 1 - beta^(t-1).
        let s1 = self.beta1 * state[1] + (1.0 - self.beta1);
        let s2 = self.beta2 * state[2] + (1.0 - self.beta2);
        let m: Vec<f64> =
            m.iter().zip(gradient).map(|(m, g)| self.beta1 * m + (1.0 - self.beta1) * g).collect();
        let v: Vec<f64> =
            v.iter().zip(gradient).map(|(v, g)| self.beta2 * v + (1.0 - self.beta2) * g * g).collect();
        let step = |((x, m), v): ((&f64, &f64), &f64)| {
            let moved = x - rate / s1 * m / (v.sqrt() / s2.sqrt() + self.epsilon);
            if self.clamp { moved.clamp(0.0, 1.0) } else { moved }
        };
        let x: Vec<f64> = x.iter().zip(&m).zip(&v).map(step).collect();
        [x, m, v, vec![t, s1, s2, 0.0]].concat()
    }

    fn mutates(&self) -> &'static [usize] {
        &[0, 2, 3, 4]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        // Three each for m and v; root, quotient and sum of the denominator; three for x.
        12 * signature.inputs[0].elements() as u64
    }
}

/// A dozen roundings, where division and root may be off by 2.5 units in the last place each, of an update as large as
/// the largest x, or three times that in the last case.
const TOLERANCE: f64 = 1e-6;

/// State before the first step and after three: `[t, 1 - 0.9^t, 1 - 0.999^t, 0]`.
const FIRST: CaseInput = CaseInput::Exactly(0.0);
const AFTER_3: CaseInput = CaseInput::Values(&[3.0, 0.271, 0.002_997_001, 0.0]);
const AFTER_40: CaseInput = CaseInput::Values(&[40.0, 0.985_219_1, 0.039_229_9, 0.0]);
/// The learning rate and three unused values.
const RATE: CaseInput = CaseInput::Values(&[0.7, 9.0, -3.0, 5.0]);

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
        for clamp in [false, true] {
            let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp };
            let mut push = |adam: Adam, x, g, m, v, state| {
                let inputs = [
                    (shape, x),
                    (shape, g),
                    (shape, m),
                    (shape, v),
                    (Shape::Vector(4), state),
                    (Shape::Vector(4), RATE),
                ];
                cases.push(Case::drawn(adam, &inputs, TOLERANCE));
            };
            let (normal, zero) = (CaseInput::Normal, CaseInput::Exactly(0.0));
            push(adam, CaseInput::Picture, normal, zero, zero, FIRST);
            // Half of the gradients are zero: x must not move there.
            push(adam, CaseInput::Picture, CaseInput::Rectified, zero, zero, FIRST);
            push(adam, normal, normal, normal, CaseInput::Positive, AFTER_3);
            push(adam, normal, normal, normal, CaseInput::Positive, AFTER_40);
            // With epsilon close to the gradients in size, its place in the formula matters.
            let coarse = Adam { epsilon: 0.5, beta2: 0.99, ..adam };
            push(coarse, CaseInput::Picture, CaseInput::Scaled(0.1), zero, zero, FIRST);
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_gradient_affects_only_its_value() {
        for clamp in [false, true] {
            let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp };
            let step = CpuStep::new(&adam, 0.25, [0.1, 0.001]);
            let (mut x, mut m, mut v) = ([0.5; 5], [0.0; 5], [0.0; 5]);
            step.apply(&mut x, &[f32::NAN, 2.0, f32::INFINITY, -2.0, f32::NEG_INFINITY], &mut m, &mut v);
            let non_finite = x.map(f32::is_nan);
            assert_eq!(non_finite, [true, false, true, false, true], "{x:?}");
            assert!((x[1] - 0.25).abs() <= 1e-6 && (x[3] - 0.75).abs() <= 1e-6, "{x:?}");
        }
    }
}
