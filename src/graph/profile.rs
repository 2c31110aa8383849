//! Where a program's time goes.

use super::exec::Program;
use super::steps::record;
use crate::error::Result;
use crate::ops::{Op, Signature};
use std::sync::Arc;
use std::time::Instant;

/// A node as it was prepared.
#[derive(Debug, Clone)]
pub struct PreparedNode {
    /// Label of its output.
    pub label: String,
    /// For a node of the gradient: label of the forward node that it belongs to.
    pub adjoint_of: Option<String>,
    /// What is done.
    pub op: Arc<dyn Op>,
    /// On which shapes.
    pub signature: Signature,
    /// With which kernel.
    pub variant: &'static str,
}

impl Program {
    /// Runs the nodes of these sections one by one, waiting for each, and returns the seconds of each; for
    /// reports, not for work. Submission and wait are part of the time, about 0.2 ms on a software driver.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_nodes(&self, sections: &[&str]) -> Result<Vec<(&PreparedNode, f64)>> {
        let sections = self.bits(sections)?;
        let context = &self.engine.context;
        let mut times = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let mut steps = self
                .steps
                .iter()
                .filter(|step| step.node == index && step.sections & sections != 0)
                .peekable();
            if steps.peek().is_none() {
                continue;
            }
            let begin = Instant::now();
            let mut encoder = context
                .device()
                .create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(&node.label) });
            record(&mut encoder, steps);
            let submission = context.submit(encoder, &node.label)?;
            context.wait(&submission, &node.label)?;
            times.push((node, begin.elapsed().as_secs_f64()));
        }
        Ok(times)
    }
}
