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
    /// The output as stored, padding included.
    pub stored: Vec<f32>,
    /// The same of the saved output, of ops that have one: in logical order, and as stored.
    pub saved: Option<[Vec<f32>; 2]>,
    /// True if nothing was written behind the output.
    pub guard_intact: bool,
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
    /// As [`Program::prepare`] and [`crate::gpu::ReadBack::finish`].
    pub fn run(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<SingleRun> {
        Ok(self.run_and_keep(variant, inputs)?.0)
    }

    /// As [`Self::run`], and returns the program too, to be timed.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_and_keep(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<(SingleRun, Program)> {
        let saved = self.op.saved(&self.signature.inputs);
        let buffer = self.poisoned("output", self.signature.output)?;
        let saved_buffer = saved.map(|shape| self.poisoned("saved", shape)).transpose()?;
        let (program, inputs) = self.bind(variant, inputs, buffer.clone(), saved_buffer.clone())?;
        program.submit(&[Goals::ALL], &[], self.op.name())?.wait()?;
        let (all, mut guard) = self.read(&buffer, self.signature.output)?;
        let mut read_saved = None;
        if let (Some(shape), Some(buffer)) = (saved, saved_buffer) {
            let (all, more) = self.read(&buffer, shape)?;
            guard.extend(more);
            read_saved = Some([shape.unpack(&all), all]);
        }
        let mut values = self.signature.output.unpack(&all);
        if !self.op.mutates().is_empty() {
            values.clear();
            for input in self.op.mutates() {
                values.extend(self.engine.read(&inputs[*input], self.signature.inputs[*input], "mutated")?);
            }
        }
        let guard_intact = guard.iter().all(|value| value.is_nan());
        Ok((SingleRun { values, stored: all, saved: read_saved, guard_intact }, program))
    }

    /// Memory for a tensor and its guard zone, full of NaN.
    fn poisoned(&self, label: &str, shape: Shape) -> Result<Memory> {
        self.engine.stored(label, &vec![f32::NAN; shape.stored() + GUARD])
    }

    /// A tensor as stored, and its guard zone.
    fn read(&self, memory: &Memory, shape: Shape) -> Result<(Vec<f32>, Vec<f32>)> {
        let stored = shape.stored();
        let mut all = self.engine.read_stored(memory, stored + GUARD, "output")?;
        let guard = all.split_off(stored);
        Ok((all, guard))
    }

    /// Prepares the `variant`-th kernel for timing, on inputs that stay as they are.
    ///
    /// # Errors
    /// As [`Program::prepare`].
    pub fn prepare(&self, variant: usize, inputs: &[Vec<f32>]) -> Result<Program> {
        let output = self.engine.tensor("output", self.signature.output)?;
        Ok(self.program(variant, inputs, output)?.0)
    }

    /// The program of the `variant`-th kernel into this output, and the buffers of the inputs.
    pub(super) fn program(
        &self,
        variant: usize,
        inputs: &[Vec<f32>],
        output: Memory,
    ) -> Result<(Program, Vec<Memory>)> {
        self.bind(variant, inputs, output, None)
    }

    /// As [`Self::program`], and into this saved output if the op has one.
    fn bind(
        &self,
        variant: usize,
        inputs: &[Vec<f32>],
        output: Memory,
        saved: Option<Memory>,
    ) -> Result<(Program, Vec<Memory>)> {
        let (graph, ids, result) = Graph::single(&self.op, &self.signature.inputs)?;
        let mut bound = Bindings::new();
        let mut memories = Vec::new();
        for ((id, shape), values) in ids.into_iter().zip(&self.signature.inputs).zip(inputs) {
            let memory = self.engine.tensor_with(&graph.tensor(id).label, *shape, values)?;
            bound.insert(id, memory.clone());
            memories.push(memory);
        }
        bound.insert(result, output);
        let made = graph.nodes().last().and_then(|node| node.saved);
        bound.extend(made.zip(saved));
        let pick = |_: &[Kernel]| variant;
        let options = PrepareOptions { tuned: false, ..self.options };
        let goals = Goals::all([result]);
        let program = Program::prepare_with(&self.engine, &graph, &bound, &goals, pick, options)?;
        Ok((program, memories))
    }
}
