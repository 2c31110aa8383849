//! Checks a driver for a run: tests the kernels that a program uses at the shapes that it uses.

use super::case::samples;
use super::check::check;
use super::naive::fault;
use crate::error::{Error, Result};
use crate::graph::{Engine, KernelUse, PrepareOptions, PreparedNode, SingleOp, candidates};
use crate::ops::REGISTRY;
use std::sync::Arc;

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of kernels, including the naive ones.
    pub kernels: usize,
    /// Number of tests: kernels times shapes.
    pub tests: usize,
}

/// Tests kernels in two steps: first each kernel of the program, and the naive one of the same op, against the f64
/// reference at the op's own small shapes; then each kernel against the naive one at the program's shapes, on random
/// inputs with the program's weights. (An f64 reference of whole layers would take minutes.)
///
/// # Errors
/// [`Error::WrongResult`] for the first kernel with wrong results; otherwise if the device fails.
pub fn verify(engine: &Arc<Engine>, nodes: &[PreparedNode]) -> Result<Verified> {
    let mut verified = Verified::default();
    let driver = |op: &str, variant: &str, at: String, message: String| Error::WrongResult {
        kernel: format!("{op}/{variant}"),
        at,
        device: engine.describe(),
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
        // A kernel that loses the device is wrong too, and the first wrong kernel ends the run.
        let mut tested_on = engine.clone();
        for (case, seed) in cases.zip(1..) {
            for checked in engine.with_temporary_resources(|| check(&mut tested_on, &case, seed, used))? {
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
    let mut tested: Vec<(KernelUse, &'static str)> = Vec::new();
    // The CPU device has only one kernel for each op, so there is nothing to compare at these shapes.
    let compared = |node: &&PreparedNode| node.variant != "naive" && node.op.mutates().is_empty();
    for node in nodes.iter().filter(compared).filter(|_| !engine.profile().cpu) {
        let of = KernelUse::of(node.op.as_ref(), &node.signature, engine.profile())?;
        if tested.contains(&(of.clone(), node.variant)) {
            continue;
        }
        if let Some(message) = engine.with_temporary_resources(|| compare(engine, node))? {
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

/// Describes how a node's kernel differs from the naive one at the node's shapes; `None` if it does not.
fn compare(engine: &Arc<Engine>, node: &PreparedNode) -> Result<Option<String>> {
    let options = PrepareOptions { all_families: true, ..PrepareOptions::default() };
    let single = SingleOp::new(engine, node.op.clone(), &node.signature.inputs)?.with(options);
    let kernels = candidates(node.op.as_ref(), &node.signature, engine.profile())?;
    let last = kernels.len() - 1;
    let Some(index) = kernels.iter().position(|kernel| kernel.variant == node.variant) else {
        return Ok(Some("the device no longer offers it".to_owned()));
    };
    let half = kernels[index].is_half() && !kernels[last].is_half();
    let inputs = single.upload(&samples(node.op.as_ref(), &node.signature))?;
    let (naive, _) = single.run_on(last, &inputs)?;
    Ok(fault(&single.run_on(index, &inputs)?.0, &naive, half))
}
