//! Decides whether the trial picture is accepted and what the step does next.

use super::{BACK, FIRST, PAIR, RESTART, Ring, SHORTER, dot, expect};
use crate::error::Result;
use crate::gpu::Profile;
use crate::ops::cpu::write_number;
use crate::ops::lanes::sums;
use crate::ops::shape::mismatch;
use crate::ops::{Case, CaseInput, CpuKernel, Dispatch, Kernel, Op, Operand, Shape, Signature};

/// Selects the phase of a step of L-BFGS and updates the scalars (see the module).
///
/// Inputs: x (the trial picture), its gradient, its projected gradient (see [`crate::ops::ProjectedGradient`]; or the
/// gradient again, if the picture is not clamped), the accepted picture and its gradient, the scalars, and with a line
/// search the loss at x. Updates the scalars in place. Output: the phase, as a vector of length 1.
///
/// With a line search, x is accepted if loss and gradient are finite and the loss is at most that of the accepted
/// picture plus 1e-4 of the decrease predicted by its gradient (Armijo). Otherwise the step is halved, up to 6 times
/// along a direction from the pairs (as often as needed along the gradient); then all pairs are dropped. Without a line
/// search every picture is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbfgsJudge {
    /// True to reject pictures whose loss rises or is not finite.
    pub line_search: bool,
}

/// Invocations per workgroup; matches the shader.
const GROUP: usize = 64;
/// Most workgroups of the first stage, and fewest texels per invocation; as for [`crate::ops::Reduce`].
const MOST_GROUPS: usize = 512;
const LEAST_TEXELS: usize = 16;

const HALVINGS: f64 = 6.0;
const DECREASE: f64 = 1e-4;

/// Accepts the picture, on the CPU. `sums`: absolute values and squares of the projected gradient, the predicted
/// decrease, and the number of non-finite components of the gradient.
fn accept(scalars: &mut [f32], loss: f32, [absolute, squares, _, _]: [f32; 4]) {
    let running = scalars[1] > 0.0;
    scalars[0] = if running { PAIR } else { FIRST } as f32;
    scalars[1] = 1.0;
    scalars[2] = 0.0;
    if !running {
        // No pairs yet, and an initial curvature of 1.
        scalars[4..8].copy_from_slice(&[0.0, 0.0, 1.0, 0.0]);
    }
    scalars[7] += 1.0;
    scalars[8..11].copy_from_slice(&[loss, absolute, squares]);
    scalars[12] += 1.0;
}

/// Selects the phase with a line search, on the CPU.
fn judge(scalars: &mut [f32], loss: f32, sums: [f32; 4]) {
    let [_, _, promised, not_finite] = sums;
    let running = scalars[1] > 0.0;
    let low = loss <= scalars[8] + DECREASE as f32 * promised.min(0.0);
    if loss.is_finite() && not_finite == 0.0 && (!running || low) {
        accept(scalars, loss, sums);
    } else if !running {
        scalars[0] = BACK as f32;
    } else if scalars[2] < HALVINGS as f32 || scalars[5] == 0.0 {
        scalars[..2].copy_from_slice(&[SHORTER as f32, 1.0]);
        scalars[2] += 1.0;
        scalars[3] *= 0.5;
        scalars[13] += 1.0;
    } else {
        scalars[..3].copy_from_slice(&[RESTART as f32, 1.0, 0.0]);
        scalars[5..7].copy_from_slice(&[0.0, 1.0]);
        scalars[13] += 1.0;
        scalars[14] += 1.0;
    }
}

impl Op for LbfgsJudge {
    fn name(&self) -> &'static str {
        "lbfgs_judge"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        let (Some(x), Some(Shape::Matrix { rows, .. })) = (inputs.first(), inputs.get(5)) else {
            return Err(mismatch(self.name(), "it takes pictures, scalars and a loss"));
        };
        let history = rows.saturating_sub(super::HEADER + 1);
        let mut wanted = vec![*x; 5];
        wanted.push(Ring { picture: *x, history }.scalars());
        wanted.extend(self.line_search.then_some(Shape::Vector(1)));
        expect(self.name(), inputs, &wanted)?;
        Ok(Shape::Vector(1))
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let texels = signature.inputs[0].stored() / 4;
        let groups =
            texels.div_ceil(GROUP * LEAST_TEXELS).clamp(1, MOST_GROUPS.min(device.max_groups as usize));
        let partial = Dispatch::new("lbfgs_judge", "partial")
            .bind("x", Operand::Input(0))
            .bind("gradient", Operand::Input(1))
            .bind("free", Operand::Input(2))
            .bind("accepted", Operand::Input(3))
            .bind("accepted_gradient", Operand::Input(4))
            .bind("sums", Operand::Scratch(0))
            .size("count", texels)
            .size("stride", groups * GROUP)
            .loops(texels.div_ceil(groups * GROUP) + GROUP)
            .groups([groups, 1, 1]);
        let mut finish = Dispatch::new("lbfgs_judge", if self.line_search { "judge" } else { "advance" })
            .bind("partials", Operand::Scratch(0))
            .bind("scalars", Operand::Input(5))
            .bind("output", Operand::Output)
            .size("count", groups)
            .size("stride", groups * GROUP);
        if self.line_search {
            finish = finish.bind("loss", Operand::Input(6));
        }
        let scratch = vec![groups as u64 * 16];
        Ok(vec![Kernel { variant: "naive", dispatches: vec![partial, finish], scratch }])
    }

    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let line_search = self.line_search;
        Ok(CpuKernel::new(move |mut call| {
            let &[x, gradient, free, accepted, accepted_gradient, ..] = &call.inputs[..] else { return };
            let [scalars] = &mut call.mutated[..] else { return };
            let inputs = [x, gradient, free, accepted, accepted_gradient];
            let sums = sums(inputs, |[x, gradient, free, accepted, accepted_gradient]| {
                let not_finite = if gradient.is_finite() { 0.0 } else { 1.0 };
                [free.abs(), free * free, accepted_gradient * (x - accepted), not_finite]
            });
            let sums = sums.map(|sum| sum as f32);
            if line_search {
                judge(scalars, call.inputs[6][0], sums);
            } else {
                accept(scalars, 0.0, sums);
            }
            write_number(call.output, scalars[0]);
        }))
    }

    fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
        let [x, gradient, free, accepted, accepted_gradient, scalars, ..] = inputs else { return Vec::new() };
        let step: Vec<f64> = x.iter().zip(*accepted).map(|(to, from)| to - from).collect();
        let promised = dot(accepted_gradient, &step);
        let mut next = scalars.to_vec();
        let running = scalars[1] > 0.0;
        let loss = if self.line_search { inputs[6][0] } else { 0.0 };
        let finite = loss.is_finite() && gradient.iter().all(|g| g.is_finite());
        let low = loss <= scalars[8] + DECREASE * promised.min(0.0);
        if !self.line_search || (finite && (!running || low)) {
            next[..3].copy_from_slice(&[if running { PAIR } else { FIRST }, 1.0, 0.0]);
            if !running {
                next[4..7].copy_from_slice(&[0.0, 0.0, 1.0]);
            }
            next[7] = if running { scalars[7] + 1.0 } else { 1.0 };
            let l1 = free.iter().map(|p| p.abs()).sum();
            next[8..11].copy_from_slice(&[loss, l1, dot(free, free)]);
            next[12] += 1.0;
        } else if !running {
            next[0] = BACK;
        } else if scalars[2] < HALVINGS || scalars[5] == 0.0 {
            next[..4].copy_from_slice(&[SHORTER, 1.0, scalars[2] + 1.0, scalars[3] / 2.0]);
            next[13] += 1.0;
        } else {
            next[..3].copy_from_slice(&[RESTART, 1.0, 0.0]);
            next[5..7].copy_from_slice(&[0.0, 1.0]);
            next[13] += 1.0;
            next[14] += 1.0;
        }
        next
    }

    fn mutates(&self) -> &'static [usize] {
        &[5]
    }

    fn flops(&self, signature: &Signature) -> u64 {
        7 * signature.inputs[0].elements() as u64
    }
}

/// Sums of positive terms, as for [`crate::ops::Reduce`].
const TOLERANCE: f64 = 1e-6;

/// Before the first step; a picture accepted at loss 2 with 3 pairs, after no and after 6 halvings; the same without
/// pairs.
const START: CaseInput = CaseInput::Exactly(0.0);
const RUNNING: CaseInput = CaseInput::Values(&SCALARS);
const HALVED: CaseInput = CaseInput::Values(&{
    let mut halved = SCALARS;
    halved[2] = 6.0;
    halved
});
const HALVED_ALONG_GRADIENT: CaseInput = CaseInput::Values(&{
    let mut halved = SCALARS;
    halved[2] = 6.0;
    halved[5] = 0.0;
    halved
});
const SCALARS: [f32; 23] = [
    2.0, 1.0, 1.0, 0.5, 1.0, 3.0, 0.25, 9.0, 2.0, 7.0, 3.0, -1.0, 9.0, 4.0, 1.0, 2.0, -0.25, 0.0, 0.0, 0.0,
    0.5, -0.75, 0.0,
];

pub(in crate::ops) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [
        Shape::map(3, 1, 1),
        Shape::map(3, 7, 5),
        Shape::map(3, 37, 29),
        Shape::Vector(7),
        Shape::Vector(20_011),
    ];
    let (normal, finite) = (CaseInput::Normal, CaseInput::Normal);
    let at = CaseInput::Exactly;
    for (shape, history) in shapes.into_iter().zip([1, 3, 5, 4, 20]) {
        let mut push = |line_search, scalars, gradient, accepted_gradient, loss: Option<CaseInput>| {
            let mut inputs = vec![
                (shape, CaseInput::Picture),
                (shape, gradient),
                (shape, normal),
                (shape, CaseInput::Picture),
                (shape, accepted_gradient),
                (Ring { picture: shape, history }.scalars(), scalars),
            ];
            inputs.extend(loss.map(|loss| (Shape::Vector(1), loss)));
            cases.push(Case::drawn(LbfgsJudge { line_search }, &inputs, TOLERANCE));
        };
        for scalars in [START, RUNNING] {
            push(false, scalars, finite, normal, None);
        }
        for scalars in [START, RUNNING, HALVED, HALVED_ALONG_GRADIENT] {
            // Falls by far; rises; stays equal, which is enough if no decrease is predicted; is not finite.
            let losses = [at(-1e3), at(1e3), at(f32::NAN), at(f32::INFINITY), at(f32::NEG_INFINITY)];
            for loss in losses {
                push(true, scalars, finite, normal, Some(loss));
            }
            push(true, scalars, finite, at(0.0), Some(at(2.0)));
            push(true, scalars, at(f32::NAN), normal, Some(at(-1e3)));
            push(true, scalars, at(f32::INFINITY), normal, Some(at(-1e3)));
        }
    }
    cases
}
