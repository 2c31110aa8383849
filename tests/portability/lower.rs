//! A kernel as plain data: buffers, textures and dispatches that any WebGPU page can replay.

use neural_mirage::ops::{
    Constant, ConstantPart, Dispatch, Initializer, Kernel, Op, Operand, Shape, Signature, Storage,
};
use neural_mirage::shader::{ResourceKind, Shader};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// A NaN, which buffers hold until something is written.
const POISON: u32 = 0x7fc0_0000;
/// Words behind an output that a kernel must leave alone.
const GUARD: usize = 64;

/// Each text that the page compiles: file and constants, with its number.
pub type Modules = BTreeMap<(&'static str, Vec<(&'static str, u32)>), usize>;

/// One kernel on one set of inputs.
#[derive(Debug, Default, Serialize)]
pub struct Job {
    pub what: String,
    /// First contents of each buffer, in 32-bit words.
    buffers: Vec<Vec<u32>>,
    /// Texels of each linear texture.
    textures: Vec<u64>,
    steps: Vec<Step>,
    /// Buffers to be read back.
    results: Vec<usize>,
}

/// What a job leaves behind.
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

/// A binding number with a range of a buffer, a texture, or parameters.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Bound {
    Buffer { binding: u32, buffer: usize, offset: u64, size: u64 },
    Texture { binding: u32, texture: usize },
    Uniform { binding: u32, uniform: Vec<u32> },
}

impl Job {
    /// The job of one kernel of an op, on inputs in logical order.
    pub fn new(
        what: &str,
        op: &dyn Op,
        kernel: &Kernel,
        signature: &Signature,
        inputs: &[Vec<f32>],
        modules: &Modules,
    ) -> Self {
        let mut job = Self { what: what.to_owned(), ..Default::default() };
        let packed = signature.inputs.iter().zip(inputs).map(|(shape, values)| words(&shape.pack(values)));
        let bound: Vec<usize> = packed.map(|words| job.buffer(words)).collect();
        let poison = |count| std::iter::repeat_n(POISON, count);
        let output = match op.overwrites() {
            Some(input) => job.buffers[bound[input]].iter().copied().chain(poison(GUARD)).collect(),
            None => poison(signature.output.stored() + GUARD).collect(),
        };
        let output = job.buffer(output);
        let saved = op.saved(&signature.inputs);
        let saved = saved.map(|shape| (job.buffer(vec![POISON; shape.stored() + GUARD]), shape));
        job.lower(kernel, signature, &bound, output, saved, modules);
        job.results = match op.mutates() {
            [] => [output].into_iter().chain(saved.map(|(buffer, _)| buffer)).collect(),
            mutated => mutated.iter().map(|input| bound[*input]).collect(),
        };
        job
    }

    /// The modules that it uses.
    pub fn modules(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().map(|step| step.module)
    }

    /// From what was read back: the output in logical order (for ops that change inputs in place, those inputs
    /// one after another), the saved output of ops that have one, and whether their padding is zero and nothing
    /// was written behind them. `None` if it is not what was asked for.
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

    /// Appends the dispatches of a kernel on these buffers.
    fn lower(
        &mut self,
        kernel: &Kernel,
        signature: &Signature,
        inputs: &[usize],
        output: usize,
        saved: Option<(usize, Shape)>,
        modules: &Modules,
    ) {
        let scratch: Vec<usize> = kernel
            .scratch
            .iter()
            .map(|bytes| self.buffer(vec![POISON; bytes.div_ceil(4) as usize]))
            .collect();
        let mut places = Places {
            signature,
            inputs,
            output,
            saved,
            scratch,
            constants: HashMap::new(),
            slots: HashMap::new(),
        };
        for dispatch in &kernel.dispatches {
            let step = self.step(dispatch, &mut places, modules);
            self.steps.push(step);
        }
    }

    fn step(&mut self, dispatch: &Dispatch, places: &mut Places<'_>, modules: &Modules) -> Step {
        let shader = Shader::load(dispatch.shader, &dispatch.consts).unwrap();
        dispatch.check(&shader.interface).unwrap();
        let (resources, _) = shader.interface.entry(dispatch.entry).unwrap();
        let (mut staged, mut bindings) = (Vec::new(), Vec::new());
        for resource in resources {
            let binding = resource.binding;
            if let ResourceKind::Uniform { .. } = resource.kind {
                let mut bytes = dispatch.uniform(&shader.interface).unwrap();
                bytes.resize(bytes.len().next_multiple_of(16), 0);
                bindings.push(Bound::Uniform { binding, uniform: bytemuck::pod_collect_to_vec(&bytes) });
                continue;
            }
            let operand = dispatch.operand(&resource.name).unwrap();
            bindings.push(match operand {
                Operand::Texture { slot, bytes } => {
                    Bound::Texture { binding, texture: self.slot(places, *slot, bytes / 16) }
                }
                Operand::Staged { inner, slot } => {
                    let (buffer, _, bytes) = self.place(inner, places, modules);
                    let texture = self.slot(places, *slot, bytes / 16);
                    staged.push(Staged { buffer, texture, texels: bytes / 16 });
                    Bound::Texture { binding, texture }
                }
                Operand::Constant(Constant { storage: Storage::Texture, .. }) => {
                    let (buffer, _, bytes) = self.place(operand, places, modules);
                    self.textures.push(bytes / 16);
                    let texture = self.textures.len() - 1;
                    staged.push(Staged { buffer, texture, texels: bytes / 16 });
                    Bound::Texture { binding, texture }
                }
                _ => {
                    let (buffer, offset, size) = self.place(operand, places, modules);
                    Bound::Buffer { binding, buffer, offset, size }
                }
            });
        }
        let module = modules[&(dispatch.shader, dispatch.consts.clone())];
        Step { module, entry: dispatch.entry, groups: dispatch.groups, staged, bindings }
    }

    /// The texture of a slot, at least so large.
    fn slot(&mut self, places: &mut Places<'_>, slot: usize, texels: u64) -> usize {
        let texture = *places.slots.entry(slot).or_insert_with(|| {
            self.textures.push(0);
            self.textures.len() - 1
        });
        self.textures[texture] = self.textures[texture].max(texels);
        texture
    }

    /// Buffer, offset and bytes of an operand.
    fn place(&mut self, operand: &Operand, places: &mut Places<'_>, modules: &Modules) -> (usize, u64, u64) {
        match operand {
            Operand::Input(input) => (places.inputs[*input], 0, places.signature.inputs[*input].bytes()),
            Operand::Output => (places.output, 0, places.signature.output.bytes()),
            Operand::Saved => {
                let (buffer, shape) =
                    places.saved.expect("a kernel writes a saved output, and there is none");
                (buffer, 0, shape.bytes())
            }
            Operand::Scratch(scratch) => {
                let buffer = places.scratch[*scratch];
                (buffer, 0, self.buffers[buffer].len() as u64 * 4)
            }
            Operand::Window { inner, offset, bytes } => {
                (self.place(inner, places, modules).0, *offset, *bytes)
            }
            Operand::Constant(constant) => {
                let key = (constant.key.clone(), constant.storage == Storage::Texture);
                if let Some(buffer) = places.constants.get(&key) {
                    return (*buffer, 0, constant.bytes);
                }
                let buffer = self.constant(constant, modules);
                places.constants.insert(key, buffer);
                (buffer, 0, constant.bytes)
            }
            Operand::Staged { .. } | Operand::Texture { .. } => panic!("{operand:?} is no buffer"),
        }
    }

    /// Made by the host, or by a job of its own before.
    fn constant(&mut self, constant: &Constant, modules: &Modules) -> usize {
        match &constant.initializer {
            Initializer::Host(make) => self.buffer(bytemuck::pod_collect_to_vec(&make().unwrap())),
            Initializer::Device { parts, values } => {
                // Samples are small: one part, whose texels lie as they do in the constant.
                let [ConstantPart { op, values: range, copies }] = parts.as_slice() else {
                    panic!("several parts")
                };
                assert!(
                    copies.iter().all(|copy| copy.from == copy.to),
                    "the part is not the constant as it lies"
                );
                let values = values().unwrap()[range.clone()].to_vec();
                let shape = Shape::Vector(values.len());
                let signature = Signature::of(op.as_ref(), &[shape]).unwrap();
                let input = self.buffer(words(&shape.pack(&values)));
                let output = self.buffer(vec![POISON; signature.output.stored()]);
                let kernel = op.kernels(&signature, &super::web::page_profile(None)).unwrap().swap_remove(0);
                self.lower(&kernel, &signature, &[input], output, None, modules);
                output
            }
        }
    }
}

/// Where the operands of one kernel are.
struct Places<'a> {
    signature: &'a Signature,
    inputs: &'a [usize],
    output: usize,
    /// The saved output, of ops that have one.
    saved: Option<(usize, Shape)>,
    scratch: Vec<usize>,
    constants: HashMap<(String, bool), usize>,
    slots: HashMap<usize, usize>,
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
