//! A lowered program on the CPU: its memory and functions, and their execution.

use super::super::goals::When;
use super::super::lowered::{
    self, Action, Location, Lowered, LoweredReadback, Operands, Origin, PreparedNode, Step,
};
use super::super::memory::{Bindings, Memory, Workspace};
use super::buffer::HostBuffer;
use super::device::{CpuDevice, caught};
use crate::error::{Error, Result};
use crate::ops::{CpuCall, CpuKernel, CpuValues, Shape};
use std::ops::Range;
use std::sync::{Arc, RwLockReadGuard};
use std::time::Instant;

/// A program ready to run.
#[derive(Debug)]
pub struct Replay {
    device: Arc<CpuDevice>,
    /// Work of each step; `None` for a copy of memory to itself.
    work: Vec<Option<Work>>,
    /// Ranges that each read-back copies.
    reads: Vec<Vec<BufferRange>>,
}

#[derive(Debug)]
enum Work {
    Call(Call),
    Copy { from: BufferRange, to: BufferRange },
}

/// A range of floats of a buffer.
#[derive(Debug, Clone)]
struct BufferRange {
    buffer: HostBuffer,
    range: Range<usize>,
}

/// A function with its operands.
#[derive(Debug)]
struct Call {
    kernel: CpuKernel,
    constants: Vec<Arc<CpuValues>>,
    /// Distinct buffers that the function reads.
    read: Vec<HostBuffer>,
    /// For each input, the index in `read` and the range in that buffer; `None` for an input that is changed or
    /// overwritten.
    inputs: Vec<Option<(usize, Range<usize>)>>,
    /// Inputs changed in place, each in a buffer of its own.
    mutated: Vec<BufferRange>,
    output: BufferRange,
    saved: Option<BufferRange>,
}

impl Replay {
    /// Computes a program's constants, allocates the memory that is neither bound nor in the workspace, and binds
    /// everything.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]; [`crate::Error::Cpu`] if a tensor is bound to too little memory, or a node would
    /// read memory that it writes.
    pub fn new(
        device: &Arc<CpuDevice>,
        program: &Lowered,
        bound: &Bindings,
        workspace: &mut Workspace,
    ) -> Result<Self> {
        let mut own = 0..;
        let mut buffer = |buffer: &lowered::Buffer| match buffer.origin {
            Origin::Own => {
                let make = || HostBuffer::zeros(&buffer.label, buffer.bytes).map(Memory::on_cpu);
                let memory = workspace.take(own.next().unwrap_or_default(), buffer.bytes, make)?;
                memory.host(&buffer.label).cloned()
            }
            Origin::Bound(tensor) => match bound.get(&tensor) {
                Some(memory) if memory.bytes() >= buffer.bytes => memory.host(&buffer.label).cloned(),
                Some(memory) => {
                    let message =
                        format!("it is bound to {} bytes, but needs {}", memory.bytes(), buffer.bytes);
                    Err(Error::cpu(&buffer.label, message))
                }
                None => Err(Error::cpu(&buffer.label, "it is not bound")),
            },
            Origin::Constant(_) => Err(Error::cpu(&buffer.label, "CPU functions have their own constants")),
        };
        let buffers = program.buffers.iter().map(&mut buffer).collect::<Result<Vec<HostBuffer>>>()?;
        let range_at = |at: Location, bytes: u64| {
            let (start, count) = (at.offset as usize / 4, bytes as usize / 4);
            let buffer = buffers.get(at.buffer).filter(|buffer| start + count <= buffer.len());
            let buffer =
                buffer.ok_or_else(|| Error::cpu("a tensor", "it lies outside the program's memory"))?;
            Ok(BufferRange { buffer: buffer.clone(), range: start..start + count })
        };
        let work = |step: &Step| {
            Ok(Some(match &step.action {
                Action::Call { function } => {
                    let kernel = program.functions[*function].clone();
                    let constants = kernel.constants.iter().map(|constant| device.constant(constant));
                    let constants = constants.collect::<Result<_>>()?;
                    let (node, operands) = (&program.nodes[step.node], &program.operands[step.node]);
                    Work::Call(Call::new(kernel, constants, node, operands, range_at)?)
                }
                Action::Copy { from, to, bytes } => {
                    let (from, to) = (range_at(*from, *bytes)?, range_at(*to, *bytes)?);
                    // Two tensors may be bound to the same memory.
                    if from.buffer == to.buffer {
                        if from.range == to.range {
                            return Ok(None);
                        }
                        return Err(Error::cpu(&step.label, "it copies within one buffer"));
                    }
                    Work::Copy { from, to }
                }
                Action::Dispatch { .. } | Action::Stage { .. } => {
                    return Err(Error::cpu(&step.label, "it is a shader, not a CPU function"));
                }
            }))
        };
        let work = program.steps.iter().map(work).collect::<Result<_>>()?;
        let read = |read: &LoweredReadback| {
            read.values.iter().map(|(_, shape, at)| range_at(*at, shape.bytes())).collect::<Result<_>>()
        };
        let reads = program.readbacks.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { device: device.clone(), work, reads })
    }

    /// Runs the steps for which `wanted` is true, and copies the read-backs with these indices. The values of each
    /// read-back are concatenated in storage order.
    ///
    /// # Errors
    /// [`crate::Error::Cpu`] if a function panics.
    pub fn submit(
        &self,
        program: &Lowered,
        wanted: impl Fn(&Step) -> bool + Sync,
        reads: &[usize],
        label: &str,
    ) -> Result<Vec<(usize, Vec<f32>)>> {
        let _span = self.device.trace().map(|trace| trace.host("submission", label));
        self.device.run(|| {
            let due = |when| reads.iter().copied().filter(move |read| program.readbacks[*read].when == when);
            let mut values: Vec<_> = due(When::Before).map(|read| (read, self.read(read))).collect();
            for (step, work) in program.steps.iter().zip(&self.work).filter(|(step, _)| wanted(step)) {
                let _span = self.device.trace().map(|trace| trace.device(&step.label));
                match work {
                    Some(Work::Call(call)) => caught(&step.label, || call.run())?,
                    Some(Work::Copy { from, to }) => {
                        to.buffer.copy_from(to.range.start, &from.buffer, from.range.clone());
                    }
                    None => {}
                }
            }
            values.extend(due(When::After).map(|read| (read, self.read(read))));
            values.extend(due(When::AfterOnce).map(|read| (read, self.hand_over(read))));
            Ok(values)
        })
    }

    /// Runs all steps `runs` times. Returns the seconds per run.
    ///
    /// # Errors
    /// As [`Replay::submit`].
    pub fn time(&self, program: &Lowered, runs: usize) -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..runs {
            self.submit(program, |_| true, &[], "timing")?;
        }
        Ok(begin.elapsed().as_secs_f64() / runs as f64)
    }

    fn read(&self, index: usize) -> Vec<f32> {
        let ranges = self.reads.get(index).map_or(&[][..], Vec::as_slice);
        let mut values = Vec::with_capacity(ranges.iter().map(|at| at.range.len()).sum());
        ranges.iter().for_each(|at| values.extend_from_slice(&at.buffer.read()[at.range.clone()]));
        values
    }

    /// Returns the values of a read-back. Moves them out if they are a whole buffer and zeros can be allocated in its
    /// place; otherwise copies them.
    fn hand_over(&self, index: usize) -> Vec<f32> {
        if let Some([at]) = self.reads.get(index).map(Vec::as_slice)
            && at.range == (0..at.buffer.len())
            && let Some(values) = at.buffer.take()
        {
            return values;
        }
        self.read(index)
    }
}

impl Call {
    fn new(
        kernel: CpuKernel,
        constants: Vec<Arc<CpuValues>>,
        node: &PreparedNode,
        operands: &Operands,
        range_at: impl Fn(Location, u64) -> Result<BufferRange>,
    ) -> Result<Self> {
        let inputs = || operands.inputs.iter().zip(&node.signature.inputs);
        let of_shape = |at: Location, shape: Shape| range_at(at, shape.bytes());
        let changed = node.op.mutates();
        let mutated = changed.iter().filter_map(|input| inputs().nth(*input));
        let mutated =
            mutated.map(|(at, shape)| of_shape(*at, *shape)).collect::<Result<Vec<BufferRange>>>()?;
        let output = of_shape(operands.output, node.signature.output)?;
        let saved = operands.saved.zip(node.op.saved(&node.signature.inputs));
        let saved = saved.map(|(at, shape)| of_shape(at, shape)).transpose()?;
        let mut read: Vec<HostBuffer> = Vec::new();
        let mut places = Vec::new();
        for (input, (at, shape)) in inputs().enumerate() {
            if changed.contains(&input) || node.op.overwrites() == Some(input) {
                places.push(None);
                continue;
            }
            let BufferRange { buffer, range } = of_shape(*at, *shape)?;
            let known = read.iter().position(|other| *other == buffer);
            let index = known.unwrap_or_else(|| {
                read.push(buffer);
                read.len() - 1
            });
            places.push(Some((index, range)));
        }
        let written: Vec<&HostBuffer> =
            mutated.iter().chain([&output]).chain(&saved).map(|at| &at.buffer).collect();
        let twice = |(index, buffer): (usize, &&HostBuffer)| {
            written[..index].contains(buffer) || read.contains(buffer)
        };
        if written.iter().enumerate().any(twice) {
            return Err(Error::cpu(&node.label, "it would write memory of another of its operands"));
        }
        Ok(Self { kernel, constants, read, inputs: places, mutated, output, saved })
    }

    fn run(&self) {
        let read: Vec<RwLockReadGuard<'_, Vec<f32>>> = self.read.iter().map(HostBuffer::read).collect();
        let mut mutated: Vec<_> = self.mutated.iter().map(|at| at.buffer.write()).collect();
        let mut output = self.output.buffer.write();
        let mut saved = self.saved.as_ref().map(|at| at.buffer.write());
        let input = |place: &Option<(usize, Range<usize>)>| match place {
            Some((index, range)) => &read[*index][range.clone()],
            None => &[],
        };
        (self.kernel.run)(CpuCall {
            inputs: self.inputs.iter().map(input).collect(),
            mutated: mutated
                .iter_mut()
                .zip(&self.mutated)
                .map(|(values, at)| &mut values[at.range.clone()])
                .collect(),
            output: &mut output[self.output.range.clone()],
            saved: match (&mut saved, &self.saved) {
                (Some(values), Some(at)) => &mut values[at.range.clone()],
                _ => &mut [],
            },
            constants: self.constants.iter().map(Arc::as_ref).collect(),
        });
    }
}
