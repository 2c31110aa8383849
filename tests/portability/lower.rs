//! Converts lowered programs to JSON that any WebGPU page can replay, as a second executor.

use neural_mirage::gpu::Profile;
use neural_mirage::graph::lowered::{Action, Binding, Location, Lowered, LoweredConstant, Origin};
use neural_mirage::graph::{Goals, Graph, Selection, TensorId, lower};
use neural_mirage::ops::{Initializer, Kernel, Op, Shape, Signature};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A NaN with which buffers are prefilled.
const POISON: u32 = 0x7fc0_0000;
/// Words behind an output that a kernel must not write.
const GUARD: usize = 64;

/// Indices of the shader modules that the page compiles, by file and constants.
pub type Modules = BTreeMap<(&'static str, Vec<(&'static str, u32)>), usize>;

/// One kernel on one set of inputs.
#[derive(Debug, Default, Serialize)]
pub struct Job {
    pub what: String,
    /// Initial contents of each buffer, in 32-bit words.
    buffers: Vec<Vec<u32>>,
    /// Number of texels of each linear texture.
    textures: Vec<u64>,
    steps: Vec<Step>,
    /// Buffers to read back.
    results: Vec<usize>,
}

/// Results of a job.
pub struct Left {
    pub values: Vec<f32>,
    pub saved: Option<Vec<f32>>,
    pub clean: bool,
}

/// Copies into textures, then one dispatch.
#[derive(Debug, Serialize)]
struct Step {
    module: usize,
    entry: &'static str,
    groups: [u32; 3],
    staged: Vec<Staged>,
    bindings: Vec<Bound>,
}

#[derive(Debug, Serialize)]
struct Staged {
    buffer: usize,
    texture: usize,
    texels: u64,
}

/// A binding: a range of a buffer, a texture, or parameters.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Bound {
    Buffer { binding: u32, buffer: usize, offset: u64, size: u64 },
    Texture { binding: u32, texture: usize },
    Uniform { binding: u32, uniform: Vec<u32> },
}

impl Job {
    /// Creates the job of one kernel of an op on inputs in logical order.
    pub fn new(
        what: &str,
        op: &Arc<dyn Op>,
        variant: &str,
        inputs: &[(Shape, Vec<f32>)],
        profile: &Profile,
        modules: &Modules,
    ) -> Self {
        let mut graph = Graph::new();
        let ids: Vec<TensorId> = inputs.iter().map(|(shape, _)| graph.external("input", *shape)).collect();
        let output = graph.apply_shared(op.clone(), &ids, "output").unwrap();
        let saved = graph.nodes()[0].saved;
        let mut job = Self { what: what.to_owned(), ..Default::default() };
        let mut bound: HashMap<TensorId, usize> = HashMap::new();
        for (id, (shape, values)) in ids.iter().zip(inputs) {
            bound.insert(*id, job.buffer(words(&shape.pack(values))));
        }
        for id in [Some(output), saved].into_iter().flatten() {
            bound.insert(id, job.buffer(vec![POISON; graph.shape(id).stored() + GUARD]));
        }
        let pick = |kernels: &[Kernel]| kernels.iter().position(|kernel| kernel.variant == variant).unwrap();
        let mut selection = Selection::preferred(profile);
        selection.options.all_families = true;
        selection.pick = &pick;
        let program =
            lower(&graph, |tensor| bound.contains_key(&tensor), &Goals::all([output]), &selection).unwrap();
        job.append(&program, &bound, modules);
        job.results = match op.mutates() {
            [] => [Some(output), saved].into_iter().flatten().map(|id| bound[&id]).collect(),
            mutated => mutated.iter().map(|input| bound[&ids[*input]]).collect(),
        };
        job
    }

    /// Returns the modules that the job uses.
    pub fn modules(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().map(|step| step.module)
    }

    /// Interprets the read-back buffers: the output in logical order (for in-place ops the changed inputs,
    /// concatenated), the saved output if the op has one, and whether padding is zero and the guard zone untouched.
    /// `None` if the number or sizes of the buffers are wrong.
    pub fn left(op: &dyn Op, signature: &Signature, results: &[Vec<u32>]) -> Option<Left> {
        let floats = |words: &[u32]| words.iter().map(|word| f32::from_bits(*word)).collect::<Vec<f32>>();
        if !op.mutates().is_empty() {
            let shapes = op.mutates().iter().map(|input| signature.inputs[*input]);
            let values =
                shapes.zip(results).flat_map(|(shape, words)| shape.unpack(&floats(words))).collect();
            return Some(Left { values, saved: None, clean: true });
        }
        let read = |shape: Shape, words: &[u32]| {
            let (stored, guard) = words.split_at_checked(shape.stored())?;
            let stored = floats(stored);
            let values = shape.unpack(&stored);
            let guarded = guard.len() == GUARD && guard.iter().all(|word| *word == POISON);
            let clean = guarded && shape.pack(&values) == stored;
            Some((values, clean))
        };
        let (values, clean) = read(signature.output, results.first()?)?;
        match op.saved(&signature.inputs) {
            None => Some(Left { values, saved: None, clean }),
            Some(shape) => {
                let (saved, also_clean) = read(shape, results.get(1)?)?;
                Some(Left { values, saved: Some(saved), clean: clean && also_clean })
            }
        }
    }

    fn buffer(&mut self, words: Vec<u32>) -> usize {
        self.buffers.push(words);
        self.buffers.len() - 1
    }

    /// Appends a program that uses these buffers for bound tensors.
    fn append(&mut self, program: &Lowered, bound: &HashMap<TensorId, usize>, modules: &Modules) {
        let constants: Vec<usize> =
            program.constants.iter().map(|constant| self.constant(constant, modules)).collect();
        let mut buffers = Vec::new();
        for buffer in &program.buffers {
            buffers.push(match buffer.origin {
                Origin::Own => self.buffer(vec![POISON; buffer.bytes as usize / 4]),
                Origin::Bound(tensor) => bound[&tensor],
                Origin::Constant(index) => constants[index],
            });
        }
        let (mut textures, mut staged) = (Vec::new(), Vec::new());
        for texture in &program.textures {
            self.textures.push(texture.texels);
            textures.push(self.textures.len() - 1);
            if let Origin::Constant(index) = texture.origin {
                let (buffer, texture, texels) = (constants[index], self.textures.len() - 1, texture.texels);
                staged.push(Staged { buffer, texture, texels });
            }
        }
        for (position, step) in program.steps.iter().enumerate() {
            match &step.action {
                Action::Stage { buffer, texture, copy } => {
                    assert_eq!(
                        (copy.from, copy.to),
                        (0, 0),
                        "{}: the page can only stage from the start",
                        step.label
                    );
                    let (buffer, texture) = (buffers[*buffer], textures[*texture]);
                    staged.push(Staged { buffer, texture, texels: copy.texels });
                }
                Action::Copy { from, to, bytes } => {
                    // An overwritten input is copied first, so it can be there from the start.
                    assert_eq!((position, from.offset, to.offset), (0, 0, 0), "{}", step.label);
                    let count = *bytes as usize / 4;
                    let words = self.buffers[buffers[from.buffer]][..count].to_vec();
                    self.buffers[buffers[to.buffer]][..count].copy_from_slice(&words);
                }
                Action::Call { .. } => panic!("{}: a function on a device with shaders", step.label),
                Action::Dispatch { entry, bindings, groups } => {
                    let entry = &program.entries[*entry];
                    let bind = |(binding, what): &(u32, Binding)| {
                        let binding = *binding;
                        match *what {
                            Binding::Buffer(Location { buffer, offset }, size) => {
                                Bound::Buffer { binding, buffer: buffers[buffer], offset, size }
                            }
                            Binding::Texture(texture) => {
                                Bound::Texture { binding, texture: textures[texture] }
                            }
                            Binding::Params { offset, bytes } => {
                                let (start, bytes) = (offset as usize, bytes.next_multiple_of(16) as usize);
                                let bytes = &program.params[start..start + bytes];
                                Bound::Uniform { binding, uniform: bytemuck::pod_collect_to_vec(bytes) }
                            }
                        }
                    };
                    self.steps.push(Step {
                        module: modules[&(entry.shader, entry.consts.clone())],
                        entry: entry.entry,
                        groups: *groups,
                        staged: std::mem::take(&mut staged),
                        bindings: bindings.iter().map(bind).collect(),
                    });
                }
            }
        }
    }

    /// Returns the buffer of a constant, made by the host or by preceding steps.
    fn constant(
        &mut self,
        LoweredConstant { constant, parts }: &LoweredConstant,
        modules: &Modules,
    ) -> usize {
        match &constant.initializer {
            Initializer::Host(make) => self.buffer(bytemuck::pod_collect_to_vec(&make().unwrap())),
            Initializer::Device { parts: described, values } => {
                // Samples are small: a single part whose texels are laid out as in the constant.
                let ([described], [part]) = (described.as_slice(), parts.as_slice()) else {
                    panic!("a constant of several parts")
                };
                let in_place = described.copies.iter().all(|copy| copy.from == copy.to);
                assert!(in_place, "the part's layout differs from the constant's");
                let values = values().unwrap()[described.values.clone()].to_vec();
                let shape = part.program.nodes[0].signature.output;
                let input = self.buffer(words(&Shape::Vector(values.len()).pack(&values)));
                let output = self.buffer(vec![POISON; shape.stored()]);
                let bound = HashMap::from([(part.input, input), (part.output, output)]);
                self.append(&part.program, &bound, modules);
                output
            }
        }
    }
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
