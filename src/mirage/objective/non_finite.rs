//! Records of non-finite values, written on the device by each step.

use super::build::{Build, NamedMemory};
use super::sections::NON_FINITE;
use crate::error::Result;
use crate::graph::{Engine, TensorId, Values};
use crate::mirage::setback::Fault;
use crate::ops::CountNonFinite;

/// Name of the record's memory.
pub(in crate::mirage) const RECORD: &str = "non-finite counts";

/// Counters of non-finite values in the steps of an objective.
#[derive(Debug)]
pub(in crate::mirage) struct NonFiniteCounters {
    /// Record in the graph.
    pub record: TensorId,
    /// Names of the watched tensors.
    names: Vec<String>,
}

impl NonFiniteCounters {
    /// Appends a node that checks these tensors, which share one shape, after a step. Also returns the node's output.
    ///
    /// # Errors
    /// If the device fails or has too little memory, or if there are too many tensors.
    pub fn new(
        build: &mut Build<'_>,
        kept: &mut NamedMemory,
        watched: Vec<(String, TensorId)>,
    ) -> Result<(Self, TensorId)> {
        let record = kept.tensor(build, RECORD, CountNonFinite::RECORD)?;
        let (names, tensors): (Vec<String>, Vec<TensorId>) = watched.into_iter().unzip();
        let inputs = [&[record], tensors.as_slice()].concat();
        let done = build.graph.apply(CountNonFinite, &inputs, "non-finite counts")?;
        Ok((Self { record, names }, done))
    }

    /// Returns the first fault, and its distance in steps from the last step. Each step runs the node `runs` times.
    pub fn fault(&self, values: &Values, runs: u32) -> Option<(u32, Fault)> {
        let record = values.get(NON_FINITE)?;
        let ([steps, bad], counts) = (record.first_chunk()?, record.get(4..)?);
        let found = self.names.iter().zip(counts).find(|(_, count)| **count > 0.0);
        let (name, count) = found.filter(|_| *bad > 0.0)?;
        // Formatted for messages.
        let fault = Fault::NonFinite { tensor: name.replace('_', " "), count: *count as u64 };
        let step = |run: f32| (run as u32).div_ceil(runs.max(1));
        Some((step(*steps).saturating_sub(step(*bad)), fault))
    }
}

/// Clears the record.
///
/// # Errors
/// If the device fails.
pub(in crate::mirage) fn reset(engine: &Engine, kept: &NamedMemory) -> Result<()> {
    kept.get(RECORD).map_or(Ok(()), |memory| engine.write(memory, CountNonFinite::RECORD, &[0.0; 8]))
}
