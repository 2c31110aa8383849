//! A graph, prepared on a device: run by sections, read by name, timed.

use super::engine::Engine;
use super::goals::{Goals, When};
use super::ir::{Graph, TensorId};
use super::lower::{entries, lower};
use super::lowered::{Lowered, PreparedNode, Sections};
use super::memory::Bindings;
use super::options::PrepareOptions;
use super::plan::MemoryUse;
use super::prepare::prepare;
use super::replay::{Replay, pipelines};
use super::steps::{DeviceStep, record};
use super::submission::{Reader, Submission};
use crate::error::{Error, Result};
use crate::gpu::Stopwatch;
use crate::ops::Kernel;
use std::sync::Arc;
use std::time::Instant;

/// A graph, ready to run.
#[derive(Debug)]
pub struct Program {
    engine: Arc<Engine>,
    lowered: Lowered,
    replay: Replay,
}

impl Program {
    /// Prepares a graph for these goals; nodes that no section needs are left out. `pick` chooses among a node's
    /// kernels, usually the first.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the plan exceeds a limit of the device or the device's memory,
    /// [`Error::Gpu`] if a kernel and its call do not fit together, or the goals contradict themselves or the graph.
    pub fn prepare(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        pick: impl Fn(&[Kernel]) -> usize,
    ) -> Result<Self> {
        Self::prepare_with(engine, graph, bound, goals, pick, PrepareOptions::default())
    }

    /// As [`Program::prepare`], with other options than the default.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn prepare_with(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        pick: impl Fn(&[Kernel]) -> usize,
        options: PrepareOptions,
    ) -> Result<Self> {
        let attempt = |options| {
            let selection = engine.selection(&pick, options);
            let lowered = lower(graph, |tensor: TensorId| bound.contains_key(&tensor), goals, &selection)?;
            let replay = prepare(engine, &lowered, bound)?;
            Ok(Self { engine: engine.clone(), lowered, replay })
        };
        match attempt(options) {
            // What was measured at one size may not fit at another one in the same bucket.
            Err(Error::Gpu { .. } | Error::OutOfMemory { .. }) if options.tuned && engine.has_choices() => {
                attempt(PrepareOptions { tuned: false, ..options })
            }
            done => done,
        }
    }

    /// Compiles what [`Program::prepare`] will need, and allocates nothing, so that the host can do it while the device
    /// is busy.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn compile(engine: &Arc<Engine>, graph: &Graph, goals: &Goals) -> Result<()> {
        let entries = entries(graph, goals, &engine.selection(&|_| 0, PrepareOptions::default()))?;
        pipelines(engine, &entries.list).map(drop)
    }

    /// The set of these sections.
    fn bits(&self, names: &[&str]) -> Result<Sections> {
        names.iter().try_fold(0, |bits, name| {
            let index = self.lowered.sections.iter().position(|section| section == name);
            Ok(bits | 1 << index.ok_or_else(|| unknown("section", name))?)
        })
    }

    /// Runs these sections once, in one submission, and starts these read-backs. Waits for nothing.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::submit`]; [`Error::Gpu`] if there is no section or read-back of a name, or too many
    /// reads of one name are in flight.
    pub fn submit(&self, sections: &[&str], readbacks: &[&str], label: &str) -> Result<Submission> {
        let sections = self.bits(sections)?;
        let mut readers = Vec::new();
        for name in readbacks {
            let reader = self.replay.readers.iter().find(|reader| reader.name == *name);
            readers.push(reader.ok_or_else(|| unknown("read-back", name))?);
        }
        let mut encoder = self.encoder(label);
        let mut copies = Vec::new();
        for reader in readers.iter().filter(|reader| reader.when == When::Before) {
            copies.push((reader, reader.copy(&self.engine, &mut encoder)?));
        }
        self.replay.record(&self.engine, &mut encoder, sections);
        for reader in readers.iter().filter(|reader| reader.when == When::After) {
            copies.push((reader, reader.copy(&self.engine, &mut encoder)?));
        }
        let fence = self.engine.context.submit(encoder, label)?;
        let pending =
            |(reader, copy): (&&Reader, _)| (reader.name.clone(), reader.pending(&self.engine, copy, &fence));
        let pending = copies.into_iter().map(pending).collect();
        Ok(Submission { engine: self.engine.clone(), label: label.to_owned(), fence, pending })
    }

    fn encoder(&self, label: &str) -> wgpu::CommandEncoder {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(label) };
        self.engine.context.device().create_command_encoder(&descriptor)
    }

    /// Staging buffers made for read-backs so far.
    pub fn staging_buffers(&self) -> usize {
        self.replay.readers.iter().map(Reader::staging_buffers).sum()
    }

    /// Device memory in use.
    pub fn memory(&self) -> MemoryUse {
        self.lowered.memory
    }

    /// The nodes in running order, each with the kernel chosen for it.
    pub fn nodes(&self) -> &[PreparedNode] {
        &self.lowered.nodes
    }

    /// Runs the steps of these sections one by one, waiting for each, and returns label and seconds; for reports,
    /// not for work.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_steps(&self, sections: &[&str]) -> Result<Vec<(String, f64)>> {
        let steps = self.steps(self.bits(sections)?);
        steps.map(|step| Ok((step.label.clone(), self.time(&step.label, std::iter::once(step))?))).collect()
    }

    /// Runs the nodes of these sections one by one, waiting for each, and returns the seconds of each; for
    /// reports, not for work. Submission and wait are part of the time, about 0.2 ms on a software driver.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_nodes(&self, sections: &[&str]) -> Result<Vec<(&PreparedNode, f64)>> {
        let sections = self.bits(sections)?;
        let mut times = Vec::new();
        for (index, (node, operands)) in self.lowered.nodes.iter().zip(&self.lowered.operands).enumerate() {
            if operands.sections & sections != 0 {
                let steps = self.steps(sections).filter(|step| step.node == index);
                times.push((node, self.time(&node.label, steps)?));
            }
        }
        Ok(times)
    }

    /// Runs all sections this many times in one submission and waits. Returns the seconds of one run by wall clock, and
    /// by the device's clock as [`Context::time`](crate::gpu::Context::time) does.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_runs(&self, runs: usize, watch: Option<&Stopwatch>) -> Result<(f64, Option<f64>)> {
        let record =
            |encoder: &mut wgpu::CommandEncoder| self.replay.record(&self.engine, encoder, Sections::MAX);
        self.engine.context.time(runs, watch, record)
    }

    fn steps(&self, sections: Sections) -> impl Iterator<Item = &DeviceStep> {
        self.replay.steps.iter().filter(move |step| step.sections & sections != 0)
    }

    /// Seconds that these steps take, submission and wait included.
    fn time<'a>(&self, label: &str, steps: impl Iterator<Item = &'a DeviceStep>) -> Result<f64> {
        let begin = Instant::now();
        let mut encoder = self.encoder(label);
        record(&mut encoder, steps);
        let fence = self.engine.context.submit(encoder, label)?;
        self.engine.context.wait(&fence, label)?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

fn unknown(kind: &str, name: &str) -> Error {
    Error::Gpu { what: name.to_owned(), message: format!("the program has no {kind} of this name") }
}
