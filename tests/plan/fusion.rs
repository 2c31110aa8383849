//! Fusion of the last steps of a gradient, and of max pools into convolutions. It must remove nodes and keep the
//! gradient bit-identical.

use crate::common::{assert_close, cpu, draw, engine, engine_with, filter, turn, widen};
use neural_mirage::gpu::{DeviceOptions, Family};
use neural_mirage::graph::{
    Bindings, Engine, Goals, Graph, PrepareOptions, Program, TensorId, gradient, gradients,
};
use neural_mirage::ops::{
    Add, CaseInput, ChannelMean, Conv, Gram, MeanSquaredError, Padding, Pool, PoolKind, Shape,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;
use std::sync::Arc;

/// A small network with losses at two depths, one of them twice, and a max pool: it has sums of three gradients, and
/// ReLU masks behind convolutions and behind a pool. `mode` is the padding of the first two convolutions.
fn forward(
    [height, width]: [usize; 2],
    mode: Padding,
) -> (Graph, Vec<TensorId>, Vec<(TensorId, TensorId)>, TensorId) {
    let mut graph = Graph::new();
    let picture = graph.external("picture", Shape::map(3, height, width));
    let mut outer = vec![picture];
    let conv = |outs, ins| Conv::same(filter(outs, ins, [3, 3]), true);
    let first = graph.apply(Conv { mode, ..conv(9, 3) }, &[picture], "first").unwrap();
    let second = graph.apply(Conv { mode, ..conv(12, 9) }, &[first], "second").unwrap();
    let pooled = graph.apply(Pool::halve(PoolKind::Max), &[second], "pooled").unwrap();
    let third = graph.apply(conv(7, 12), &[pooled], "third").unwrap();
    let fourth = graph.apply(conv(5, 7), &[third], "fourth").unwrap();
    let gram = graph.apply(Gram, &[first], "gram").unwrap();
    let mut seeds = Vec::new();
    for (index, value) in [first, gram, third, fourth].into_iter().enumerate() {
        let target = graph.external(format!("target {index}"), graph.shape(value));
        let weight = graph.external(format!("weight {index}"), Shape::Vector(1));
        outer.extend([target, weight]);
        seeds.push((
            graph.apply(MeanSquaredError, &[value, target], format!("loss {index}")).unwrap(),
            weight,
        ));
    }
    (graph, outer, seeds, third)
}

/// Adds the gradient with respect to the picture to [`forward`].
fn build(size: [usize; 2], mode: Padding) -> (Graph, Vec<TensorId>, TensorId, TensorId) {
    let (mut graph, outer, seeds, third) = forward(size, mode);
    let slope = gradient(&mut graph, &seeds, outer[0]).unwrap().unwrap();
    (graph, outer, slope, third)
}

/// Computes the values of some tensors, with as much fusion as they allow.
fn values(engine: &Arc<Engine>, mut graph: Graph, outer: &[TensorId], wanted: &[TensorId]) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut bound = Bindings::new();
    for tensor in outer {
        let shape = graph.shape(*tensor);
        let values = draw(shape, CaseInput::Normal, &mut random);
        bound.insert(*tensor, engine.tensor_with("outer", shape, &values).unwrap());
    }
    for tensor in wanted {
        bound.insert(*tensor, engine.tensor("wanted", graph.shape(*tensor)).unwrap());
    }
    graph.fuse(&bound.keys().copied().collect());
    Program::prepare(engine, &graph, &bound, &Goals::all(wanted), |_| 0)
        .unwrap()
        .submit(&[Goals::ALL], &[], "wanted")
        .unwrap();
    wanted.iter().map(|tensor| engine.read(&bound[tensor], graph.shape(*tensor), "wanted").unwrap()).collect()
}

/// Computes the gradient, optionally after fusion. Also returns the nodes that ran.
fn run(
    options: &DeviceOptions,
    size: [usize; 2],
    mode: Padding,
    fuse: bool,
    keep: bool,
) -> (Vec<f32>, Vec<&'static str>) {
    let engine = engine_with(options, |_| {});
    let (mut graph, outer, slope, third) = build(size, mode);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut bound = Bindings::new();
    for tensor in outer {
        let shape = graph.shape(tensor);
        let mut values = draw(shape, CaseInput::Normal, &mut random);
        if graph.tensor(tensor).label == "picture" {
            // Flat areas, in which all pooling windows tie.
            values.iter_mut().filter(|value| value.abs() < 0.6).for_each(|value| *value = 0.5);
            let half = values.len() / 2;
            values[half..].fill(0.25);
        }
        bound.insert(tensor, engine.tensor_with("outer", shape, &values).unwrap());
    }
    let output = engine.tensor("gradient", graph.shape(slope)).unwrap();
    bound.insert(slope, output.clone());
    if fuse {
        let mut kept: HashSet<TensorId> = bound.keys().copied().collect();
        if keep {
            // Every tensor must be kept.
            kept.extend(graph.nodes().iter().map(|node| node.output));
        }
        graph.fuse(&kept);
        assert!(graph.nodes().iter().any(|node| node.output == third));
    }
    let program = Program::prepare(&engine, &graph, &bound, &Goals::all([slope]), |_| 0).unwrap();
    program.submit(&[Goals::ALL], &[], "gradient").unwrap();
    let values = engine.read(&output, graph.shape(slope), "gradient").unwrap();
    (values, graph.nodes().iter().map(|node| node.op.name()).collect())
}

/// Returns how many nodes are of this op.
fn count(nodes: &[&str], op: &str) -> usize {
    nodes.iter().filter(|name| **name == op).count()
}

/// Devices of each family. Exact kernels have no Winograd transforms.
fn devices() -> Vec<(DeviceOptions, bool)> {
    let with = |family, exact| (DeviceOptions { family, exact, ..Default::default() }, exact);
    let families = [Family::Texture, Family::Buffer];
    let mut devices: Vec<_> =
        families.into_iter().flat_map(|family| [false, true].map(|e| with(family, e))).collect();
    devices.push(with(Family::Naive, true));
    devices
}

#[test]
fn fusion_is_bit_identical() {
    let _turn = turn();
    for (device, exact) in devices() {
        // Whole tiles, and sizes with an odd last row and column that the pool drops.
        let sizes = [
            ([20, 24], Padding::Zeros, true),
            ([20, 24], Padding::Replicate, true),
            ([21, 19], Padding::Zeros, false),
            ([22, 27], Padding::Zeros, false),
        ];
        for (size, mode, whole) in sizes {
            let what = format!("{:?}, exact {exact}, {size:?}, {mode:?}", device.family);
            let (plain, nodes) = run(&device, size, mode, false, false);
            let (fused, fewer) = run(&device, size, mode, true, false);
            assert!(plain.iter().any(|value| *value != 0.0) && plain.iter().all(|value| value.is_finite()));
            // Sums of three gradients at the first convolution and of two at the third. A convolution's part absorbs
            // one sum each; the sum of the two losses' gradients remains.
            assert_eq!((count(&nodes, "add"), count(&fewer, "add")), (3, 1), "{what}");
            let pools = |nodes: &[&str]| count(nodes, "pool") + count(nodes, "pool_backward");
            assert_eq!((pools(&nodes), pools(&fewer)), (2, 0), "{what}");
            if exact || whole {
                let differing = plain.iter().zip(&fused).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(differing, 0, "{what}: {differing} of {} values differ", plain.len());
            } else {
                // A Winograd tile that extends beyond the edge reads the memory behind it, which cancels up to rounding
                // and differs with fusion. The tolerance is the transforms' own error.
                assert_close(&what, &fused, &widen(&plain), 2e-5);
            }
        }
    }
}

/// A sum overwrites its added gradient if nothing reads that later. The result is bit-identical to copying it, as done
/// if every tensor has its own buffer or the gradient is read again.
#[test]
fn sums_are_in_place_only_without_later_reads() {
    let _turn = turn();
    for (device, exact) in devices() {
        let what = format!("{:?}, exact {exact}", device.family);
        let engine = engine_with(&device, |_| {});
        let (mut graph, outer, slope, _) = build([20, 24], Padding::Zeros);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut bound = Bindings::new();
        for tensor in outer {
            let shape = graph.shape(tensor);
            let values = draw(shape, CaseInput::Normal, &mut random);
            bound.insert(tensor, engine.tensor_with("outer", shape, &values).unwrap());
        }
        bound.insert(slope, engine.tensor("gradient", graph.shape(slope)).unwrap());
        graph.fuse(&bound.keys().copied().collect());
        let sums: Vec<_> = graph.nodes().iter().filter(|node| node.op.overwrites().is_some()).collect();
        assert_eq!(sums.len(), 2, "{what}: one behind the first and one behind the third convolution");
        let addends: Vec<TensorId> =
            sums.iter().map(|node| node.inputs[node.op.overwrites().unwrap()]).collect();
        let run = |graph: &Graph, share: bool, more: &[TensorId]| {
            let mut bound = bound.clone();
            bound.extend(more.iter().map(|id| (*id, engine.tensor("more", graph.shape(*id)).unwrap())));
            let goals: Vec<TensorId> = [slope].iter().chain(more).copied().collect();
            let options = PrepareOptions { share, ..Default::default() };
            let program =
                Program::prepare_with(&engine, graph, &bound, &Goals::all(goals.clone()), |_| 0, options)
                    .unwrap();
            // Runs twice: the second run starts with the values left by the first.
            program.submit(&[Goals::ALL], &[], "gradient").unwrap();
            program.submit(&[Goals::ALL], &[], "gradient").unwrap();
            let read = |id: &TensorId| engine.read(&bound[id], graph.shape(*id), "value").unwrap();
            goals.iter().map(read).collect::<Vec<_>>()
        };
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let over = run(&graph, true, &[]);
        assert!(over[0].iter().any(|value| *value != 0.0), "{what}");
        let apart = run(&graph, false, &[]);
        assert_eq!(bits(&over[0]), bits(&apart[0]), "{what}");
        // Read again at the end: doubled, and read back unchanged.
        let mut later = graph.clone();
        let doubled: Vec<TensorId> =
            addends.iter().map(|addend| later.apply(Add, &[*addend; 2], "doubled").unwrap()).collect();
        let read_later = run(&later, true, &doubled);
        assert_eq!(bits(&over[0]), bits(&read_later[0]), "{what}");
        let read_back = run(&graph, true, &addends);
        assert_eq!(bits(&over[0]), bits(&read_back[0]), "{what}");
        for (doubled, plain) in read_later[1..].iter().zip(&read_back[1..]) {
            assert!(plain.iter().any(|value| *value != 0.0), "{what}");
            let twice: Vec<f32> = plain.iter().map(|value| value + value).collect();
            assert_eq!(bits(doubled), bits(&twice), "{what}");
        }
    }
}

#[test]
fn kept_tensors_are_not_fused() {
    let _turn = turn();
    let device = DeviceOptions { family: Family::Naive, ..Default::default() };
    let (plain, nodes) = run(&device, [21, 19], Padding::Zeros, false, false);
    let (kept, same) = run(&device, [21, 19], Padding::Zeros, true, true);
    assert_eq!(nodes, same);
    assert_eq!(plain, kept);
}

/// The adjoint of an average pool applies the ReLU mask of the convolution before it, and the adjoint of a mean adds to
/// the existing gradient.
#[test]
fn average_fusion_is_bit_identical() {
    let _turn = turn();
    let mut engines: Vec<Arc<Engine>> =
        devices().into_iter().map(|(device, _)| engine_with(&device, |_| {})).collect();
    engines.push(cpu(DeviceOptions::default()));
    for engine in engines {
        // Whole Winograd tiles, see above.
        let mut graph = Graph::new();
        let picture = graph.external("picture", Shape::map(3, 24, 16));
        let conv = |outs, ins| Conv::same(filter(outs, ins, [3, 3]), true);
        let first = graph.apply(conv(9, 3), &[picture], "first").unwrap();
        let second = graph.apply(conv(12, 9), &[first], "second").unwrap();
        let pooled = graph.apply(Pool::halve(PoolKind::Average), &[second], "pooled").unwrap();
        let third = graph.apply(conv(7, 12), &[pooled], "third").unwrap();
        let mean = graph.apply(ChannelMean, &[first], "mean").unwrap();
        let gram = graph.apply(Gram, &[first], "gram").unwrap();
        let mut outer = vec![picture];
        let mut seeds = Vec::new();
        for value in [mean, gram, third] {
            let target = graph.external("target", graph.shape(value));
            let weight = graph.external("weight", Shape::Vector(1));
            outer.extend([target, weight]);
            seeds.push((graph.apply(MeanSquaredError, &[value, target], "loss").unwrap(), weight));
        }
        let slope = gradient(&mut graph, &seeds, picture).unwrap().unwrap();
        let run = |fuse: bool| {
            let mut graph = graph.clone();
            let mut random = ChaCha8Rng::seed_from_u64(5);
            let mut bound = Bindings::new();
            for tensor in &outer {
                let values = draw(graph.shape(*tensor), CaseInput::Normal, &mut random);
                let memory = engine.tensor_with("outer", graph.shape(*tensor), &values).unwrap();
                bound.insert(*tensor, memory);
            }
            bound.insert(slope, engine.tensor("gradient", graph.shape(slope)).unwrap());
            if fuse {
                graph.fuse(&bound.keys().copied().collect());
            }
            let program = Program::prepare(&engine, &graph, &bound, &Goals::all([slope]), |_| 0).unwrap();
            program.submit(&[Goals::ALL], &[], "gradient").unwrap();
            let values = engine.read(&bound[&slope], graph.shape(slope), "gradient").unwrap();
            let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
            let inputs = |op: &str| {
                let node = graph.nodes().iter().find(|node| node.op.name() == op).unwrap();
                node.inputs.len()
            };
            let names: Vec<&str> = graph.nodes().iter().map(|node| node.op.name()).collect();
            (bits, count(&names, "add"), inputs("pool_backward"), inputs("channel_mean_backward"))
        };
        let (plain, fused) = (run(false), run(true));
        let what = engine.describe();
        assert!(plain.0.iter().any(|bits| *bits != 0), "{what}");
        assert!(plain.0 == fused.0, "{what}: the gradients differ");
        assert_eq!((plain.1, plain.2, plain.3), (2, 1, 1), "{what}");
        assert_eq!((fused.1, fused.2, fused.3), (0, 2, 2), "{what}");
    }
}

#[test]
fn maps_with_other_readers_are_stored() {
    let mut graph = Graph::new();
    let picture = graph.external("picture", Shape::map(3, 8, 8));
    let conv = |relu| Conv::same(filter(4, 3, [3, 3]), relu);
    let map = graph.apply(conv(true), &[picture], "map").unwrap();
    let halve = Pool::halve(PoolKind::Max);
    let pooled = graph.apply(halve, &[map], "pooled").unwrap();
    let fused = |graph: &Graph, kept: &[TensorId]| {
        let mut graph = graph.clone();
        graph.fuse(&kept.iter().copied().collect());
        count(&graph.nodes().iter().map(|node| node.op.name()).collect::<Vec<_>>(), "pool") == 0
    };
    assert!(fused(&graph, &[picture, pooled]));
    assert!(!fused(&graph, &[picture, map]));
    let mut two = graph.clone();
    two.apply(Gram, &[map], "gram").unwrap();
    assert!(!fused(&two, &[picture]));
    // Other pools, and a map without ReLU, whose pool indices would need more information.
    for pool in
        [Pool::halve(PoolKind::Average), Pool { stride: [1, 1], ..halve }, Pool { ceil: true, ..halve }]
    {
        let mut other = Graph::new();
        let picture = other.external("picture", Shape::map(3, 8, 8));
        let map = other.apply(conv(true), &[picture], "map").unwrap();
        other.apply(pool, &[map], "pooled").unwrap();
        assert!(!fused(&other, &[picture]), "{pool:?}");
    }
    let mut linear = Graph::new();
    let picture = linear.external("picture", Shape::map(3, 8, 8));
    let map = linear.apply(conv(false), &[picture], "map").unwrap();
    linear.apply(halve, &[map], "pooled").unwrap();
    assert!(!fused(&linear, &[picture]));
}

/// Gradients of several sums built together are bit-identical to those built alone. All go back to the pool before any
/// continues, and a loss on an early layer is added when the backward pass reaches that layer.
#[test]
fn gradients_built_together_are_bit_identical() {
    let _turn = turn();
    let engine = engine(Family::Texture);
    let (graph, outer, seeds, _) = forward([21, 19], Padding::Zeros);
    let picture = outer[0];
    let parts = [&seeds[..2], &seeds[2..3], &seeds[3..], &seeds[..]];
    let words = ["first ", "third ", "fourth ", ""];
    let mut together = graph.clone();
    let sums: Vec<_> = words.into_iter().zip(parts).collect();
    let slopes = gradients(&mut together, &sums, &[picture]).unwrap();
    let slopes: Vec<TensorId> = slopes.into_iter().flatten().map(Option::unwrap).collect();
    let computed = values(&engine, together.clone(), &outer, &slopes);
    for ((part, found), word) in parts.iter().zip(&computed).zip(words) {
        let mut alone = graph.clone();
        let slope = gradient(&mut alone, part, picture).unwrap().unwrap();
        assert!(found.iter().any(|value| *value != 0.0));
        assert_eq!(*found, values(&engine, alone, &outer, &[slope])[0], "{word}");
    }
    let order: Vec<&str> =
        together.nodes().iter().map(|node| together.tensor(node.output).label.as_str()).collect();
    let place = |label: &str| order.iter().position(|other| *other == label).unwrap();
    assert!(place("d pooled by third") < place("third d second by pooled"));
    assert!(place("d second by pooled") < place("d gram by loss 1"));
    assert!(place("d first by gram") < place("d first by second"));
    // A sum without seeds does not depend on the picture.
    assert_eq!(gradients(&mut graph.clone(), &[("none ", &[])], &[picture]).unwrap(), [[None]]);
}
