//! Adam over many steps on the device: its state, its final values, and the effect of NaN.

use crate::common::{engine, relative_l2, turn};
use neural_mirage::gpu::Family;
use neural_mirage::graph::{Bindings, Goals, Graph, Program, SingleOp};
use neural_mirage::ops::{Adam, Op, Shape};
use std::sync::Arc;

/// `1 - beta^t` is kept in f32 over many steps. It must not lose digits to cancellation at the start or
/// accumulate errors.
#[test]
fn long_run_matches_reference() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp: false };
    let (shape, four) = (Shape::map(3, 5, 7), Shape::Vector(4));
    let count = shape.elements();
    let mut graph = Graph::new();
    let shapes = [shape, shape, shape, shape, four, four];
    let ids = shapes.map(|shape| graph.external("input", shape));
    let output = graph.apply(adam, &ids, "step").unwrap();
    let mut values: Vec<Vec<f64>> = vec![vec![0.0; count]; 4];
    values.push(vec![0.0; 4]);
    values.push(vec![0.25, 0.0, 0.0, 0.0]);
    values[0] = (0..count).map(|i| (i as f64 * 0.7).sin()).collect();
    let mut bound = Bindings::new();
    for ((id, shape), values) in ids.iter().zip(shapes).zip(&values) {
        let narrow: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        bound.insert(*id, engine.tensor_with("input", shape, &narrow).unwrap());
    }
    bound.insert(output, engine.tensor("output", Shape::Vector(1)).unwrap());
    let program = Program::prepare(&engine, &graph, &bound, &Goals::all([output]), |_| 0).unwrap();
    for t in 1..=300 {
        // Gradients that do not depend on x, so that both sides receive the same.
        let gradient: Vec<f32> = (0..count).map(|i| ((i * 31 + t * 17) % 23) as f32 / 11.0 - 0.4).collect();
        engine.write(&bound[&ids[1]], shape, &gradient).unwrap();
        program.submit(&[Goals::ALL], &[], "adam").unwrap();
        values[1] = gradient.iter().map(|g| f64::from(*g)).collect();
        let inputs: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let next = adam.reference(&inputs, &shapes);
        for (index, input) in adam.mutates().iter().enumerate() {
            let start = index * count;
            values[*input] = next[start..start + values[*input].len()].to_vec();
        }
        if [1, 2, 10, 300].contains(&t) {
            // x moves by up to 0.25 per step, with rounding: 6e-8 * sqrt(300) = 1e-6. In v, f32(beta2) +
            // f32(1 - beta2) differs from 1 by 1e-8, over a thousand steps, as in PyTorch.
            for (input, tolerance) in [(0, 2e-6), (2, 1e-6), (3, 1e-5), (4, 1e-6)] {
                let actual = engine.read(&bound[&ids[input]], shapes[input], "state").unwrap();
                let stored = engine.read_stored(&bound[&ids[input]], shapes[input].stored(), "state");
                assert_eq!(stored.unwrap(), shapes[input].pack(&actual), "padding is not zero");
                let distance = relative_l2(&actual, &values[input]);
                assert!(distance < tolerance, "input {input} is off by {distance:.1e} after {t} steps");
            }
            // Compare each with the closed form: a large t must not hide an error in a small 1 - beta^t.
            let state = engine.read(&bound[&ids[4]], four, "state").unwrap();
            for (s, beta) in [(state[1], adam.beta1), (state[2], adam.beta2)] {
                let exact = 1.0 - beta.powi(t as i32);
                assert!((f64::from(s) / exact - 1.0).abs() < 1e-6, "{s} is not {exact} after {t} steps");
            }
            let step = engine.read(&bound[&output], Shape::Vector(1), "step").unwrap();
            assert_eq!(step, [t as f32]);
        }
    }
}

/// A non-finite gradient must reach the picture, even where the picture is clamped.
#[test]
fn non_finite_gradient_reaches_the_picture() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::Vector(5);
    for clamp in [false, true] {
        let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp };
        let shapes = [shape, shape, shape, shape, Shape::Vector(4), Shape::Vector(4)];
        let single = SingleOp::new(&engine, Arc::new(adam), &shapes).unwrap();
        let gradient = vec![1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        let zeros = vec![0.0; 5];
        let inputs = [vec![0.5; 5], gradient, zeros.clone(), zeros, vec![0.0; 4], vec![0.1; 4]];
        let x = single.run(0, &inputs).unwrap().values[..5].to_vec();
        let non_finite: Vec<bool> = x.iter().map(|x| x.is_nan()).collect();
        assert_eq!(non_finite, [false, true, true, true, false], "{x:?}");
    }
}

#[test]
fn parameters_dividing_by_zero_are_refused() {
    let good = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clamp: false };
    let shape = Shape::Vector(5);
    let shapes = [shape, shape, shape, shape, Shape::Vector(4), Shape::Vector(4)];
    assert!(good.output(&shapes).is_ok());
    for bad in [
        Adam { beta1: 1.0, ..good },
        Adam { beta2: 1.0, ..good },
        Adam { beta2: -0.1, ..good },
        Adam { epsilon: 0.0, ..good },
        Adam { epsilon: 1e-50, ..good },
        Adam { epsilon: f64::NAN, ..good },
    ] {
        assert!(bad.output(&shapes).is_err(), "{bad:?}");
    }
    assert!(good.output(&[shape, shape, shape, Shape::Vector(4), Shape::Vector(4), shapes[5]]).is_err());
}
