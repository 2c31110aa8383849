//! Lowered programs as plain data: created without a device, checked, and run by a second executor.

use crate::common::{assert_close, cpu, draw, engine_with, filter, profiles, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family, Profile};
use neural_mirage::graph::lowered::{Action, Binding, Location, Lowered, Origin};
use neural_mirage::graph::{
    Bindings, Goals, Graph, PrepareOptions, Program, Readback, Selection, TensorId, When, gradient, lower,
};
use neural_mirage::ops::{Adam, CaseInput, Conv, Gram, MeanSquaredError, Pool, PoolKind, Shape};
use neural_mirage::shader::ResourceKind;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

const ADAM: Adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp: false };

/// A small network with two losses, their gradient and an optimiser step.
struct Net {
    graph: Graph,
    /// External tensors with their values.
    outside: Vec<(TensorId, Vec<f32>)>,
    goals: Goals,
}

impl Net {
    fn new() -> Self {
        let mut graph = Graph::new();
        let mut random = ChaCha8Rng::seed_from_u64(21);
        let mut outside = Vec::new();
        let mut external = |graph: &mut Graph, label: &str, shape: Shape, kind: CaseInput| {
            let id = graph.external(label, shape);
            outside.push((id, draw(shape, kind, &mut random)));
            id
        };
        let shape = Shape::map(3, 22, 37);
        let picture = external(&mut graph, "picture", shape, CaseInput::Normal);
        let mut at = picture;
        for (index, (outs, ins)) in [(8, 3), (20, 8), (12, 20)].into_iter().enumerate() {
            let conv = Conv::same(filter(outs, ins, [3, 3]), true);
            at = graph.apply(conv, &[at], format!("conv {index}")).unwrap();
            if index < 2 {
                at = graph.apply(Pool::halve(PoolKind::Max), &[at], format!("pool {index}")).unwrap();
            }
        }
        let gram = graph.apply(Gram, &[at], "gram").unwrap();
        let mut losses = Vec::new();
        let mut seeds = Vec::new();
        for value in [at, gram] {
            let shape = graph.shape(value);
            let target = external(&mut graph, "target", shape, CaseInput::Normal);
            let weight = external(&mut graph, "weight", Shape::Vector(1), CaseInput::Normal);
            let loss = graph.apply(MeanSquaredError, &[value, target], "loss").unwrap();
            losses.push(loss);
            seeds.push((loss, weight));
        }
        let slope = gradient(&mut graph, &seeds, picture).unwrap().unwrap();
        let mut inputs = vec![picture, slope];
        for label in ["first moment", "second moment"] {
            inputs.push(external(&mut graph, label, shape, CaseInput::Normal));
        }
        for label in ["counters", "control"] {
            inputs.push(external(&mut graph, label, Shape::Vector(4), CaseInput::Normal));
        }
        let set = |id: TensorId, values: Vec<f32>, outside: &mut Vec<(TensorId, Vec<f32>)>| {
            outside.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, old)| *old = values.clone());
        };
        let moment = outside.iter().find(|(id, _)| *id == inputs[3]).unwrap().1.clone();
        set(inputs[3], moment.iter().map(|value| value.abs()).collect(), &mut outside);
        set(inputs[4], vec![0.0; 4], &mut outside);
        set(inputs[5], vec![0.05, 0.0, 0.0, 0.0], &mut outside);
        let step = graph.apply(ADAM, &inputs, "step").unwrap();
        let read = |name: &str, tensors: &[(&str, TensorId)], when| Readback {
            name: name.to_owned(),
            tensors: tensors.iter().map(|(name, tensor)| ((*name).to_owned(), *tensor)).collect(),
            when,
            in_flight: 1,
        };
        let goals = Goals::default()
            .section("losses", losses.clone())
            .section("step", [step])
            .section("nothing", [])
            .readback(read("report", &[("spatial", losses[0]), ("style", losses[1])], When::After))
            .readback(read("gradient", &[("gradient", slope), ("picture", picture)], When::After))
            .readback(read("state", &[("picture", picture)], When::Before));
        let kept = outside.iter().map(|(id, _)| *id).chain(goals.read());
        graph.fuse(&kept.collect());
        Self { graph, outside, goals }
    }

    fn lower(&self, profile: &Profile, share: bool) -> Lowered {
        let mut selection = Selection::preferred(profile);
        selection.options = PrepareOptions { share, ..Default::default() };
        let bound = |tensor| self.outside.iter().any(|(id, _)| *id == tensor);
        lower(&self.graph, bound, &self.goals, &selection).unwrap()
    }
}

/// Tracks which parts of buffers (in bytes) and textures (in texels) have been written.
struct Written {
    buffers: Vec<Vec<std::ops::Range<u64>>>,
    textures: Vec<u64>,
}

impl Written {
    fn new(program: &Lowered) -> Self {
        let all = |origin: Origin, size: u64| if origin == Origin::Own { 0 } else { size };
        Self {
            buffers: program
                .buffers
                .iter()
                .map(|buffer| std::iter::once(0..all(buffer.origin, buffer.bytes)).collect())
                .collect(),
            textures: program.textures.iter().map(|texture| all(texture.origin, texture.texels)).collect(),
        }
    }

    fn write(&mut self, at: Location, bytes: u64) {
        self.buffers[at.buffer].push(at.offset..at.offset + bytes);
    }

    fn has(&mut self, at: Location, bytes: u64) -> bool {
        let ranges = &mut self.buffers[at.buffer];
        ranges.sort_by_key(|range| range.start);
        let mut end = at.offset;
        for range in ranges {
            if range.start <= end {
                end = end.max(range.end);
            }
        }
        end >= at.offset + bytes
    }
}

/// Returns all faults found in a program.
fn faults(program: &Lowered, profile: &Profile) -> Vec<String> {
    let mut faults = Vec::new();
    let mut written = Written::new(program);
    let inside = |at: Location, bytes: u64| at.offset + bytes <= program.buffers[at.buffer].bytes;
    for step in &program.steps {
        let mut check = |right: bool, what: &str| {
            if !right {
                faults.push(format!("{}: {what}", step.label));
            }
        };
        check(step.sections != 0 && step.sections >> program.sections.len() == 0, "sections");
        check(step.node < program.nodes.len(), "node");
        match &step.action {
            Action::Stage { buffer, texture, copy } => {
                let from = Location { buffer: *buffer, offset: copy.from * 16 };
                check(inside(from, copy.texels * 16), "stages out of bounds");
                check(written.has(from, copy.texels * 16), "stages unwritten data");
                check(copy.to + copy.texels <= program.textures[*texture].texels, "texture too small");
                written.textures[*texture] = written.textures[*texture].max(copy.to + copy.texels);
            }
            Action::Copy { from, to, bytes } => {
                check(inside(*from, *bytes) && inside(*to, *bytes), "copies out of bounds");
                check(written.has(*from, *bytes), "copies unwritten data");
                check(from.buffer != to.buffer, "copies within a buffer");
                written.write(*to, *bytes);
            }
            Action::Call { function } => {
                check(*function < program.functions.len(), "function");
                let (node, operands) = (&program.nodes[step.node], &program.operands[step.node]);
                let changed = node.op.mutates();
                let mut uses = Vec::new();
                for (input, (at, shape)) in operands.inputs.iter().zip(&node.signature.inputs).enumerate() {
                    check(inside(*at, shape.bytes()), "reads out of bounds");
                    let over = node.op.overwrites() == Some(input);
                    let read = if over { operands.output } else { *at };
                    check(written.has(read, shape.bytes()), "reads unwritten data");
                    if !over {
                        uses.push((at.buffer, changed.contains(&input)));
                    }
                }
                let saved = operands.saved.zip(node.op.saved(&node.signature.inputs));
                for (at, shape) in saved.into_iter().chain([(operands.output, node.signature.output)]) {
                    check(inside(at, shape.bytes()), "writes out of bounds");
                    written.write(at, shape.bytes());
                    uses.push((at.buffer, true));
                }
                let apart = |(buffer, writes): &(usize, bool)| {
                    !writes || uses.iter().filter(|(other, _)| other == buffer).count() == 1
                };
                check(uses.iter().all(apart), "reads and writes a buffer");
            }
            Action::Dispatch { entry, bindings, groups } => {
                let entry = &program.entries[*entry];
                let (resources, _) = entry.text.interface.entry(entry.entry).unwrap();
                check(groups.iter().all(|count| (1..=profile.max_groups).contains(count)), "groups");
                check(resources.len() == bindings.len(), "bindings");
                let mut access: HashMap<usize, bool> = HashMap::new();
                let mut writes = Vec::new();
                for (resource, (number, binding)) in resources.iter().zip(bindings) {
                    check(resource.binding == *number, "binding numbers");
                    match (resource.kind, binding) {
                        (ResourceKind::Uniform { size }, Binding::Params { offset, bytes }) => {
                            check(offset % 256 == 0 && *bytes == u64::from(size), "parameters");
                            check(offset + bytes <= program.params.len() as u64, "parameters too short");
                        }
                        (ResourceKind::Storage { read_only }, Binding::Buffer(at, bytes)) => {
                            check(inside(*at, *bytes), "binds out of bounds");
                            check(at.offset % profile.binding_alignment == 0, "alignment");
                            check(*bytes <= profile.max_binding, "binding too large");
                            let before = access.insert(at.buffer, read_only);
                            check(
                                before.is_none_or(|before| before && read_only),
                                "reads and writes a buffer",
                            );
                            if read_only {
                                check(written.has(*at, *bytes), "reads unwritten data");
                            } else {
                                let constant = program.buffers[at.buffer].origin;
                                check(!matches!(constant, Origin::Constant(_)), "writes a constant");
                                writes.push((*at, *bytes));
                            }
                        }
                        (ResourceKind::Texture { read_only }, Binding::Texture(texture)) => {
                            check(!read_only || written.textures[*texture] > 0, "reads an empty texture");
                            if !read_only {
                                written.textures[*texture] = program.textures[*texture].texels;
                            }
                        }
                        _ => check(false, "binding differs from the shader's declaration"),
                    }
                }
                writes.into_iter().for_each(|(at, bytes)| written.write(at, bytes));
            }
        }
    }
    for read in &program.readbacks {
        for (name, shape, at) in &read.values {
            if !inside(*at, shape.bytes()) || !written.has(*at, shape.bytes()) {
                faults.push(format!("{}: {name} is not computed", read.name));
            }
        }
    }
    faults
}

#[test]
fn network_lowers_to_valid_program_without_device() {
    let net = Net::new();
    let cpu = ("cpu".to_owned(), Profile::cpu());
    for (name, profile) in profiles().into_iter().chain([cpu]) {
        for share in [true, false] {
            let program = net.lower(&profile, share);
            let found = faults(&program, &profile);
            assert!(found.is_empty(), "{name}, shared {share}: {found:?}");
            assert_eq!(program.sections, ["losses", "step", "nothing"]);
            let reads: Vec<&str> = program.readbacks.iter().map(|read| read.name.as_str()).collect();
            assert_eq!(reads, ["report", "gradient", "state"]);
            for constant in &program.constants {
                for part in &constant.parts {
                    let found = faults(&part.program, &profile);
                    assert!(found.is_empty(), "{name}, part of {}: {found:?}", constant.constant.key);
                }
            }
            let planned = program.buffers.iter().filter(|buffer| buffer.label.starts_with("slot"));
            assert_eq!(planned.map(|buffer| buffer.bytes).sum::<u64>(), program.memory.planned);
        }
    }
}

/// The check itself must find faults.
#[test]
fn checker_detects_corrupted_programs() {
    let net = Net::new();
    let (_, profile) = profiles().into_iter().find(|(name, _)| name == "minimal").unwrap();
    let is_faulty = |spoil: fn(&mut Lowered)| {
        let mut program = net.lower(&profile, true);
        spoil(&mut program);
        !faults(&program, &profile).is_empty()
    };
    assert!(!is_faulty(|_| {}));
    assert!(is_faulty(|program| drop(program.steps.remove(0))), "first step removed");
    assert!(is_faulty(|program| program.steps.reverse()), "reversed steps");
    assert!(is_faulty(|program| program.steps[0].sections = 0));
    assert!(is_faulty(|program| program.buffers[0].bytes /= 2), "slot too small");
    assert!(is_faulty(|program| drop(program.params.drain(..512))), "parameters removed");
    assert!(is_faulty(|program| program.readbacks[1].values[0].2.offset += 1 << 20));
    let cpu = |spoil: fn(&mut Lowered)| {
        let mut program = net.lower(&Profile::cpu(), true);
        spoil(&mut program);
        !faults(&program, &Profile::cpu()).is_empty()
    };
    assert!(!cpu(|_| {}));
    assert!(cpu(|program| drop(program.steps.remove(0))), "first step removed");
    assert!(cpu(|program| drop(program.functions.pop())), "function removed");
    assert!(cpu(|program| program.operands[1].output = program.operands[1].inputs[0]), "in place");
}

/// Executes a program on the host with the f64 references, in the memory layout of the program.
struct Host {
    buffers: Vec<Vec<f32>>,
}

impl Host {
    fn new(program: &Lowered, outside: &HashMap<TensorId, Vec<f32>>) -> Self {
        let buffer = |buffer: &neural_mirage::graph::lowered::Buffer| {
            let mut stored = match buffer.origin {
                Origin::Bound(tensor) => outside[&tensor].clone(),
                Origin::Own | Origin::Constant(_) => Vec::new(),
            };
            stored.resize(buffer.bytes as usize / 4, f32::NAN);
            stored
        };
        Self { buffers: program.buffers.iter().map(buffer).collect() }
    }

    fn read(&self, at: Location, shape: Shape) -> Vec<f32> {
        shape.unpack(&self.buffers[at.buffer][at.offset as usize / 4..][..shape.stored()])
    }

    fn write(&mut self, at: Location, shape: Shape, values: &[f64]) {
        let narrow: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        self.buffers[at.buffer][at.offset as usize / 4..][..shape.stored()]
            .copy_from_slice(&shape.pack(&narrow));
    }

    fn run(&mut self, program: &Lowered, sections: u64) {
        let nodes = program.nodes.iter().zip(&program.operands);
        for (node, at) in nodes.filter(|(_, at)| at.sections & sections != 0) {
            let shapes = &node.signature.inputs;
            let wide: Vec<Vec<f64>> =
                at.inputs.iter().zip(shapes).map(|(at, shape)| widen(&self.read(*at, *shape))).collect();
            let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
            let values = node.op.reference(&wide, shapes);
            match node.op.mutates() {
                [] => self.write(at.output, node.signature.output, &values),
                mutated => {
                    let mut rest = values.as_slice();
                    for input in mutated {
                        let (here, behind) = rest.split_at(shapes[*input].elements());
                        self.write(at.inputs[*input], shapes[*input], here);
                        rest = behind;
                    }
                    // The output of a step node is the step counter.
                    let counters = self.read(at.inputs[4], shapes[4]);
                    self.write(at.output, node.signature.output, &[f64::from(counters[0])]);
                }
            }
            if let (Some(at), Some(shape), Some(values)) =
                (at.saved, node.op.saved(shapes), node.op.reference_saved(&wide, shapes))
            {
                self.write(at, shape, &values);
            }
        }
    }
}

#[test]
fn host_executor_matches_device() {
    let _turn = turn();
    let net = Net::new();
    let families = [Family::Texture, Family::Buffer];
    let with = |family| engine_with(&DeviceOptions { family, ..Default::default() }, |_| {});
    for engine in families.into_iter().map(with).chain([cpu(DeviceOptions::default())]) {
        let device = engine.describe();
        let mut bound = Bindings::new();
        let mut stored = HashMap::new();
        for (id, values) in &net.outside {
            let shape = net.graph.shape(*id);
            bound.insert(*id, engine.tensor_with("outside", shape, values).unwrap());
            stored.insert(*id, shape.pack(values));
        }
        let program = Program::prepare(&engine, &net.graph, &bound, &net.goals, |_| 0).unwrap();
        let mut submission =
            program.submit(&["losses", "step"], &["report", "gradient", "state"], "both").unwrap();

        let lowered = net.lower(engine.profile(), true);
        let mut host = Host::new(&lowered, &stored);
        host.run(&lowered, u64::MAX);
        for read in &lowered.readbacks {
            let values = submission.take(&read.name).unwrap().finish().unwrap();
            for (name, shape, at) in &read.values {
                let actual = values.get(name).unwrap();
                if read.when == When::Before {
                    assert_eq!(actual, net.outside[0].1, "{name} before the step");
                    continue;
                }
                // F(4x4) has an error of 1.3e-5 per convolution, and the gradient depends on six. A step divides by the
                // root of the second moment.
                let what = format!("{device}: {} {name}", read.name);
                assert_close(&what, actual, &widen(&host.read(*at, *shape)), 2e-4);
            }
        }
    }
}
