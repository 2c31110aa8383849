//! Is this driver right for this run? The kernels that a program uses, tested at the shapes that it uses them at.

use super::case::{samples, widen};
use super::check::check;
use super::compare::Difference;
use crate::error::{Error, Result};
use crate::graph::{Engine, Options, Outcome, PreparedNode, SingleOp, Use};
use crate::ops::REGISTRY;
use std::sync::Arc;

/// Largest difference between a kernel and the naive one, relative to the largest value: ten times the tolerance of
/// the least accurate kernel (Winograd F(4x4, 3x3), 1e-5), because at full size sums are longer, and the naive
/// kernel is no exact reference. A wrong kernel is off by far more. As for `mirage tune`.
const TOLERANCE: f64 = 1e-4;

/// What was tested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Kernels, the naive ones included.
    pub kernels: usize,
    /// Kernels times shapes.
    pub tests: usize,
}

/// Tests in two steps: each kernel of the program, and the naive one of the same op, against the f64 reference at
/// the op's own small shapes; then each kernel against the naive one at the shapes of the program, on random inputs
/// with the program's own weights. (An f64 reference of whole layers would take minutes.)
///
/// # Errors
/// [`Error::WrongResult`] with the first kernel that computes something else, else if the device fails.
pub fn verify(engine: &Arc<Engine>, nodes: &[PreparedNode]) -> Result<Verified> {
    let mut verified = Verified::default();
    let driver = |op: &str, variant: &str, at: String, message: String| Error::WrongResult {
        kernel: format!("{op}/{variant}"),
        at,
        device: engine.context.describe(),
        message,
    };
    let mut ops: Vec<&str> = nodes.iter().map(|node| node.op.name()).collect();
    ops.sort_unstable();
    ops.dedup();
    for op in ops {
        let used = |variant: &str| {
            variant == "naive" || nodes.iter().any(|node| node.op.name() == op && node.variant == variant)
        };
        let cases = REGISTRY.iter().filter(|entry| entry.name == op).flat_map(|entry| (entry.cases)());
        let mut seen: Vec<&str> = Vec::new();
        for (case, seed) in cases.zip(1..) {
            for checked in check(engine, &case, seed, used)? {
                if let Some(fault) = checked.fault {
                    let shapes: Vec<String> = checked.shapes.iter().map(ToString::to_string).collect();
                    return Err(driver(op, checked.variant, shapes.join(", "), fault));
                }
                if !seen.contains(&checked.variant) {
                    seen.push(checked.variant);
                }
                verified.tests += 1;
            }
        }
        verified.kernels += seen.len();
    }
    let mut tested: Vec<(Use, &'static str)> = Vec::new();
    for node in nodes.iter().filter(|node| node.variant != "naive" && node.op.mutates().is_empty()) {
        let of = Use::of(node.op.as_ref(), &node.signature, engine.context.profile())?;
        if tested.contains(&(of.clone(), node.variant)) {
            continue;
        }
        if let Err(message) = compare(engine, node)? {
            let shapes: Vec<String> = node.signature.inputs.iter().map(ToString::to_string).collect();
            return Err(driver(
                node.op.name(),
                node.variant,
                format!("{} ({})", node.label, shapes.join(", ")),
                message,
            ));
        }
        tested.push((of, node.variant));
        verified.tests += 1;
    }
    Ok(verified)
}

/// A node's kernel against the naive one, at the node's shapes.
fn compare(engine: &Arc<Engine>, node: &PreparedNode) -> Result<Result<(), String>> {
    let options = Options { all_families: true, ..Options::default() };
    let single = SingleOp::new(engine, node.op.clone(), &node.signature.inputs)?.with(options);
    let variants = single.variants()?;
    let Some(index) = variants.iter().position(|variant| *variant == node.variant) else {
        return Ok(Err("the device does not offer it any more".to_owned()));
    };
    let inputs = samples(node.op.as_ref(), &node.signature);
    let naive = single.run(variants.len() - 1, &inputs)?;
    let expected = widen(&naive.values);
    let outcome = single.run(index, &inputs)?;
    let difference = Difference::of(&outcome.values, &expected);
    Ok(if !difference.within(TOLERANCE) {
        Err(match difference.worst {
            Some((at, actual, expected)) => {
                format!("value {at} is {actual:e}, by the naive kernel {expected:e}")
            }
            None => "it gives another number of values than the naive kernel".to_owned(),
        })
    } else if outcome.side.is_some() && !same_decisions(&outcome, &naive) {
        Err("its second output differs from the naive kernel's by more than ties could".to_owned())
    } else if !outcome.guard_intact {
        Err("it writes behind its output".to_owned())
    } else {
        Ok(())
    })
}

/// Largest part of a second output that may differ: decisions fall another way only where two values are as good as
/// equal, and of random values few are. (Seen on lavapipe, Winograd against the naive kernel: below 1e-4.)
const TIES: f64 = 1e-3;

fn same_decisions(one: &Outcome, other: &Outcome) -> bool {
    let (Some([one, _]), Some([other, _])) = (&one.side, &other.side) else { return false };
    let differing = one.iter().zip(other).filter(|(one, other)| !(one == other)).count();
    one.len() == other.len() && differing as f64 <= TIES * one.len() as f64 + 1.0
}
