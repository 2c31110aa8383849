//! What each step notes on the device about values that are not finite.

use super::build::Build;
use super::setback::Fault;
use crate::error::Result;
use crate::graph::{Engine, Memory, TensorId, Values};
use crate::ops::Watch;

/// Read-back of the record, that of the step in the same submission included.
pub(super) const HEALTH: &str = "health";

/// The record of the steps of an objective.
#[derive(Debug)]
pub(super) struct StepWatch {
    /// The record in the graph.
    pub record: TensorId,
    memory: Memory,
    /// Names of the tensors that are watched.
    names: Vec<String>,
}

impl StepWatch {
    /// Has steps watch these tensors of one shape, each with its name, once they have changed all of them. Returns the
    /// node's output too.
    ///
    /// # Errors
    /// If the device fails or has too little memory, or there are too many tensors.
    pub fn new(build: &mut Build<'_>, watched: Vec<(String, TensorId)>) -> Result<(Self, TensorId)> {
        let (record, memory) = build.external("watch", Watch::RECORD)?;
        let (names, tensors): (Vec<String>, Vec<TensorId>) = watched.into_iter().unzip();
        let inputs = [&[record], tensors.as_slice()].concat();
        let done = build.graph.apply(Watch, &inputs, "watch")?;
        Ok((Self { record, memory, names }, done))
    }

    /// Forgets the steps so far.
    ///
    /// # Errors
    /// If the device fails.
    pub fn reset(&self, engine: &Engine) -> Result<()> {
        engine.write(&self.memory, Watch::RECORD, &[0.0; 8])
    }

    /// What went wrong first, and how many steps before the last one.
    pub fn fault(&self, values: &Values) -> Option<(u32, Fault)> {
        let record = values.get(HEALTH)?;
        let (&[steps, bad], counts) = (record.first_chunk()?, record.get(4..)?);
        let found = self.names.iter().zip(counts).find(|(_, count)| **count > 0.0);
        let (name, count) = found.filter(|_| bad > 0.0)?;
        // As a message has it.
        let fault = Fault::NonFinite { tensor: name.replace('_', " "), count: *count as u64 };
        Some(((steps - bad).max(0.0) as u32, fault))
    }
}
