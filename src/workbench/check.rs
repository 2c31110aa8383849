//! Checks each kernel of a case against the reference.

use super::case::{inputs, reference, widen};
use super::compare::{Difference, HALF_TOLERANCE};
use crate::error::{Error, Result};
use crate::graph::{Engine, PrepareOptions, SingleOp, SingleRun, candidates};
use crate::ops::{Case, Shape};
use std::sync::Arc;

/// Result of one kernel on one case.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Name of the op.
    pub op: &'static str,
    /// Name of the kernel.
    pub variant: &'static str,
    /// Shapes of the inputs.
    pub shapes: Vec<Shape>,
    /// Seed of the inputs' values.
    pub seed: u64,
    /// Difference between output and reference; `None` if there was no output.
    pub difference: Option<Difference>,
    /// Largest difference allowed.
    pub tolerance: f64,
    /// Description of the fault; `None` if the kernel passed.
    pub fault: Option<String>,
    /// True if the kernel lost the device, which was opened again.
    pub lost_device: bool,
}

/// Runs all kernels of a case that this device can run, of every family unless one is forced, on inputs of this seed,
/// into an output filled with NaN and followed by a guard zone. `wanted` selects variants. If a kernel loses the
/// device, `engine` is replaced by one on the reopened device, where the remaining kernels run.
///
/// # Errors
/// If the device does not respond, or can't be opened again. Faults and errors of a single kernel are part of the
/// result.
pub fn check(
    engine: &mut Arc<Engine>,
    case: &Case,
    seed: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Checked>> {
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
    let options = PrepareOptions { all_families: true, ..PrepareOptions::default() };
    let on = |engine: &Arc<Engine>| {
        SingleOp::new(engine, case.op.clone(), &shapes).map(|single| single.with(options))
    };
    let mut single = on(engine)?;
    let kernels = candidates(case.op.as_ref(), single.signature(), engine.profile())?;
    if !kernels.iter().any(|kernel| wanted(kernel.variant)) {
        return Ok(Vec::new());
    }
    let values = inputs(case, seed);
    let expected = reference(case, &values);
    let mut checked = Vec::new();
    for (index, kernel) in kernels.into_iter().enumerate().filter(|(_, kernel)| wanted(kernel.variant)) {
        let tolerance = if kernel.is_half() { case.tolerance.max(HALF_TOLERANCE) } else { case.tolerance };
        let mut lost_device = false;
        let (difference, fault) = match single.run(index, &values) {
            Ok(outcome) => {
                let difference = Difference::of(&outcome.values, &expected);
                let saved = saved_fault(case, &shapes, &values, &outcome, tolerance);
                let fault = if difference.within(tolerance) {
                    outcome.fault().map(str::to_owned).or(saved)
                } else {
                    Some(wrong(&difference))
                };
                (Some(difference), fault)
            }
            Err(error) if error.is_of_kernel() => (None, Some(error.to_string())),
            Err(Error::DeviceLost(message)) => {
                lost_device = true;
                *engine = engine.reopen()?;
                single = on(engine)?;
                (None, Some(lost(&message)))
            }
            Err(error) => return Err(error),
        };
        let (op, variant) = (case.op.name(), kernel.variant);
        let shapes = shapes.clone();
        checked.push(Checked { op, variant, shapes, seed, difference, tolerance, fault, lost_device });
    }
    Ok(checked)
}

/// Returns the fault of a kernel that lost the device.
pub fn lost(message: &str) -> String {
    format!("the graphics device was lost: {message}")
}

/// Describes what is wrong with the saved output, for ops that have one.
fn saved_fault(
    case: &Case,
    shapes: &[Shape],
    values: &[Vec<f32>],
    outcome: &SingleRun,
    tolerance: f64,
) -> Option<String> {
    case.op.saved(shapes)?;
    let Some(saved) = &outcome.saved else { return Some("has no saved output".to_owned()) };
    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    case.op.saved_fault(&wide, shapes, saved, tolerance)
}

fn wrong(difference: &Difference) -> String {
    match difference.worst {
        // Printed with the digits of an f32, which the kernel wrote.
        Some((index, actual, expected)) => {
            format!("value {index} is {:e} instead of {expected:e}", actual as f32)
        }
        None => "has a different number of values than the reference".to_owned(),
    }
}
