//! A single op, to test and time its kernels.

use super::engine::Engine;
use super::goals::Goals;
use super::ir::Graph;
use super::memory::{Bindings, Memory};
use super::options::PrepareOptions;
use super::program::Program;
use crate::error::Result;
use crate::ops::{Kernel, Op, Shape, Signature};
use std::sync::Arc;

/// Number of floats after the output that a kernel must not write.
const GUARD: usize = 64;

/// An op on inputs of given shapes. Any of its kernels can run it.
#[derive(Debug)]
pub struct SingleOp {
    engine: Arc<Engine>,
    op: Arc<dyn Op>,
    signature: Signature,
    options: PrepareOptions,
}

/// Results of one run of one kernel.
#[derive(Debug, Clone)]
pub struct SingleRun {
    /// Output in logical order. For ops that change inputs in place: those inputs, concatenated.
    pub values: Vec<f32>,
    /// Saved output in logical order, for ops that have one.
    pub saved: Option<Vec<f32>>,
    /// Whether all padding in the kernel's outputs is zero.
    pub padding_is_zero: bool,
    /// Whether the kernel wrote nothing past the end of its outputs.
    pub guard_intact: bool,
    /// Whether the output was written. Always true for ops that change no inputs in place.
    pub is_written: bool,
}

impl SingleRun {
    /// Describes a fault other than wrong values, or returns `None`.
    pub fn fault(&self) -> Option<&'static str> {
        if !self.guard_intact {
            Some("writes past the end of its output")
        } else if !self.is_written {
            Some("does not write its output")
        } else if !self.padding_is_zero {
            Some("leaves non-zero values in the padding of its output")
        } else {
            None
        }
    }
}

/// A tensor written by a kernel.
struct Written {
    /// In logical order.
    values: Vec<f32>,
    padding_is_zero: bool,
    guard_intact: bool,
}

impl SingleOp {
    /// Prepares an op for inputs of these shapes.
    ///
    /// # Errors
    /// If the op does not accept them.
    pub fn new(engine: &Arc<Engine>, op: Arc<dyn Op>, shapes: &[Shape]) -> Result<Self> {
        let signature = Signature::of(op.as_ref(), shapes)?;
        Ok(Self { engine: engine.clone(), op, signature, options: PrepareOptions::default() })
    }

    /// Sets the options that programs are prepared with.
    pub fn with(mut self, options: PrepareOptions) -> Self {
        self.options = options;
        self
    }

    /// Returns the names of the kernels that this device can run, preferred kernel first.
    ///
    /// # Errors
    /// As [`Op::kernels`].
    pub fn variants(&self) -> Result<Vec<&'static str>> {
        let profile = self.engine.profile();
        let kernels = self.options.candidates(self.op.as_ref(), &self.signature, profile)?;
        Ok(kernels.iter().map(|kernel| kernel.variant).collect())
    }

    /// Returns the shapes of inputs and output.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Runs the `variant`-th kernel on these inputs (logical order). Fills the output memory and the guard zone behind
    /// it with NaN first.
    ///
    /// # Errors
    /// As [`Program::prepare`] and [`crate::gpu::PendingRead::finish`].
    pub fn run(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<SingleRun> {
        Ok(self.run_on(variant, &self.upload(inputs)?)?.0)
    }

    /// Uploads these inputs (logical order) to the device, so several kernels can run on them. A guard zone of NaN
    /// follows each input that the op changes.
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

    /// Runs the `variant`-th kernel on uploaded inputs; an op that changes its inputs leaves them changed. Also returns
    /// the program, so it can be timed.
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

    /// Allocates memory for a tensor and its guard zone, filled with NaN.
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

    /// Prepares the `variant`-th kernel for timing on these inputs (logical order).
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn prepare(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<Program> {
        let output = self.engine.tensor("output", self.signature.output)?;
        self.bind(variant, &self.upload(inputs)?, output, None)
    }

    /// Prepares a program that runs the `variant`-th kernel and writes `output`, and `saved` if the op has a saved
    /// output.
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
