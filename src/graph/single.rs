//! One op by itself, to test and time its kernels.

use super::engine::Engine;
use super::goals::Goals;
use super::ir::Graph;
use super::memory::{Bindings, Memory};
use super::options::PrepareOptions;
use super::program::Program;
use crate::error::Result;
use crate::ops::{Kernel, Op, Shape, Signature};
use std::sync::Arc;

/// Floats after the output that a kernel must leave alone.
const GUARD: usize = 64;

/// An op on inputs of given shapes, to run with any of its kernels.
#[derive(Debug)]
pub struct SingleOp {
    engine: Arc<Engine>,
    op: Arc<dyn Op>,
    signature: Signature,
    options: PrepareOptions,
}

/// The results of one run of one kernel.
#[derive(Debug, Clone)]
pub struct SingleRun {
    /// The output in logical order; for ops that change inputs in place, those inputs one after another.
    pub values: Vec<f32>,
    /// The same of the saved output, of ops that have one.
    pub saved: Option<Vec<f32>>,
    /// True if all padding of what the kernel writes is zero.
    pub padding_is_zero: bool,
    /// True if nothing was written behind what the kernel writes.
    pub guard_intact: bool,
    /// True if the output was written, of ops whose values are their changed inputs.
    pub is_written: bool,
}

impl SingleRun {
    /// What is wrong besides the values, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        if !self.guard_intact {
            Some("writes behind its output")
        } else if !self.is_written {
            Some("does not write its output")
        } else if !self.padding_is_zero {
            Some("leaves something else than zero in the padding of what it writes")
        } else {
            None
        }
    }
}

/// A tensor that a kernel has written.
struct Written {
    /// In logical order.
    values: Vec<f32>,
    padding_is_zero: bool,
    guard_intact: bool,
}

impl SingleOp {
    /// An op on inputs of these shapes.
    ///
    /// # Errors
    /// If the op does not take them.
    pub fn new(engine: &Arc<Engine>, op: Arc<dyn Op>, shapes: &[Shape]) -> Result<Self> {
        let signature = Signature::of(op.as_ref(), shapes)?;
        Ok(Self { engine: engine.clone(), op, signature, options: PrepareOptions::default() })
    }

    /// The same, prepared with these options.
    pub fn with(mut self, options: PrepareOptions) -> Self {
        self.options = options;
        self
    }

    /// Names of the kernels that this device can run, the preferred first.
    ///
    /// # Errors
    /// As [`Op::kernels`].
    pub fn variants(&self) -> Result<Vec<&'static str>> {
        let profile = self.engine.profile();
        let kernels = self.options.candidates(self.op.as_ref(), &self.signature, profile)?;
        Ok(kernels.iter().map(|kernel| kernel.variant).collect())
    }

    /// Shapes of inputs and output.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs the `variant`-th kernel on these inputs (logical order). The output memory, and a guard zone
    /// behind it, are filled with NaN first.
    ///
    /// # Errors
    /// As [`Program::prepare`] and [`crate::gpu::PendingRead::finish`].
    pub fn run(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<SingleRun> {
        Ok(self.run_on(variant, &self.upload(inputs)?)?.0)
    }

    /// These inputs (logical order) on the device, for several kernels to run on. A guard zone of NaN follows those that
    /// the op changes.
    ///
    /// # Errors
    /// As [`Engine::tensor_with`].
    pub fn upload(&self, inputs: &[Vec<f32>]) -> Result<Vec<Memory>> {
        let upload = |(index, values): (usize, &Vec<f32>)| {
            let (label, shape) = (format!("input {index}"), self.signature.inputs[index]);
            if !self.op.mutates().contains(&index) {
                return self.engine.tensor_with(&label, shape, values);
            }
            let mut stored = shape.pack(values);
            stored.resize(shape.stored() + GUARD, f32::NAN);
            self.engine.stored(&label, &stored)
        };
        inputs.iter().enumerate().map(upload).collect()
    }

    /// As [`Self::run`] on inputs that are on the device, which an op that changes its inputs leaves changed; returns
    /// the program too, to be timed.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_on(&self, variant: usize, inputs: &[Memory]) -> Result<(SingleRun, Program)> {
        let saved = self.op.saved(&self.signature.inputs);
        let buffer = self.poisoned("output", self.signature.output)?;
        let saved_buffer = saved.map(|shape| self.poisoned("saved", shape)).transpose()?;
        let program = self.bind(variant, inputs, buffer.clone(), saved_buffer.clone())?;
        program.submit(&[Goals::ALL], &[], self.op.name())?.wait()?;
        let output = self.read(&buffer, self.signature.output)?;
        let saved = saved.zip(saved_buffer).map(|(shape, buffer)| self.read(&buffer, shape)).transpose()?;
        let changed = self.op.mutates().iter();
        let changed: Vec<Written> = changed
            .map(|input| self.read(&inputs[*input], self.signature.inputs[*input]))
            .collect::<Result<_>>()?;
        let all = || [&output].into_iter().chain(&saved).chain(&changed);
        let padding_is_zero = all().all(|written| written.padding_is_zero);
        let guard_intact = all().all(|written| written.guard_intact);
        let is_written = changed.is_empty() || output.values.iter().all(|value| value.is_finite());
        let values = match changed.is_empty() {
            true => output.values,
            false => changed.into_iter().flat_map(|written| written.values).collect(),
        };
        let saved = saved.map(|written| written.values);
        Ok((SingleRun { values, saved, padding_is_zero, guard_intact, is_written }, program))
    }

    /// Memory for a tensor and its guard zone, full of NaN.
    fn poisoned(&self, label: &str, shape: Shape) -> Result<Memory> {
        self.engine.stored(label, &vec![f32::NAN; shape.stored() + GUARD])
    }

    fn read(&self, memory: &Memory, shape: Shape) -> Result<Written> {
        let stored = shape.stored();
        let mut all = self.engine.read_stored(memory, stored + GUARD, "output")?;
        let guard = all.split_off(stored);
        let values = shape.unpack(&all);
        let mut padding = all;
        shape.positions().for_each(|position| padding[position] = 0.0);
        Ok(Written {
            values,
            padding_is_zero: padding.iter().all(|value| *value == 0.0),
            guard_intact: guard.iter().all(|value| value.is_nan()),
        })
    }

    /// Prepares the `variant`-th kernel for timing, on inputs that stay as they are.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn prepare(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<Program> {
        let output = self.engine.tensor("output", self.signature.output)?;
        self.bind(variant, &self.upload(inputs)?, output, None)
    }

    /// The program of the `variant`-th kernel into this output, and into this saved output if the op has one.
    fn bind(
        &self,
        variant: usize,
        inputs: &[Memory],
        output: Memory,
        saved: Option<Memory>,
    ) -> Result<Program> {
        let (graph, ids, result) = Graph::single(&self.op, &self.signature.inputs)?;
        let mut bound: Bindings = ids.into_iter().zip(inputs.iter().cloned()).collect();
        bound.insert(result, output);
        let made = graph.nodes().last().and_then(|node| node.saved);
        bound.extend(made.zip(saved));
        let pick = |_: &[Kernel]| variant;
        let options = PrepareOptions { tuned: false, ..self.options };
        let goals = Goals::all([result]);
        Program::prepare_with(&self.engine, &graph, &bound, &goals, pick, options)
    }
}
