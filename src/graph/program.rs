//! A graph prepared on a device: runs sections, reads back values by name, times steps.

use super::engine::{Device, Engine};
use super::goals::Goals;
use super::ir::{Graph, TensorId};
use super::ledger::Claim;
use super::lower::{entries, lower};
use super::lowered::{Lowered, LoweredReadback, PreparedNode, Sections, Step};
use super::memory::{Bindings, Memory, Workspace};
use super::options::PrepareOptions;
use super::plan::MemoryUse;
use super::submission::{Layout, Pending, Submission};
use super::{cpu, gpu};
use crate::error::{Error, Result};
use crate::gpu::Stopwatch;
use crate::ops::Kernel;
use std::sync::Arc;
use std::time::Instant;

/// A graph prepared to run on a device.
#[derive(Debug)]
pub struct Program {
    lowered: Lowered,
    replay: Replay,
    /// Layout of each read-back's values.
    layouts: Vec<Layout>,
}

/// The program on its device.
#[derive(Debug)]
enum Replay {
    Gpu(gpu::Replay),
    Cpu(cpu::Replay),
    /// Memory and constants, which are only counted.
    Counting {
        _claim: (Claim, Vec<Arc<Claim>>),
        /// The program's own buffers and the bound ones, kept as by any program.
        _buffers: Vec<Memory>,
    },
}

impl Program {
    /// Prepares a graph for these goals. Nodes that no section needs are left out. `pick` chooses among a node's
    /// kernels, usually the first.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the plan exceeds a limit of the device or the device's memory,
    /// [`Error::Shader`] if a kernel and its dispatch do not match, [`Error::Internal`] if the goals contradict
    /// themselves or the graph.
    pub fn prepare(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        pick: impl Fn(&[Kernel]) -> usize,
    ) -> Result<Self> {
        Self::prepare_with(engine, graph, bound, goals, pick, PrepareOptions::default())
    }

    /// Prepares a graph like [`Program::prepare`], with these options.
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
        Self::prepare_all(engine, (graph, bound, goals), pick, options, &mut Workspace::default())
    }

    /// Prepares a graph like [`Program::prepare`], with the memory of a workspace and the first kernel of each node.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn prepare_in(
        engine: &Arc<Engine>,
        graph: &Graph,
        bound: &Bindings,
        goals: &Goals,
        workspace: &mut Workspace,
    ) -> Result<Self> {
        Self::prepare_all(engine, (graph, bound, goals), |_| 0, PrepareOptions::default(), workspace)
    }

    fn prepare_all(
        engine: &Arc<Engine>,
        (graph, bound, goals): (&Graph, &Bindings, &Goals),
        pick: impl Fn(&[Kernel]) -> usize,
        options: PrepareOptions,
        workspace: &mut Workspace,
    ) -> Result<Self> {
        let mut attempt = |options| -> Result<Self> {
            let selection = engine.selection(&pick, options);
            let lowered = lower(graph, |tensor: TensorId| bound.contains_key(&tensor), goals, &selection)?;
            let replay = match engine.device() {
                Device::Gpu(device) => Replay::Gpu(gpu::prepare(device, &lowered, bound, workspace)?),
                Device::Cpu(device) => Replay::Cpu(cpu::Replay::new(device, &lowered, bound, workspace)?),
                Device::Counting(device) => Replay::Counting {
                    _claim: device.program(&lowered),
                    _buffers: device.buffers(&lowered, bound, workspace)?,
                },
            };
            let layout = |read: &LoweredReadback| {
                read.values.iter().map(|(name, shape, _)| (name.clone(), *shape)).collect()
            };
            let layouts = lowered.readbacks.iter().map(layout).collect();
            Ok(Self { lowered, replay, layouts })
        };
        match attempt(options) {
            // A kernel measured at one size may fail at another size in the same bucket.
            Err(error) if error.is_of_kernel() && options.tuned && engine.has_choices() => {
                attempt(PrepareOptions { tuned: false, ..options })
            }
            done => done,
        }
    }

    /// Compiles the pipelines that [`Program::prepare`] will need. Allocates no memory, so the host can do it while the
    /// device is busy.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn compile(engine: &Arc<Engine>, graph: &Graph, goals: &Goals) -> Result<()> {
        let Device::Gpu(device) = engine.device() else { return Ok(()) };
        let entries = entries(graph, goals, &engine.selection(&|_| 0, PrepareOptions::default()))?;
        gpu::pipelines(device, &entries.list).map(drop)
    }

    /// Returns the set of these sections.
    fn bits(&self, names: &[&str]) -> Result<Sections> {
        names.iter().try_fold(0, |bits, name| {
            let index = self.lowered.sections.iter().position(|section| section == name);
            Ok(bits | 1 << index.ok_or_else(|| unknown("section", name))?)
        })
    }

    /// Runs these sections once, in one submission, and starts these read-backs. Does not wait for a graphics device;
    /// on the CPU device the work is complete on return.
    ///
    /// # Errors
    /// As [`crate::gpu::Context::submit`]; [`Error::Internal`] if a section or read-back does not exist, or too many
    /// reads of one name are in flight on a graphics device; [`Error::Cpu`] if a function of the CPU device panics.
    pub fn submit(&self, sections: &[&str], readbacks: &[&str], label: &str) -> Result<Submission> {
        let sections = self.bits(sections)?;
        let index = |name: &&str| {
            let index = self.lowered.readbacks.iter().position(|read| read.name == *name);
            index.ok_or_else(|| unknown("read-back", name))
        };
        let reads = readbacks.iter().map(index).collect::<Result<Vec<usize>>>()?;
        self.submit_steps(|step| step.sections & sections != 0, &reads, label)
    }

    /// Runs the steps for which `wanted` is true, and starts the read-backs with these indices.
    fn submit_steps(
        &self,
        wanted: impl Fn(&Step) -> bool + Sync,
        reads: &[usize],
        label: &str,
    ) -> Result<Submission> {
        let name = |read: usize| self.lowered.readbacks[read].name.as_str();
        match &self.replay {
            Replay::Gpu(replay) => {
                let (fence, values) = replay.submit(&self.lowered, wanted, reads, label)?;
                let submission = Submission::on_gpu(label, replay.device(), fence);
                Ok(values.into_iter().fold(submission, |submission, (read, values)| {
                    let pending = Pending::on_gpu(&self.layouts[read], replay.device(), values);
                    submission.with(name(read), pending)
                }))
            }
            Replay::Cpu(replay) => {
                let values = replay.submit(&self.lowered, wanted, reads, label)?;
                Ok(values.into_iter().fold(Submission::done(label), |submission, (read, values)| {
                    submission.with(name(read), Pending::here(&self.layouts[read], values))
                }))
            }
            Replay::Counting { .. } => Ok(reads.iter().fold(Submission::done(label), |submission, read| {
                let layout = &self.layouts[*read];
                let zeros = vec![0.0; layout.iter().map(|(_, shape)| shape.stored()).sum()];
                submission.with(name(*read), Pending::here(layout, zeros))
            })),
        }
    }

    /// Number of staging buffers created for read-backs so far; 0 on the CPU device.
    pub fn staging_buffers(&self) -> usize {
        match &self.replay {
            Replay::Gpu(replay) => replay.staging_buffers(),
            Replay::Cpu(_) | Replay::Counting { .. } => 0,
        }
    }

    /// Returns the device memory in use.
    pub fn memory(&self) -> MemoryUse {
        self.lowered.memory
    }

    /// Returns the nodes in execution order, each with its chosen kernel.
    pub fn nodes(&self) -> &[PreparedNode] {
        &self.lowered.nodes
    }

    /// Runs the steps of these sections one by one, waiting for each. Returns label and seconds of each step. For
    /// reports only.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_steps(&self, sections: &[&str]) -> Result<Vec<(String, f64)>> {
        let sections = self.bits(sections)?;
        let steps = self.lowered.steps.iter().filter(|step| step.sections & sections != 0);
        let time = |step: &Step| {
            Ok((step.label.clone(), self.time(&step.label, |other| std::ptr::eq(other, step))?))
        };
        steps.map(time).collect()
    }

    /// Runs the nodes of these sections one by one, waiting for each. Returns the seconds of each node, including
    /// submission and wait (about 0.2 ms on a software driver). For reports only.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_nodes(&self, sections: &[&str]) -> Result<Vec<(&PreparedNode, f64)>> {
        let sections = self.bits(sections)?;
        let mut times = Vec::new();
        for (index, (node, operands)) in self.lowered.nodes.iter().zip(&self.lowered.operands).enumerate() {
            if operands.sections & sections != 0 {
                times.push((node, self.time(&node.label, |step| step.node == index)?));
            }
        }
        Ok(times)
    }

    /// Runs all sections `runs` times in one submission and waits. Returns the seconds per run by wall clock, and by
    /// the device's clock as [`Context::time`](crate::gpu::Context::time) does.
    ///
    /// # Errors
    /// As [`Program::submit`].
    pub fn time_runs(&self, runs: usize, watch: Option<&Stopwatch>) -> Result<(f64, Option<f64>)> {
        match &self.replay {
            Replay::Gpu(replay) => replay.time(&self.lowered, runs, watch),
            Replay::Cpu(replay) => Ok((replay.time(&self.lowered, runs)?, None)),
            Replay::Counting { .. } => Ok((0.0, None)),
        }
    }

    /// Returns the seconds that the steps with `wanted` take, including submission and wait.
    fn time(&self, label: &str, wanted: impl Fn(&Step) -> bool + Sync) -> Result<f64> {
        let begin = Instant::now();
        self.submit_steps(wanted, &[], label)?.wait()?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

fn unknown(kind: &str, name: &str) -> Error {
    Error::internal(name, format!("the program has no {kind} with this name"))
}
