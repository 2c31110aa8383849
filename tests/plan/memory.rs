//! The memory plan. Live tensors never share memory in any graph, sharing keeps results bit-identical, and
//! exceeded limits give typed errors before anything is allocated.

use crate::common::{assert_close, cpu, draw, engine, engine_with, filter, not_run, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family, Profile};
use neural_mirage::graph::{
    Bindings, Engine, Goals, Graph, Place, Plan, PrepareOptions, Program, TensorId, gradient,
};
use neural_mirage::ops::{
    Add, CaseInput, Conv, CpuKernel, Dispatch, Kernel, Op, Operand, Relu, Shape, Signature,
};
use neural_mirage::{Error, Result};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

/// `a + b`, overwriting b.
#[derive(Debug)]
struct AddOver;

impl Op for AddOver {
    fn name(&self) -> &'static str {
        "add_over"
    }
    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Add.output(inputs)
    }
    fn overwrites(&self) -> Option<usize> {
        Some(1)
    }
    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let count = signature.output.stored() / 4;
        let dispatch = Dispatch::new("epilogue", "epilogue")
            .consts(&[("ADD", 1)])
            .bind("addend", Operand::Input(0))
            .bind("output", Operand::Output)
            .size("count", count)
            .linear(count, 64, device);
        Ok(vec![Kernel::single("naive", dispatch)])
    }
    fn cpu(&self, _signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let add = |(sum, a): (&mut f32, &f32)| *sum += a;
        Ok(CpuKernel::new(move |call| call.output.iter_mut().zip(call.inputs[0]).for_each(add)))
    }
    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        Add.reference(inputs, shapes)
    }
}

/// The kind of a node in a random graph.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Relu,
    Add,
    AddOver,
}

/// One node of a random graph: its op, earlier tensors as inputs (indices modulo their number), whether its output
/// has a buffer of its own, and its scratch sizes.
#[derive(Debug, Clone)]
struct Draft {
    kind: Kind,
    inputs: [usize; 2],
    bound: bool,
    scratch: Vec<u64>,
}

fn drafts(most: usize) -> impl Strategy<Value = Vec<Draft>> {
    let scratch = prop::collection::vec(prop::sample::select(vec![16u64, 400, 5000]), 0..3);
    let kind = prop::sample::select(vec![Kind::Relu, Kind::Add, Kind::AddOver]);
    let node = (kind, any::<[usize; 2]>(), prop::bool::weighted(0.15), scratch)
        .prop_map(|(kind, inputs, bound, scratch)| Draft { kind, inputs, bound, scratch });
    prop::collection::vec(node, 1..most)
}

/// Builds a graph of three external tensors of different sizes and the drafted nodes. The second input of a sum is
/// one of the tensors with the first one's shape.
fn build(drafts: &[Draft]) -> (Graph, HashSet<TensorId>, Vec<TensorId>) {
    let mut graph = Graph::new();
    let shapes = [Shape::Vector(30), Shape::Vector(1000), Shape::map(5, 6, 7)];
    let mut tensors: Vec<TensorId> =
        shapes.iter().enumerate().map(|(index, shape)| graph.external(format!("x{index}"), *shape)).collect();
    let mut bound: HashSet<TensorId> = tensors.iter().copied().collect();
    for (index, draft) in drafts.iter().enumerate() {
        let first = tensors[draft.inputs[0] % tensors.len()];
        let label = format!("t{index}");
        let alike: Vec<TensorId> =
            tensors.iter().copied().filter(|id| graph.shape(*id) == graph.shape(first)).collect();
        let both = [first, alike[draft.inputs[1] % alike.len()]];
        let output = match draft.kind {
            Kind::Relu => graph.apply(Relu, &[first], label),
            Kind::Add => graph.apply(Add, &both, label),
            Kind::AddOver => graph.apply(AddOver, &both, label),
        };
        let output = output.unwrap();
        if draft.bound {
            bound.insert(output);
        }
        tensors.push(output);
    }
    (graph, bound, tensors)
}

fn kernels(drafts: &[Draft]) -> Vec<Kernel> {
    let kernel =
        |draft: &Draft| Kernel { variant: "naive", dispatches: Vec::new(), scratch: draft.scratch.clone() };
    drafts.iter().map(kernel).collect()
}

/// Returns the lifetime of a tensor, from the node that computes it to its last reader. Independent of the planner.
fn alive(graph: &Graph, tensor: TensorId) -> (usize, usize) {
    let made = graph.nodes().iter().position(|node| node.output == tensor).unwrap();
    let read = graph.nodes().iter().rposition(|node| node.inputs.contains(&tensor));
    (made, read.unwrap_or(made))
}

/// An allocation: tensor (or scratch memory), place, size in bytes, first and last node that use it.
type Placed = (Option<TensorId>, Place, u64, (usize, usize));

/// Returns true if the node that computes `heir` overwrites `tensor`, being its last reader and reading it once.
fn over(graph: &Graph, tensor: TensorId, heir: TensorId) -> bool {
    let (made, node) = graph.nodes().iter().enumerate().find(|(_, node)| node.output == heir).unwrap();
    let once = node.inputs.iter().filter(|input| **input == tensor).count() == 1;
    let written_over = node.op.overwrites().is_some_and(|input| node.inputs[input] == tensor);
    written_over && once && alive(graph, tensor).1 == made
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn live_tensors_never_share_memory(drafts in drafts(40), share in any::<bool>()) {
        let (graph, bound, _) = build(&drafts);
        let kernels = kernels(&drafts);
        let plan = Plan::new(&graph, |tensor| bound.contains(&tensor), &kernels, share);
        let planned: Vec<TensorId> =
            graph.nodes().iter().map(|node| node.output).filter(|id| !bound.contains(id)).collect();
        prop_assert_eq!(plan.tensors.len(), planned.len(), "not exactly the unbound outputs are planned");
        let mut placed: Vec<Placed> = Vec::new();
        for tensor in &planned {
            let lifetime = alive(&graph, *tensor);
            prop_assert_eq!(plan.lifetimes[tensor], lifetime);
            placed.push((Some(*tensor), plan.tensors[tensor], graph.shape(*tensor).bytes(), lifetime));
        }
        // A node's scratch memory is live together with its inputs and output.
        for (node, (places, kernel)) in plan.scratch.iter().zip(&kernels).enumerate() {
            prop_assert_eq!(places.len(), kernel.scratch.len());
            let places = places.iter().zip(&kernel.scratch);
            placed.extend(places.map(|(place, bytes)| (None, *place, *bytes, (node, node))));
        }
        for (index, (tensor, place, bytes, (made, read))) in placed.iter().enumerate() {
            prop_assert!(place.offset.is_multiple_of(256));
            prop_assert!(place.offset + bytes <= plan.slots[place.slot].bytes);
            for (other, other_place, other_bytes, (other_made, other_read)) in &placed[index + 1..] {
                if place.slot != other_place.slot || made > other_read || other_made > read {
                    continue;
                }
                prop_assert!(share);
                let handed_over = tensor.zip(*other).is_some_and(|(tensor, other)| over(&graph, tensor, other));
                if handed_over {
                    prop_assert_eq!(place, other_place);
                    continue;
                }
                let apart = place.offset + bytes <= other_place.offset
                    || other_place.offset + other_bytes <= place.offset;
                prop_assert!(apart, "{:?} at {:?} and {:?} at {:?}", tensor, place, other, other_place);
                // A dispatch can't bind one buffer for both reading and writing.
                let within = |node: usize| (*made..=*read).contains(&node) && (*other_made..=*other_read).contains(&node);
                for (at, node) in graph.nodes().iter().enumerate().filter(|(at, _)| within(*at)) {
                    let writes = |tensor: &Option<TensorId>| tensor.is_none_or(|tensor| tensor == node.output);
                    let uses = |tensor: &Option<TensorId>| {
                        tensor.is_none_or(|tensor| tensor == node.output || node.inputs.contains(&tensor))
                    };
                    let conflict = uses(tensor) && uses(other) && (writes(tensor) || writes(other));
                    prop_assert!(!conflict, "node {} uses {:?} and {:?} of one buffer", at, tensor, other);
                }
            }
        }
        // An overwritten tensor shares its heir's memory if sharing is on.
        for (index, tensor) in planned.iter().enumerate() {
            for heir in planned[index + 1..].iter().filter(|heir| over(&graph, *tensor, **heir)) {
                prop_assert_eq!(plan.tensors[tensor] == plan.tensors[heir], share);
            }
        }
        let alone = Plan::new(&graph, |tensor| bound.contains(&tensor), &kernels, false);
        let scratch: usize = kernels.iter().map(|kernel| kernel.scratch.len()).sum();
        prop_assert_eq!(alone.slots.len(), planned.len() + scratch);
        prop_assert!(plan.bytes() <= alone.bytes());
    }
}

static ENGINES: LazyLock<[Arc<Engine>; 2]> =
    LazyLock::new(|| [engine(Family::Naive), cpu(DeviceOptions::default())]);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_graphs_agree_with_and_without_sharing(drafts in drafts(20)) {
        let _turn = turn();
        let built = build(&drafts);
        ENGINES.iter().for_each(|engine| check_random_graph(engine, &built));
    }
}

fn check_random_graph(engine: &Arc<Engine>, built: &(Graph, HashSet<TensorId>, Vec<TensorId>)) {
    let (graph, outside, tensors) = built;
    let last = tensors[tensors.len() - 1];
    let mut expected: HashMap<TensorId, Vec<f64>> = HashMap::new();
    let mut bound = Bindings::new();
    let mut goals = Vec::new();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for id in tensors {
        let shape = graph.shape(*id);
        // Tensors that are read back need buffers of their own.
        if !outside.contains(id) && *id != last {
            continue;
        }
        if graph.tensor(*id).producer.is_none() {
            let values = draw(shape, CaseInput::Normal, &mut random);
            expected.insert(*id, widen(&values));
            bound.insert(*id, engine.tensor_with("x", shape, &values).unwrap());
        } else {
            bound.insert(*id, engine.tensor("t", shape).unwrap());
            goals.push(*id);
        }
    }
    for node in graph.nodes() {
        let inputs: Vec<&[f64]> = node.inputs.iter().map(|id| expected[id].as_slice()).collect();
        let mut values = node.op.reference(&inputs, &graph.shapes(&node.inputs));
        // Rounds to f32 after each sum, like the kernels, so all results agree exactly.
        values.iter_mut().for_each(|value| *value = f64::from(*value as f32));
        expected.insert(node.output, values);
    }
    for share in [true, false] {
        let options = PrepareOptions { share, ..Default::default() };
        let goals_all = Goals::all(goals.clone());
        let program = Program::prepare_with(engine, graph, &bound, &goals_all, |_| 0, options).unwrap();
        program.submit(&[Goals::ALL], &[], "random graph").unwrap();
        for goal in &goals {
            let values = engine.read(&bound[goal], graph.shape(*goal), "goal").unwrap();
            // Either program may have left the same values there: clear them.
            engine.write(&bound[goal], graph.shape(*goal), &vec![f32::NAN; values.len()]).unwrap();
            assert_close(&graph.tensor(*goal).label, &values, &expected[goal], 0.0);
        }
    }
}

/// Builds three convolutions and the gradient of the last with respect to the picture. Returns the picture, the
/// upstream gradient, and the gradient.
fn convolutions(side: usize) -> (Graph, [TensorId; 3]) {
    let mut graph = Graph::new();
    let picture = graph.external("picture", Shape::map(3, side, side + 3));
    let mut at = picture;
    for (index, (outs, ins)) in [(20, 3), (36, 20), (9, 36)].into_iter().enumerate() {
        at = graph.apply(Conv::same(filter(outs, ins, [3, 3]), true), &[at], format!("conv{index}")).unwrap();
    }
    let upstream = graph.external("upstream", graph.shape(at));
    let gradient = gradient(&mut graph, &[(at, upstream)], picture).unwrap().unwrap();
    (graph, [picture, upstream, gradient])
}

/// Runs the convolutions and returns the gradient and the planned bytes.
fn run(engine: &Arc<Engine>, side: usize, options: PrepareOptions) -> Result<(Vec<f32>, u64)> {
    let (graph, [picture, upstream, gradient]) = convolutions(side);
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut bound = Bindings::new();
    for id in [picture, upstream] {
        let values = draw(graph.shape(id), CaseInput::Normal, &mut random);
        bound.insert(id, engine.tensor_with("external", graph.shape(id), &values)?);
    }
    bound.insert(gradient, engine.tensor("gradient", graph.shape(gradient))?);
    let program = Program::prepare_with(engine, &graph, &bound, &Goals::all([gradient]), |_| 0, options)?;
    program.submit(&[Goals::ALL], &[], "convolutions")?;
    // Runs twice: the second run starts with the values left in the shared buffers.
    program.submit(&[Goals::ALL], &[], "convolutions")?;
    Ok((engine.read(&bound[&gradient], graph.shape(gradient), "gradient")?, program.memory().planned))
}

#[test]
fn memory_sharing_is_bit_identical() {
    let _turn = turn();
    let families = [Family::Texture, Family::Buffer, Family::Naive].map(engine);
    for engine in families.into_iter().chain([cpu(DeviceOptions::default())]) {
        let what = format!("{:?} on {}", engine.profile().family, engine.describe());
        let (shared, less) = run(&engine, 18, PrepareOptions::default()).unwrap();
        let (alone, more) = run(&engine, 18, PrepareOptions { share: false, ..Default::default() }).unwrap();
        assert!(shared.iter().any(|value| *value != 0.0), "{what}: nothing was computed");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&shared), bits(&alone), "{what}");
        assert!(less < more, "{what}: {less} against {more} bytes");
    }
}

#[test]
fn windows_are_bit_identical() {
    let _turn = turn();
    // Winograd kernels need bindings for at least one run of tiles, hence larger maps.
    for (side, exact) in [(18, true), (58, false)] {
        let options = DeviceOptions { family: Family::Texture, exact, ..Default::default() };
        let (whole, _) = run(&engine_with(&options, |_| {}), side, PrepareOptions::default()).unwrap();
        let largest = Shape::map(36, side, side + 3).bytes();
        let engine = engine_with(&options, |profile| profile.max_binding = largest - 1);
        if engine.profile().lanes.is_none() {
            // Only devices with a single subgroup size run the texture family.
            not_run(&format!("windows of texture maps: {} has no fixed subgroup size", engine.describe()));
            return;
        }
        let (windows, _) = run(&engine, side, PrepareOptions::default()).unwrap();
        let differing = whole.iter().zip(&windows).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "of {} values at side {side}", whole.len());
    }
}

fn refused(restrict: impl Fn(&mut Profile), family: Family) -> Error {
    let options = DeviceOptions { family, ..Default::default() };
    run(&engine_with(&options, restrict), 18, PrepareOptions::default()).unwrap_err()
}

#[test]
fn exceeded_limits_give_typed_errors() {
    let _turn = turn();
    for family in [Family::Texture, Family::Buffer, Family::Naive] {
        // The largest map of the graph is conv1, with 36 channels of 18x21.
        let largest = Shape::map(36, 18, 21).bytes();
        // The texture family runs it in windows of at least one quad plus its closing border. The first map of
        // several quads, with 20 channels, does not fit then.
        let (limit, needed_for) = match family {
            Family::Texture => (19 * 22 * 16, Shape::map(20, 18, 21).bytes()),
            _ => (largest - 1, largest),
        };
        let error = refused(|profile| profile.max_binding = limit, family);
        let Error::OutOfMemory { what, needed, .. } = &error else { panic!("{family:?}: {error}") };
        assert_eq!(*needed, needed_for, "{family:?}");
        assert!(what.contains("conv"), "{family:?}: {what}");
        assert_eq!(error.exit_code(), 1);

        let error = refused(|profile| profile.max_buffer = largest - 1, family);
        assert!(matches!(error, Error::OutOfMemory { .. }), "{family:?}: {error}");

        // The weights of conv1 (36x20x3x3), bound as a buffer, are larger than any of its maps here.
        let small = |profile: &mut Profile| profile.max_binding = 20_000;
        let engine = engine_with(&DeviceOptions { family, ..Default::default() }, small);
        match run(&engine, 2, PrepareOptions::default()) {
            Err(Error::OutOfMemory { needed, .. }) if family != Family::Texture => assert!(needed > 20_000),
            // Weights in textures are not limited by the buffer binding size.
            Ok(_) if family == Family::Texture => {}
            other => panic!("{family:?}: {other:?}"),
        }
    }
    let error = refused(|profile| profile.max_groups = 1, Family::Naive);
    assert!(matches!(&error, Error::Shader { message, .. } if message.contains("exceed")), "{error}");
    let fits = |profile: &mut Profile| profile.max_workgroup_storage = 64;
    let engine = engine_with(&DeviceOptions { family: Family::Buffer, ..Default::default() }, fits);
    run(&engine, 5, PrepareOptions::default()).expect("the naive kernels need no workgroup memory");
}

#[test]
fn oversized_scratch_buffer_is_refused() {
    let _turn = turn();
    /// ReLU through a scratch buffer larger than its map.
    #[derive(Debug)]
    struct Detour;
    impl Op for Detour {
        fn name(&self) -> &'static str {
            "detour"
        }
        fn output(&self, inputs: &[Shape]) -> Result<Shape> {
            Ok(inputs[0])
        }
        fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
            let dispatch = |from, to| {
                let dispatch = Dispatch::new("relu", "forward").bind("input", from).bind("output", to);
                let count = signature.output.stored() / 4;
                dispatch.size("count", count).linear(count, 64, device)
            };
            let dispatches = vec![
                dispatch(Operand::Input(0), Operand::Scratch(0)),
                dispatch(Operand::Scratch(0), Operand::Output),
            ];
            Ok(vec![Kernel { variant: "naive", dispatches, scratch: vec![1 << 16] }])
        }
        fn cpu(&self, signature: &Signature, device: &Profile) -> Result<CpuKernel> {
            Relu.cpu(signature, device)
        }
        fn reference(&self, inputs: &[&[f64]], _shapes: &[Shape]) -> Vec<f64> {
            inputs[0].iter().map(|value| value.max(0.0)).collect()
        }
    }
    let case = |limit| {
        let engine = engine_with(&DeviceOptions::default(), |profile| profile.max_binding = limit);
        let values = vec![vec![-1.0, 2.0, -3.0, 4.0, 5.0]];
        let single = neural_mirage::graph::SingleOp::new(&engine, Arc::new(Detour), &[Shape::Vector(5)])?;
        single.run(0, &values)
    };
    assert_eq!(case(1 << 16).unwrap().values, [0.0, 2.0, 0.0, 4.0, 5.0]);
    assert!(matches!(case((1 << 16) - 1), Err(Error::OutOfMemory { needed: 65_536, .. })));
}

/// A matrix times a map, both staged in textures, with the smaller bound first.
#[derive(Debug)]
struct TwoStaged;

impl Op for TwoStaged {
    fn name(&self) -> &'static str {
        "two_staged"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape> {
        Ok(inputs[0])
    }

    fn kernels(&self, signature: &Signature, device: &Profile) -> Result<Vec<Kernel>> {
        let layout = signature.output.expect_map("two_staged")?;
        let lanes = device.lanes.unwrap_or(8);
        let dispatch = Dispatch::new("conv_tiles", "forward")
            .consts(&[("LANES", lanes), ("CHANNELS", 4), ("WEIGHT_VECTORS", 1)])
            .bind("weights", Operand::Input(1).staged_in(1))
            .bind("bias", Operand::Input(2))
            .bind("output", Operand::Output)
            .bind("input", Operand::Input(0).staged())
            .size("in_quads", layout.quads())
            .size("out_quads", layout.quads())
            .size("pitch", layout.pitch())
            .size("plane", layout.plane())
            .size("first_block", 0)
            .size("taps", 1)
            .size("relu", 0)
            .linear(layout.texels(), 8 * 32, device);
        Ok(vec![Kernel::single("texture", dispatch)])
    }

    fn cpu(&self, signature: &Signature, _device: &Profile) -> Result<CpuKernel> {
        let Signature { inputs: shapes, output } = signature.clone();
        Ok(CpuKernel::new(move |call| {
            let stored = call.inputs.iter().zip(&shapes);
            let wide: Vec<Vec<f64>> = stored.map(|(stored, shape)| widen(&shape.unpack(stored))).collect();
            let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
            let values = Self.reference(&wide, &shapes).into_iter().map(|value| value as f32);
            call.output.copy_from_slice(&output.pack(&values.collect::<Vec<f32>>()));
        }))
    }

    fn reference(&self, inputs: &[&[f64]], shapes: &[Shape]) -> Vec<f64> {
        let pixels = shapes[0].elements() / 4;
        let mut output = vec![0.0; 4 * pixels];
        for (index, value) in output.iter_mut().enumerate() {
            let (o, n) = (index / pixels, index % pixels);
            let products = (0..4).map(|i| inputs[1][o * 4 + i] * inputs[0][i * pixels + n]);
            *value = inputs[2][o] + products.sum::<f64>();
        }
        output
    }
}

#[test]
fn two_operands_can_be_staged_in_any_order() {
    let _turn = turn();
    let engine = engine(Family::Texture);
    if engine.profile().lanes.is_none() {
        // Only devices with a single subgroup size run the texture family.
        not_run(&format!("operands staged in textures: {} has no fixed subgroup size", engine.describe()));
        return;
    }
    // More texels than fit in a row of a linear texture, so the smaller texture can't hold them.
    let shapes = [Shape::map(4, 100, 90), Shape::Matrix { rows: 4, columns: 4 }, Shape::Vector(4)];
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let values = shapes.map(|shape| draw(shape, CaseInput::Normal, &mut random));
    let wide: Vec<Vec<f64>> = values.iter().map(|values| widen(values)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    let single = neural_mirage::graph::SingleOp::new(&engine, Arc::new(TwoStaged), &shapes).unwrap();
    let outcome = single.run(0, &values).unwrap();
    // Five products and sums of normally distributed values.
    assert_close("two staged", &outcome.values, &TwoStaged.reference(&wide, &shapes), 1e-6);
}
