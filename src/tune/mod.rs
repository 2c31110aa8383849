//! Autotuning: measures which kernel of an op is fastest on this device.
//!
//! For each use of an op in a network, all candidates that the device can run are first checked against the naive
//! kernel, then timed against each other ([`Contest`]). A [`Cache`] keeps the winners, for
//! [`crate::graph::Engine::use_choices`].

mod cache;
mod select;

pub use cache::{Adapter, Cache, Entry};
pub use select::{Contest, Selection};

use crate::error::{Error, Result};
use crate::graph::{
    Engine, KernelUse, Memory, PrepareOptions, PreparedNode, Program, SingleOp, SingleRun, WARM_UP_PAUSED,
    candidates, content, warm_up,
};
use crate::ops::{Kernel, Op, Signature};
use crate::workbench::{fault, lost, samples, seconds};
use std::sync::Arc;

/// Approximate seconds of a timed submission, so submission and wait are a small part.
const SAMPLE: f64 = 0.005;
/// Maximum number of runs in one submission.
const MOST_RUNS: usize = 32;

/// Result of tuning one use.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// The use.
    pub of: KernelUse,
    /// Names of the candidates, default first.
    pub variants: Vec<&'static str>,
    /// Excluded candidates, with the reason.
    pub refused: Vec<(&'static str, String)>,
    /// Outcome of the contest; `None` if no candidate took part, so the default stays untested.
    pub selection: Option<Selection>,
}

/// Returns the distinct uses of a program's nodes that have several candidates.
///
/// # Errors
/// As [`candidates`].
pub fn uses(engine: &Engine, nodes: &[PreparedNode]) -> Result<Vec<(Arc<dyn Op>, Signature)>> {
    let mut found: Vec<(KernelUse, Arc<dyn Op>, Signature)> = Vec::new();
    for node in nodes {
        // Ops that change their inputs can't be run repeatedly on them.
        if !node.op.mutates().is_empty() {
            continue;
        }
        if candidates(node.op.as_ref(), &node.signature, engine.profile())?.len() < 2 {
            continue;
        }
        let of = KernelUse::of(node.op.as_ref(), &node.signature, engine.profile())?;
        if !found.iter().any(|(earlier, ..)| *earlier == of) {
            found.push((of, node.op.clone(), node.signature.clone()));
        }
    }
    Ok(found.into_iter().map(|(_, op, signature)| (op, signature)).collect())
}

/// Tunes these uses one after the other. Calls `after` with each result and the cache that contains it.
///
/// # Errors
/// As [`tune`], and those of `after`.
pub fn tune_all(
    engine: &mut Arc<Engine>,
    uses: &[(Arc<dyn Op>, Signature)],
    cache: &mut Cache,
    mut after: impl FnMut(&dyn Op, &Signature, &Tuned, &Cache) -> Result<()>,
) -> Result<()> {
    for (op, signature) in uses {
        // The previous use's constants, because those of all uses might not fit together.
        engine.forget_constants();
        let found = tune(engine, op, signature, &Contest::default(), cache)?;
        after(op.as_ref(), signature, &found, cache)?;
    }
    Ok(())
}

/// Finds the fastest kernel for one use and adds it to the cache. If a candidate loses the device, `engine` is replaced
/// by one on the reopened device, where the contest starts again without that candidate.
///
/// # Errors
/// If the device fails. A candidate that the device rejects, that loses the device, or that differs from the naive
/// kernel is excluded.
pub fn tune(
    engine: &mut Arc<Engine>,
    op: &Arc<dyn Op>,
    signature: &Signature,
    contest: &Contest,
    cache: &mut Cache,
) -> Result<Tuned> {
    let kernels = candidates(op.as_ref(), signature, engine.profile())?;
    let variants: Vec<&'static str> = kernels.iter().map(|kernel| kernel.variant).collect();
    let mut refused = Vec::new();
    let selection = loop {
        match compete(engine, op, signature, contest, &kernels, &mut refused) {
            Ok(selection) => break selection,
            Err(Failed { candidate, error: Error::DeviceLost(message) }) => {
                refused.push((variants[candidate], lost(&message)));
                *engine = engine.reopen()?;
            }
            // Without the naive kernel, the reference for the others, there is no contest.
            Err(Failed { candidate, error })
                if candidate == kernels.len() - 1
                    && matches!(error, Error::Gpu { .. } | Error::Shader { .. }) =>
            {
                refused.push((variants[candidate], error.to_string()));
            }
            Err(failed) => return Err(failed.error),
        }
    };
    let of = KernelUse::of(op.as_ref(), signature, engine.profile())?;
    if let (Some(selection), Some(context)) = (&selection, engine.gpu()) {
        let measured = variants.iter().zip(&selection.seconds);
        cache.insert(Entry {
            adapter: Adapter::of(context),
            exact: engine.profile().exact,
            precision: engine.profile().precision,
            of: of.clone(),
            content: content(&kernels)?,
            variant: variants[selection.winner].to_owned(),
            seconds: measured
                .filter_map(|(name, time)| time.map(|time| ((*name).to_owned(), time)))
                .collect(),
        });
    }
    Ok(Tuned { of, variants, refused, selection })
}

/// An error and the candidate that caused it.
struct Failed {
    candidate: usize,
    error: Error,
}

/// Checks and times the candidates that are not yet refused, and adds to `refused` those that fail. `None` if none is
/// left, or if the naive kernel, the reference for the others, was refused.
fn compete(
    engine: &Arc<Engine>,
    op: &Arc<dyn Op>,
    signature: &Signature,
    contest: &Contest,
    kernels: &[Kernel],
    refused: &mut Vec<(&'static str, String)>,
) -> Result<Option<Selection>, Failed> {
    let by = |candidate| move |error| Failed { candidate, error };
    let last = kernels.len() - 1;
    let is_out = |refused: &[(&str, String)], index: usize| {
        refused.iter().any(|(variant, _)| *variant == kernels[index].variant)
    };
    if is_out(refused, last) {
        return Ok(None);
    }
    let options = PrepareOptions { all_families: true, ..PrepareOptions::default() };
    let single = SingleOp::new(engine, op.clone(), &signature.inputs).map_err(by(last))?.with(options);
    let inputs = single.upload(&samples(op.as_ref(), signature)).map_err(by(last))?;
    let (naive, _) = single.run_on(last, &inputs).map_err(by(last))?;

    let mut entered = Vec::new();
    let mut programs: Vec<Option<(Program, usize)>> = Vec::new();
    programs.resize_with(kernels.len(), || None);
    for (index, kernel) in kernels.iter().enumerate() {
        if is_out(refused, index) {
            continue;
        }
        let half = kernel.is_half() && !kernels[last].is_half();
        match enter(&single, index, &inputs, (&naive, half)) {
            Ok(Ok(program)) => {
                programs[index] = Some(program);
                entered.push(index);
            }
            Ok(Err(reason)) => refused.push((kernel.variant, reason)),
            Err(error) if error.is_of_kernel() => {
                refused.push((kernel.variant, error.to_string()));
            }
            Err(error) => return Err(Failed { candidate: index, error }),
        }
    }
    let mut running = last;
    // The device was idle during the checks.
    if let Some(Some((program, runs))) = entered.first().map(|index| &programs[*index]) {
        warm_up(engine.profile(), WARM_UP_PAUSED, || seconds(program, *runs).map(drop))
            .map_err(by(entered[0]))?;
    }
    let selection = contest.select(kernels.len(), &entered, |index| {
        running = index;
        match &programs[index] {
            Some((program, runs)) => seconds(program, *runs),
            None => Ok(f64::INFINITY),
        }
    });
    selection.map_err(by(running))
}

/// Checks one candidate. Returns its program, warm, and the number of runs of a sample; or the reason why
/// it can't take part. `half` is true if it rounds to f16 where the naive kernel does not.
fn enter(
    single: &SingleOp,
    index: usize,
    inputs: &[Memory],
    (naive, half): (&SingleRun, bool),
) -> Result<Result<(Program, usize), String>> {
    let (outcome, program) = single.run_on(index, inputs)?;
    if let Some(fault) = fault(&outcome, naive, half) {
        return Ok(Err(fault));
    }
    let once = seconds(&program, 1)?;
    Ok(Ok((program, ((SAMPLE / once.max(1e-9)) as usize).clamp(1, MOST_RUNS))))
}
