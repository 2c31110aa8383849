//! Fusion of a gradient's last steps: it must take nodes away and change no bit of the gradient.

mod common;

use common::{draw, engine, filter, turn};
use neural_mirage::gpu::Family;
use neural_mirage::graph::{Bindings, Engine, Graph, Program, TensorId, gradient, gradients};
use neural_mirage::ops::{CaseInput, Conv, Gram, MeanSquaredError, Pool, PoolKind, Shape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;
use std::sync::Arc;

/// A small network with losses at two depths, one of them twice, and a max pool: sums of three gradients,
/// masks behind convolutions and behind a pool.
fn forward() -> (Graph, Vec<TensorId>, Vec<(TensorId, TensorId)>, TensorId) {
    let mut graph = Graph::new();
    let picture = graph.external("picture", Shape::map(3, 21, 19));
    let mut outer = vec![picture];
    let conv = |outs, ins| Conv::same(filter(outs, ins, [3, 3]), true);
    let first = graph.apply(conv(9, 3), &[picture], "first").unwrap();
    let second = graph.apply(conv(12, 9), &[first], "second").unwrap();
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

/// The same with the gradient with respect to the picture.
fn build() -> (Graph, Vec<TensorId>, TensorId, TensorId) {
    let (mut graph, outer, seeds, third) = forward();
    let slope = gradient(&mut graph, &seeds, outer[0]).unwrap().unwrap();
    (graph, outer, slope, third)
}

/// The values of some tensors, fused as far as these allow it.
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
    Program::prepare(engine, &graph, &bound, &[wanted.to_vec()], |_| 0).unwrap().run(1, "wanted").unwrap();
    wanted.iter().map(|tensor| engine.read(&bound[tensor], graph.shape(*tensor), "wanted").unwrap()).collect()
}

/// The gradient, after fusion if asked for, and what nodes were run.
fn run(family: Family, fuse: bool, keep: bool) -> (Vec<f32>, Vec<&'static str>) {
    let engine = engine(family);
    let (mut graph, outer, slope, third) = build();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut bound = Bindings::new();
    for tensor in outer {
        let shape = graph.shape(tensor);
        let values = draw(shape, CaseInput::Normal, &mut random);
        bound.insert(tensor, engine.tensor_with("outer", shape, &values).unwrap());
    }
    let output = engine.tensor("gradient", graph.shape(slope)).unwrap();
    bound.insert(slope, output.clone());
    if fuse {
        let mut kept: HashSet<TensorId> = bound.keys().copied().collect();
        if keep {
            // Somebody wants every tensor as it was.
            kept.extend(graph.nodes().iter().map(|node| node.output));
        }
        graph.fuse(&kept);
        assert!(graph.nodes().iter().any(|node| node.output == third));
    }
    let program = Program::prepare(&engine, &graph, &bound, &[vec![slope]], |_| 0).unwrap();
    program.run(1, "gradient").unwrap();
    let values = engine.read(&output, graph.shape(slope), "gradient").unwrap();
    (values, graph.nodes().iter().map(|node| node.op.name()).collect())
}

#[test]
fn fused_steps_change_no_bit() {
    let _turn = turn();
    for family in [Family::Texture, Family::Buffer, Family::Naive] {
        let (plain, nodes) = run(family, false, false);
        let (fused, fewer) = run(family, true, false);
        assert!(plain.iter().any(|value| *value != 0.0) && plain.iter().all(|value| value.is_finite()));
        let sums = |nodes: &[&str]| nodes.iter().filter(|name| **name == "add").count();
        // Sums of three gradients at the first conv and of two at the third: the part from a conv takes one
        // sum each; the sum of the two losses' gradients stays.
        assert_eq!((sums(&nodes), sums(&fewer)), (3, 1), "{family:?}");
        let differing = plain.iter().zip(&fused).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "{family:?}: {differing} of {} values differ", plain.len());
    }
}

#[test]
fn what_is_kept_is_not_fused() {
    let _turn = turn();
    let (plain, nodes) = run(Family::Naive, false, false);
    let (kept, same) = run(Family::Naive, true, true);
    assert_eq!(nodes, same);
    assert_eq!(plain, kept);
}

/// Gradients of several sums, side by side, are bit for bit those built alone; they go back to the pool all of them
/// before any goes further, and a loss on an early layer comes when the way back reaches that layer.
#[test]
fn gradients_side_by_side_change_no_bit() {
    let _turn = turn();
    let engine = engine(Family::Texture);
    let (graph, outer, seeds, _) = forward();
    let picture = outer[0];
    let parts = [&seeds[..2], &seeds[2..3], &seeds[3..], &seeds[..]];
    let words = ["first ", "third ", "fourth ", ""];
    let mut together = graph.clone();
    let sums: Vec<_> = words.into_iter().zip(parts).collect();
    let slopes = gradients(&mut together, &sums, picture).unwrap();
    let slopes: Vec<TensorId> = slopes.into_iter().map(Option::unwrap).collect();
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
    // Nothing of the picture is in a sum without seeds.
    assert_eq!(gradients(&mut graph.clone(), &[("none ", &[])], picture).unwrap(), [None]);
}
